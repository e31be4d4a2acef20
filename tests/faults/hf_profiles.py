"""Faults of measured profiles: another table, or another file, than the specification means."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hetero_plugin import NoiseConfig, wrap
from hetero_plugin.config import ConfigError
from hetero_plugin.errors.profile import hold, replay_word
from hetero_plugin.evaluation.faults import _chains, _noises
from hetero_plugin.hf.probe import HFProbe
from hetero_plugin.kernels.formats import declare
from tests.errors.profiles import mild, written
from tests.faults.models import attested, tiny
from tests.faults.registry import fault


def _spec(path: str) -> NoiseConfig:
    rule: dict[str, Any] = {"targets": ["*.1.mlp.*_proj"], "error": "profile", "path": path}
    return NoiseConfig(rules=[rule])


@fault(
    "the profile: the table of another kind",
    "a layer's operator draws from a profile of which four times as many elements change",
    "refused: elements changed and the size of differences are not the table's",
    by="attestation",
    engine="hf",
)
def table_of_another_kind() -> str:
    with tempfile.TemporaryDirectory() as folder:
        other = mild(0.2)
        hold(written(other, Path(folder), "other"), other.digest)
        probe = HFProbe.wrapping(tiny(), _spec(written(mild(0.05), Path(folder))))
        for _, noise in _noises(probe.model):
            for chain in _chains(noise):
                for stage in chain.stages:
                    *_, kind, k, seed = stage.error.split("|")
                    stage.error = replay_word(other.digest, kind, int(k), int(seed))
                    declare(stage.error)
        return attested(probe, "as many as the table says", "as large as the table's")


@fault(
    "the profile: a file that was changed after the specification was made",
    "another profile is written to the path, and a model wrapped",
    "ConfigError, with both digests",
    by="error",
    engine="hf",
)
def stale_profile() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = written(mild(0.051), Path(folder))
        spec = _spec(path)
        mild(0.052).write(path)
        try:
            wrap(tiny(), spec)
        except ConfigError as error:
            assert str(spec.rules[0].digest) in str(error)
            return f"ConfigError: {error}"
    raise AssertionError("SILENT: the model is wrapped")
