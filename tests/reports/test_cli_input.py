"""Commands given what they cannot use: one sentence, exit status 2, no traceback, no file left."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hetero_plugin.cli import _run
from hetero_plugin.evaluation import files
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save
from tests.evaluation.toy import simulate_run

QUESTION = '{"question": "1+1?", "answer": "#### 2"}\n'


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, t.jsonl, spec.yaml, run/: all as they should be."""
    path = tmp_path_factory.mktemp("given")
    save(build_model(MiniatureShape(layers=1), 0), build_tokenizer(), path / "model")
    (path / "t.jsonl").write_text(QUESTION)
    (path / "spec.yaml").write_text("preset: all\n")
    simulate_run(path / "run", steps=2)
    return path


@pytest.fixture
def work(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may damage, and the current folder."""
    shutil.copytree(given, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


def missing(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def another_encoding(path: Path) -> None:
    path.write_bytes(b"\xff\xfe" + "{ä}".encode("utf-16-le"))


def unreadable(path: Path) -> None:
    """For root too: reading this file is an I/O error."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


DAMAGE = (missing, a_folder, empty, another_encoding, unreadable, cut_short)
EVAL = ("eval", "--model", "model", "--data", "t.jsonl", "--config", "spec.yaml")
ATTEST = ("attest", "--model", "model", "--config", "spec.yaml")
PLAN = ("plan", "--model", "model", "--config", "spec.yaml")
READS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (EVAL, ("model/config.json", "model/model.safetensors", "t.jsonl", "spec.yaml")),
    (ATTEST, ("model/config.json", "model/model.safetensors", "spec.yaml")),
    ((*ATTEST, "--engine", "hf"), ("model/config.json", "model/model.safetensors", "spec.yaml")),
    (PLAN, ("model/config.json", "spec.yaml")),
    (("report", "run"), ("run/settings.json", "run/eval/noise.json", "run/arms/noise/train.json")),
]
MAY_LACK = {"run/settings.json", "run/eval/noise.json", "run/arms/noise/train.json"}
CASES = [
    pytest.param(command, name, damage, id=f"{' '.join(command[:1])}-{name}-{damage.__name__}"
                 + ("-hf" if "hf" in command else ""))
    for command, names in READS
    for name in names
    for damage in DAMAGE
    # Less in a run is a smaller run, and of a specification or question it may be another one.
    if not (damage is missing and name in MAY_LACK)
    and not (damage is cut_short and name in ("spec.yaml", "t.jsonl"))
]  # fmt: skip


def call(*args: object) -> int:
    """A sub-command's exit status; any exception but SystemExit would be a traceback."""
    with pytest.raises(SystemExit) as left:
        _run(str(args[0]), [str(arg) for arg in args[1:]])
    return int(left.value.code or 0)


def said_once(captured: Any, command: str) -> str:
    """What was said: one line that names the command."""
    words = str(captured.err)
    assert words.startswith(f"hetero-noise {command}: error: "), words
    assert len(words.splitlines()) == 1 and len(words) < 800, words
    assert not any(w in words for w in ("Traceback", "pydantic", "Errno")), words
    return words


@pytest.mark.parametrize(("command", "name", "damage"), CASES)
def test_input_that_cant_be_read(
    work: Path,
    command: tuple[str, ...],
    name: str,
    damage: Callable[[Path], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    damage(work / name)
    before = sorted(str(p.relative_to(work)) for p in work.rglob("*"))
    assert call(*command) == 2
    said = said_once(capfd.readouterr(), command[0])
    no_file = damage in (missing, a_folder) and name.startswith("model/")
    place = "model" if no_file else name
    assert place in said, said
    assert sorted(str(p.relative_to(work)) for p in work.rglob("*")) == before


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", [empty, another_encoding, cut_short])
@pytest.mark.parametrize("command", [EVAL, ATTEST], ids=["eval", "attest"])
def test_a_tokenizer_that_cant_be_read(
    work: Path,
    command: tuple[str, ...],
    name: str,
    damage: Callable[[Path], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    damage(work / "model" / name)
    assert call(*command) == 2
    assert "its tokenizer can't be loaded" in said_once(capfd.readouterr(), command[0])


OUT = {
    "in a file": "t.jsonl/out.json",
    "where nobody can": "/proc/nowhere/out.json",
    "a folder": "model",
    "a link in a circle": "circle/out.json",
    "too long": "x" * 300 + ".json",
}


@pytest.mark.parametrize("where", OUT)
@pytest.mark.parametrize("command", [EVAL, ATTEST], ids=["eval", "attest"])
def test_output_that_cant_be_written_is_found_before_an_engine_starts(
    work: Path, command: tuple[str, ...], where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (work / "circle").symlink_to("circle")
    assert call(*command, "--out", OUT[where]) == 2
    said = said_once(capfd.readouterr(), command[0])
    assert "--out" in said and OUT[where] in said, said
    assert not list(work.rglob("*.partial")) and not list(work.rglob("*.lock"))


def test_a_report_that_cant_be_written(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (work / "run" / "report.html").mkdir()
    assert call("report", "run") == 2
    assert "can't be written" in said_once(capfd.readouterr(), "report")


def test_two_evaluations_of_one_file(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The second is refused before its engine, with who has the file, and writes nothing."""
    with files.locked(work / "eval.json"):
        assert call(*EVAL) == 2
    said = said_once(capfd.readouterr(), "eval")
    assert "eval.json is in use by process" in said and "since 20" in said
    assert not (work / "eval.json").exists()


def test_a_record_that_appeared_meanwhile_is_left_alone(
    work: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes lie between the look at --out and the writing; another run may end between them."""
    from hetero_plugin.cli import attest

    run = attest.run

    def slow(*args: Any, **kwargs: Any) -> Any:
        record = run(*args, **kwargs)
        (work / "record.json").write_text("another run's")
        return record

    monkeypatch.setattr(attest, "run", slow)
    assert call(*ATTEST, "--engine", "hf", "--out", "record.json") == 0
    assert (work / "record.json").read_text() == "another run's"
    assert json.loads((work / "record-2.json").read_text())["passed"]
    assert "the record is in record-2.json" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--margin", "0"), "margin is 0"),
        (("--margin", "nan"), "margin is nan"),
        (("--max-tokens", "0"), "max_tokens is 0"),
    ],
)
def test_numbers_that_would_fail_at_the_end(
    work: Path, options: tuple[str, ...], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(*EVAL, *options) == 2
    assert words in said_once(capfd.readouterr(), "eval")


@pytest.mark.slow
def test_through_the_installed_command(work: Path) -> None:
    """The same from a shell: nothing but the sentence."""
    empty(work / "t.jsonl")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hetero-noise")), *EVAL],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("hetero-noise eval: error: t.jsonl: holds no questions")
