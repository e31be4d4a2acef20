"""What differs between two records of one operator, element by element.

T rows, C columns that were kept. Differences are in ulps of the output's dtype, as the distance of
the two numbers in the order of all numbers of that dtype, so that it is exact across powers of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.errors.profile import bins_of, ordered
from hetero_plugin.errors.profile.bins import power_below
from hetero_plugin.profile.recording import SiteEntry, SiteRecord

__all__ = ["GROUPS", "Elements", "differences", "digits"]

GROUPS = 16
"""Classes of mantissas, of equal width: a relative error is so many ulps more at 1.9 than at 1."""
_DIGITS = {"bfloat16": 7, "float16": 10, "float32": 23}


def digits(dtype: str) -> int:
    """Bits of a dtype's mantissa.

    Raises:
        ConfigError: profiles have no such dtype.
    """
    if dtype not in _DIGITS:
        raise ConfigError(
            f"outputs of {dtype}: a profile is of {', '.join(_DIGITS)}; record in one of these"
        )
    return _DIGITS[dtype]


@dataclass(frozen=True)
class Elements:
    """One operator on two machines, A and B. All arrays are [T, C].

    Args:
        entry: of the operator.
        dtype: of the outputs.
        ulps: B − A in ulps; positive: away from zero.
        sign: of A's output, +1 at 0.
        bin: of the ulp of A's output against the RMS of its row.
        ulp: of A's output, over the RMS of its row; 0 in a row of zeros.
        group: of the mantissa, 0 … `GROUPS` − 1.
        change: (B − A) / RMS of the row.
        finite: whether both are finite numbers; all else is of no use where not.
        fresh: the part of the mean square of ``change`` that comes anew with each repetition;
            None: one repetition only.
        unsteady: shares of elements of A and of B that differ between their own repetitions.
    """

    entry: SiteEntry
    dtype: str
    ulps: np.ndarray
    sign: np.ndarray
    bin: np.ndarray
    ulp: np.ndarray
    group: np.ndarray
    change: np.ndarray
    finite: np.ndarray
    fresh: float | None
    unsteady: tuple[float, float]


def differences(a: SiteRecord, b: SiteRecord, edges: Sequence[float]) -> Elements:
    """What B's output differs by from A's, where both were given the same inputs.

    Args:
        a: output [R, T, C], of the machine whose values are perturbed.
        b: of the machine that is imitated; as many rows and the same columns.
        edges: of the bins, log2.

    Raises:
        ConfigError: other dtypes, or none that a profile can be of.
    """
    dtype = str(a.output.dtype).removeprefix("torch.")
    if a.output.dtype != b.output.dtype:
        other = str(b.output.dtype).removeprefix("torch.")
        raise ConfigError(
            f"{a.entry.name}: its output is {dtype} in one recording and {other} in the other; "
            "record both in one dtype"
        )
    step = 2.0 ** -digits(dtype)
    y = a.output[0]
    finite = torch.isfinite(a.output).all(0) & torch.isfinite(b.output).all(0)
    sign = torch.where(y < 0, -1, 1)
    ulps = (ordered(b.output[0]) - ordered(y)) * sign
    rms = a.row_rms.double().clamp(min=1e-300)[:, None]
    power = power_below(y)
    mantissa = torch.where(finite, y.float().abs() / power, 1.0)  # below 1 of what is subnormal
    group = ((mantissa - 1).clamp(min=0) * GROUPS).long()
    with np.errstate(invalid="ignore"):
        change = ((b.output[0].double() - y.double()) / rms).numpy()
    fine = finite.numpy()
    fresh = _fresh(a.output, b.output, rms, finite)
    return Elements(
        a.entry,
        dtype,
        ulps.numpy(),
        sign.numpy(),
        bins_of(y, edges, a.row_rms[:, None]).numpy(),
        torch.where(a.row_rms[:, None] > 0, power.double() * step / rms, 0.0).numpy(),
        group.numpy(),
        np.where(fine, change, 0.0),
        fine,
        fresh,
        (_unsteady(a.output), _unsteady(b.output)),
    )


def _fresh(a: Tensor, b: Tensor, rms: Tensor, finite: Tensor) -> float | None:
    """Of the mean square of B − A, what differs between repetitions."""
    repeats = min(len(a), len(b))
    if repeats < 2:
        return None
    changes = (b[:repeats].double() - a[:repeats].double()) / rms
    changes = torch.where(finite, changes, 0.0)
    whole = float(changes.square().mean())
    within = float(changes.var(0, unbiased=True).mean())
    return min(1.0, within / whole) if whole > 0 else 0.0


def _unsteady(output: Tensor) -> float:
    same = (output == output[:1]) | (output.isnan() & output[:1].isnan())
    return float((~same.all(0)).double().mean())
