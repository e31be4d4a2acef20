"""What a verl run asks for: one specification, resolved once, the same in every process.

The driver resolves it (command line before environment) and puts its canonical JSON into Ray's
runtime environment; every worker reads both that and the command line's word and refuses to
go on if they differ or if one is missing. A worker that should be noisy never runs clean.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hetero_plugin.config import ENVIRONMENT, METHOD, ConfigError, NoiseConfig

_QUANTIZATION = "actor_rollout_ref.rollout.quantization"
_CUSTOM = "actor_rollout_ref.rollout.custom"


class RunOptions(BaseModel):
    """How the run is measured: ``+actor_rollout_ref.rollout.custom.hetero_run={...}``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: Literal["both", "clean", "noisy"] = "both"
    """Which model is validated: the clean one (``val-core/...``), the one with hardware error
    (``hetero/val_noisy/...``), or both. AQN is off in both: it is part of training only."""

    actor_aqn: bool = False
    """Also apply AQN's offsets in the actor's forward. QeRL perturbs the rollout policy alone."""

    attest: bool = True
    """Attest actor and rollout before the first step and after the last: each site alone must
    change what comes out. A run whose noise can't be seen stops. Costs a short forward pass a site
    and engine."""

    metrics_every: int = Field(default=1, ge=1)
    """Steps between two readings of the rollout workers' state."""

    realised_every: int = Field(default=1, ge=0)
    """Steps between two measurements of the actor's realised error; 0: never."""


@dataclass(frozen=True)
class RunNoise:
    """A noisy run's specification and options; a clean run has None in its place."""

    config: NoiseConfig
    options: RunOptions


def _plain(value: Any) -> Any:
    """Python containers of an OmegaConf node, so that the specification's parser sees dicts."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    from omegaconf import OmegaConf

    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _get(node: Any, key: str) -> Any:
    if isinstance(node, Mapping):
        return node.get(key)
    getter = getattr(node, "get", None)
    return getter(key, None) if callable(getter) else getattr(node, key, None)


def _options(custom: Mapping[str, Any]) -> RunOptions:
    given = custom.get("hetero_run") or {}
    try:
        return RunOptions.model_validate(dict(given))
    except (ValidationError, TypeError, ValueError) as error:
        known = ", ".join(RunOptions.model_fields)
        raise ConfigError(
            f"{_CUSTOM}.hetero_run={given!r} is not valid ({error}). Known settings: {known}."
        ) from error


def requested(rollout: Any) -> tuple[bool, dict[str, Any]]:
    """(does ``rollout.quantization`` name this package, the plain ``rollout.custom`` mapping).

    Raises:
        ConfigError: ``custom.hetero_noise`` or ``custom.hetero_run`` is given while
            ``rollout.quantization`` is something else, so that the run would be clean.
    """
    quantization = _get(rollout, "quantization")
    custom = _plain(_get(rollout, "custom")) or {}
    noisy = quantization == METHOD
    stray = [key for key in ("hetero_noise", "hetero_run") if custom.get(key) is not None]
    if stray and not noisy:
        raise ConfigError(
            f"{_CUSTOM}.{stray[0]} is set but {_QUANTIZATION}={quantization!r}, so this run would "
            f"be clean. Say {_QUANTIZATION}={METHOD}, or remove it."
        )
    return noisy, custom


def resolve_driver(rollout: Any, environ: Mapping[str, str] | None = None) -> RunNoise | None:
    """The run's noise as the driver sees it: command line before environment.

    ``rollout`` is verl's ``actor_rollout_ref.rollout`` node. None for a clean run.

    Raises:
        ConfigError: a specification without ``quantization=hetero_noise``, wherever it is given;
            or one that does not parse.
    """
    environ = os.environ if environ is None else environ
    noisy, custom = requested(rollout)
    inherited = environ.get(ENVIRONMENT) or None
    if not noisy:
        if inherited is not None:
            raise ConfigError(
                f"The environment's {ENVIRONMENT} asks for noise but {_QUANTIZATION}="
                f"{_get(rollout, 'quantization')!r}. Say {_QUANTIZATION}={METHOD} for a noisy "
                f"run, or unset {ENVIRONMENT} for a clean one."
            )
        return None
    given = custom.get("hetero_noise")
    where = f"{_CUSTOM}.hetero_noise" if given is not None else ENVIRONMENT
    config = NoiseConfig.parse(given if given is not None else inherited, where=where)
    if given is not None and inherited is not None:
        other = NoiseConfig.parse(inherited, where=ENVIRONMENT)
        if other.fingerprint != config.fingerprint:
            print(
                f"[hetero_noise] {_CUSTOM}.hetero_noise ({config.fingerprint}) overrides the "
                f"environment's {ENVIRONMENT} ({other.fingerprint})",
                flush=True,
            )
    return RunNoise(config=config, options=_options(custom))


def resolve_worker(
    rollout: Any, process: str, environ: Mapping[str, str] | None = None
) -> RunNoise | None:
    """The run's noise as a Ray worker sees it; ``process`` names the worker in errors.

    Raises:
        ConfigError: ``quantization=hetero_noise`` but no specification reached this process, or
            a different one from the command line's; or a clean run with one in its environment.
    """
    environ = os.environ if environ is None else environ
    noisy, custom = requested(rollout)
    inherited = environ.get(ENVIRONMENT) or None
    if not noisy:
        if inherited is not None:
            raise ConfigError(
                f"{process}: this is a clean run ({_QUANTIZATION} is not {METHOD}) but "
                f"{ENVIRONMENT} is set in its environment; unset it where Ray was started."
            )
        return None
    if inherited is None:
        raise ConfigError(
            f"{process}: {_QUANTIZATION}={METHOD} but {ENVIRONMENT} did not reach this process, so "
            "it would run clean. The driver sends it in Ray's runtime environment; start the run "
            "with `python -m verl.trainer.main_ppo` and do not replace "
            "ray_kwargs.ray_init.runtime_env.env_vars."
        )
    config = NoiseConfig.parse(inherited)
    given = custom.get("hetero_noise")
    if given is not None:
        wanted = NoiseConfig.parse(given)
        if wanted.fingerprint != config.fingerprint:
            raise ConfigError(
                f"{process}: {_CUSTOM}.hetero_noise has fingerprint {wanted.fingerprint} but this "
                f"process's {ENVIRONMENT} has {config.fingerprint}; they must be the same."
            )
    return RunNoise(config=config, options=_options(custom))


def unique_job_id() -> str:
    """An id of this Ray job that no other run on this machine has.

    verl names its weight-transfer socket by Ray's job id, which is 01000000 in every cluster that
    a driver starts for itself; two such runs side by side would write to one socket.
    """
    import ray

    context = ray.get_runtime_context()
    return f"{context.get_job_id()}-{context.gcs_address.rsplit(':', 1)[-1]}"
