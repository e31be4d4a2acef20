"""``hetero-noise formats``: how large the error of each number format is, on a checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from hetero_plugin.cli.checkpoint import fetched
from hetero_plugin.cli.options import read_model_config
from hetero_plugin.config import ConfigError
from hetero_plugin.errors.formats import FORMATS
from hetero_plugin.evaluation import formats as measured
from hetero_plugin.evaluation.formats import Measured

WORST = 5


def command(
    model: Annotated[
        str | None,
        typer.Option(help="Folder of a checkpoint, or a name on the hub; without it: Gaussians."),
    ] = None,
    formats: Annotated[
        str | None, typer.Option(help="Names, separated by commas; default: all.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A text file, UTF-8: the activations that it causes are measured too."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Of the text's beginning; bounds the cost.")] = 1024,
    context: Annotated[int, typer.Option(help="Tokens of a window of text.")] = 256,
    layers: Annotated[
        str | None, typer.Option(help="Numbers of layers, separated by commas; default: all.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save every number.")] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Draw the error by layer, .svg or .png.")
    ] = None,
) -> None:
    """Round a checkpoint's weights to number formats, and say how large the error is.

    Signal to noise and relative error of each format over all linear layers, by sort of layer, the
    share of numbers that become 0, and the worst matrices; with --data the same of activations by
    kind of operator, on the beginning of a text. Nothing is written to the checkpoint.
    """
    names = _names(formats)
    for file in (json_file, plot_file):
        if file is not None and not file.absolute().parent.is_dir():
            raise ConfigError(f"{file}: there is no folder {file.absolute().parent}")
    if model is None:
        if layers is not None or plot_file is not None or data is not None:
            raise ConfigError("--layers, --data and --plot need a checkpoint: --model FOLDER")
        found = [measured.gaussian(FORMATS[name]) for name in names]
        _print_formats({one.format: [one] for one in found}, "a Gaussian, 2^20 numbers")
    else:
        folder = fetched(model)
        config = read_model_config(str(folder))
        if not folder.is_dir():
            raise ConfigError(f"--model {model}: it should be a folder, with the weights in it")
        found = _of_checkpoint(folder, config, names, _numbers(layers))
        if data is not None:
            found += _of_text(folder, data, names, _numbers(layers), tokens, context)
    if json_file is not None:
        rows = [asdict(one) | {"relative": one.relative} for one in found]
        json_file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    if plot_file is not None:
        _plot(found, plot_file)


def _names(given: str | None) -> list[str]:
    names = list(FORMATS) if given is None else [name.strip() for name in given.split(",")]
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise ConfigError(f"--formats: {unknown[0]!r} is none; there are {', '.join(FORMATS)}")
    return names


def _numbers(given: str | None) -> list[int]:
    if given is None:
        return []
    try:
        return [int(number) for number in given.split(",")]
    except ValueError:
        raise ConfigError(f"--layers: {given!r} should be numbers such as 0,13,27") from None


def _of_checkpoint(
    folder: Path, config: dict[str, Any], names: list[str], layers: list[int]
) -> list[Measured]:
    from hetero_plugin.cli.screen import Bars

    chosen, without = measured.matrices(folder, config, layers)
    with Bars() as bars:

        def progress(done: int, of: int) -> None:
            bars.update("matrices", done, of)

        found = list(measured.measure_checkpoint(chosen, names, progress))
    by_format = {name: [one for one in found if one.format == name] for name in names}
    numbers = sum(one.numbers for one in by_format[names[0]])
    _print_formats(by_format, f"{len(chosen)} matrices of {folder}, {numbers:,} numbers")
    _print_leaves(by_format)
    _print_worst(by_format)
    if without:
        some = ", ".join(site.name for site in without[:2])
        more = f" and {len(without) - 2} more" if len(without) > 2 else ""
        typer.echo(f"\nNot among these, having no tensor of their own in the files: {some}{more}.")
    return found


def _of_text(
    folder: Path, text: Path, names: list[str], layers: list[int], tokens: int, context: int
) -> list[Measured]:
    from hetero_plugin.cli.screen import Bars
    from hetero_plugin.evaluation.activations import INPUTS, measure_text

    with Bars() as bars:
        found, read = measure_text(
            folder,
            text,
            names,
            tokens=tokens,
            context=context,
            layers=layers,
            progress=lambda done, of: bars.update("windows of text", done, of),
        )
    by_format = {name: [one for one in found if one.format == name] for name in names}
    sites = len(by_format[names[0]])
    _print_formats(by_format, f"activations of {sites} operators, {read:,} tokens of {text}")
    kinds = list(dict.fromkeys(one.kind for one in found))
    rows = []
    for name, each in by_format.items():
        whole = [measured.summary([one for one in each if one.kind == kind], "") for kind in kinds]
        rows.append([name, *(f"{one.decibels:.2f} {100 * one.relative:.2f}" for one in whole)])
    head = [f"{kind}, {'input' if kind in INPUTS else 'result'}" for kind in kinds]
    _table("SQNR in dB and relative error in %, by kind", ["format", *head], rows)
    _print_leaves(by_format)
    _print_worst(by_format)
    return [replace(one, tensor="activation") for one in found]


def _table(title: str, head: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table

    from hetero_plugin.cli.screen import stdout

    made = Table(title=title, title_justify="left", expand=False, min_width=len(title))
    for number, heading in enumerate(head):
        made.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    stdout().print(made)


def _print_formats(by_format: dict[str, list[Measured]], what: str) -> None:
    rows = []
    for name, each in by_format.items():
        whole = measured.summary(each, "all")
        rows.append(
            [
                name,
                f"{FORMATS[name].bits:g}",
                f"{whole.decibels:.2f}",
                f"{100 * whole.relative:.3f}",
                f"{100 * whole.zeros / whole.numbers:.2f}",
                f"{100 * max(one.relative for one in each):.3f}",
            ]
        )
    head = ["format", "bits", "SQNR, dB", "relative error, %", "new zeros, %", "worst, %"]
    _table(what, head, rows)


def _leaf(site: str) -> str:
    return site.rpartition(".")[2]


def _print_leaves(by_format: dict[str, list[Measured]]) -> None:
    leaves = list(dict.fromkeys(_leaf(one.site) for each in by_format.values() for one in each))
    rows = []
    for name, each in by_format.items():
        of_leaf = {leaf: [one for one in each if _leaf(one.site) == leaf] for leaf in leaves}
        whole = [measured.summary(of_leaf[leaf], leaf) for leaf in leaves]
        rows.append([name, *(f"{100 * one.relative:.3f}" for one in whole)])
    table = [["format", *leaves], *rows]
    if len(leaves) > len(rows):  # the longer side downwards
        table = [list(column) for column in zip(*table, strict=True)]
        table[0][0] = "layer"
    _table("relative error by sort of layer, %", table[0], table[1:])


def _print_worst(by_format: dict[str, list[Measured]]) -> None:
    rows = []
    for name, each in by_format.items():
        worst = sorted(each, key=lambda one: -one.relative)[:WORST]
        rows.append([name, ", ".join(f"{one.site} {100 * one.relative:.2f}" for one in worst[:2])])
    _table("worst, %", ["format", "site and relative error"], rows)


def _plot(found: list[Measured], file: Path) -> None:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        raise ImportError("--plot needs matplotlib: pip install 'hetero-plugin[eval]'") from None
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    names = list(dict.fromkeys(one.format for one in found))
    for number, name in enumerate(names):
        for tensor, style in (("weight", "-"), ("activation", ":")):
            each = [one for one in found if one.format == name and one.tensor == tensor]
            if each:
                axes.plot(
                    [100 * one.relative for one in each],
                    label=name if tensor == "weight" else f"{name}, activations",
                    linestyle=style,
                    color=f"C{number % 10}",
                    marker=".",
                    linewidth=0.8,
                )
    axes.set(
        yscale="log",
        xlabel="matrix, or operator, in the order of the forward pass",
        ylabel="relative error, %",
    )
    axes.legend(ncols=3, fontsize="small")
    axes.grid(alpha=0.3)
    try:
        figure.savefig(file)
    except ValueError as error:  # an ending that matplotlib does not know
        raise ConfigError(f"--plot {file}: {error}") from None
    finally:
        plt.close(figure)
