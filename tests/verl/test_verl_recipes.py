"""The recipes name what they mean: valid specifications, the experiments' site counts and steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hetero_plugin.config import NoiseConfig
from hetero_plugin.sites import select, sites_from_config

RECIPES = Path(__file__).parents[2] / "recipes"
SHAPE: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "num_hidden_layers": 28,
    "vocab_size": 151936,
}
# All others: the 197 linear sites.
SITES = {"E2": 57, "E3b": 254, "E5c": 310, "E5d": 310}


@pytest.mark.parametrize("path", sorted((RECIPES / "specs").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_specification_selects_the_experiments_sites(path: Path) -> None:
    spec = NoiseConfig.parse(path)
    assert len(select(spec, sites_from_config(SHAPE))) == SITES.get(path.stem, 197)


def test_the_schedules_have_the_experiments_length() -> None:
    def sigma(name: str, step: int) -> float:
        spec = NoiseConfig.parse(RECIPES / "specs" / f"{name}.yaml")
        assert spec.aqn is not None
        return spec.aqn.sigma(step)

    assert (sigma("E5a", 0), sigma("E5a", 12), sigma("E5a", 115)) == (0.0, 0.05, 0.0005)
    assert sigma("E5b", 57) == pytest.approx(0.01) and sigma("E5b", 58) == 0.0
    assert sigma("E7c", 231) == pytest.approx(0.0005)
