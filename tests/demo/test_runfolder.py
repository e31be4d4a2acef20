"""The run folder: one run each, nothing overwritten, finished stages kept, damage noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hetero_plugin.demo import settings
from hetero_plugin.demo.runfolder import FolderError, RunFolder


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def test_a_new_folder_is_claimed_and_the_same_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "a" / "run"
    with RunFolder(out) as folder:
        assert folder.claim(settings.short()) is False
    written = _snapshot(out)
    with RunFolder(out) as folder:
        assert folder.claim(settings.short()) is True
    assert _snapshot(out) == written
    document = json.loads((out / "settings.json").read_text())
    assert document["baseline"] == "clean" and document["margin"] == 0.02
    assert list(document["labels"]) == ["clean", "noise", "noise_aqn"]


def test_another_run_is_refused_by_the_setting_that_differs_and_nothing_changes(
    tmp_path: Path,
) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.claim(settings.short(grpo={"steps": 24}))
    before = _snapshot(tmp_path / "run")
    with (
        RunFolder(tmp_path / "run") as folder,
        pytest.raises(FolderError, match=r"another run \(grpo.steps: 24 there, 36 here\)"),
    ):
        folder.claim(settings.short(grpo={"steps": 36}))
    assert _snapshot(tmp_path / "run") == before


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with RunFolder(tmp_path) as folder, pytest.raises(FolderError, match=r"thesis\.tex"):
        folder.claim(settings.short())
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.tex"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with RunFolder(tmp_path / "run") as folder, pytest.raises(FolderError, match="is a file"):
        folder.claim(settings.short())


def test_settings_that_cannot_be_read_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{cut")
    with RunFolder(tmp_path) as folder, pytest.raises(FolderError, match=r"settings\.json"):
        folder.claim(settings.short())
    assert (tmp_path / "settings.json").read_text() == "{cut"


def test_two_runs_at_once_in_one_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as first:
        first.claim(settings.short())
        with RunFolder(tmp_path / "run") as second, pytest.raises(FolderError, match="in use"):
            second.claim(settings.short())
    with RunFolder(tmp_path / "run") as third:
        assert third.claim(settings.short()) is True


def test_a_finished_stage_counts_while_inputs_and_outputs_are_the_same(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    output = tmp_path / "arms" / "noise" / "x.txt"
    output.parent.mkdir(parents=True)
    output.write_text("weights")
    folder.finish("train:noise", {"lr": 1}, {"reward": 0.5}, [output], 12.0)
    record = folder.finished("train:noise", {"lr": 1})
    assert record is not None and record["result"] == {"reward": 0.5}
    assert list(record["outputs"]) == ["arms/noise/x.txt"]
    assert folder.finished("train:noise", {"lr": 2}) is None
    assert folder.finished("train:clean", {"lr": 1}) is None
    output.write_text("wEights")
    assert folder.finished("train:noise", {"lr": 1}) is None
    output.unlink()
    assert folder.finished("train:noise", {"lr": 1}) is None
