"""Profiles in models and workers: attested, whole rows alone, the same bits fused and apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hetero_plugin import NoiseConfig, wrap
from hetero_plugin.attestation import attest, problems
from hetero_plugin.config import ConfigError
from hetero_plugin.hf.probe import HFProbe
from hetero_plugin.operator import Chain
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState
from tests.errors.profiles import mild, written
from tests.hf.families import make_family

NAMES = [f"model.layers.0.self_attn.{leaf}_proj" for leaf in "qkv"]
SITES = [Site(name, "linear", 0, 64, 96) for name in NAMES]


def spec(path: str, **more: Any) -> NoiseConfig:
    rule = {"targets": ["linear", "norm", "activation", "attention"], "error": "profile"}
    return NoiseConfig(rules=[{**rule, "path": path, **more}])


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])  # which has a norm of each head
@pytest.mark.parametrize("fresh", [0.0, 0.5])
def test_models_are_attested_with_what_was_found(family: str, fresh: float, tmp_path: Path) -> None:
    config = spec(written(mild(0.05, fresh), tmp_path))
    record = attest(HFProbe(wrap(make_family(family, torch.bfloat16), config, quiet=True)))
    assert problems(record) == []
    told = {check["name"]: check["detail"] for check in record["checks"]}
    assert "elements changed" in told["profiles: the bias is the table's"]
    assert record["knock_in_scale"] == 1.0


def chains_of(path: str) -> tuple[NoiseState, Chain, list[Chain]]:
    """q, k and v as vLLM has them, one tensor, and as Hugging Face has, three."""
    state = NoiseState(spec(path, targets=["linear"]), SITES)
    fused = Chain.of(state, "output", [(name, 64, 0) for name in NAMES])
    return state, fused, [Chain.of(state, "output", [(name, 64, 0)]) for name in NAMES]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fused_layers_have_the_bits_of_single_ones(dtype: torch.dtype, tmp_path: Path) -> None:
    state, fused, single = chains_of(written(mild(0.2, 0.3), tmp_path))
    x = torch.randn(37, 192, generator=torch.Generator().manual_seed(0))
    x = (x * torch.tensor([1.0, 30.0, 0.01]).repeat_interleave(64)).to(dtype)
    draw = state.draw.of(torch.arange(37) << 32)
    y = fused(x, draw)
    parts = [chain(x[:, 64 * i : 64 * i + 64], draw) for i, chain in enumerate(single)]
    assert torch.equal(y, torch.cat(parts, dim=-1))
    assert all(not torch.equal(x[:, 64 * i : 64 * i + 64], part) for i, part in enumerate(parts))


def test_a_share_of_a_row_and_a_partial_sum_are_refused(tmp_path: Path) -> None:
    state = NoiseState(spec(written(mild(), tmp_path), targets=["linear"]), SITES)
    with pytest.raises(ConfigError, match=r"size of all of its whole row.*32 of 64 columns"):
        Chain.of(state, "output", [(NAMES[0], 32, 32)])
    with pytest.raises(ConfigError, match="of whole products"):
        Chain.of(state, "output", [(NAMES[0], 64, 0)], share=1)


def test_the_operators_of_a_worker(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    from hetero_plugin.errors.profile import hold, replay_word
    from hetero_plugin.kernels.formats import declare
    from hetero_plugin.vllm.probe.profiles import profile_checks

    state, fused, _ = chains_of(written(mild(0.05), tmp_path))
    model = nn.Module()
    model.chains = [fused]  # type: ignore[assignment]
    right = profile_checks(model, state)
    assert len(right) == 5 and all(passed for _, passed, _ in right)
    assert "at 3 sites" in str(right)
    # The operator that runs draws from another table than it says.
    other = mild(0.3)
    hold(written(other, tmp_path, "other"), other.digest)
    word = replay_word(other.digest, "linear", 96, 0)
    declare(word)
    op = torch.ops.hetero_noise.perturb
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chain, "__call__", lambda self, x, draw: op(
            x, *draw, self.stages[0].segments, word, True
        ))  # fmt: skip
        wrong = {name: passed for name, passed, _ in profile_checks(model, state)}
    assert not wrong["profiles: values are the reference's"]
    assert not wrong["profiles: elements changed are as many as the table says"]
