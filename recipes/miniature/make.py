"""The miniature: a small Qwen2 that has learnt to add, and the questions to train it on.

    python recipes/miniature/make.py --out FOLDER [--digits 5] [--n-train 4096] [--seed 0] …

FOLDER gets ``model/`` (a Hugging Face checkpoint), ``train.parquet``, ``dev.parquet`` and
``test.parquet`` (in the layout of verl's preprocessing) and ``warmup.json``. With ``--train-file``
and ``--test-file`` the questions are the user's, and the model is one to give with ``--model``.
A study names this script as what prepares its place (`prepare`), and is told how far it is.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).parent))
import questions
import warmup

from hetero_plugin.config import ConfigError
from hetero_plugin.miniature import model as miniature
from hetero_plugin.miniature import task
from hetero_plugin.study.child import tell

Size = Annotated[int, typer.Option(min=1)]


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model and the questions.")],
    digits: Annotated[int, typer.Option(min=1, max=9, help="Of each number added.")] = 5,
    operands: Annotated[int, typer.Option(min=2, max=4, help="Numbers added.")] = 2,
    n_train: Size = 4096,
    n_dev: Size = 500,
    n_test: Size = 1000,
    layers: Size = 4,
    hidden: Size = 128,
    intermediate: Size = 256,
    heads: Size = 4,
    kv_heads: Size = 2,
    stop_at: Annotated[
        float, typer.Option(help="Share of development questions right, to train until.")
    ] = 0.45,
    highest: Annotated[float, typer.Option(help="Share that is too much: it goes back.")] = 0.60,
    max_steps: Annotated[
        int, typer.Option(min=0, help="Of the warm-up, at most; 0: none, the weights are random.")
    ] = 1200,
    seed: Annotated[int, typer.Option(min=0, help="Of questions and weights.")] = 0,
    model: Annotated[
        Path | None, typer.Option(help="A Qwen2 checkpoint, in place of a warm-up.")
    ] = None,
    train_file: Annotated[
        Path | None, typer.Option(help="GSM8K parquet or JSONL to train on; needs --model.")
    ] = None,
    test_file: Annotated[Path | None, typer.Option(help="The same to evaluate on.")] = None,
) -> None:
    """Make the model and the questions."""
    if (train_file is None) != (test_file is None):
        raise ConfigError("--train-file and --test-file go together: give both, or neither")
    if train_file is not None and model is None:
        raise ConfigError(
            "--train-file needs --model: the miniature only learns generated additions; give the "
            "folder of a Qwen2 checkpoint"
        )
    if model is not None:
        questions.check_model(model)
    out.mkdir(parents=True, exist_ok=True)
    if train_file is not None and test_file is not None:
        questions.write_given(train_file, test_file, out, n_dev=n_dev, seed=seed)
    splits = task.make_splits(
        digits=digits, operands=operands, n_train=n_train, n_dev=n_dev, n_test=n_test, seed=seed
    )
    if train_file is None:
        questions.write_generated(splits, out)
    if model is not None:
        shutil.copytree(model, out / "model", dirs_exist_ok=True)
        return
    shape = miniature.MiniatureShape(
        layers=layers, hidden=hidden, intermediate=intermediate, heads=heads, kv_heads=kv_heads
    )
    if max_steps == 0:
        untrained = miniature.build_model(shape, seed)
        miniature.save(untrained, miniature.build_tokenizer(), out / "model")
        return
    settings = warmup.WarmupSettings(stop_at=stop_at, highest=highest, max_steps=max_steps)
    _learn(out, splits, shape, settings, {"digits": digits, "operands": operands, "seed": seed})


def _learn(
    out: Path,
    splits: task.Splits,
    shape: miniature.MiniatureShape,
    settings: warmup.WarmupSettings,
    drawn: dict[str, Any],
) -> None:
    import torch

    # One thread: the matrices are too small to share, and sums then come out the same on any
    # machine with the same instructions, whatever its number of cores.
    torch.set_num_threads(1)
    tokenizer = miniature.build_tokenizer()
    net = miniature.build_model(shape, drawn["seed"])
    longest = len(str(drawn["operands"] * (10 ** drawn["digits"] - 1)))
    encoder = warmup.Encoder(tokenizer, splits.dev[0], longest)
    stream = task.training_stream(**drawn, held_out=splits.held_out)
    result = warmup.warm_up(net, encoder, stream, splits.dev, settings, tell)
    miniature.save(net, tokenizer, out / "model")
    (out / "warmup.json").write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ConfigError, task.TaskError, warmup.WarmupError) as error:
        sys.exit(f"error: {error}")
