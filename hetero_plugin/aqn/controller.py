"""Writes AQN's offsets; no parameter is ever touched."""

from __future__ import annotations

import torch
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.aqn.offsets import AQNState
from hetero_plugin.config import AQNConfig


class AQNController:
    """Sets the norm offsets of one model to σ(step)·z, z keyed by (seed, step, norm, feature).

    Every tensor-parallel rank and every engine that is given the same step draws the same z.

    Args:
        config: σ's schedule, and the seed.
        offsets: the model's (`NoiseState.attach_aqn`).
    """

    def __init__(self, config: AQNConfig, offsets: AQNState) -> None:
        self.config = config
        self.offsets = offsets
        self.offsets.in_dtype = config.precision == "param"
        with torch.inference_mode(False):
            # One row a norm, the rows padded to the widest: one launch draws them all.
            sites = self.offsets.sites
            self._width = max(site.weight_features for site in sites)
            self._site_keys = torch.tensor(
                [random.site_key(site.name, "aqn") for site in sites],
                dtype=torch.int64,
                device="cpu",
            )
            self._uniform = all(site.weight_features == self._width for site in sites)
            self._factors: Tensor | None = None
            factors = [config.factor(site.layer) for site in sites]
            if any(factor != 1.0 for factor in factors):
                self._factors = torch.cat(
                    [
                        torch.full(
                            (site.weight_features,), factor, dtype=torch.float32, device="cpu"
                        )
                        for site, factor in zip(sites, factors, strict=True)
                    ]
                )

    @property
    def sigma(self) -> float:
        """The σ in force."""
        return self.offsets.sigma

    def noise(self, step: int) -> Tensor:
        """z of a step for every norm: float32, flat, in the order of the offsets."""
        rows = torch.zeros_like(self._site_keys)
        clock = torch.full_like(rows, random.clock_key(self.config.seed, step))
        z = torch.ops.hetero_noise.stream(clock, self._site_keys, rows, 0, self._width, 2)
        if self._uniform:
            return z.reshape(-1)
        return torch.cat(
            [z[i, : site.weight_features] for i, site in enumerate(self.offsets.sites)]
        )

    @torch.no_grad()
    def step(self, step: int, sigma: float | None = None) -> float:
        """Sets σ and z of a training step; replaces what was set. A norm's offset is σ·z, times
        the factor of its layer where the configuration has `multipliers`.

        Args:
            step: from 0.
            sigma: σ, in units of the weight; default: the schedule's.

        Returns:
            σ of that step, before factors (0 in a warm-up stage: then the offsets are exactly 0).
        """
        sigma = self.config.sigma(step) if sigma is None else sigma
        values = self.noise(step).mul_(sigma) if sigma else None
        if values is not None and self._factors is not None:
            values.mul_(self._factors)
        self.offsets.write(values, sigma, step)
        return sigma

    def off(self) -> None:
        """No offset: the clean weights, bit for bit."""
        self.offsets.write(None)
