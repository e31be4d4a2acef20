"""What can be checked of an error that is deterministic: a number format.

A knock-in shows that a site reaches the output, not that what it does is the format: one along the
wrong axis, with the scale of another tensor, with its blocks a column further or without saturation
changes the output as well. Of a tensor before and after, these are looked at:

- the values are those of the reference, computed on the same tensor, to the bit;
- the signal to noise is within half a decibel of the reference's there;
- no block has more different values than the format's grid has numbers;
- a second rounding changes nothing, where it changes nothing of the reference's either (a scale
  that is itself rounded may move: then that says nothing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from hetero_plugin.config import NoiseRule
from hetero_plugin.config.error_models import REGISTRY
from hetero_plugin.errors import ErrorModel, error_model
from hetero_plugin.errors.formats import GRIDS
from hetero_plugin.errors.formats.grid import E2M1
from hetero_plugin.operator.parts import word_at
from hetero_plugin.sites import Site

__all__ = ["Checks", "FormatLook", "format_word", "grid_size"]

Checks = list[tuple[str, bool, str]]
DECIBELS = 0.5
ROWS = 256
"""Of a tensor that are looked at, where a row's values depend on no other tile's."""
_NAMED = 8
_INTEGERS = {"int8": 256, "int4": 16}
_NVFP4_BLOCK = 16
_HIF4 = 31  # quarters up to 1.75, those doubled and doubled twice, of both signs
VALUES, SIZE, GRID, AGAIN = (
    "formats: values are the reference's",
    "formats: signal to noise is the reference's",
    "formats: values of a block are of one grid",
    "formats: rounding again changes nothing",
)


def format_word(rules: Sequence[NoiseRule], stream: str, site: Site) -> tuple[str, float] | None:
    """The word and scale of the format that alone is put on a stream of a site, if one is.

    Args:
        rules: those of the site that apply now.
        stream: ``input``, ``output`` or ``weight``.
        site: of the model.
    """
    here = [rule for rule in rules if rule.point == stream and rule.direction != "backward"]
    if len(here) != 1 or not REGISTRY[here[0].error].number_format:
        return None
    return (word_at(here[0], site, stream), here[0].scale) if here[0].scale > 0 else None


def grid_size(word: str) -> int:
    """How many numbers a block of a format can hold, of both signs, 0 once."""
    name = word.partition("|")[0]
    if name == "hif4":
        return _HIF4
    if name in _INTEGERS:
        return _INTEGERS[name]
    return 2 * len(GRIDS.get(name, E2M1).values()) - 1


@dataclass
class FormatLook:
    """Looks at tensors before and after a format, and collects what is wrong.

    Attributes:
        asked: what should be looked at, site and stream.
        seen: what was.
        failed: check -> what is wrong, in sentences.
    """

    asked: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    failed: dict[str, list[str]] = field(
        default_factory=lambda: {name: [] for name in (VALUES, SIZE, GRID, AGAIN)}
    )
    worst: float = 0.0
    """Largest difference of signal to noise, dB."""
    again: int = 0
    """Tensors of which a second rounding was looked at."""

    def add(self, where: str, word: str, scale: float, before: Tensor, after: Tensor) -> None:
        """Looks at one tensor.

        Args:
            where: site and stream, for the sentences.
            word: of the format, as `NoiseRule.word`.
            scale: of the blend; at 1 the values themselves are looked at too.
            before, after: [..., K], of one dtype.
        """
        self.seen.add(where)
        model = error_model(word)
        x = before.detach().reshape(-1, before.shape[-1])
        y = after.detach().reshape(-1, before.shape[-1])
        some = model.matrix_rows or (None if model.whole_tensor else ROWS)
        x, y = x[:some], y[:some]
        right = _reference(model, x, scale)
        differ = int(((right != y) & ~(right.isnan() & y.isnan())).sum())
        if differ:
            self.failed[VALUES].append(f"{where} ({word}): {differ} of {y.numel()} differ")
        self._compare_sizes(f"{where} ({word})", x, y, right)
        if scale != 1:
            return
        most = _most_different(y, model)
        if most > grid_size(word):
            self.failed[GRID].append(
                f"{where} ({word}): {most} different values in a block, of a grid of "
                f"{grid_size(word)} numbers"
            )
        if torch.equal(_reference(model, right, 1.0), right):
            self.again += 1
            moved = int((_reference(model, y, 1.0) != y).sum())
            if moved:
                self.failed[AGAIN].append(f"{where} ({word}): {moved} of {y.numel()} change")

    def _compare_sizes(self, where: str, x: Tensor, y: Tensor, right: Tensor) -> None:
        found, expected = _decibels(x, y), _decibels(x, right)
        apart = 0.0 if found == expected else abs(found - expected)
        self.worst = max(self.worst, apart)
        if not apart <= DECIBELS:
            self.failed[SIZE].append(f"{where}: {found:.2f} dB, and {expected:.2f} expected")

    def checks(self) -> Checks:
        """(name, passed, detail) of each check; none where no format was asked for."""
        if not self.asked and not self.seen:
            return []
        unseen = sorted(self.asked - self.seen)
        details = {
            VALUES: f"{len(self.seen)} tensors, to the bit",
            SIZE: f"within {self.worst:.2f} dB",
            GRID: "all",
            AGAIN: f"{self.again} of {len(self.seen)} tensors, where it is so of the reference",
        }
        told = f"did not run: {'; '.join(unseen[:_NAMED])}" if unseen else f"all {len(self.seen)}"
        return [("formats: each was looked at", not unseen, told)] + [
            (name, not wrong, "; ".join(wrong[:_NAMED]) if wrong else details[name])
            for name, wrong in self.failed.items()
        ]


def _reference(model: ErrorModel, x: Tensor, scale: float) -> Tensor:
    made = model.function(x.float(), torch.tensor(scale, device=x.device), None)
    return made.to(x.dtype)


def _decibels(x: Tensor, y: Tensor) -> float:
    """Signal to noise of y as x; infinite without any noise, NaN where y has numbers that are
    none."""
    noise = float((y.double() - x.double()).square().sum())
    if math.isnan(noise):
        return math.nan
    signal = float(x.double().square().sum())
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf


def _most_different(y: Tensor, model: ErrorModel) -> int:
    """The most different values of a block (of a row, where the scale is a row's)."""
    size = model.block or (_NVFP4_BLOCK if model.name.startswith("nvfp4") else y.shape[-1])
    blocks = F.pad(y.float(), (0, -y.shape[-1] % size)).unflatten(-1, (-1, size))
    ordered = blocks.nan_to_num(0.0, 0.0, 0.0).sort(dim=-1).values
    steps = (ordered[..., 1:] != ordered[..., :-1]).sum(dim=-1)
    return int(steps.max()) + 1 if steps.numel() else 0
