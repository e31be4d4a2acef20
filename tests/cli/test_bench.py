"""`hetero-noise bench`: runs what is there, keeps what is done, says what failed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hetero_plugin.cli import app, bench

SCRIPT = """
import pathlib, sys
words = sys.argv[1:]
pathlib.Path(words[words.index("--json") + 1]).write_text('{"ran": true}')
print("| way | cost |")
sys.exit(%d)
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "good.py").write_text(SCRIPT % 0)
    (tmp_path / "bad.py").write_text(SCRIPT % 3)
    monkeypatch.setattr(bench, "folder", lambda: tmp_path)
    monkeypatch.setattr(
        bench, "BENCHMARKS", {"good": ("good.py", "one"), "bad": ("bad.py", "another")}
    )
    return tmp_path


def test_tables_are_kept_and_not_made_again(scripts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["bench", "good", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "| way | cost |" in done.output
    assert (out / "good.md").read_text() == "| way | cost |\n"
    assert json.loads((out / "good.json").read_text()) == {"ran": True}
    (scripts / "good.py").write_text(SCRIPT % 3)
    again = CliRunner().invoke(app, ["bench", "good", "--out", str(out)])
    assert again.exit_code == 0 and "done before" in again.output


def test_one_that_fails_leaves_no_table_and_is_named(scripts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["bench", "bad", "good", "--out", str(out)])
    assert done.exit_code == 1 and "failed: bad" in done.output
    assert not (out / "bad.md").exists() and (out / "good.md").exists()


def test_an_unknown_name_is_named_beside_the_known_ones() -> None:
    done = CliRunner().invoke(app, ["bench", "kernels"])
    assert done.exit_code == 2
    assert "no benchmark kernels" in done.output and "throughput" not in done.output
    assert ", ".join(bench.BENCHMARKS) in done.output


def test_every_benchmark_is_there_and_says_how_it_is_called() -> None:
    for name, (file, _) in bench.BENCHMARKS.items():
        text = (bench.folder() / file).read_text(encoding="utf-8")
        assert "--json" in text and f"python benchmarks/{file}" in text, name
