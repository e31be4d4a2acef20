"""Libraries that set `forward` on a layer, before or after wrap: noise is there, or an error."""

from __future__ import annotations

import functools
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import Tensor, nn

from hetero_plugin import AQN, AQNConfig, NoiseConfig, disabled, unwrap, wrap
from hetero_plugin.config import ConfigError
from hetero_plugin.hf.context import MissingRows
from tests.hf.families import FAMILY, make_family, tokens

SPEC = NoiseConfig(scale=0.1, targets=["linear", "norm", "activation", "attention"])
IDS = tokens(2, 7)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(IDS).logits


def noisy(dtype: torch.dtype = torch.float32) -> Tensor:
    return logits(wrap(make_family("qwen2", dtype), SPEC, quiet=True))


def hooked(model: nn.Module) -> None:
    for module in model.modules():
        add_hook_to_module(module, ModelHook())


def offloaded(model: nn.Module) -> None:
    cpu_offload(model, execution_device="cpu")


def dispatched(model: nn.Module) -> None:
    dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("library", [hooked, offloaded, dispatched])
@pytest.mark.parametrize("first", ["library", "wrap"])
def test_accelerate(library: Any, first: str, dtype: torch.dtype) -> None:
    model = make_family("qwen2", dtype)
    clean = logits(model)
    if first == "library":
        library(model)
        wrap(model, SPEC, quiet=True)
    else:
        wrap(model, SPEC, quiet=True)
        library(model)
    assert torch.equal(logits(model), noisy(dtype))
    with disabled(model):
        assert torch.equal(logits(model), clean)
    unwrap(model)
    assert torch.equal(logits(model), clean)
    wrap(model, SPEC, quiet=True)
    assert torch.equal(logits(model), noisy(dtype))
    unwrap(model)
    for module in model.modules():
        remove_hook_from_module(module)
    assert torch.equal(logits(model), clean)


def test_disk_offload(tmp_path: Path) -> None:
    model = make_family("qwen2")
    disk_offload(model, str(tmp_path), execution_device="cpu")
    assert torch.equal(logits(wrap(model, SPEC, quiet=True)), noisy())


def test_gradients_under_accelerate() -> None:
    def gradients(model: Any) -> list[Tensor]:
        model(IDS, labels=IDS).loss.backward()
        return [p.grad for p in model.parameters()]

    model = make_family("qwen2")
    hooked(model)
    found = gradients(wrap(model, SPEC, quiet=True))
    wanted = gradients(wrap(make_family("qwen2"), SPEC, quiet=True))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


# ---- kernels of other libraries, as instance methods ----


def _same_linear(self: Any, x: Tensor) -> Tensor:
    return nn.functional.linear(x, self.weight, self.bias)


def _same_norm(self: Any, x: Tensor) -> Tensor:
    h = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
    return self.weight * h.to(x.dtype)


def _method(module: nn.Module, function: Any) -> None:
    module.__dict__["forward"] = types.MethodType(function, module)


def _attribute(module: nn.Module, function: Any) -> None:
    module.forward = functools.partial(function, module)


def _closure(module: nn.Module, function: Any) -> None:
    kept = module.forward  # bound, and out of anybody's reach

    def around(*args: Any, **kwargs: Any) -> Any:
        return kept(*args, **kwargs)

    module.forward = around


def _by_class(module: nn.Module, function: Any) -> None:
    def around(self: Any, *args: Any) -> Any:
        return type(self).forward(self, *args)

    module.forward = types.MethodType(around, module)


@pytest.mark.parametrize("way", [_method, _attribute, _closure, _by_class])
def test_kernels_before_wrap(way: Any) -> None:
    model = make_family("qwen2")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            way(module, _same_linear)
        elif "norm" in name:
            way(module, _same_norm)
    clean = logits(model)
    wrap(model, SPEC, quiet=True)
    assert torch.equal(logits(model), noisy())
    unwrap(model)
    assert torch.equal(logits(model), clean)
    assert "forward" in model.lm_head.__dict__


@pytest.mark.parametrize("way", [_method, _attribute])
@pytest.mark.parametrize("which", ["model.norm", "model.layers.1.mlp.up_proj", "lm_head"])
def test_kernels_after_wrap_are_an_error_in_any_pass(way: Any, which: str) -> None:
    model = wrap(make_family("qwen2"), SPEC, quiet=True)
    logits(model)
    module = model.get_submodule(which)
    way(module, _same_norm if "norm" in which else _same_linear)
    for _ in range(2):
        with pytest.raises(MissingRows) as caught:
            logits(model)
        assert which in str(caught.value)
        assert "_same_" in str(caught.value)
    with disabled(model):
        logits(model)
    del module.__dict__["forward"]
    assert torch.equal(logits(model), noisy())


@pytest.mark.parametrize("way", [_closure, _by_class])
def test_what_calls_the_layer_after_wrap_is_right(way: Any) -> None:
    model = make_family("qwen2")
    clean = logits(model)
    wrap(model, SPEC, quiet=True)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            way(module, None)
    assert torch.equal(logits(model), noisy())
    unwrap(model)
    assert torch.equal(logits(model), clean)


def test_transformers_tensor_parallelism_is_refused() -> None:
    model = make_family("qwen2")
    model._tp_size = 2  # what from_pretrained(tp_plan="auto") leaves on two ranks
    with pytest.raises(ConfigError, match="tp_plan"):
        wrap(model, SPEC, quiet=True)


def test_weights_inside_a_kernel_are_refused() -> None:
    model = make_family("qwen2")
    _method(model.model.layers[0].mlp.up_proj, _same_linear)
    wrap(model, NoiseConfig(scale=0.1, targets="*.up_proj", point="weight"), quiet=True)
    with pytest.raises(ConfigError, match=r"up_proj has a forward of its own .*_same_linear"):
        logits(model)


def test_aqn_and_a_foreign_norm() -> None:
    model = make_family("qwen2")
    aqn = AQN(model, AQNConfig(schedule="constant", sigma_start=0.1, total_steps=3))
    aqn.step(0)
    logits(model)
    _method(model.model.layers[0].input_layernorm, _same_norm)
    with pytest.raises(MissingRows, match="input_layernorm"):
        logits(model)
    aqn.off()
    logits(model)  # no site is noisy, so none is missed


# ---- layers that are not there any more ----


def _replace_layer(model: Any) -> str:
    model.model.layers[1] = make_family("qwen2").model.layers[1]
    return "model.layers.1."


def _replace_mlp(model: Any) -> str:
    model.model.layers[0].mlp = make_family("qwen2").model.layers[0].mlp
    return "model.layers.0.mlp"


def _fuse(model: Any) -> str:
    weight = model.lm_head.weight
    model.lm_head = nn.Identity()
    model.register_forward_hook(
        lambda m, a, out: setattr(out, "logits", out.logits @ weight.T) or out
    )
    return "lm_head"


def _class(model: Any) -> str:
    model.model.norm.__class__ = type(model.model.norm).__mro__[2]
    return "model.norm"


@pytest.mark.parametrize("change", [_replace_layer, _replace_mlp, _fuse, _class])
def test_a_site_that_is_gone_is_an_error(change: Any) -> None:
    model = wrap(make_family("qwen2"), SPEC, quiet=True)
    logits(model)
    name = change(model)
    with pytest.raises(MissingRows) as caught:
        logits(model)
    assert name in str(caught.value)
    assert "fused" not in str(caught.value)


def test_assisted_decoding_may_leave_layers_out() -> None:
    model = wrap(make_family("qwen2"), SPEC, quiet=True)
    whole = logits(model)
    model.config.num_hidden_layers = 1
    assert not torch.equal(logits(model), whole)
    model.config.num_hidden_layers = 2
    assert torch.equal(logits(model), whole)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILY))
def test_every_site_of_every_family_runs(family: str) -> None:
    spec = NoiseConfig(
        scale=0.05, targets=["linear", "norm", "activation", "attention", "attention_scores"]
    )
    model = make_family(family, attn_implementation="eager")
    wrap(model, spec, quiet=True)
    logits(model)
    logits(torch.compile(model, backend="aot_eager"))
