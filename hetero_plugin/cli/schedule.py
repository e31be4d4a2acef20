"""``hetero-noise schedule``: the σ of AQN at every step, printed and plotted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hetero_plugin.config import AQNConfig, ConfigError, NoiseConfig

_BAR = 40


def command(
    schedule: Annotated[
        str | None, typer.Option(help="global, epoch, constant, linear or cosine.")
    ] = None,
    sigma_start: Annotated[float | None, typer.Option(help="σ where the decay starts.")] = None,
    sigma_end: Annotated[float | None, typer.Option(help="σ where the decay ends.")] = None,
    stages: Annotated[
        int | None, typer.Option(help="global: number of stages, the first clean.")
    ] = None,
    total_steps: Annotated[int | None, typer.Option(help="Steps of the run.")] = None,
    epoch_ranges: Annotated[
        str | None, typer.Option(help="epoch: START:END of each, such as 0.05:0.01,0.01:0.0005.")
    ] = None,
    stages_per_epoch: Annotated[
        int | None, typer.Option(help="epoch: noisy stages, after a clean one.")
    ] = None,
    steps_per_epoch: Annotated[int | None, typer.Option(help="epoch: steps of one epoch.")] = None,
    epochs: Annotated[int | None, typer.Option(help="epoch: number of epochs.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Specification whose aqn to show; other options change it.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a figure (.png, .svg or .pdf).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Print the σ of AQN at every step, from 0; --plot draws it."""
    options: dict[str, Any] = {
        "schedule": schedule,
        "sigma_start": sigma_start,
        "sigma_end": sigma_end,
        "stages": stages,
        "total_steps": total_steps,
        "epoch_ranges": None if epoch_ranges is None else _ranges(epoch_ranges),
        "stages_per_epoch": stages_per_epoch,
        "steps_per_epoch": steps_per_epoch,
        "epochs": epochs,
    }
    given = {key: value for key, value in options.items() if value is not None}
    aqn = _from_file(config).replace(**given) if config is not None else AQNConfig(**given)
    length = aqn.length()
    if length is None:
        need = "--steps-per-epoch and --epochs" if aqn.schedule == "epoch" else "--total-steps"
        raise ConfigError(f"the length of the run is not known; give {need}.")
    sigmas = [aqn.sigma(step) for step in range(length)]
    if plot is not None:
        _draw(aqn, sigmas, plot)
    if as_json:
        settings = aqn.model_dump(mode="json", exclude_none=True)
        typer.echo(json.dumps({"aqn": settings, "sigma": sigmas}, indent=2))
        return
    top = max(sigmas) or 1.0
    typer.echo("step  sigma")
    for step, sigma in enumerate(sigmas):
        bar = "█" * round(_BAR * sigma / top)
        typer.echo(f"{step:>4}  {sigma:<12.6g}{bar}".rstrip())
    if plot is not None:
        typer.echo(f"figure: {plot}")


def _ranges(text: str) -> list[tuple[float, float]]:
    """'0.05:0.01,0.01:0.0005' -> [(0.05, 0.01), (0.01, 0.0005)]."""
    found = []
    for part in text.split(","):
        try:
            start, end = (float(number) for number in part.split(":"))
        except ValueError:
            raise ConfigError(
                f"--epoch-ranges: got {part!r}; it should be START:END, such as 0.05:0.01, one "
                "for each epoch, with commas between."
            ) from None
        found.append((start, end))
    return found


def _from_file(config: str) -> AQNConfig:
    aqn = NoiseConfig.parse(config, where="--config").aqn
    if aqn is None:
        raise ConfigError(f"--config {config}: the specification has no aqn.")
    return aqn


def _draw(aqn: AQNConfig, sigmas: list[float], path: Path) -> None:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        raise ImportError("--plot needs matplotlib: pip install 'hetero-plugin[eval]'") from None
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.parent}.")
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axes.step(range(len(sigmas)), sigmas, where="post")
    axes.set_xlabel("step")
    axes.set_ylabel("σ of the norm weights")
    axes.set_title(f"AQN, schedule {aqn.schedule}")
    positive = [sigma for sigma in sigmas if sigma > 0]
    if positive and max(positive) / min(positive) > 5:
        # Geometric decays are straight lines here, and σ = 0 still has a place.
        axes.set_yscale("symlog", linthresh=min(positive))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--plot {path}: can't be written: {error}.") from None
    finally:
        plt.close(figure)
