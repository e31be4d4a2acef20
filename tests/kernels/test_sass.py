"""benchmarks/sass.py, and the goals that its counts are for."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="benchmarks/sass.py compiles with Triton, which is not here")

from tests.kernels.test_cuda import compiled

GOALS = {
    "relative_gaussian, bf16": 68,
    "relative_uniform, bf16": 42,
    "systematic_bias, bf16": 24,
    "systematic_bias_relative, bf16": 24,
    "truncation, bf16": 24,
}


@pytest.mark.parametrize("name", list(GOALS))
def test_instructions_an_element_on_sm_90(name: str) -> None:
    """At most what was asked for, nothing spilled, all of them with a phase. The one call is the
    slow path of truncation's division, once a program."""
    _, code = compiled(name, 90)
    assert code.loop / 16 <= GOALS[name]
    assert code.spilled == 0 and code.calls == (name.startswith("truncation"))
    assert sum(code.phases.values()) == code.loop
    drawn = "gaussian" in name or "uniform" in name
    assert (code.phases["Philox"] > 8 * 16) == drawn
    assert (code.phases["draws"] > 0) == ("gaussian" in name)
    # Eight loads of pairs and their stores, and no element by itself.
    assert code.opcodes["STG"] == 8 and 8 <= code.opcodes["LDG"] <= 9
