"""RMSNorms: how a class uses its weight, and where the heads of a per-head norm are.

B batch, T tokens of a sequence, H heads, D features of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hetero_plugin.config import ConfigError
from hetero_plugin.hf.classes import own_class
from hetero_plugin.sites import Site

Formula = Callable[[Any, Tensor, Tensor], Tensor]
"""Module, x [..., N], weight float32 [N] -> the norm of x with that weight."""


def epsilon(module: Any) -> float:
    """What an RMSNorm adds to the mean of squares."""
    return module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps


def _llama(module: Any, x: Tensor, weight: Tensor) -> Tensor:
    """weight · norm(x), the norm rounded to x's dtype first (Llama, Mistral, Qwen).

    With the module's own weight this is the clean formula bit for bit: a product of two bfloat16 or
    float16 numbers is exact in float32, so both round once.
    """
    h = x.to(torch.float32)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + epsilon(module))
    # A float32 weight makes the result float32, as under autocast.
    dtype = torch.promote_types(module.weight.dtype, x.dtype)
    return (weight * h.to(x.dtype).float()).to(dtype)


def _gemma(module: Any, x: Tensor, weight: Tensor) -> Tensor:
    """(1 + weight) · norm(x) in float32, rounded once (Gemma)."""
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + epsilon(module))
    return (h * (1.0 + weight)).type_as(x)


def _olmo(module: Any, x: Tensor, weight: Tensor) -> Tensor:
    """weight · norm(x) in float32, rounded once (OLMo 2)."""
    h = x.to(torch.float32)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + epsilon(module))
    return (weight * h).to(x.dtype)


FORMULAS: tuple[Formula, ...] = (_llama, _gemma, _olmo)


def adds_one(formula: Formula) -> bool:
    """Whether a formula multiplies by 1 + weight."""
    return formula is _gemma


_found: dict[type, Formula] = {}


def _alike(norm: nn.Module) -> nn.Module:
    """A norm of the same class and settings, with a weight of its own on the CPU.

    Without what other libraries added to this one: sharded or parametrized weights, hooks.
    """
    own: Any = own_class(type(norm))
    probe: nn.Module = own.__new__(own)
    nn.Module.__init__(probe)
    ours = vars(probe).keys() | {"parametrizations"}
    probe.__dict__ |= {k: v for k, v in vars(norm).items() if k not in ours}
    weight: Any = norm.weight
    probe.weight = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype))
    return probe


def _agree(formula: Formula, norm: nn.Module) -> bool:
    """Whether a formula gives what a norm gives, bit for bit, in each dtype."""
    probe: Any = _alike(norm)
    generator = torch.Generator().manual_seed(0)
    size = probe.weight.numel()
    single, brain, half = torch.float32, torch.bfloat16, torch.float16
    for own, dtype in ((single, single), (brain, brain), (half, half), (single, brain)):
        probe = probe.to(own)
        with torch.no_grad():
            probe.weight.copy_(torch.rand(size, generator=generator) * 3 - 0.5)
            x = (torch.randn(16, size, generator=generator) * 2).to(dtype)
            try:
                if not torch.equal(formula(probe, x, probe.weight.float()), probe(x)):
                    return False
            except AttributeError:  # a norm that keeps its epsilon under another name
                return False
    return True


def offset_formula(norm: nn.Module, site: str) -> Formula:
    """How a norm computes with its weight, so that AQN can give it another.

    Found by trial, not by name: the formula that with the norm's own weight gives what it gives.

    Raises:
        ConfigError: none does.
    """
    cls = own_class(type(norm))
    if cls not in _found:
        formula = next((one for one in FORMULAS if _agree(one, norm)), None)
        if formula is None:
            raise ConfigError(
                f"AQN does not know how {cls.__name__} ({site}) uses its weight: to the bit it is "
                "neither weight · norm(x), as in Llama and OLMo 2, nor (1 + weight) · norm(x), as "
                "in Gemma. Add its formula to hf/norms.py, or leave the norm out of aqn.targets"
            )
        _found[cls] = formula
    return _found[cls]


def heads_come_first(norm: nn.Module, x: Tensor, tokens: int, site: Site) -> bool:
    """Whether x of a norm of each head is [B, H, T, D] rather than [B, T, H, D].

    Args:
        norm: the module.
        x: its input.
        tokens: rows of the forward pass, B · T.
        site: which says H, and what its family's entry says of the order.

    Raises:
        ConfigError: x is neither, or could be both.
    """
    heads = site.heads
    fits = {
        False: x.dim() == 4 and x.shape[0] * x.shape[1] == tokens and x.shape[2] == heads,
        True: x.dim() == 4 and x.shape[0] * x.shape[2] == tokens and x.shape[1] == heads,
    }
    possible = [first for first, fit in fits.items() if fit and site.heads_first in (None, first)]
    if len(possible) != 1:
        words = " or ".join("heads" if first else "tokens" for first in possible)
        raise ConfigError(
            f"{site.name} ({type(norm).__name__}) norms {heads} heads of {tokens} tokens, and its "
            f"input {list(x.shape)} could be {words or 'neither tokens nor heads'} first: exclude "
            "it, or say heads_first in its family's entry in hetero_plugin/sites/families.py"
        )
    return possible[0]
