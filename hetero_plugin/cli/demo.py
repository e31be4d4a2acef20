"""`hetero-noise demo`: train, evaluate and report the miniature."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hetero_plugin.cli.checkpoint import fetched


def command(
    full: Annotated[
        bool, typer.Option("--full", help="Train long enough to see an effect (75 minutes).")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Run folder [runs/demo, or runs/demo-full].")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of data, weights, training and noise.")] = 0,
    steps: Annotated[int | None, typer.Option(help="GRPO steps of each arm.")] = None,
    batch: Annotated[int | None, typer.Option(help="Prompts a step.")] = None,
    samples: Annotated[int | None, typer.Option(help="Answers a prompt.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of GRPO.")] = None,
    arms: Annotated[
        str | None, typer.Option(help="Some of clean,noise,noise_aqn (commas between).")
    ] = None,
    n_eval: Annotated[int | None, typer.Option(help="Test questions to evaluate [all].")] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Qwen2 checkpoint, or its name on the hub, in place of a warm-up."),
    ] = None,
    train_file: Annotated[
        Path | None, typer.Option(help="GSM8K parquet or JSONL to train on; needs --model.")
    ] = None,
    test_file: Annotated[
        Path | None, typer.Option(help="GSM8K parquet or JSONL to evaluate on.")
    ] = None,
    response_length: Annotated[
        int | None, typer.Option(help="Tokens of an answer, at most.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of each process [1; with --model all cores].")
    ] = None,
) -> None:
    """Train the miniature clean, under noise, and under noise with AQN; evaluate; report.

    Three arms of real GRPO by verl, each evaluated by vLLM at 0, 5 and 10 percent error with the
    noise attested. An interrupted run goes on at its last finished stage with the same command.
    """
    from rich.console import Console

    from hetero_plugin.attestation import Refused
    from hetero_plugin.demo import checks, pipeline, settings
    from hetero_plugin.demo.child import StageFailed
    from hetero_plugin.demo.display import Display
    from hetero_plugin.demo.runfolder import RunFolder
    from hetero_plugin.demo.saying import SilentProcess
    from hetero_plugin.demo.warmup import WarmupError
    from hetero_plugin.evaluation.results import ResultError
    from hetero_plugin.evaluation.tasks import DataError
    from hetero_plugin.verl.checkpoint import CheckpointError
    from hetero_plugin.verl.launch import LaunchError

    expected = (
        StageFailed, LaunchError, WarmupError, SilentProcess, CheckpointError, Refused,
        ResultError, DataError,
    )  # fmt: skip

    grpo = {
        "steps": steps,
        "batch": batch,
        "samples": samples,
        "learning_rate": learning_rate,
        "response_length": response_length,
    }
    changes: dict[str, Any] = {
        "seed": seed,
        "grpo": {key: value for key, value in grpo.items() if value is not None},
        "n_eval": n_eval,
        "model": None if model is None else fetched(model),
        "train_file": train_file,
        "test_file": test_file,
    }
    if arms is not None:
        changes["arms"] = tuple(name.strip() for name in arms.split(","))
    chosen = (settings.full if full else settings.short)(**changes)
    path = (out or Path("runs") / ("demo-full" if full else "demo")).absolute()
    checks.check_files(chosen)
    checks.check_machine(path)
    # Ended by a supervisor it stops as after Ctrl-C: engines must not stay behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Engines look for ninja on the PATH; it lies beside the interpreter.
    beside = str(Path(sys.executable).parent)
    os.environ["PATH"] = beside + os.pathsep + os.environ.get("PATH", "")

    console = Console()
    with RunFolder(path) as folder:
        if folder.claim(chosen):
            console.print(f"going on with the run in {_shown(path)}", highlight=False)
        # Matrices this small gain nothing from a second thread, and threads that wait for each
        # other spin: on a busy machine two are several times slower than one.
        threads = threads or (1 if model is None else checks.usable_cores())
        display = Display(console)
        try:
            with display:
                pipeline.run(chosen, folder, display, threads=threads)
        except expected as error:
            stage = display.current.name if display.current else "demo"
            print(f"hetero-noise demo: stage {stage} failed: {error}", file=sys.stderr)
            print(
                "What was finished before it is kept; the same command goes on from there.",
                file=sys.stderr,
            )
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            print("\ninterrupted; the same command goes on from here", file=sys.stderr)
            raise SystemExit(130) from None
    print(_shown(path / "report.json"))
    print(_shown(path / "report.html"))


def _shown(path: Path) -> str:
    """A path as the user would write it: relative where it lies below the working folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
