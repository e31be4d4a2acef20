"""The operator: a clean value, an error model and keys in; the perturbed value out.

`perturb` is one opaque torch operator. The compiler may not look inside: traced arithmetic of keyed
noise gets hoisted above the in-place GEMMs that write its operand.

A `Chain` is what a layer holds: the operator calls of all rules at one point of it, with their
segments. Shapes: T rows (tokens), N columns (features); x_TN is [..., N] with the leading
dimensions flattened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.config import ConfigError
from hetero_plugin.errors import error_model
from hetero_plugin.errors.profile import hold
from hetero_plugin.kernels import KERNEL
from hetero_plugin.kernels.checks import DTYPES, UnsupportedTensor, check_dtype, check_transforms
from hetero_plugin.kernels.copies import own
from hetero_plugin.kernels.formats import declare
from hetero_plugin.operator.clipped import applied, with_clipped_gradient
from hetero_plugin.operator.parts import Part, check_experts, check_whole, words_of
from hetero_plugin.state import Draw, NoiseState

__all__ = [
    "KERNEL",
    "Chain",
    "Part",
    "UnsupportedTensor",
    "perturb",
    "perturb_gradient",
    "record",
]


def perturb(
    x: Tensor,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    error: str = "relative_gaussian",
    stochastic: bool = True,
) -> Tensor:
    """`x` with error.

    Args:
        x: [..., N], bfloat16, float16 or float32; the leading dimensions hold T rows.
        row_keys, clock, scales: see `Draw`; a scale of 0 copies x bit for bit.
        segments: int64 [S, 4] in host memory, the consecutive column ranges of x: width, site key,
            global index of the first column, slot in `scales`. The widths add up to N.
        error: name of an error model (`hetero_plugin.errors.MODELS`).
        stochastic: round an added error stochastically rather than to nearest.

    Returns:
        A new contiguous tensor like x. Its gradient is passed straight through.

    Raises:
        TypeError: x has another dtype, or is inside `torch.func.vmap`.
    """
    return torch.ops.hetero_noise.perturb(x, row_keys, clock, scales, segments, error, stochastic)


@dataclass
class Stage:
    """One operator call: what one rule does at this point."""

    error: str
    native: bool
    stochastic: bool
    segments: Tensor
    profile: tuple[str, str] | None = None
    """Path and digest of the profile that is drawn from."""
    clipped: bool = False
    """Of a number format: no gradient passes where an element lies beyond its largest number."""

    def __post_init__(self) -> None:
        if self.profile is not None:
            hold(*self.profile)
        declare(self.error)

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__.update(own(attributes))
        self.__post_init__()  # in another process, perhaps


Recorder = Callable[[tuple[str, ...], str, Tensor, Tensor], None]
_recorder: Recorder | None = None


@contextmanager
def record(callback: Recorder) -> Iterator[None]:
    """Calls ``callback(site names, stream, before, after)`` at every chain that runs in eager mode.

    This is how realised error is measured on real activations. Not for compiled code, whose graph
    holds the operator alone.
    """
    global _recorder
    previous, _recorder = _recorder, callback
    try:
        yield
    finally:
        _recorder = previous


def is_recording() -> bool:
    """Whether every chain is to run, for `record`."""
    return _recorder is not None


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured, which is replayed under other scales."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@dataclass
class Chain:
    """All rules at one point of one layer, applied in the order of the spec.

    ``chain(x, draw)`` gives x with the errors of every rule; false when no rule selects anything
    there. It holds no tensor but its stages' segments, which stay in host memory.
    """

    stream: str
    parts: tuple[Part, ...]
    heads: int = 1
    """Vectors of the tensor that are one row: more than 1 for a norm of each head."""
    stages: list[Stage] = field(default_factory=list)
    slots: tuple[int, ...] = ()
    """Entries of the scale table that the stages read."""
    shares: bool = False
    """Of a weight: its scale is that of several weights (`operator.shared`)."""
    clips: bool = False
    """Whether a rule's gradient is that of the clipped straight-through estimator."""

    @classmethod
    def of(
        cls,
        state: NoiseState,
        stream: str,
        parts: Sequence[Part],
        *,
        share: int | None = None,
        heads: int = 1,
    ) -> Chain:
        """The chain of one tensor of a layer.

        Args:
            state: the model's state, which knows the rules and the entries of their scales.
            stream: ``output``, ``input``, ``weight``, ``grad_input``, ``grad_weight``; of number
                formats also ``grad_output`` and ``weight_transposed`` (`operator.dgrad`).
            parts: the consecutive column ranges of the tensor: one for a plain layer, three for a
                fused qkv projection. Parts that no rule selects stay clean.
            share: the tensor-parallel rank whose partial sum this tensor is (``partial: true``);
                each rank's sum then has error of its own. None: the tensor is whole.
            heads: into how many vectors the tensor splits the columns of a row.

        Raises:
            ConfigError: a rule's error depends on the whole row, or on blocks of it, and the parts
                are a shard that cuts them.
        """
        keyed = stream if share is None else f"{stream}/partial{share}"
        made = cls(stream, tuple(parts), heads)
        for index, rule in enumerate(state.config.rules):
            rows = []
            for name, columns, offset in parts:
                slot = state.slot(name, index, stream)
                rows.append([columns, random.site_key(name, keyed, index), offset, slot or 0])
            words = words_of(state, made.parts, index, [row[3] for row in rows], stream)
            if words and rule.path and share is not None:
                raise ConfigError(
                    f"rules[{index}]: partial: true with error: profile; what was measured is of "
                    "whole products, and not of the sums of single ranks. Leave partial out"
                )
            made.slots += tuple(row[3] for row in rows if row[3])
            for word in dict.fromkeys(word for word in words if word):
                model = error_model(word, relative=rule.relative)
                if any(".experts." in part[0] for part in made.parts):
                    check_experts(index, model, stream)
                made.shares |= rule.format_options is not None and rule.format_options.shares
                if share is None and (model.whole_row or model.block):
                    check_whole(state, stream, made.parts, index, model)
                # Sizes that a profile knows apart are calls apart, each of which leaves the others.
                mine = [
                    [*row[:3], row[3] if one == word else 0]
                    for row, one in zip(rows, words, strict=True)
                ]
                with torch.inference_mode(False):
                    segments = torch.tensor(mine, dtype=torch.int64, device="cpu")
                how = model.native, rule.rounding == "stochastic", segments
                file = (rule.path, rule.digest) if rule.path and rule.digest else None
                clipped = rule.ste == "clipped" and stream == rule.point
                made.clips |= clipped
                made.stages.append(Stage(model.name, *how, file, clipped))
        if made.shares and len(made.stages) > 1:
            raise ConfigError(
                f"{made.parts[0][0]}: share: fused beside another rule on its weight; the largest "
                "of the weights that share a scale is taken before any error. Leave one out"
            )
        return made

    def __bool__(self) -> bool:
        return len(self.stages) > 0  # PyTorch 2.11 can't compile bool() of a list

    @property
    def width(self) -> int:
        return sum(part[1] for part in self.parts)

    @property
    def fixed(self) -> bool:
        """Whether the error is a function of the tensor and the scales alone: what a weight keeps
        of it until one of the two changes. Also true where there is no rule."""
        models = [(error_model(stage.error), stage.stochastic) for stage in self.stages]
        return all(
            model.draws is None and not (model.additive and stochastic)
            for model, stochastic in models
        )

    def rows_at_once(self, rows: int, wanted: int) -> int:
        """How many rows of a weight can be computed by themselves.

        Args:
            rows: of the weight.
            wanted: a multiple of 128, the rows of a tile.

        Returns:
            About ``wanted``; all where an error depends on the whole tensor.
        """
        models = [error_model(stage.error) for stage in self.stages]
        if any(model.whole_tensor and not model.matrix_rows for model in models):
            return rows
        matrix = math.lcm(*(model.matrix_rows or 1 for model in models))
        return matrix * max(1, wanted // matrix)

    @property
    def single(self) -> Stage | None:
        """The only rule's operator call, if one rule acts here and a kernel knows its error."""
        return self.stages[0] if len(self.stages) == 1 and self.stages[0].native else None

    def needed(self, draw: Draw, nonzero: Sequence[bool]) -> bool:
        """Whether leaving the chain out would be noticed.

        Even a node that does nothing changes the order in which autograd sums the gradients of a
        tensor that is used several times, so that off would not be bit for bit clean. Code that is
        being compiled or captured always needs it: there the scale may change later.

        Args:
            draw: what the chain would be called with.
            nonzero: which entries of its scales are not 0; empty where that is not known, as after
                a break of a compiled graph, or may change later, as in a captured one.

        Raises:
            UnsupportedTensor: it would be noticed, and torch.func has no way for it.
        """
        if not self.stages:
            return False
        if torch.compiler.is_compiling() or _recorder is not None:
            return True
        needed = not nonzero or any(nonzero[slot] for slot in self.slots)
        # A part of a pass may be captured by itself, whatever held when the pass began.
        needed = needed or is_capturing(draw.clock.device)
        if needed:
            check_transforms(self.stream)
        return needed

    def check(self, x: Tensor) -> None:
        """Raises UnsupportedTensor, with the sites' names, for a dtype that can't have error."""
        if self.stages and x.dtype not in DTYPES:
            sites = ", ".join(dict.fromkeys(part[0] for part in self.parts))
            check_dtype(x.dtype, f"{sites} ({self.stream})")

    def __call__(self, x: Tensor, draw: Draw, *, in_place: bool = False) -> Tensor:
        """Applies the chain.

        Args:
            x: [..., N] with N the sum of the parts' columns; [..., heads, N / heads] of heads.
            draw: at least as many row keys as x has rows.
            in_place: x is the caller's own and may be overwritten; without a gradient. A scale of
                0 then costs nothing, and nothing is allocated.

        Raises:
            UnsupportedTensor: x has another dtype than bfloat16, float16 and float32, or is inside
                `torch.func.vmap`.
            ValueError: x has another number of columns.
        """
        self.check(x)
        rows = self._rows(x)
        y = rows
        in_place = in_place and _recorder is None  # which wants both
        if rows.requires_grad and torch.is_grad_enabled() and self.clips:
            y = with_clipped_gradient(rows, self, draw)
        else:
            for stage in self.stages:
                if in_place and stage.native:
                    how = stage.segments, stage.error, stage.stochastic
                    torch.ops.hetero_noise.perturb_(y, *draw, *how)
                else:
                    y = applied(stage, y, draw)
        if _recorder is not None and not torch.compiler.is_compiling():
            names = tuple(part[0] for part in self.parts)
            _recorder(names, self.stream, rows.detach(), y.detach())
        return y if self.heads == 1 else y.view(x.shape)

    def _rows(self, x: Tensor) -> Tensor:
        """x with all columns of a row in one dimension; x itself where they are."""
        if self.heads == 1:
            return x
        if x.shape[-1] * self.heads != self.width:
            raise ValueError(
                f"hetero_noise: {self.parts[0][0]} has {self.heads} heads and {self.width} columns "
                f"in all; the tensor is {list(x.shape)}"
            )
        return x.reshape(-1, self.width)

    def before_rounding(self, x: Tensor, draw: Draw, dtype: torch.dtype) -> Tensor:
        """Applies the chain, in place, to what a layer is about to round to ``dtype``.

        Args:
            x: float32, shaped as for a call; the caller's own; without a gradient.
            draw: as for a call.
            dtype: bfloat16 or float16.

        Returns:
            x, with the error that the rounded tensor would have; at scale 0 unrounded.
        """
        rows = self._rows(x)
        for stage in self.stages:
            how = stage.segments, stage.error, stage.stochastic, stage.native
            torch.ops.hetero_noise.perturb_unrounded_(rows, dtype, *draw, *how)
        return rows.view(x.shape)


class _PerturbGradient(torch.autograd.Function):
    """Nothing forward; backward, error on the gradient that passes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, chain: Chain, keys: Tensor, clock: Tensor, scales: Tensor
    ) -> Tensor:
        ctx.chain = chain
        ctx.save_for_backward(keys, clock, scales)  # shared by every site of the forward pass
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.chain(grads[0], Draw(*ctx.saved_tensors)), None, None, None, None


def perturb_gradient(x: Tensor, chain: Chain, draw: Draw) -> Tensor:
    """`x` itself, whose gradient gets the error of `chain` on its way back.

    Args:
        x: as for `chain`.
        chain: of stream ``grad_input`` or ``grad_weight``.
        draw: kept for the backward pass, and not to be overwritten before it.

    Raises:
        UnsupportedTensor: x has another dtype than bfloat16, float16 and float32.
    """
    chain.check(x)
    # Its tensors one by one: dynamo traces arguments that are tensors.
    return _PerturbGradient.apply(x, chain, *draw)
