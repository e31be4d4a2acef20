"""``hetero-noise study``: studies as files: listed, resolved, checked and run."""

from __future__ import annotations

import json
import os
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hetero_plugin.config import ConfigError

if TYPE_CHECKING:
    from hetero_plugin.study.resolve import Resolved

_FOLDER = Path("recipes/studies")


class Action(StrEnum):
    """What to do."""

    list = "list"
    dry_run = "dry-run"
    run = "run"
    status = "status"
    report = "report"


def command(
    action: Annotated[Action, typer.Argument(help="What to do.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="The study; of list: a folder of them [recipes/studies]."),
    ] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm; may be repeated.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this training seed.")] = None,
    where: Annotated[str | None, typer.Option(help="Another of the study's places.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change of the study, KEY=VALUE, such as model.path=PATH."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List studies, print and check the commands of one, run it here, say where it stands, report.

    dry-run starts nothing: for each arm and seed it prints the whole command in one line, what was
    checked, and what comes after training. run prepares, trains, merges and evaluates each arm and
    seed on this machine, once all have been checked, and ends with the report; what is finished is
    not made again. report makes the report anew, of what is finished.
    """
    from hetero_plugin.study.read import read, studies
    from hetero_plugin.study.resolve import resolve_all

    if action is Action.list:
        _list(studies(_folder(file)), as_json)
        return
    if file is None:
        raise ConfigError(f"study {action}: give the file of a study, such as {_FOLDER}/E5b.yaml.")
    if action is Action.report and (arm or seed):
        raise ConfigError(
            "study report: takes no --arm and no --seed; a report is of the whole study, and names "
            "what is not finished."
        )
    study = read(file, changes or ())
    runs = resolve_all(study, arm or (), seed or (), where)
    if action is Action.dry_run:
        from hetero_plugin.study.check import facts

        found = [facts(run) for run in runs]
        if as_json:
            typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
            return
        typer.echo(f"# {study.about}")
        for what, why in study.differs.items():
            typer.echo(f"# differs in {what}: {why}")
        for one in found:
            typer.echo(f"\n# {one['run']}: {one['about']}")
            if one["origin"]:
                typer.echo(f"# reported: {json.dumps(one['origin'], ensure_ascii=False)}")
            for what, value in one["checked"].items():
                typer.echo(f"# {what}: {value}")
            typer.echo(one["command"])
            for line in one["then"]:
                typer.echo(f"# then: {line}")
        return
    from hetero_plugin.study import run as running

    if action is Action.status:
        words = {run.name: running.status(run) for run in runs}
        if as_json:
            typer.echo(json.dumps(words, indent=1))
        else:
            for name, word in words.items():
                typer.echo(f"{name}: {word}")
        return
    if action is Action.run:
        _run(runs, as_json)
    everything = resolve_all(study, (), (), where)
    for path in _reported(everything):
        print(path, file=sys.stderr if as_json else sys.stdout)


def _reported(runs: list[Resolved]) -> tuple[Path, Path]:
    """The report's files as the user would write them: relative below the working folder."""
    from hetero_plugin.evaluation.results import ResultError
    from hetero_plugin.study.report import write

    try:
        found = write(runs)
    except ResultError as error:
        print(f"hetero-noise study: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    here = Path.cwd()
    one, two = (p.relative_to(here) if p.is_relative_to(here) else p for p in found)
    return one, two


def _run(runs: list[Resolved], as_json: bool) -> None:
    """Runs what is not finished, with its progress on standard error."""
    from rich.console import Console

    from hetero_plugin.study import run as running
    from hetero_plugin.study.display import Display

    # Ended by a supervisor it stops as after Ctrl-C: engines must not stay behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Engines look for ninja on the PATH; it lies beside the interpreter.
    beside = str(Path(sys.executable).parent)
    os.environ["PATH"] = beside + os.pathsep + os.environ.get("PATH", "")
    display = Display(Console(stderr=True))
    try:
        with display:
            done = running.execute(runs, display)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    except (RuntimeError, OSError) as error:  # a full disk is told as any other failure is
        if isinstance(error, NotImplementedError | RecursionError):
            raise
        print(f"hetero-noise study: {display.current} failed: {error}", file=sys.stderr)
        print("What was finished is kept; the same command goes on from there.", file=sys.stderr)
        raise SystemExit(1) from None
    if as_json:
        typer.echo(json.dumps(done, indent=1, ensure_ascii=False))


def _folder(given: Path | None) -> Path:
    folder = given or _FOLDER
    if not folder.is_dir():
        raise ConfigError(f"study list: there is no folder {folder}; give one that holds studies.")
    return folder


def _list(paths: list[Path], as_json: bool) -> None:
    from hetero_plugin.study.read import read

    found = {str(path): read(path) for path in paths}
    if as_json:
        data = [
            {"file": name, "name": one.name, "about": one.about, "arms": list(one.arms)}
            for name, one in found.items()
        ]
        typer.echo(json.dumps(data, indent=1, ensure_ascii=False))
        return
    for name, one in found.items():
        seeds = ", ".join(map(str, one.seeds))
        typer.echo(f"{name} ({one.model.size}): {one.about.strip()}")
        typer.echo(f"    arms {', '.join(one.arms)}; seeds {seeds}")
