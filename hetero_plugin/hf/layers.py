"""Noisy layers: the module's own class with error around its forward.

A module becomes noisy by changing its class to a subclass made here, so that it stays an instance
of its class, keeps its parameters (the same objects under the same names) and its place in the
model, and becomes clean again by changing back.

B batch, T tokens of a sequence, N features.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetero_plugin import random
from hetero_plugin.config import ConfigError
from hetero_plugin.hf.context import ForwardContext
from hetero_plugin.perturb import Chain, chain, perturb_gradient
from hetero_plugin.sites import Site

ATTRIBUTE = "hetero_noise"


@dataclass
class LayerNoise:
    """What a noisy module knows: its sites' chains and where its rows come from."""

    site: Site
    context: ForwardContext
    output: Chain
    input: Chain
    weight: Chain
    grad_input: Chain
    grad_weight: Chain
    attention: LayerNoise | None = None
    """On an output projection: the noise of its input, which is the attention's output."""
    aqn: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def is_head(self) -> bool:
        return self.site.kind == "lm_head"


def layer_noise(site: Site, context: ForwardContext) -> LayerNoise:
    """The chains of one site. An input or a weight has the input's columns, an output its own."""
    state = context.state
    into = site.in_features if site.in_features is not None else site.features

    def make(stream: str, columns: int) -> Chain:
        return chain(state, stream, [(site.name, columns, 0)])

    return LayerNoise(
        site=site,
        context=context,
        output=make("output", site.features),
        input=make("input", into),
        weight=make("weight", into if site.in_features is not None else site.features),
        grad_input=make("grad_input", into),
        grad_weight=make("grad_weight", into),
    )


def _apply(made: Chain, x: Tensor, keys: Tensor, clock: Tensor) -> Tensor:
    """The chain on x, whose rows may hold several heads of a token."""
    if x.shape[-1] == made.width:
        return made(x, keys, clock)
    return made(x.reshape(keys.numel(), made.width), keys, clock).reshape(x.shape)


def _before(noise: LayerNoise, x: Tensor, keys: Tensor, clock: Tensor) -> Tensor:
    """Error on what a layer reads, and on the gradient that it will send back."""
    if noise.input:
        x = _apply(noise.input, x, keys, clock)
    if torch.is_grad_enabled() and x.requires_grad and noise.grad_input.needed:
        if x.shape[-1] == noise.grad_input.width:
            x = perturb_gradient(x, noise.grad_input, keys, clock)
        else:
            wide = x.reshape(keys.numel(), noise.grad_input.width)
            x = perturb_gradient(wide, noise.grad_input, keys, clock).reshape(x.shape)
    return x


def _weight_rows(weight: Tensor) -> Tensor:
    """Row keys of a weight [out, in]: its output features."""
    return torch.arange(weight.shape[0], device=weight.device)


class _NoisyLinear:
    def forward(self, x: Tensor) -> Tensor:
        noise: LayerNoise = getattr(self, ATTRIBUTE)
        keys, clock = noise.context.keys_for(x, noise.site.name, head=noise.is_head)
        if noise.attention is not None:
            at = noise.attention
            if at.output:
                x = at.output(x, keys, clock)
            if torch.is_grad_enabled() and x.requires_grad and at.grad_input.needed:
                x = perturb_gradient(x, at.grad_input, keys, clock)
        x = _before(noise, x, keys, clock)
        module = cast(nn.Linear, self)
        weight: Tensor = module.weight
        noisy_gradient = (
            torch.is_grad_enabled() and weight.requires_grad and noise.grad_weight.needed
        )
        if noise.weight or noisy_gradient:
            rows = _weight_rows(weight)
            if noise.weight:
                weight = noise.weight(weight, rows, clock)
            if noisy_gradient:
                # The tokens of the micro-batch take part in its key, so that micro-batches and
                # data-parallel ranks draw independently, and a recomputation draws again the same.
                mixed = random.mix64_tensor(clock ^ random.batch_key(keys))
                weight = perturb_gradient(weight, noise.grad_weight, rows, mixed)
            y = F.linear(x, weight, module.bias)
        else:
            y = super().forward(x)  # type: ignore[misc]
        return noise.output(y, keys, clock) if noise.output else y


class _NoisyNorm:
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        noise: LayerNoise = getattr(self, ATTRIBUTE)
        keys, clock = noise.context.keys_for(x, noise.site.name)
        x = _before(noise, x, keys, clock)
        offsets = noise.context.state.aqn
        if noise.aqn and offsets is not None:
            y = noise.extra["formula"](self, x, offsets.view(noise.site.name))
        else:
            y = super().forward(x, *args, **kwargs)  # type: ignore[misc]
        return _apply(noise.output, y, keys, clock) if noise.output else y


class _NoisyActivation:
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        noise: LayerNoise = getattr(self, ATTRIBUTE)
        keys, clock = noise.context.keys_for(x, noise.site.name)
        x = _before(noise, x, keys, clock)
        y = super().forward(x, *args, **kwargs)  # type: ignore[misc]
        return noise.output(y, keys, clock) if noise.output else y


_MIXINS: dict[str, type] = {
    "linear": _NoisyLinear,
    "lm_head": _NoisyLinear,
    "norm": _NoisyNorm,
    "activation": _NoisyActivation,
}


def _offset_llama(module: Any, x: Tensor, offset: Tensor) -> Tensor:
    """Llama's RMSNorm (Qwen, Mistral) with weight + offset in float32, rounded once.

    At offset 0 this is the clean formula bit for bit: a product of two bfloat16 or float16 numbers
    is exact in float32, so both round once.
    """
    h = x.to(torch.float32)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
    return ((module.weight.float() + offset) * h.to(x.dtype).float()).to(x.dtype)


_OFFSET_FORMULAS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    name: _offset_llama
    for name in (
        "Qwen2RMSNorm",
        "Qwen3RMSNorm",
        "Qwen2MoeRMSNorm",
        "Qwen3MoeRMSNorm",
        "LlamaRMSNorm",
        "MistralRMSNorm",
    )
}


def offset_formula(cls: type, site: str) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """How a norm class computes with an AQN offset.

    Raises:
        ConfigError: the class has no formula here.
    """
    for base in cls.__mro__:
        if base.__name__ in _OFFSET_FORMULAS:
            return _OFFSET_FORMULAS[base.__name__]
    raise ConfigError(
        f"AQN does not know how {cls.__name__} ({site}) uses its weight; known: "
        f"{', '.join(_OFFSET_FORMULAS)}. Add its formula to hf/layers.py"
    )


@cache
def noisy_class(cls: Any, kind: str) -> Any:
    """The noisy subclass of a module class."""
    made = type(
        f"Noisy{cls.__name__}",
        (_MIXINS[kind], cls),
        {"hetero_clean_class": cls, "hetero_kind": kind},
    )
    made.__module__ = cls.__module__
    # Classes made at run time are found again by how they were made, so that models pickle.
    copyreg.pickle(made, _reduce)
    return made


def _rebuild(cls: type, kind: str) -> nn.Module:
    made = noisy_class(cls, kind)
    module: nn.Module = made.__new__(made)
    return module


def _reduce(module: Any) -> tuple[Any, ...]:
    return _rebuild, (type(module).hetero_clean_class, type(module).hetero_kind), module.__dict__


def is_noisy(module: nn.Module) -> bool:
    return hasattr(type(module), "hetero_clean_class")


def make_noisy(module: nn.Module, noise: LayerNoise) -> None:
    """Changes the module's class, in place."""
    object.__setattr__(module, ATTRIBUTE, noise)
    cls: Any = type(module)
    module.__class__ = noisy_class(cls, noise.site.kind)


def make_clean(module: nn.Module) -> None:
    """Undoes `make_noisy`, in place."""
    module.__class__ = type(module).hetero_clean_class  # type: ignore[attr-defined]
    module.__dict__.pop(ATTRIBUTE, None)
