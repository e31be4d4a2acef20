"""What attestation needs of an engine: a probe, which each engine's folder has one of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["AQNProbe", "DeterministicProbe", "GatedProbe", "MeasuringProbe", "Probe", "ProbedSite"]


@dataclass(frozen=True)
class ProbedSite:
    """A site that must be noisy in the probed engine, with the scale the spec asks for."""

    name: str
    kind: str
    scale: float
    measured: bool = False
    """Whether its error is a measured profile, whose scale ends at 1."""


class Probe(Protocol):
    """What attestation needs of an engine. Outputs are flat float64 arrays of one length."""

    engine: str

    def expected(self) -> Sequence[ProbedSite]:
        """Sites the spec selects, worked out from the model's configuration, not asked of the
        engine: an engine that lost a site must not be the one to say which sites there are."""

    def describe(self) -> dict[str, Any]:
        """Engine, dtype, processes and ranks (each with its own fingerprint), fingerprint."""

    def off(self) -> None:
        """Every scale and every offset of AQN to zero."""

    def only(self, sites: Sequence[str], scale: float) -> None:
        """These sites on at ``scale``, every other at zero."""

    def configured(self) -> None:
        """Every scale as the spec asks."""

    def clean(self) -> np.ndarray:
        """The output of the engine without noise, by another way than ``off``."""

    def output(self) -> np.ndarray:
        """The output under the present scales; nothing may be served from a stale cache."""


@runtime_checkable
class AQNProbe(Protocol):
    """A probe of an engine that AQN may run in."""

    def aqn_expected(self) -> Sequence[str]:
        """Norms that the specification's AQN targets; empty without AQN."""

    def only_aqn(self, norms: Sequence[str], sigma: float) -> None:
        """Offsets of size ``sigma`` on these norms, and nothing else on."""


@runtime_checkable
class GatedProbe(Protocol):
    """A probe of an engine whose noise can be switched off without being forgotten."""

    def gated(self) -> np.ndarray:
        """The output with everything switched off by the one switch there is, whatever is set."""


@runtime_checkable
class MeasuringProbe(Protocol):
    """A probe that can look at the error itself."""

    def measured(self) -> tuple[dict[str, Any], list[tuple[str, bool, str]]]:
        """Realised error by kind, and checks of it (name, passed, detail)."""


@runtime_checkable
class DeterministicProbe(Protocol):
    """A probe that knows whether the specification's errors are functions of the values alone."""

    def deterministic(self) -> bool:
        """Whether the same input must have the same error, bit for bit."""
