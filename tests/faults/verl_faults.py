"""Faults in a real verl run, tried in tests/engines/test_verl_grpo.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.registry import fault, noticed

# Not imported from verl_library, which does its harm where it is imported.
SITE = "model.layers.0.mlp.up_proj"
ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., str]
"""Makes a noisy run of a step with these Hydra overrides; returns the words that it ended with."""


@contextmanager
def _importable() -> Any:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


@fault(
    "the specification, in a Ray worker: it would run clean",
    "the user's own environment for Ray's workers takes the place of the run's",
    "the run stops, and says that the worker would be clean",
    by="error",
    engine="verl",
)
def environment_not_passed_to_a_ray_worker(run: Run) -> str:
    found = run("+ray_kwargs.ray_init.runtime_env.env_vars.HETERO_NOISE_CONFIG=''")
    return noticed("it would run clean" in found, found[-300:])


@fault(
    "one site of the actor that verl trains",
    "a library that verl loads into its workers assigns a layer's forward",
    "REFUSED before the first step, with the process and the site",
    by="attestation",
    engine="verl",
)
def site_of_the_actor_replaced_in_verl(run: Run) -> str:
    with _importable():
        found = run("actor_rollout_ref.model.external_lib=tests.faults.verl_library")
    words = ("REFUSED at the start of training", "actor rank 0", f"not seen: {SITE}")
    return noticed(all(word in found for word in words), found[-600:])
