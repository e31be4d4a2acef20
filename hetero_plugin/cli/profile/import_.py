"""``hetero-noise profile import``: recordings of what another tool dumped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    a: Annotated[
        Path, typer.Option(help="Of the first machine: .safetensors, or a folder of msProbe.")
    ],
    b: Annotated[Path, typer.Option(help="Of the second machine.")],
    out_a: Annotated[Path, typer.Option(help="The recording of the first, a .rec file.")],
    out_b: Annotated[Path, typer.Option(help="The recording of the second.")],
    columns: Annotated[int, typer.Option(help="Of an operator's outputs, at most.", min=1)] = 128,
    accumulated: Annotated[
        bool,
        typer.Option(
            "--accumulated",
            help="Keep operators that read other numbers too: their difference is then that of "
            "all before them as well.",
        ),
    ] = False,
) -> None:
    """Make recordings of two machines' dumps, of the operators that both have.

    A .safetensors file holds SITE.output and SITE.input, such as
    model.layers.0.mlp.down_proj.output, [T, N]. Of msProbe (mindstudio-probe) the task is "tensor"
    and the level "L0" or "mix". Such recordings have no float64 reference.
    """
    from hetero_plugin.cli.screen import Bars
    from hetero_plugin.evaluation import files
    from hetero_plugin.profile.imports import imported

    for out, option in ((out_a, "--out-a"), (out_b, "--out-b")):
        files.check_target(out, option)
    with files.locked(out_a), files.locked(out_b), Bars() as bars:
        made = imported(
            a,
            b,
            out_a,
            out_b,
            columns=columns,
            accumulated=accumulated,
            say=lambda line: bars.console.print(line, highlight=False),
            progress=lambda done, of: bars.update("importing", done, of),
        )
    for out, header in zip((out_a, out_b), made, strict=True):
        print(f"{out}: {len(header.sites)} operators, {header.bytes / 1e6:,.1f} MB")
