"""Which token each row is: keys of the rows of a forward pass, and of those of the LM head.

A forward pass brings (input_ids, positions); their keys go into the static buffer that the layers
read. The LM head sees only some of the rows: those the engine samples from, or a slice of a prompt
whose log-probabilities were asked for. Their keys are taken from the engine's own choice of rows,
and where that is not known the call is an error: wrong keys would be noise that cannot be repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hetero_plugin.state import NoiseState


class RowKeyError(RuntimeError):
    """A noisy forward pass whose rows can't be identified."""


class Rows:
    """The rows of one model in one worker.

    Args:
        state: the model's noise state, whose row-key buffer is filled.
    """

    def __init__(self, state: NoiseState) -> None:
        self.state = state
        self._picked: Tensor | None = None
        self._hidden: Tensor | None = None
        self._dummy = False

    def before_forward(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Forward pre-hook of the model: writes the keys of the coming pass.

        Raises:
            RowKeyError: the rows have no token id or no single position.
        """
        ids = kwargs.get("input_ids", args[0] if args else None)
        positions = kwargs.get("positions", args[1] if len(args) > 1 else None)
        if not isinstance(ids, Tensor) or not isinstance(positions, Tensor):
            raise RowKeyError(
                "hetero_noise: a forward pass without input_ids and positions (embeddings instead "
                "of tokens?): its rows have no identity, so they can't be given their error"
            )
        if positions.ndim != 1 or positions.shape != ids.shape:
            raise RowKeyError(
                f"hetero_noise: positions of shape {tuple(positions.shape)} for input_ids of shape "
                f"{tuple(ids.shape)}: one position for each token is needed"
            )
        self._hidden = None  # of the pass before; the rows are picked before the pass in one runner
        self.state.set_rows(ids, positions)

    # ---- the LM head's rows ----

    def pick(self, indices: Tensor) -> None:
        """Says which rows of the pass the next call of the LM head is given.

        Args:
            indices: integer [n], rows of the pass.
        """
        self._picked = indices

    @contextmanager
    def slices_of(self, hidden: Tensor) -> Iterator[None]:
        """Within, the LM head is given slices of ``hidden`` [T, K], all rows of the pass."""
        self._hidden = hidden
        try:
            yield
        finally:
            self._hidden = None

    def hold(self, hidden: Tensor) -> None:
        """Like `slices_of`, until the next pass."""
        self._hidden = hidden

    @contextmanager
    def dummy(self) -> Iterator[None]:
        """Within, the LM head is given made-up rows, to measure memory or to compile."""
        self._dummy = True
        try:
            yield
        finally:
            self._dummy = False

    def keys_of(self, x: Tensor) -> Tensor:
        """The keys of the LM head's input.

        Args:
            x: [n, K].

        Returns:
            int64 [n].

        Raises:
            RowKeyError: nothing says which rows these are.
        """
        n = x.shape[0]
        if self._dummy:
            return torch.zeros(n, dtype=torch.int64, device=x.device)
        picked, self._picked = self._picked, None
        if picked is not None:
            if picked.numel() != n:
                raise RowKeyError(
                    f"hetero_noise: the engine chose {picked.numel()} rows for the LM head and "
                    f"passed {n}"
                )
            return self.state.draw.keys[picked]
        keys = self.keys_of_slice(x)
        if keys is None:
            raise RowKeyError(
                f"hetero_noise: the LM head was given {n} rows, and the engine did not say which; "
                "exclude lm_head from the spec to run this feature"
            )
        return keys

    def keys_of_slice(self, x: Tensor) -> Tensor | None:
        """The keys, int64 [n], of ``x`` [n, K] if it is a slice of all rows of the pass."""
        start = None if self._hidden is None else _first_row(x, self._hidden)
        return None if start is None else self.state.draw.keys[start : start + x.shape[0]]


def _first_row(x: Tensor, hidden: Tensor) -> int | None:
    """The row of ``hidden`` at which its slice ``x`` starts; None if x is not a slice of it."""
    same = (
        x.untyped_storage().data_ptr() == hidden.untyped_storage().data_ptr()
        and x.ndim == hidden.ndim == 2
        and x.stride() == hidden.stride()
        and x.shape[1] == hidden.shape[1]
    )
    if not same:
        return None
    row, rest = divmod(int(x.storage_offset() - hidden.storage_offset()), hidden.stride(0))
    inside = rest == 0 and row >= 0 and row + x.shape[0] <= hidden.shape[0]
    return row if inside else None
