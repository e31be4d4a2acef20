"""The driver's checks and the environment it sends to Ray's workers.

All of it happens before the first Ray process starts, so a setting that cannot work costs a
second and not two minutes, and says what would.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hetero_plugin.config import ENVIRONMENT, ConfigError
from hetero_plugin.sites import select, sites_from_config
from hetero_plugin.verl import node, resume
from hetero_plugin.verl.lora import check_adapter
from hetero_plugin.verl.settings import RunNoise, resolve_driver

# What a worker must see as the driver does. Ray's workers inherit the environment of the Ray
# *cluster*, which is the driver's only when the driver started it.
_FORWARDED_PREFIXES = ("HETERO_", "VLLM_CPU_", "VERL_PLATFORM", "VERL_FILE_LOGGER")
_FORWARDED = ("OMP_NUM_THREADS", "VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "HF_HUB_OFFLINE")

_QWEN2 = "qwen2"
# vllm.v1.attention.backends.cpu_attn; another size fails only once the first prompt is computed.
_CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def worker_environment(config: Any) -> dict[str, str]:
    """Variables for ``runtime_env.env_vars`` of the run that verl's ``config`` describes."""
    env = {
        key: value
        for key, value in os.environ.items()
        if key.startswith(_FORWARDED_PREFIXES) or key in _FORWARDED
    }
    env.pop(ENVIRONMENT, None)
    noise = resolve_driver(config.actor_rollout_ref.rollout)
    if noise is not None:
        env[ENVIRONMENT] = noise.config.canonical
        # verl turns vLLM's log down to warnings, and TRL, once imported, to errors; the workers'
        # word that they are noisy is neither, and must be in the run's log.
        asked = os.environ.get("VLLM_LOGGING_LEVEL", "").upper()
        env["VLLM_LOGGING_LEVEL"] = asked if asked == "DEBUG" else "INFO"
    return env


def check(config: Any) -> None:
    """Refuses settings under which a run would fail late or be clean without saying so.

    Raises:
        ConfigError: says what was given, where, and what would be right.
    """
    noise = resolve_driver(config.actor_rollout_ref.rollout)
    if noise is not None:
        check_noisy(config, noise)
        print(
            f"[hetero_noise] verl run: specification {noise.config.fingerprint}, validation "
            f"{noise.options.validation}",
            flush=True,
        )
    resume.check(config.trainer, noise)
    from hetero_plugin.verl.platform import is_cpu_run

    if is_cpu_run():
        _check_cpu(config)
    elif noise is not None and config.trainer.get("device", "cuda") == "cuda":
        node.check_attention(config)


def check_noisy(config: Any, noise: RunNoise) -> None:
    """Refuses settings under which some of the run would be clean, or of another noise.

    Args:
        config: verl's configuration.
        noise: the run's.

    Raises:
        ConfigError: names the setting and what it should be.
    """
    actor, rollout, trainer = (
        config.actor_rollout_ref.actor,
        config.actor_rollout_ref.rollout,
        config.trainer,
    )
    if rollout.name != "vllm":
        raise ConfigError(
            f"actor_rollout_ref.rollout.name={rollout.name!r} has no hardware error; "
            "quantization=hetero_noise needs rollout.name=vllm."
        )
    if actor.strategy not in ("fsdp", "fsdp2"):
        raise ConfigError(
            f"actor_rollout_ref.actor.strategy={actor.strategy!r} would train a clean actor; "
            "quantization=hetero_noise needs strategy=fsdp or fsdp2."
        )
    if not trainer.get("use_v1", True):
        raise ConfigError(
            "trainer.use_v1=False (verl's old trainer) is not extended; "
            "quantization=hetero_noise needs trainer.use_v1=True."
        )
    mode = trainer.v1.trainer_mode
    if mode == "separate_async":
        raise ConfigError(
            "trainer.v1.trainer_mode=separate_async keeps the rollout away from the actor, whose "
            "noise step would not follow; use trainer_mode=sync or colocate_async."
        )
    if mode != "sync" and noise.options.validation != "noisy":
        raise ConfigError(
            f"trainer.v1.trainer_mode={mode}: training rollouts are in flight during validation, "
            "so the noise cannot be switched off for it; set "
            "+actor_rollout_ref.rollout.custom.hetero_run.validation=noisy."
        )
    if mode != "sync" and noise.config.aqn is not None and trainer.get("test_freq", 1) > 0:
        raise ConfigError(
            f"trainer.v1.trainer_mode={mode} with aqn and trainer.test_freq="
            f"{trainer.get('test_freq')}: training rollouts are in flight during validation, which "
            "has no AQN, so switching it off would take it from them too. Set trainer.test_freq=-1 "
            "(validation before training may stay), trainer_mode=sync, or a specification without "
            "aqn."
        )
    if rollout.get("disaggregation", {}).get("enabled", False):
        raise ConfigError(
            "rollout.disaggregation.enabled=True uses a server class that is not extended; "
            "quantization=hetero_noise needs it False."
        )
    _check_model(config, noise)


def _check_model(config: Any, noise: RunNoise) -> None:
    """Settings of the actor's model that would go round a noisy site, or be another noise."""
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    check_adapter(config, noise.config)
    fused = [
        where
        for where, node in (("model", model), ("actor", actor))
        if node.get("use_fused_kernels", False)
    ]
    heads = _noisy_heads(config, noise) if fused else []
    if heads:
        raise ConfigError(
            f"actor_rollout_ref.{fused[0]}.use_fused_kernels=True computes log-probabilities from "
            f"the weight of {heads[0]}, without its forward, so its error would be missing from "
            "training. Set use_fused_kernels=False, or exclude lm_head in the specification."
        )


def _noisy_heads(config: Any, noise: RunNoise) -> list[str]:
    """Names of output layers that have error of their own while the actor trains."""
    path = Path(str(config.actor_rollout_ref.model.path)).expanduser() / "config.json"
    try:
        sites = sites_from_config(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError):
        # Not on this machine, or no map of the family: the name of its head is all that is known.
        return ["lm_head"]
    found = []
    for chosen in select(noise.config, sites):
        rules = [rule for _, rule in chosen.rules if rule.phase != "rollout" and rule.scale > 0]
        if chosen.site.kind == "lm_head" and rules:
            found.append(chosen.site.name)
    return found


def _check_cpu(config: Any) -> None:
    for role in ("actor", "ref"):
        strategy = (config.actor_rollout_ref.get(role) or {}).get("strategy", "fsdp2")
        if strategy != "fsdp2":
            raise ConfigError(
                f"actor_rollout_ref.{role}.strategy={strategy!r}: on a CPU verl can only run fsdp2 "
                "(FSDP1 rejects CPU modules, as verl has it sync_module_states). Set "
                f"actor_rollout_ref.{role}.strategy=fsdp2."
            )
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        raise ConfigError(
            "CUDA_VISIBLE_DEVICES is set to an empty string, which leaves Ray without the logical "
            "GPU that verl places its workers by. Unset it."
        )
    path = Path(str(config.actor_rollout_ref.model.path)).expanduser() / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"actor_rollout_ref.model.path={str(path.parent)!r} has no config.json; give the "
            "folder of a Hugging Face Qwen2 checkpoint."
        )
    model = json.loads(path.read_text(encoding="utf-8"))
    family = model.get("model_type")
    if family != _QWEN2:
        raise ConfigError(
            f"{path} says model_type={family!r}; on a CPU this package trains Qwen2 checkpoints "
            f"(model_type={_QWEN2!r}) only."
        )
    hidden, heads = model.get("hidden_size"), model.get("num_attention_heads")
    size = model.get("head_dim") or (hidden // heads if hidden and heads else None)
    if size is not None and size not in _CPU_HEAD_SIZES:
        raise ConfigError(
            f"{path}: attention heads of size {size}; vLLM's CPU attention takes "
            f"{', '.join(map(str, _CPU_HEAD_SIZES))}."
        )
