"""Noisy layers: the module's own class with error around its forward.

A module becomes noisy by changing its class to a subclass made here, so that it stays an instance
of its class, keeps its parameters (the same objects under the same names) and its place in the
model, and becomes clean again by changing back.

B batch, T tokens of a sequence, N features.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hetero_plugin.aqn import shifted_weight
from hetero_plugin.config import ConfigError
from hetero_plugin.hf.classes import CLEAN, SORT, clean_type, is_noisy_type, own_class, rebased
from hetero_plugin.hf.context import ForwardContext, Pass
from hetero_plugin.hf.copies import OfAModel
from hetero_plugin.hf.forwards import Own, give_back, own_name, take
from hetero_plugin.hf.held import HeldWeight, check_plain, rows_of_weight, straight_through
from hetero_plugin.hf.norms import Formula, heads_come_first
from hetero_plugin.kernels.checks import check_dtype
from hetero_plugin.operator import Chain, Product, dgrad_linear, linear, perturb_gradient
from hetero_plugin.operator.shared import with_shared_scale
from hetero_plugin.sites import Site

ATTRIBUTE = "hetero_noise"
OWN = "hetero_noise_own"
"""On a noisy module: what it had of its own in place of its class's forward."""


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
    products: tuple[Product, Product, Product]
    """How the layer's product adds up, and those of its two gradients."""
    dgrad: tuple[Chain, Chain]
    """Of the operands of its input's gradient: what comes back, and the transposed weight."""
    marks: tuple[int, ...]
    """Of the sites that run when this module does (`ForwardContext.mark`)."""
    attention: LayerNoise | None = None
    """On an output projection: the noise of its input, which is the attention's output."""
    formula: Formula | None = None
    """On a norm with AQN: how it computes with a weight."""
    held: HeldWeight = field(default_factory=HeldWeight)
    """The weight with its error, where that is fixed."""
    partners: tuple[nn.Module, ...] = ()
    """Layers whose weights have one scale with this one's (`hetero_plugin.operator.shared`)."""

    @property
    def sharing(self) -> list[Tensor]:
        """The weights of `partners`, as they are now."""
        return [cast(Tensor, partner.weight) for partner in self.partners]


def layer_noise(site: Site, context: ForwardContext, module: nn.Module) -> LayerNoise:
    """The chains of one site, which a module carries.

    An input or a weight has the input's columns, an output its own.

    Raises:
        ConfigError: the weight is to have error, and is quantised already.
    """
    state = context.state
    into = site.in_features if site.in_features is not None else site.features

    def make(stream: str, columns: int) -> Chain:
        return Chain.of(state, stream, [(site.name, columns, 0)], heads=site.heads)

    def product(stream: str, columns: int) -> Product:
        return Product.of(state, stream, [(site.name, columns, 0)])

    weight = make("weight", into if site.in_features is not None else site.features)
    if weight:
        check_plain(site, module)
    return LayerNoise(
        site=site,
        context=context,
        output=make("output", site.features),
        input=make("input", into),
        weight=weight,
        grad_input=make("grad_input", into),
        grad_weight=make("grad_weight", into),
        products=(
            product("product", site.features),
            product("product_grad_input", into),
            product("product_grad_weight", into),
        ),
        dgrad=(make("grad_output", site.features), make("weight_transposed", site.features)),
        marks=(context.mark(site, module),),
    )


def _heads_first(noise: LayerNoise, module: Any, x: Tensor, now: Pass) -> bool:
    """Whether x, of a norm of each head, is [B, H, T, D]; a row is then a token of all heads."""
    tokens = now.draw.keys.numel()
    return noise.site.heads > 1 and heads_come_first(module, x, tokens, noise.site)


def noisy_input(noise: LayerNoise, x: Tensor, now: Pass, module: Any = None) -> Tensor:
    """Error on what a layer reads, and on the gradient that it will send back.

    Args:
        noise: the layer's.
        x: [..., N].
        now: the pass, for the rows of x.
        module: the layer, where it may be a norm of each head.
    """
    forward = now.needs(noise.input)
    # Asked first: under torch.func no tensor says that it requires a gradient.
    backward = torch.is_grad_enabled() and now.needs(noise.grad_input)
    if not (forward or (backward and x.requires_grad)):
        return x
    swapped = _heads_first(noise, module, x, now)
    x = x.transpose(1, 2) if swapped else x
    if forward:
        x = noise.input(x, now.draw)
    if backward and x.requires_grad:
        x = perturb_gradient(x, noise.grad_input, now.draw)
    return x.transpose(1, 2) if swapped else x


def noisy_output(noise: LayerNoise, y: Tensor, now: Pass, module: Any = None) -> Tensor:
    """Error on what a layer gives; arguments as for `noisy_input`."""
    if not now.needs(noise.output):
        return y
    if _heads_first(noise, module, y, now):
        return noise.output(y.transpose(1, 2), now.draw).transpose(1, 2)
    return noise.output(y, now.draw)


def noisy_weight(noise: LayerNoise, weight: Tensor, now: Pass) -> Tensor | None:
    """A weight [..., out, in] with the error of the weight and of its gradient; None: as it is."""
    forward = now.needs(noise.weight)
    backward = now.needs(noise.grad_weight)
    backward &= torch.is_grad_enabled() and weight.requires_grad
    if not forward and not backward:
        return None
    others = noise.sharing
    held = noise.held.of(noise.weight, weight, now, others) if forward else None
    if held is not None:
        weight = straight_through(weight, held, noise.weight, now, others)
    elif forward and others:
        weight = with_shared_scale(noise.weight, weight, others, now.draw, noise.site.name)
    elif forward:
        weight = noise.weight(weight, now.draw.of(rows_of_weight(weight)))
    if backward:
        draw = now.of_weights(rows_of_weight(weight))
        weight = perturb_gradient(weight, noise.grad_weight, draw)
    return weight


def _adds_up(noise: LayerNoise, now: Pass) -> bool:
    """Whether a linear layer's products, or its gradients', are added up in a way of their own."""
    forward, *backward = noise.products
    return now.needs(forward) or (
        torch.is_grad_enabled() and any([now.needs(made) for made in backward])
    )


def _dgrad(noise: LayerNoise, now: Pass) -> tuple[Chain | None, Chain | None] | None:
    """The chains of the operands of the input's gradient that act; None: none does."""
    on = torch.is_grad_enabled()
    of_grad, of_weight = (chain if on and now.needs(chain) else None for chain in noise.dgrad)
    return (of_grad, of_weight) if of_grad or of_weight else None


def _worth_recomputing(
    noise: LayerNoise, attention: LayerNoise | None, module: nn.Linear, now: Pass
) -> bool:
    """Whether autograd would keep a perturbed copy of what it has anyway, input or weight."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    chains = [noise.input, *([attention.output] if attention is not None else [])]
    if any(now.needs(made) for made in chains) and module.weight.requires_grad:
        return True
    # A weight that the layer holds is kept once, whatever autograd keeps of it.
    if not now.needs(noise.weight):
        return False
    return noise.held.of(noise.weight, module.weight, now, noise.sharing) is None


def while_noisy(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A noisy class's forward: ``forward(self, noise, ...)``, or the clean one where there is none.

    Libraries keep bound methods, which outlive unwrap; and what a module had as its own forward may
    call its class's, in whose place the noisy one stands.
    """

    @functools.wraps(forward)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        noise = self.__dict__.get(ATTRIBUTE)
        if noise is None:
            return type(self).forward(self, *args, **kwargs)
        own: Own = self.__dict__[OWN]
        frame = noise.context.frame if own.forward is not None else None
        if frame is not None and frame.own is self:
            return type(self).hetero_clean_class.forward(self, *args, **kwargs)
        return forward(self, noise, *args, **kwargs)

    return run


def _clean(
    module: Any, noise: LayerNoise, forward: Callable[..., Tensor], *args: Any, **kwargs: Any
) -> Tensor:
    """What the module computes without error: its own forward, or else its class's."""
    own = module.__dict__[OWN].forward
    if own is None:
        return forward(*args, **kwargs)
    frame = noise.context.frame
    assert frame is not None  # rows_of has asked
    outer, frame.own = frame.own, module
    try:
        return own(*args, **kwargs)
    finally:
        frame.own = outer


class _NoisyLinear:
    @while_noisy
    def forward(self, noise: LayerNoise, x: Tensor) -> Tensor:
        now = noise.context.rows_of(x, noise)
        module = cast(nn.Linear, self)
        clean = super().forward  # type: ignore[misc]
        frame = noise.context.frame
        given = frame is not None and frame.given is noise.attention
        attention = None if given else noise.attention

        # A parametrized weight is computed anew whenever it is read: once, if we don't need it.
        ours = now.needs(noise.weight) or now.needs(noise.grad_weight)

        adds_up, dgrad = _adds_up(noise, now), _dgrad(noise, now)
        if adds_up and dgrad is not None:
            words = "accumulate and a number format with direction both or backward"
            raise ConfigError(f"{noise.site.name} has {words}; give its gradients one of the two")

        def product(x: Tensor) -> Tensor:
            if attention is not None:
                x = noisy_input(attention, noisy_output(attention, x, now), now)
            x = noisy_input(noise, x, now)
            weight = noisy_weight(noise, module.weight, now) if ours else None
            if weight is None and not adds_up and dgrad is None:
                return _clean(self, noise, clean, x)
            own: Own = module.__dict__[OWN]
            if own.forward is not None:
                raise ConfigError(
                    f"{noise.site.name} has a forward of its own ({own_name(own.forward)}), "
                    "inside which its weight and that weight's gradient can't have error: put "
                    "error on its output with direction: forward, or wrap before that is set"
                )
            if weight is None:
                weight = module.weight
            if adds_up:
                return linear(x, weight, module.bias, noise.products, now.draw)
            if dgrad is not None:
                return dgrad_linear(x, weight, module.bias, module.weight, dgrad, now.draw)
            return F.linear(x, weight, module.bias)

        if _worth_recomputing(noise, attention, module, now):
            # Keeps x alone. The backward pass draws its error again and stops before the GEMM.
            y = checkpoint(product, x, use_reentrant=False, preserve_rng_state=False)
        else:
            y = product(x)
        return noisy_output(noise, y, now)


class _NoisyAdapted:
    """PEFT's layer around an output projection: its adapter reads the same attention."""

    @while_noisy
    def forward(self, noise: LayerNoise, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        attention = noise.attention
        assert attention is not None
        now = noise.context.rows_of(x, attention)
        x = noisy_input(attention, noisy_output(attention, x, now), now)
        frame = noise.context.frame
        assert frame is not None
        frame.given = attention
        try:
            y: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
            return y
        finally:
            frame.given = None  # the projection may be called, or left, without PEFT


class _NoisyNorm:
    @while_noisy
    def forward(self, noise: LayerNoise, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        now = noise.context.rows_of(x, noise, heads=noise.site.heads)
        x = noisy_input(noise, x, now, self)
        aqn = noise.context.state.aqn
        if noise.formula is not None and aqn is not None and now.offsets is not None:
            check_dtype(x.dtype, f"{noise.site.name} (AQN)")
            offset = aqn.view(noise.site.name, now.offsets)
            y = noise.formula(self, x, shifted_weight(cast(Any, self).weight, offset, aqn.in_dtype))
        else:
            y = _clean(self, noise, super().forward, x, *args, **kwargs)  # type: ignore[misc]
        return noisy_output(noise, y, now, self)


class _NoisyActivation:
    @while_noisy
    def forward(self, noise: LayerNoise, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        now = noise.context.rows_of(x, noise)
        x = noisy_input(noise, x, now)
        y = _clean(self, noise, super().forward, x, *args, **kwargs)  # type: ignore[misc]
        return noisy_output(noise, y, now)


MIXINS: dict[str, type] = {
    "linear": _NoisyLinear,
    "adapted": _NoisyAdapted,
    "norm": _NoisyNorm,
    "activation": _NoisyActivation,
}
"""The forward of each sort of module; hf/experts.py adds `experts` and `router`, hf/scores.py
`scores`."""
ADOPTING = ("linear", "norm", "activation")
"""Sorts whose noisy forward can call another one than the class's."""


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
    cls: Any = type(module)
    own = own_class(cls)
    made: Any = rebased(cls, own, noisy_class(own, sort))
    own_forward = take(module, cls.forward, made.forward, sort in ADOPTING)
    object.__setattr__(module, OWN, own_forward)
    module.__class__ = made


def make_clean(module: nn.Module, cls: type | None = None) -> None:
    """Undoes `make_noisy`, in place.

    Args:
        module: a noisy module.
        cls: what `clean_type` said, if it was asked.

    Raises:
        ConfigError: as `clean_type`.
    """
    cls = cls or clean_type(module)
    give_back(module, module.__dict__[OWN], type(module).forward)
    module.__class__ = cls
    module.__dict__.pop(ATTRIBUTE, None)
    module.__dict__.pop(OWN, None)
