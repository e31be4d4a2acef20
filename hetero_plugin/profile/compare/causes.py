"""What an error looks like, and the bug that leaves such an error: an operator's diagnosis.

Only what the data bear is said. A recomputation that gives the wrong machine's very numbers is
named first, then a permutation of columns, then the pattern that explains most of the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hetero_plugin.errors.profile import ordered
from hetero_plugin.profile.compare.attention import exchanged, faults
from hetero_plugin.profile.compare.errors import Errors
from hetero_plugin.profile.compare.patterns import Pattern, patterns
from hetero_plugin.profile.fit.structure import norm_candidates
from hetero_plugin.profile.recording import SiteRecord

__all__ = ["CAUSES", "Cause", "Finding", "diagnose", "harmless"]

CAUSES = (
    "not finite",
    "head",
    "RoPE base",
    "mask",
    "epsilon",
    "bias",
    "scale",
    "cast",
    "operands",
)
_EXPLAINED = 4.0
"""Units of rounding's error that a recomputation may be off and still explain an output."""
_MOST = 0.7
"""Share of the error's square that a pattern must explain to name a cause."""


@dataclass(frozen=True)
class Cause:
    """A likely cause.

    Args:
        name: one of `CAUSES`.
        says: what in the data speaks for it.
    """

    name: str
    says: str


@dataclass(frozen=True)
class Finding:
    """An operator's error on the odd machine.

    Args:
        machine: a or b.
        pattern: the strongest of it that is real, if any is, and that the other lacks.
        cause: None: nothing known leaves such an error.
    """

    machine: str
    pattern: Pattern | None
    cause: Cause | None


def harmless(record: SiteRecord, other: SiteRecord) -> str | None:
    """The correct computation that a norm is equal to on this machine, but for sums' last bits.

    Args:
        record: of the machine in question.
        other: with the inputs, if the first has none.
    """
    for name, y in _norms(record, other):
        if not name.startswith("no cast") and _same(y, record.output[0]):
            return name
    return None


def _same(one: Tensor, two: Tensor) -> bool:
    """Equal but for one ulp in a hundredth of the elements, as another order of a sum makes it."""
    away = (ordered(one.contiguous()) - ordered(two.contiguous())).abs()
    return bool((away <= 1).all()) and float((away > 0).double().mean()) <= 0.01


def _norms(record: SiteRecord, other: SiteRecord) -> Iterator[tuple[str, Tensor]]:
    inputs = record.inputs or other.inputs
    weight = record.weight if record.weight is not None else other.weight
    eps = record.entry.extra.get("eps")
    x = inputs.get("x")
    if record.entry.kind != "norm" or x is None or weight is None or eps is None:
        return
    if weight.shape[-1] != x.shape[-1]:
        return
    for name, y in norm_candidates(x, weight, eps, inputs.get("residual")):
        yield name, y[:, record.columns]


def diagnose(
    errors: Errors,
    a: SiteRecord,
    b: SiteRecord,
    sequences: Sequence[int],
    positions: Sequence[int],
) -> Finding:
    """What the odd machine's error says.

    Args:
        errors: of the operator.
        a, b: its records.
        sequences: rows of each sequence.
        positions: of each row.
    """
    odd, wrong, other = (
        ("b", errors.b, errors.a) if errors.odd == "b" else ("a", errors.a, errors.b)
    )
    record, right = (b, a) if odd == "b" else (a, b)
    of = (errors.reference, errors.size, errors.unit)
    usual = {one.name for one in patterns(other, *of) if one.real}
    found = patterns(wrong, *of)
    pattern = next((one for one in found if one.real and one.name not in usual), None)
    if errors.broken[0 if odd == "a" else 1] or errors.broken[0] != errors.broken[1]:
        worse = "a" if errors.broken[0] > errors.broken[1] else "b"
        n = max(errors.broken)
        return Finding(worse, None, Cause("not finite", f"{n} elements are no finite numbers"))
    steps: tuple[Callable[[], Cause | None], ...] = (
        lambda: _recomputed(errors, wrong, record, right, sequences, positions),
        lambda: _permuted(errors, wrong, record),
        lambda: _patterned(errors, record, right, found),
        lambda: _unpatterned(errors, wrong, record),
    )
    for step in steps:
        cause = step()
        if cause is not None:
            return Finding(odd, pattern, cause)
    return Finding(odd, pattern, None)


def _recomputed(
    errors: Errors,
    wrong: np.ndarray,
    record: SiteRecord,
    right: SiteRecord,
    sequences: Sequence[int],
    positions: Sequence[int],
) -> Cause | None:
    inputs = record.inputs or right.inputs
    size = float(np.sqrt(np.mean(wrong**2))) / errors.unit
    for name, y in _norms(record, right):
        if name.startswith("no cast") and _same(y, record.output[0]):
            return Cause("cast", "it is what a norm gives that is not computed in float32")
    if not {"q", "k", "v"} <= inputs.keys() or "head" not in record.entry.extra:
        return None
    head = int(record.entry.extra["head"])
    scaling = record.entry.extra.get("scaling", head**-0.5)
    output = record.output[0].double()
    places = exchanged(
        inputs,
        output / torch.from_numpy(errors.size)[:, None],
        record.columns,
        head,
        scaling,
        sequences,
        torch.from_numpy(errors.size),
        20 * errors.unit,
    )
    if places:
        said = ", ".join(f"{h} holds {other}" for h, other in places.items())
        return Cause("head", f"heads hold the results of others: {said}")
    best: tuple[float, Cause] | None = None
    for name, says, y in faults(inputs, head, scaling, sequences, positions):
        rest = ((output - y[:, record.columns]).numpy()) / errors.size[:, None]
        left = float(np.sqrt(np.mean(rest**2))) / errors.unit
        if left < min(_EXPLAINED, size / 2) and (best is None or left < best[0]):
            best = left, Cause(name, f"{says}: recomputed so, its error falls to {left:.1f} units")
    return best[1] if best is not None else None


def _permuted(errors: Errors, wrong: np.ndarray, record: SiteRecord) -> Cause | None:
    """Columns that hold other columns' results."""
    reference = errors.reference
    by_column = np.sqrt((wrong**2).mean(0)) / errors.unit
    bad = np.flatnonzero(by_column > 20)
    if len(bad) < 2 or reference.shape[0] < 4:
        return None
    output = reference + wrong
    length = np.linalg.norm(reference, axis=0) + 1e-30
    shifts = []
    for j in bad:
        near = np.linalg.norm(output[:, [j]] - reference, axis=0) / length
        i = int(near.argmin())
        if i != j and near[i] < 0.05:
            shifts.append(int(record.columns[i] - record.columns[j]))
    if len(shifts) < 2:
        return None
    sizes, n = np.unique(np.abs(shifts), return_counts=True)
    step = int(sizes[n.argmax()])
    head = int(record.entry.extra.get("head", 0))
    whole = f", {step // head} heads of {head}" if head and step % head == 0 else ""
    says = (
        f"{len(shifts)} of {len(bad)} wrong columns hold the results of other columns, "
        f"mostly {step} away{whole}"
    )
    return Cause("head", says)


def _patterned(
    errors: Errors, record: SiteRecord, right: SiteRecord, found: Sequence[Pattern]
) -> Cause | None:
    strong = [one for one in found if one.real and one.share >= _MOST]
    if not strong:
        return None
    first = strong[0]
    share = f"{100 * first.share:.0f} % of its squared error"
    if first.name == "column offset":
        return Cause("bias", f"the same number in each row of a column is {share}")
    epsilon = _epsilon(record, right, found)
    if epsilon is not None:
        return epsilon
    if first.name == "factor":
        return Cause("scale", f"all is {1 + first.values[0]:.4g} times too large: {share}")
    if first.name == "row factor":
        small = np.abs(first.values).max() < 2**-7
        about_zero = abs(first.values.mean()) < 0.5 * first.values.std()
        if small and about_zero:
            return Cause(
                "cast", f"a factor for each row, within ±2⁻⁷ about 1, is {share}: one number of a "
                "row is kept in too few bits"
            )  # fmt: skip
        return Cause("scale", f"a factor for each row is {share}")
    if first.name == "column factor":
        return Cause("scale", f"a factor for each column is {share}")
    return Cause("scale", f"a factor for each row and one for each column are {share}")


def _epsilon(record: SiteRecord, right: SiteRecord, found: Sequence[Pattern]) -> Cause | None:
    """Row factors that another eps of the norm would make."""
    inputs = record.inputs or right.inputs
    eps, x = record.entry.extra.get("eps"), inputs.get("x")
    row = next((one for one in found if one.name == "row factor"), None)
    if eps is None or x is None or row is None or row.share < _MOST or len(row.values) < 2:
        return None
    wide = x.double()
    if "residual" in inputs:
        wide = wide + inputs["residual"].double()
    if len(wide) != len(row.values) or (1 + row.values <= 0).any():
        return None
    square = wide.square().mean(1).numpy() + eps
    others = square * ((1 + row.values) ** -2.0 - 1)
    # Each row's estimate is as good as its factor is large against rounding.
    weight = 1 / square**2
    mean = float((weight * others).sum() / weight.sum())
    made = (1 + mean / square).clip(1e-300) ** -0.5 - 1
    rest = float(((row.values - made) ** 2).sum() / (row.values**2).sum())
    same = np.std(row.values) < 0.02 * abs(np.mean(row.values))
    if rest > 0.1 or same or eps + mean < 0:
        return None
    return Cause("epsilon", f"as if eps were {eps + mean:.2g}, and it is {eps:.2g}")


def _unpatterned(errors: Errors, wrong: np.ndarray, record: SiteRecord) -> Cause | None:
    reference = errors.reference
    output = reference + wrong
    norms = np.linalg.norm(output, axis=0) * np.linalg.norm(reference, axis=0)
    alike = float(np.median((output * reference).sum(0) / np.maximum(norms, 1e-30)))
    size = float(np.sqrt(np.mean(wrong**2)))
    if alike < 0.5:
        return Cause("operands", f"columns correlate with the right ones by {alike:.2f} only")
    if size > 0.05:
        slopes = (output * reference).sum(0) / np.maximum((reference**2).sum(0), 1e-30)
        spread = float(np.std(slopes))
        if spread > 0.02:
            return Cause(
                "scale", f"columns are right but for factors of {slopes.min():.2f} to "
                f"{slopes.max():.2f} and a rest that correlates by {alike:.3f}: a scale along the "
                "wrong axis, or of other blocks"
            )  # fmt: skip
        return None
    kept = _bits(record.output[0])
    said = f"; its numbers have {kept} bits of mantissa" if kept is not None else ""
    times = size / errors.unit
    return Cause("cast", f"{times:.1f} units of rounding without a pattern: more is rounded{said}")


def _bits(y: Tensor) -> int | None:
    """Bits of mantissa that bfloat16 numbers really use, where those are fewer than 7."""
    if y.dtype != torch.bfloat16:
        return None
    used = y.contiguous().view(torch.int16).long() & 0x7F
    for free in range(6, 0, -1):
        if not (used & ((1 << free) - 1)).any():
            return 7 - free
    return None
