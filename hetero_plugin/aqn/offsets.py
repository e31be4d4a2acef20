"""The offsets that AQN adds to norm weights, and the gate before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hetero_plugin.config import ConfigError, table_number
from hetero_plugin.kernels.copies import own
from hetero_plugin.sites import Site

__all__ = ["AQNState", "Drawn"]


class Drawn(NamedTuple):
    """What AQN has set: the offsets, their σ, and the step that they belong to, if any."""

    values: Tensor
    """float32 [features of all norms], a copy."""
    sigma: float
    step: int | None


class AQNState:
    """The float32 offsets that AQN adds to RMSNorm weights, one flat tensor for all norms.

    `offsets` is what is in force, and what compiled code reads. While the gate is closed it is all
    zeros, and what is set waits aside. Nothing else is kept of them: neither views nor an answer
    that a copy of this object could take for its own.
    """

    def __init__(self, sites: Sequence[Site], device: torch.device) -> None:
        self.sites = tuple(sites)
        self._spans: dict[str, tuple[int, int]] = {}
        start = 0
        for site in self.sites:
            self._spans[site.name] = (start, start + site.weight_features)
            start += site.weight_features
        with torch.inference_mode(False):
            self.offsets = torch.zeros(start, dtype=torch.float32, device=device)
        self._aside: Tensor | None = None
        """What is set while the gate is closed."""
        self._seen: tuple[int, bool] | None = None
        self.sigma = 0.0
        self.step: int | None = None
        self.in_dtype = False
        """``precision: param``: norms add the offset in their weight's own dtype."""

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__.update(own(attributes))
        self._seen = None  # of another tensor's versions

    def __contains__(self, name: str) -> bool:
        return name in self._spans

    @property
    def is_open(self) -> bool:
        """Whether what is set is in force."""
        return self._aside is None

    @property
    def drawn(self) -> Tensor:
        """What is set, in force or not: float32, all norms."""
        return self.offsets if self._aside is None else self._aside

    def view(self, name: str, offsets: Tensor | None = None) -> Tensor:
        """The offset in force of one norm, float32 [weight_features]: a view into `offsets`.

        Args:
            name: its site.
            offsets: a copy of `offsets` to look into instead.
        """
        start, end = self._spans[name]
        if offsets is not None:
            return offsets[start:end]
        with torch.inference_mode(False):
            return self.offsets[start:end]

    @torch.no_grad()
    def write(self, values: Tensor | None, sigma: float = 0.0, step: int | None = None) -> None:
        """Sets the offsets, in place; with the gate closed they come into force when it opens.

        Args:
            values: float32, all norms; None: no offset, the clean weights bit for bit.
            sigma, step: what they were drawn with.

        Raises:
            ConfigError: a σ that float32 does not hold.
        """
        sigma = table_number("sigma", sigma)
        if values is None:
            self.drawn.zero_()
        else:
            self.drawn.copy_(values)
        self.sigma, self.step = sigma, step

    def saved(self) -> Drawn:
        """What is set, for `restore`."""
        return Drawn(self.drawn.clone(), self.sigma, self.step)

    def restore(self, drawn: Drawn) -> None:
        """Sets again what `saved` gave."""
        self.write(*drawn)

    @torch.no_grad()
    def gate(self, is_open: bool) -> None:
        """Takes what is set out of force, or puts it back."""
        if is_open == self.is_open:
            return
        if is_open:
            assert self._aside is not None
            self.offsets.copy_(self._aside)
            self._aside = None
        else:
            with torch.inference_mode(False):
                self._aside = self.offsets.clone()
            self.offsets.zero_()

    @torch.no_grad()
    def only(self, names: Sequence[str], sigma: float) -> None:
        """Offsets of size ``sigma`` on these norms, none on the others; of no step.

        For attestation. Their signs change along the features, because a norm that is scaled as a
        whole may be undone by the next one.

        Raises:
            ConfigError: a name without an offset here.
        """
        missing = [name for name in names if name not in self]
        if missing:
            raise ConfigError(f"AQN has no offset at {', '.join(missing)}; its spec leaves it out")
        values = torch.zeros_like(self.drawn)
        for name in names:
            view = self.view(name, values)
            view.copy_(sigma * torch.cos(torch.arange(view.numel(), device=view.device)))
        self.write(values, sigma)

    def any(self) -> bool:
        """Whether an offset in force is not 0: by the tensor, whoever wrote it.

        On a GPU read once a change, because it waits for the device; a pass that is being captured
        counts as one with offsets, as it may be replayed under some, whatever the gate is now.
        """
        device = self.offsets.device.type
        if device == "cuda" and torch.cuda.is_current_stream_capturing():
            return True
        if not self.is_open:
            return False
        if device == "cpu":
            return bool(self.offsets.any())
        version = self.offsets._version
        if self._seen is None or self._seen[0] != version:
            self._seen = version, bool(self.offsets.any())
        return self._seen[1]

    def to(self, device: torch.device) -> None:
        """Moves the tensors."""
        self._seen = None
        with torch.inference_mode(False):
            self.offsets = self.offsets.to(device)
            if self._aside is not None:
                self._aside = self._aside.to(device)
