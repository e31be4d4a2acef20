"""The miniature: its tokenizer survives AutoTokenizer, its warm-up learns and measures honestly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hetero_plugin.miniature import model as miniature
from hetero_plugin.miniature import task
from recipes.miniature import warmup

SHAPE = miniature.MiniatureShape(layers=2, hidden=64, intermediate=128, heads=2, kv_heads=1)


def _parts(seed: int = 0) -> tuple[Any, warmup.Encoder, task.Splits, Any]:
    splits = task.make_splits(digits=1, operands=2, n_train=2, n_dev=12, n_test=12, seed=seed)
    encoder = warmup.Encoder(miniature.build_tokenizer(), splits.dev[0], longest_answer=2)
    # Nothing held out: 55 sums are too few to be understood, so they are learnt by heart.
    stream = task.training_stream(digits=1, operands=2, seed=seed, held_out=frozenset())
    return miniature.build_model(SHAPE, seed), encoder, splits, stream


def test_the_tokenizer_comes_back_as_itself(tmp_path: Path) -> None:
    miniature.save(miniature.build_model(SHAPE, 0), miniature.build_tokenizer(), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert "Qwen2Tokenizer" in type(tokenizer).__name__
    text = "12+34 = 46 \n é ½ 漢"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == [3 + byte for byte in text.encode()]
    assert tokenizer.decode(ids) == text
    assert max(tokenizer.get_vocab().values()) < miniature.VOCAB_SIZE


def test_a_prompt_ends_where_the_answer_begins() -> None:
    tokenizer = miniature.build_tokenizer()
    user = {"role": "user", "content": "12+34"}
    prompt = tokenizer.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    answered = [user, {"role": "assistant", "content": "46"}]
    assert prompt == "12+34="
    assert tokenizer.apply_chat_template(answered, tokenize=False) == prompt + "46<|im_end|>"


def test_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second = miniature.build_model(SHAPE, 5), miniature.build_model(SHAPE, 5)
    assert torch.equal(torch.rand(1), expected)
    other = miniature.build_model(SHAPE, 6)
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
    weight = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(first.get_parameter(weight), other.get_parameter(weight))


def test_the_default_shape_is_within_the_size_asked_for() -> None:
    model = miniature.build_model(miniature.MiniatureShape(), 0)
    assert 0.3e6 <= sum(p.numel() for p in model.parameters()) <= 5e6
    # vLLM's CPU attention takes head sizes from 32 on.
    assert model.config.hidden_size // model.config.num_attention_heads >= 32


def test_the_warm_up_learns_and_its_accuracy_is_that_of_greedy_decoding(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model, encoder, splits, stream = _parts()
    settings = warmup.WarmupSettings(
        stop_at=0.3, highest=1.0, max_steps=400, batch=32, check_every=10
    )
    told: list[str] = []
    result = warmup.warm_up(
        model, encoder, stream, splits.dev, settings, lambda share, words: told.append(words)
    )
    assert result.accuracy >= 0.3 and result.curve[-1][0] == result.steps
    assert "of 12 right" in told[-1]
    tokenizer = miniature.build_tokenizer()
    miniature.save(model, tokenizer, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    questions = [task.Question((a, b)) for a in range(10) for b in range(10)]
    right = 0
    for question in questions:
        ids = torch.tensor([encoder.prompt(question)])
        out = again.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False
        )
        text = tokenizer.decode(out[0, ids.shape[1] :])
        right += text.startswith(question.answer + miniature.END)
    assert 0 < right / len(questions) == warmup.exact_match(again, encoder, questions, batch=33)


def test_a_warm_up_that_does_not_arrive_fails_with_what_it_reached() -> None:
    model, encoder, splits, stream = _parts()
    settings = warmup.WarmupSettings(stop_at=0.9, highest=1.0, max_steps=2, batch=4)
    with pytest.raises(warmup.WarmupError, match=r"after 2 steps.*short of stop_at = 90%"):
        warmup.warm_up(model, encoder, stream, splits.dev, settings)


def test_an_overshoot_goes_back_and_arrives_within_the_band() -> None:
    torch.set_num_threads(1)
    model, encoder, splits, stream = _parts()
    settings = warmup.WarmupSettings(
        stop_at=0.2, highest=0.45, max_steps=600, batch=32, check_every=100
    )
    result = warmup.warm_up(model, encoder, stream, splits.dev, settings)
    assert result.went_back >= 1, "the check came too early to overshoot; choose it later"
    assert any(accuracy > 0.45 for _, _, accuracy in result.curve)
    assert 0.2 <= result.accuracy <= 0.45
    assert warmup.exact_match(model, encoder, splits.dev) == result.accuracy
