"""The kind ``attention_scores``: under eager attention, on the scores and on the softmax."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from hetero_plugin import ConfigError, NoiseConfig, random
from hetero_plugin.hf import disabled, state_of, unwrap, wrap
from hetero_plugin.hf.context import Pass
from hetero_plugin.hf.scores import _noisy, _pairs
from hetero_plugin.operator import record
from hetero_plugin.sites import select
from tests.hf.families import FAMILY, make_family, tokens

SCORES = NoiseConfig(scale=0.2, targets=["attention_scores"])


def make(family: str = "qwen2", dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    return make_family(family, dtype, attn_implementation="eager", **changes)


def run(model: Any, ids: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    out = model(ids, labels=ids, **kwargs)
    out.loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": out.logits.detach(), **found}


def logits(model: Any, ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, **kwargs).logits


@pytest.mark.parametrize("family", FAMILY)
def test_each_site_is_noisy_alone_and_off_is_clean(family: str) -> None:
    """Outputs and gradients, in both dtypes."""
    for dtype in (torch.float32, torch.bfloat16):
        model, ids = make(family, dtype).train(), tokens(length=12)
        clean = run(model, ids)
        names = [f"model.layers.{i}.self_attn.{s}" for i in (0, 1) for s in ("scores", "softmax")]
        wrap(model, SCORES, quiet=True)
        state = state_of(model)
        assert [s.site.name for s in state.selected][:4] == names
        with disabled(model):
            off = run(model, ids)
        assert all(torch.equal(off[name], clean[name]) for name in clean)
        state.set_scale(0.0)
        off = run(model, ids)
        assert all(torch.equal(off[name], clean[name]) for name in clean)
        for name in names:
            state.set_scale(enabled=False)
            state.reset_scales()
            state.set_scale(enabled=False)
            state.set_scale(enabled=True, site=name)
            noisy = run(model, ids)
            assert not torch.equal(noisy["logits"], clean["logits"]), name
        unwrap(model)
        again = run(model, ids)
        assert all(torch.equal(again[name], clean[name]) for name in clean)


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text", "mistral"])  # the latter two slide
def test_a_pair_has_its_error_alone_padded_and_from_the_cache(family: str) -> None:
    model, ids = wrap(make(family), SCORES, quiet=True), tokens(length=12)
    whole = logits(model, ids)
    close = dict(rtol=0, atol=2e-5)
    for i in range(2):
        torch.testing.assert_close(logits(model, ids[i : i + 1])[0], whole[i], **close)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], 1)
    mask = (padded != 0).long()
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    left = logits(model, padded, attention_mask=mask, position_ids=positions)
    torch.testing.assert_close(left[:, 3:], whole, **close)
    with torch.no_grad():
        first = model(ids[:, :5], use_cache=True)
        steps, cache = [first.logits], first.past_key_values
        for i in range(5, 12):
            out = model(ids[:, i : i + 1], past_key_values=cache, use_cache=True)
            steps, cache = [*steps, out.logits], out.past_key_values
    torch.testing.assert_close(torch.cat(steps, 1), whole, **close)


def test_a_score_has_the_error_of_its_address() -> None:
    """The realised z of each pair and head, before the mask."""
    model, ids = make(), tokens(batch=1, length=7)
    site = "model.layers.1.self_attn.scores"
    wrap(model, NoiseConfig(scale=0.01, targets=[site], rounding="nearest"), quiet=True)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    with record(lambda names, stream, a, b: seen.append((a, b))):
        logits(model, ids)
    before, after = next((a, b) for a, b in seen if not torch.equal(a, b))
    assert before.shape == (1, 7, 7, 4)
    z = ((after - before) / (before.abs() * 0.01)).double()[0]
    queries = random.row_keys(ids, torch.arange(7)[None])[0]
    back = torch.arange(7)[:, None] - torch.arange(7)
    keys = random.expert_keys(queries[:, None], back).reshape(-1)
    clock = torch.tensor([random.clock_key(0, 0)])
    wanted = random.normal(clock, torch.tensor([random.site_key(site, "output")]), keys, 0, 4)
    keep = before[0].abs() > 1e-2
    assert keep.float().mean() > 0.5
    torch.testing.assert_close(z[keep], wanted.double().view(7, 7, 4)[keep], rtol=0, atol=2e-2)
    assert keys.unique().numel() == keys.numel()


def test_no_error_comes_from_what_the_mask_hides() -> None:
    """Neither from later tokens nor from padding, forward or backward, even if 0 gets error."""
    spec = NoiseConfig(
        scale=0.1, targets="attention_scores", error="absolute_gaussian", direction="both"
    )
    model, ids = wrap(make(), spec, quiet=True), tokens(batch=1, length=10)
    other = ids.clone()
    other[:, 6:] = (other[:, 6:] + 1) % 95 + 1
    torch.testing.assert_close(
        logits(model, ids)[:, :6], logits(model, other)[:, :6], rtol=0, atol=1e-6
    )
    # One layer's pairs: where the mask hides the key, value and gradient pass as they are.
    noise = model.model.layers[0].self_attn.hetero_noise
    state = state_of(model)
    draw = state.draw.of(random.row_keys(ids, torch.arange(10)[None]))
    queries = Pass(draw, state.nonzero, None)
    blocked = torch.ones(10, 10).triu(1).bool()[None, None]
    x = torch.randn(1, 4, 10, 10, requires_grad=True)
    y = _noisy(noise.softmax, x, blocked, _pairs(queries, 1, 10, 10))
    grad = torch.randn(1, 4, 10, 10)
    y.backward(grad)
    assert x.grad is not None
    hidden = blocked.expand_as(x)
    for after, before in ((y, x), (x.grad, grad)):
        assert torch.equal(after[hidden], before[hidden])
        assert after[~hidden].ne(before[~hidden]).float().mean() > 0.99


def test_backward_error_is_its_own_and_checkpointing_recomputes() -> None:
    model, ids = make().train(), tokens()
    clean = run(model, ids)
    wrap(model, NoiseConfig(scale=0.2, targets="attention_scores", direction="backward"))
    back = run(model, ids)
    assert torch.equal(back["logits"], clean["logits"])
    changed = {name for name in clean if not torch.equal(back[name], clean[name])}
    assert "model.layers.0.self_attn.q_proj.weight" in changed
    assert "model.layers.1.self_attn.v_proj.weight" not in changed  # dV = Pᵀ·dO: neither is touched
    for reentrant in (True, False):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        again = run(model, ids)
        assert all(torch.equal(again[name], back[name]) for name in back)


@pytest.mark.slow
def test_compiled_in_one_graph_and_never_anew() -> None:
    model, ids = wrap(make(num_hidden_layers=1), SCORES, quiet=True), tokens()
    torch._dynamo.reset()
    fast = torch.compile(model, backend="eager", fullgraph=True)
    noisy = logits(fast, ids)
    torch.testing.assert_close(noisy, logits(model, ids), rtol=0, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with disabled(model):
        clean = logits(make(num_hidden_layers=1), ids)
        torch.testing.assert_close(logits(fast, ids), clean, rtol=0, atol=1e-5)
    state_of(model).set_step(3)
    assert not torch.equal(logits(fast, ids), noisy)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


def test_copies_and_pickles_have_the_same_error() -> None:
    model, ids = wrap(make(), SCORES, quiet=True), tokens()
    noisy = logits(model, ids)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(other, ids), noisy)
        other.set_attn_implementation("sdpa")
        with pytest.raises(ConfigError, match="runs as 'sdpa'"):
            other(ids)
        other.set_attn_implementation("eager")
        unwrap(other)
        assert torch.equal(logits(other, ids), logits(make(), ids))
    assert torch.equal(logits(model, ids), noisy)


def test_what_can_not_have_error_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"runs as 'sdpa'.*attn_implementation='eager'"):
        wrap(make_family("qwen2"), SCORES)
    model = wrap(make(), SCORES, quiet=True)
    model.set_attn_implementation("sdpa")  # also when it is changed later
    with pytest.raises(ConfigError, match="runs as 'sdpa'"):
        model(tokens())
    model.set_attn_implementation("eager")
    with pytest.raises(ConfigError, match="use a DynamicCache"):
        model.generate(tokens(), max_new_tokens=2, cache_implementation="static")
    for point, words in (("input", "the scores and the softmax themselves"), ("weight", "matrix")):
        with pytest.raises(ConfigError, match=words):
            wrap(make(), NoiseConfig(scale=0.1, targets="attention_scores", point=point))
    odd = make()
    odd.model.layers[0].self_attn.num_key_value_groups = None
    with pytest.raises(ConfigError, match="does not compute eager attention as Llama"):
        wrap(odd, SCORES)


def test_patterns_mean_scores_only_where_they_say_so() -> None:
    sites = state_of(wrap(make(), "linear", quiet=True)).sites

    def kinds(**rule: Any) -> set[str]:
        chosen = select(NoiseConfig(scale=0.1, **rule), sites)
        return {one.site.kind for one in chosen}

    everything = {"linear", "lm_head", "norm", "activation", "attention"}
    assert kinds(targets="*") == kinds(targets="re:.*") == everything
    assert kinds(targets="*.scores") == kinds(targets=r"re:.*\.softmax") == {"attention_scores"}
    only = NoiseConfig(scale=0.1, targets="attention_scores", exclude="*.layers.0.*")
    assert {one.site.layer for one in select(only, sites)} == {1}


def test_vllm_refuses_them_before_it_loads(tmp_path: Path) -> None:
    vllm_spec = pytest.importorskip("hetero_plugin.vllm.spec")
    from vllm.engine.arg_utils import EngineArgs

    from hetero_plugin.vllm import register

    register()
    config = make().config
    config.architectures = ["Qwen2ForCausalLM"]
    config.save_pretrained(tmp_path)

    def settle(**rule: Any) -> Any:
        given = {"hetero_noise": {"scale": 0.1, "targets": ["attention_scores"], **rule}}
        args = EngineArgs(
            model=str(tmp_path),
            skip_tokenizer_init=True,
            kv_cache_memory_bytes=1 << 24,
            quantization="hetero_noise",
            additional_config=given,
        )
        return vllm_spec.settle(args.create_engine_config())

    with pytest.raises(ConfigError, match=r"never hold scores.*phase: train"):
        settle()
    assert settle(phase="train").rules[0].phase == "train"  # nothing to an engine that rolls out


def test_flex_attention_carries_error_on_its_output() -> None:
    """Forward: torch has no backward of it on a CPU. Its operators, without the compiler."""
    ids = tokens(length=12)
    spec = NoiseConfig(scale=0.1, targets=["attention", "linear"])
    with torch.compiler.set_stance("force_eager"):
        for family in FAMILY:
            model = make_family(family, attn_implementation="flex_attention")
            clean = logits(model, ids)
            torch.testing.assert_close(clean, logits(make(family), ids), rtol=0, atol=1e-5)
            wrap(model, spec, quiet=True)
            noisy = logits(model, ids)
            assert (noisy - clean).abs().max() > 0.1
            eager = logits(wrap(make(family), spec, quiet=True), ids)
            torch.testing.assert_close(noisy, eager, rtol=0, atol=1e-4)
            with disabled(model):
                assert torch.equal(logits(model, ids), clean)
