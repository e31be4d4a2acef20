"""Noisy layers: the module's own class with error around its forward.

A module becomes noisy by changing its class to a subclass made here, so that it stays an instance
of its class, keeps its parameters (the same objects under the same names) and its place in the
model, and becomes clean again by changing back.

B batch, T tokens of a sequence, N features.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hetero_plugin import random
from hetero_plugin.aqn import shifted_weight
from hetero_plugin.hf.classes import CLEAN, SORT, clean_type, is_noisy_type, own_class, rebased
from hetero_plugin.hf.context import ForwardContext, Pass
from hetero_plugin.hf.copies import OfAModel
from hetero_plugin.hf.norms import Formula, heads_come_first
from hetero_plugin.perturb import Chain, chain, perturb_gradient
from hetero_plugin.sites import Site

ATTRIBUTE = "hetero_noise"


@dataclass(eq=False)
class LayerNoise(OfAModel):
    """What a noisy module knows: its sites' chains and where its rows come from."""

    site: Site
    context: ForwardContext
    output: Chain
    input: Chain
    weight: Chain
    grad_input: Chain
    grad_weight: Chain
    attention: LayerNoise | None = None
    """On an output projection: the noise of its input, which is the attention's output; None where
    PEFT's layer around the projection puts it on what both of them read."""
    formula: Formula | None = None
    """On a norm with AQN: how it computes with a weight."""

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


def _by_token(
    noise: LayerNoise, module: Any, x: Tensor, now: Pass, function: Callable[[Tensor], Tensor]
) -> Tensor:
    """``function`` on x with one row for each token; a norm of each head sees it in several."""
    heads, tokens = noise.site.heads, now.keys.numel()
    if heads == 1:
        return function(x)
    width = x.shape[-1] * heads
    if heads_come_first(module, x, tokens, heads, noise.site.name):
        swapped = x.transpose(1, 2)
        return function(swapped.reshape(tokens, width)).reshape(swapped.shape).transpose(1, 2)
    return function(x.reshape(tokens, width)).reshape(x.shape)


def noisy_input(noise: LayerNoise, x: Tensor, now: Pass, module: Any = None) -> Tensor:
    """Error on what a layer reads, and on the gradient that it will send back."""

    def forward(rows: Tensor) -> Tensor:
        return noise.input(rows, now.keys, now.clock, now.scales)

    def backward(rows: Tensor) -> Tensor:
        return perturb_gradient(rows, noise.grad_input, now.keys, now.clock, now.scales)

    if noise.input.needed_under(now.live):
        x = _by_token(noise, module, x, now, forward)
    if torch.is_grad_enabled() and x.requires_grad and noise.grad_input.needed_under(now.live):
        x = _by_token(noise, module, x, now, backward)
    return x


def noisy_output(noise: LayerNoise, y: Tensor, now: Pass, module: Any = None) -> Tensor:
    """Error on what a layer gives."""

    def forward(rows: Tensor) -> Tensor:
        return noise.output(rows, now.keys, now.clock, now.scales)

    if not noise.output.needed_under(now.live):
        return y
    return _by_token(noise, module, y, now, forward)


def noisy_weight(noise: LayerNoise, weight: Tensor, now: Pass) -> Tensor | None:
    """A weight [..., out, in] with the error of the weight and of its gradient; None: as it is."""
    forward = noise.weight.needed_under(now.live)
    backward = noise.grad_weight.needed_under(now.live)
    backward &= torch.is_grad_enabled() and weight.requires_grad
    if not forward and not backward:
        return None
    # Its rows are keyed by number: output features, one expert's after the other's.
    rows = torch.arange(weight.numel() // weight.shape[-1], device=weight.device)
    if forward:
        weight = noise.weight(weight, rows, now.clock, now.scales)
    if backward:
        # The tokens of the micro-batch take part in its key, so that micro-batches and
        # data-parallel ranks draw independently, and a recomputation draws again the same.
        mixed = random.mix64_tensor(now.clock ^ random.batch_key(now.keys))
        weight = perturb_gradient(weight, noise.grad_weight, rows, mixed, now.scales)
    return weight


def _worth_recomputing(noise: LayerNoise, module: nn.Linear, now: Pass) -> bool:
    """Whether autograd would keep a perturbed copy of what it has anyway, input or weight."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    attention = noise.attention
    chains = [noise.input, *([attention.output] if attention is not None else [])]
    read = any(made.needed_under(now.live) for made in chains)
    return noise.weight.needed_under(now.live) or (read and module.weight.requires_grad)


class _NoisyLinear:
    def forward(self, x: Tensor) -> Tensor:
        noise: LayerNoise = getattr(self, ATTRIBUTE)
        now = noise.context.rows_of(x, noise.site.name, head=noise.is_head)
        module = cast(nn.Linear, self)
        clean = super().forward  # type: ignore[misc]
        attention = noise.attention

        # A parametrized weight is computed anew whenever it is read: once, if we don't need it.
        ours = noise.weight.needed_under(now.live) or noise.grad_weight.needed_under(now.live)

        def product(x: Tensor) -> Tensor:
            if attention is not None:
                x = noisy_input(attention, noisy_output(attention, x, now), now)
            x = noisy_input(noise, x, now)
            weight = noisy_weight(noise, module.weight, now) if ours else None
            return clean(x) if weight is None else F.linear(x, weight, module.bias)

        if _worth_recomputing(noise, module, now):
            # Keeps x alone. The backward pass draws its error again and stops before the GEMM.
            y = checkpoint(product, x, use_reentrant=False, preserve_rng_state=False)
        else:
            y = product(x)
        return noisy_output(noise, y, now)


class _NoisyAdapted:
    """PEFT's layer around an output projection: its adapter reads the same attention.

    Its noise is that of the attention, which the projection inside leaves to it (hf/places.py).
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        noise: LayerNoise = getattr(self, ATTRIBUTE)
        now = noise.context.rows_of(x, noise.site.name)
        x = noisy_input(noise, noisy_output(noise, x, now), now)
        y: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
        return y


class _NoisyNorm:
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        noise: LayerNoise = getattr(self, ATTRIBUTE)
        now = noise.context.rows_of(x, noise.site.name, heads=noise.site.heads)
        x = noisy_input(noise, x, now, self)
        aqn = noise.context.state.aqn
        if noise.formula is not None and aqn is not None and now.offsets is not None:
            offset = aqn.view(noise.site.name, now.offsets)
            y = noise.formula(self, x, shifted_weight(cast(Any, self).weight, offset, aqn.in_dtype))
        else:
            y = super().forward(x, *args, **kwargs)  # type: ignore[misc]
        return noisy_output(noise, y, now, self)


class _NoisyActivation:
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        noise: LayerNoise = getattr(self, ATTRIBUTE)
        now = noise.context.rows_of(x, noise.site.name)
        x = noisy_input(noise, x, now)
        y = super().forward(x, *args, **kwargs)  # type: ignore[misc]
        return noisy_output(noise, y, now)


MIXINS: dict[str, type] = {
    "linear": _NoisyLinear,
    "adapted": _NoisyAdapted,
    "norm": _NoisyNorm,
    "activation": _NoisyActivation,
}
"""The forward of each sort of module; hf/experts.py adds `experts` and `router`, hf/scores.py
`attention`."""


@cache
def noisy_class(cls: Any, sort: str) -> Any:
    """The noisy subclass of a module class."""
    made = type(f"Noisy{cls.__name__}", (MIXINS[sort], cls), {CLEAN: cls, SORT: sort})
    made.__module__ = cls.__module__
    # Classes made at run time are found again by how they were made, so that models pickle.
    copyreg.pickle(made, _reduce)
    return made


def _rebuild(cls: type, sort: str) -> nn.Module:
    made = noisy_class(cls, sort)
    module: nn.Module = made.__new__(made)
    return module


def _reduce(module: Any) -> tuple[Any, ...]:
    return _rebuild, (type(module).hetero_clean_class, type(module).hetero_sort), module.__dict__


def is_noisy(module: nn.Module) -> bool:
    return is_noisy_type(type(module))


def make_noisy(module: nn.Module, noise: Any, sort: str) -> None:
    """Changes the module's class, in place.

    Args:
        module: a clean module.
        noise: what the noisy forward reads: a LayerNoise, or an ExpertsNoise.
        sort: key of MIXINS.
    """
    object.__setattr__(module, ATTRIBUTE, noise)
    own = own_class(type(module))
    module.__class__ = rebased(type(module), own, noisy_class(own, sort))


def make_clean(module: nn.Module, cls: type | None = None) -> None:
    """Undoes `make_noisy`, in place.

    Args:
        module: a noisy module.
        cls: what `clean_type` said, if it was asked.

    Raises:
        ConfigError: as `clean_type`.
    """
    module.__class__ = cls or clean_type(module)
    module.__dict__.pop(ATTRIBUTE, None)
