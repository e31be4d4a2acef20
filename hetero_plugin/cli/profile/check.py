"""``hetero-noise profile check``: the profile end to end, beside the machine that it imitates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hetero_plugin.cli.checkpoint import fetched


def command(
    profile: Annotated[str, typer.Argument(help="A .profile file, or one that is shipped.")],
    model: Annotated[
        Path, typer.Option(help="Folder of a clean Hugging Face checkpoint, or a name on the hub.")
    ],
    text: Annotated[Path, typer.Option(help="A text that it was not recorded on, UTF-8.")],
    as_: Annotated[
        str, typer.Option("--as", help="What machine B does, as in `profile record --as`.")
    ],
    targets: Annotated[
        str | None,
        typer.Option(
            help="Kinds that B computes in its way and the profile is drawn at; by default those "
            "of linear, norm and activation that it has."
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Of the text's beginning.")] = 1024,
    context: Annotated[int, typer.Option(help="Tokens of a window of text.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float32, …")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the result there, as JSON.")] = None,
) -> None:
    """Compare the model with its profile to the machine that the profile imitates, on a text.

    KL, gap of log-probabilities and flips of the top token, of A against B, A against A with the
    profile, and A with the profile against B.
    """
    from hetero_plugin.cli.screen import Bars
    from hetero_plugin.evaluation import files
    from hetero_plugin.evaluation.fidelity.machines import check_profile, checked_kinds

    if out is not None:
        files.check_target(out)
    if targets is None:
        kinds = checked_kinds(profile)
    else:
        kinds = [word.strip() for word in targets.split(",") if word.strip()]
    with Bars() as bars:
        found = check_profile(
            fetched(model),
            text,
            profile,
            as_,
            kinds=kinds,
            tokens=tokens,
            context=context,
            seed=seed,
            dtype=dtype,
            progress=bars.update,
        )
    show(found)
    if out is not None:
        files.write_json(out, found)
        print(out)


def show(found: Mapping[str, Any]) -> None:
    """The three pairs side by side."""
    from rich.table import Table

    from hetero_plugin.cli.screen import stdout

    console = stdout()
    table = Table(
        title=f"{found['tokens']:,} tokens in {found['windows']} windows", title_justify="left"
    )
    table.add_column("mean over tokens")
    for heading in ("A, B", "A, A + profile", "A + profile, B", "profile / B", "within"):
        table.add_column(heading, justify="right")
    said = {"kl": "KL, nats", "gap": "|Δ log-prob|, nats", "flips": "other top token"}
    for name, words in said.items():
        ratio = found["ratio"][name]
        table.add_row(
            words,
            *(_span(found["pairs"][pair][name]) for pair in ("a_b", "a_profile", "profile_b")),
            "–" if ratio is None else _span(ratio),
            "yes" if found["within"][name] else "NO",
        )
    console.print(table)
    console.print(
        "brackets: 95 % by bootstrap over windows; within: A + profile is as far from A as B is, "
        "within that interval",
        highlight=False,
    )


def _span(row: Mapping[str, float]) -> str:
    return f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
