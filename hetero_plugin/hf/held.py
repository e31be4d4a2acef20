"""Weights with a fixed error (a number format), computed once for each version of the weight.

Q(W) depends on the weight and on the scales alone, so a layer keeps it beside the clean weight from
one pass to the next: in evaluation until the weight changes, in training until the optimizer's next
step. It is no parameter and no buffer, is dropped by copies and files of the model, and goes with
`unwrap`. A change of the weight is told by

- its address, its version (every write that autograd knows of) and its dtype;
- steps of torch's optimizers, behind which libraries write to ``parameter.data``;
- a sample of its values, for what writes to ``parameter.data`` beside them (merged adapters, synced
  weights): one difference anywhere makes the weights of all layers new.

It is computed at every use, as for errors that are random, where the version proves nothing: in
compiled code, for a weight that is no plain contiguous parameter (a parametrization, a shard), and
in a process of a process group, since FSDP gathers new values behind a parameter's version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from hetero_plugin.config import ConfigError
from hetero_plugin.operator import Chain, is_recording
from hetero_plugin.operator.clipped import clipped_gradient
from hetero_plugin.operator.shared import row_of_largest, with_shared_scale
from hetero_plugin.sites import Site
from hetero_plugin.state import Draw

if TYPE_CHECKING:
    from hetero_plugin.hf.context import Pass

__all__ = ["HeldWeight", "straight_through"]

_SAMPLE = 1024
"""Values of a weight that are compared at each use."""


class _Epoch:
    """Counts what may have changed weights behind their versions, in this process."""

    count = 0

    @classmethod
    def next(cls, *_: Any) -> None:
        cls.count += 1


register_optimizer_step_post_hook(_Epoch.next)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, q: Tensor) -> Tensor:
        return q.view_as(q)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, q: Tensor, row: Tensor | None, chain: Chain, *drawn: Tensor
    ) -> Tensor:
        ctx.chain, ctx.shared = chain, row is not None
        ctx.save_for_backward(weight, *drawn, *([] if row is None else [row]))
        return q.view_as(q)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, keys, clock, scales, *row = ctx.saved_tensors
        grad = grads[0]
        if row:  # below it, as the scale was computed
            weight, grad = torch.cat([weight, *row]), torch.cat([grad, torch.zeros_like(row[0])])
        grad = clipped_gradient(grad, weight, ctx.chain, Draw(keys, clock, scales))
        return grad[:-1] if row else grad, None, None, None, None, None, None


def straight_through(
    weight: Tensor, q: Tensor, chain: Chain, now: Pass, others: Sequence[Tensor] = ()
) -> Tensor:
    """The memory of ``q`` itself, whose gradient goes to ``weight``: as it is, or clipped.

    Args:
        weight, chain, now, others: as for `HeldWeight.of`, which gave q.
        q: the weight with its error.
    """
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return q
    made: Tensor
    if chain.clips:
        row = row_of_largest(weight, others, chain.parts[0][0]) if others else None
        made = _Clipped.apply(weight, q, row, chain, *now.draw.of(rows_of_weight(weight)))
    else:
        made = _StraightThrough.apply(weight, q)
    return made


def _version(weight: Tensor) -> tuple[Any, ...]:
    """What tells a weight from another, and from itself after a write that is told of."""
    where = weight.data_ptr(), weight._version, tuple(weight.shape)
    return *where, weight.dtype, weight.device, _Epoch.count


def _sample_of(weight: Tensor) -> Tensor:
    return weight.detach().view(-1)[:: max(1, weight.numel() // _SAMPLE)]


def _in_a_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class _Made(NamedTuple):
    """A weight with its error, and what it was made of."""

    of: tuple[Any, ...]
    """The scales, and `_version` of each weight."""
    samples: list[Tensor]
    q: Tensor


class HeldWeight:
    """A layer's weight with its error, while it is known to be that of the present weight."""

    def __init__(self) -> None:
        self._made: _Made | None = None
        """Written and read as one, or a thread would take another's weight for its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return HeldWeight, ()  # a copy, or what is read from a file, begins anew

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        made = self._made
        return 0 if made is None else made.q.nbytes

    def is_current(
        self, chain: Chain, weight: Tensor, now: Pass, others: Sequence[Tensor] = ()
    ) -> bool:
        """Whether a pass would compute with the error of the present weight; as `of`, slow."""
        held = self.of(chain, weight, now, others)
        if held is None:
            return True  # computed at every use
        with torch.no_grad():
            return torch.equal(held, _computed(chain, weight, now, others))

    def of(
        self, chain: Chain, weight: Tensor, now: Pass, others: Sequence[Tensor] = ()
    ) -> Tensor | None:
        """The weight with its error, computed now or before; None where it can't be held.

        Args:
            chain: of the weight.
            weight: [..., out, in].
            now: the pass, for its scales.
            others: weights that share its scale (`hetero_plugin.operator.shared`).
        """
        if torch.compiler.is_compiling() or is_recording():
            return None
        if not now.in_force or not chain.fixed:
            return None
        weights = (weight, *others)
        if _in_a_group() or not all(map(_is_plain, weights)):
            return None
        samples = [_sample_of(one) for one in weights]
        scales = tuple(now.in_force[slot] for slot in chain.slots)
        made = self._made
        if made is not None and made.of == (scales, *map(_version, weights)):
            if all(map(torch.equal, made.samples, samples)):
                return made.q
            _Epoch.next()  # written past its version, and so may others be
        self._made = made = None  # both at once would be a third copy
        # What it is of is asked first: a write meanwhile is then seen by the next pass.
        of = scales, *map(_version, weights)
        # Not a tensor of inference mode: a training pass may be the next to read it.
        with torch.inference_mode(False), torch.no_grad():
            kept = [sample.clone() for sample in samples]
            q = _computed(chain, weight, now, others)
        self._made = _Made(of, kept, q)
        return q


def _is_plain(weight: Tensor) -> bool:
    """Whether its version and a sample without a copy are to be had."""
    return type(weight) is nn.Parameter and weight.is_contiguous() and not weight.is_inference()


def _computed(chain: Chain, weight: Tensor, now: Pass, others: Sequence[Tensor]) -> Tensor:
    if others:
        name = chain.parts[0][0]
        return with_shared_scale(chain, weight.detach(), others, now.draw, name)
    return chain(weight.detach(), now.draw.of(rows_of_weight(weight)))


def rows_of_weight(weight: Tensor) -> Tensor:
    """The keys of a weight's rows: output features, one expert's after the other's; int64."""
    return torch.arange(weight.numel() // weight.shape[-1], device=weight.device)


def check_plain(site: Site, module: nn.Module) -> None:
    """Raises ConfigError for a layer whose weight is quantised already."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and (
        weight.dtype.itemsize == 1 or not weight.dtype.is_floating_point
    ):
        raise ConfigError(
            f"{site.name} ({type(module).__name__}): its weight is quantised already "
            f"({str(weight.dtype).removeprefix('torch.')}), and error on it would have to be put "
            "on what it was before; load the checkpoint that it was made from, or use the point "
            "output or input"
        )
