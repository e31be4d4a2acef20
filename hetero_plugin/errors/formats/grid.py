"""Grids of numbers: small floats and integers, and the nearest number of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hetero_plugin.errors.formats.elements import Elements

__all__ = ["E2M1", "E2M3", "E3M2", "E4M3", "E5M2", "Grid", "exponent", "power_of_two"]


def exponent(x: Tensor) -> Tensor:
    """⌊log2|x|⌋ of float32, int32, from its bits; subnormal numbers and 0: -127."""
    return ((x.view(torch.int32) >> 23) & 0xFF) - 127


def power_of_two(e: Tensor) -> Tensor:
    """2**e, float32, exactly, for int32 e in [-127, 127]."""
    normal = ((e + 127) << 23).view(torch.float32)
    return torch.where(e < -126, torch.tensor(2.0**-127, device=e.device), normal)


@dataclass(frozen=True)
class Grid:
    """The numbers of a small float with sign and subnormals, without infinities.

    Args:
        name: ``e2m1`` and so on.
        mantissa: its bits.
        smallest: exponent of the smallest normal number.
        largest: the largest number, to which larger ones saturate.
    """

    name: str
    mantissa: int
    smallest: int
    largest: float

    @property
    def top(self) -> int:
        """Exponent of the largest number."""
        return int(torch.tensor(self.largest).frexp().exponent) - 1

    def step(self, x: Tensor) -> Tensor:
        """Exponents of the distance between the two numbers around x, int32."""
        return exponent(x).clamp(min=self.smallest) - self.mantissa

    def of(self, x: Tensor, elements: Elements | None) -> Tensor:
        """What ``elements`` puts in the place of x; None: the nearest number."""
        if elements is None:
            return self.nearest(x)
        return elements(x, -self.largest, self.largest, self.step)

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest number of the grid, ties to even; NaN stays one.

        Args:
            x: float32.
        """
        x = x.clamp(-self.largest, self.largest)
        step = self.step(x)
        # Both products are by a power of two, so exact; torch.round takes ties to even.
        return torch.round(x * power_of_two(-step)) * power_of_two(step)

    def nearest_down(self, x: Tensor) -> Tensor:
        """The nearest number of the grid, all ties toward zero; NaN stays one.

        Args:
            x: float32.
        """
        x = x.clamp(-self.largest, self.largest)
        step = self.step(x)
        # Under 16 a half is exact beside any float32 that is no less than a quarter.
        steps = torch.ceil(x.abs() * power_of_two(-step) - 0.5).clamp(min=0.0)
        return torch.copysign(steps * power_of_two(step), x)

    def values(self) -> list[float]:
        """Its numbers from 0 up."""
        found = [0.0]
        step = 2.0 ** (self.smallest - self.mantissa)
        while found[-1] < self.largest:
            found.append(found[-1] + step)
            if found[-1] >= 2.0 * step * 2**self.mantissa:
                step *= 2.0
        return found


E2M1 = Grid("e2m1", mantissa=1, smallest=0, largest=6.0)
E2M3 = Grid("e2m3", mantissa=3, smallest=0, largest=7.5)
E3M2 = Grid("e3m2", mantissa=2, smallest=-2, largest=28.0)
E4M3 = Grid("e4m3", mantissa=3, smallest=-6, largest=448.0)
E5M2 = Grid("e5m2", mantissa=2, smallest=-14, largest=57344.0)
