"""What verl's actor makes of prompts of unequal length: padded, or packed into one row.

verl's own code prepares the passes; Ray and FSDP are not needed for that. The whole run, with the
rollout beside it, is in tests/engines/test_verl_grpo.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

pytest.importorskip("verl")

from hetero_plugin import NoiseConfig, disabled, wrap

LENGTHS = (3, 40, 17, 8)


def batch(remove_padding: bool) -> Any:
    """Sequences as verl's trainer hands them to its engine: nested, each from position 0."""
    from verl.utils import tensordict_utils as tu

    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(1, 128, (length,), generator=generator) for length in LENGTHS]
    data = {
        "input_ids": torch.nested.as_nested_tensor(ids, layout=torch.jagged),
        "position_ids": torch.nested.as_nested_tensor(
            [torch.arange(length) for length in LENGTHS], layout=torch.jagged
        ),
    }
    flags = {"use_remove_padding": remove_padding, "pad_token_id": 0, "temperature": 1.0}
    return tu.get_tensordict(data, non_tensor_dict=flags)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.1,
        attn_implementation="sdpa",
    )
    made = Qwen2ForCausalLM(config).eval()
    return wrap(
        made, NoiseConfig.parse({"preset": "all-ops", "scale": 0.05, "seed": 3}), quiet=True
    )


@pytest.mark.parametrize("remove_padding", [False, True], ids=["padded", "packed"])
def test_a_batch_of_unequal_prompts_has_the_noise_of_each_alone(
    model: Any, remove_padding: bool
) -> None:
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    engine: Any = object.__new__(FSDPEngineWithLMHead)
    engine.pad_to_length, engine.use_ulysses_sp, engine.module = False, False, model
    data = batch(remove_padding)
    inputs, _ = engine.prepare_model_inputs(data)
    rows = 1 if remove_padding else len(LENGTHS)
    assert inputs["input_ids"].shape == (rows, sum(LENGTHS) if remove_padding else max(LENGTHS))

    def together() -> list[torch.Tensor]:
        with torch.no_grad():
            logits = model(**inputs, use_cache=False).logits
        if remove_padding:
            return list(logits[0].split(LENGTHS))
        return [row[:length] for row, length in zip(logits, LENGTHS, strict=True)]

    def alone() -> list[torch.Tensor]:
        sequences = data["input_ids"].unbind()
        with torch.no_grad():
            return [model(input_ids=one[None], use_cache=False).logits[0] for one in sequences]

    def gap(here: list[torch.Tensor], there: list[torch.Tensor]) -> float:
        return max((a - b).abs().max().item() for a, b in zip(here, there, strict=True))

    noisy = together()
    with disabled(model):
        clean, clean_gap = together(), gap(together(), alone())
    assert gap(noisy, clean) > 0.1  # it is noise that is compared
    assert clean_gap < 1e-4
    assert gap(noisy, alone()) <= max(1.5 * clean_gap, 1e-4)
