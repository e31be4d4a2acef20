"""Every fault of the registry that needs no engine, tried; and the page that lists them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.registry import CAUGHT_BY, Fault, everything, page

ALL = everything()
ELSEWHERE = ("vllm", "vllm tp", "vllm lora", "verl")  # tests/engines has these
HERE = [one for one in ALL if one.engine not in ELSEWHERE]


COMPILED = {"hf compiled": [pytest.mark.slow]}  # seconds each


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(one, id=one.name.replace(" ", "-"), marks=COMPILED.get(one.engine, []))
        for one in HERE
    ],
)
def test_fault_is_noticed(fault: Fault) -> None:
    print(f"{fault.name}: {fault.run()}")


def test_the_matrix_is_large_and_no_fault_is_listed_twice() -> None:
    assert len(ALL) >= 40
    assert len({one.name for one in ALL}) == len({one.run for one in ALL}) == len(ALL)
    assert {one.by for one in ALL} == set(CAUGHT_BY)


def test_the_page_is_current() -> None:
    written = (Path(__file__).parents[2] / "docs" / "faults.md").read_text(encoding="utf-8")
    assert written == page(ALL), "write it anew: python -m tests.faults.registry"
