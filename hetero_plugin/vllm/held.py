"""Weights with a fixed error (a number format), computed once and not in every pass.

Q(W) depends on the weight and on the scales alone. It is made beside the clean weight, which stays
what loads and syncs write, and the layer's own GEMM reads it: one GEMM as in the clean engine, and
at scale 0 the very numbers of the clean weight. Compiled code and captured graphs read one place,
whose content is made anew, outside of them, before the first pass after a change:

- a scale: `NoiseState.in_force`;
- a load: `load_weights` and the processing of weights after it, which every sync ends with;
- a write in place: the parameter's version, or its address;
- a write past all of these (`parameter.data` in a worker call): a digest of the bits, taken anew
  after every call of somebody else's to the workers.

Attestation computes Q(W) once more and compares (`HeldWeights.stale`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hetero_plugin.operator import Chain
from hetero_plugin.operator.shared import with_shared_scale
from hetero_plugin.state import NoiseState

__all__ = ["Held", "HeldWeight", "HeldWeights", "Piece", "with_error"]

log = logging.getLogger("vllm.hetero_noise")
_ROWS = 4096
"""Rows that are computed at once: errors need several float32 copies of what they are given."""


@dataclass(eq=False)
class Piece:
    """Rows of a weight that have one site's error."""

    start: int
    rows: Tensor
    """int64 [n]: their numbers in the whole layer."""
    chain: Chain

    @property
    def place(self) -> slice:
        """The rows, in this rank's weight."""
        return slice(self.start, self.start + self.rows.numel())


def with_error(weight: Tensor, pieces: Sequence[Piece], state: NoiseState, out: Tensor) -> None:
    """Writes a weight with the errors of its rows.

    Args:
        weight: [..., N, K], the clean one; rows of no piece stay so.
        pieces: with chains that are `Chain.fixed`.
        state: has the scales.
        out: like ``weight``.
    """
    out.copy_(weight)
    flat, written = weight.reshape(-1, weight.shape[-1]), out.view(-1, weight.shape[-1])
    shared = [piece for piece in pieces if piece.chain.shares]
    for piece in pieces:
        if not piece.chain:
            continue
        n = piece.rows.numel()
        if piece in shared:
            others = [flat[one.place] for one in shared if one is not piece]
            name = piece.chain.parts[0][0]
            written[piece.place] = with_shared_scale(
                piece.chain, flat[piece.place], others, state.draw, name
            )
            continue
        step = piece.chain.rows_at_once(n, _ROWS)
        for first in range(0, n, step):
            some = slice(piece.start + first, piece.start + min(first + step, n))
            draw = state.draw.of(piece.rows[first : first + step])
            written[some] = piece.chain(flat[some], draw)


def _bits(weight: Tensor) -> Tensor:
    return weight.detach().view({2: torch.int16, 4: torch.int32}[weight.element_size()])


def digest(weights: Sequence[Tensor]) -> list[Tensor]:
    """Sums of the bits over the rows and over the columns: no single change leaves both."""
    found = []
    for weight in weights:
        bits = _bits(weight).reshape(-1, weight.shape[-1])
        found += [bits.sum(dim=0, dtype=torch.int64), bits.sum(dim=1, dtype=torch.int64)]
    return found


def alike(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are equal bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _version(weight: Tensor) -> tuple[int, int]:
    return weight.data_ptr(), -1 if weight.is_inference() else weight._version


class Held:
    """What a layer computes with in place of its weights: those with their error.

    Attributes:
        name: of the layer.
        state: the model's.
        slots: entries of the scale table that it depends on.
    """

    name: str
    state: NoiseState
    slots: tuple[int, ...]
    _made_of: tuple[Any, ...] | None = None
    _digest: Sequence[Tensor] = ()

    def sources(self) -> list[Tensor]:
        """The clean weights, as they are now."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Computes it anew from the clean weights and the scales in force."""
        raise NotImplementedError

    def is_current(self) -> bool:
        """Whether computing it anew would leave every bit; slow."""
        raise NotImplementedError

    def extra_bytes(self) -> int:
        """Bytes that are held beside the clean weight and what its own GEMM would hold."""
        raise NotImplementedError

    def outdate(self) -> None:
        """Says that the clean weights were loaded."""
        self._made_of = None

    def fresh(self) -> None:
        """Computes it anew if a scale or a clean weight is another than it was made of."""
        scales = self.state.in_force
        made_of = (tuple(scales[slot] for slot in self.slots), *map(_version, self.sources()))
        if self._made_of != made_of:
            self._made_of = None  # should what follows fail half-way
            # Passes run in inference mode, whose tensors nobody may write outside of it.
            with torch.inference_mode(False), torch.no_grad():
                self.refresh()
                self._made_of, self._digest = made_of, digest(self.sources())

    def was_rewritten(self) -> bool:
        """Whether the clean weights were written in a way that nothing tells of; slow."""
        return self._made_of is not None and not alike(self._digest, digest(self.sources()))


class HeldWeights:
    """Those of one worker's model."""

    def __init__(self) -> None:
        self.all: list[Held] = []
        self._in_step = False

    def outdate(self) -> None:
        """Says that weights were loaded."""
        for held in self.all:
            held.outdate()

    def fresh(self) -> None:
        """Makes anew what is not of the present weights and scales; called before every pass."""
        for held in self.all:
            held.fresh()

    def before_forward(self, model: nn.Module, args: object) -> None:
        """Forward pre-hook of the model: for passes outside of a step, such as warm-up's."""
        if not self._in_step:
            self.fresh()

    def step(self, run: Callable[[], object]) -> object:
        """Runs a step of the worker with everything fresh."""
        self.fresh()
        self._in_step = True  # asking costs a microsecond or two a layer
        try:
            return run()
        finally:
            self._in_step = False

    def find_rewritten(self) -> bool:
        """Outdates what was made of weights that were written past `load_weights`, and says so.

        Waits for the device, and reads every weight once.
        """
        found = [held for held in self.all if held.was_rewritten()]
        for held in found:
            held.outdate()
        if found:
            log.warning(
                "hetero_noise: the weights of %d layers (%s first) were written past load_weights; "
                "what is computed from them is made anew before the next pass",
                len(found),
                found[0].name,
            )
        return bool(found)

    def stale(self) -> list[str]:
        """Layers whose next pass would compute with something else than their present weight."""
        self.fresh()
        return [held.name for held in self.all if not held.is_current()]

    def describe(self) -> str:
        """For the log: how many there are, and what they take."""
        extra = sum(held.extra_bytes() for held in self.all)
        return (
            f"hetero_noise: the weights of {len(self.all)} layers have a fixed error, computed "
            f"once for each load and scale; {extra / 2**20:.1f} MiB beside the clean weights"
        )


class HeldWeight(Held, nn.Module):
    """The weight of a linear layer or a head with its error, for vLLM's own GEMM.

    Stands in the layer's place in its method's ``apply``. On a CPU vLLM's GEMM reads a packed copy,
    which is made of this weight instead of the clean one; on a GPU it is a second weight.

    Args:
        name: of the layer.
        layer: has the clean weight.
        pieces: what its rows have.
        state: the model's.
        pack: ``pack(layer, remove_weight)`` for vLLM's GEMM on a CPU; None: there is none.
        keep: the weight itself is read too, not by that GEMM alone.
    """

    def __init__(
        self,
        name: str,
        layer: nn.Module,
        pieces: Sequence[Piece],
        state: NoiseState,
        pack: Callable[[nn.Module, bool], None] | None,
        keep: bool,
    ) -> None:
        super().__init__()
        self.name, self.pieces, self.state = name, list(pieces), state
        self.slots = tuple(slot for piece in pieces for slot in piece.chain.slots)
        self._layer = [layer]  # in a list: it is no part of this
        self._pack, self._keep = pack, keep
        self.followers: list[Callable[[nn.Module], None]] = []
        """Called with this after each refresh, by what multiplies some of its rows by itself."""
        self.weight = nn.Parameter(torch.empty_like(self.sources()[0]), requires_grad=False)
        layer.__dict__.pop("cpu_linear", None)  # a packed clean weight that nobody reads any more

    @property
    def bias(self) -> Any:
        """The layer's own; vLLM's packing on a CPU may turn it into float32, in place."""
        return getattr(self._layer[0], "bias", None)

    def sources(self) -> list[Tensor]:
        weight = self._layer[0]._parameters["weight"]
        assert weight is not None
        return [weight]

    def _packed(self) -> bool:
        return self.weight.numel() == 0

    def refresh(self) -> None:
        (clean,) = self.sources()
        if self.weight.shape != clean.shape:  # packed last time, or another model's weights
            self.weight = nn.Parameter(torch.empty_like(clean), requires_grad=False)
        with_error(clean.data, self.pieces, self.state, self.weight.data)
        self._result = digest([self.weight])
        if self._pack is not None:
            self._pack(self, not self._keep)
        for follow in self.followers:
            follow(self)

    def is_current(self) -> bool:
        (clean,) = self.sources()
        now = torch.empty_like(clean.data)
        with_error(clean.data, self.pieces, self.state, now)
        same = alike(digest([now]), self._result)
        return same and (self._packed() or torch.equal(_bits(now), _bits(self.weight)))

    def extra_bytes(self) -> int:
        return self.weight.nbytes
