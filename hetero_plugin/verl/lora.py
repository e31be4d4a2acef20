"""LoRA in a noisy verl run: which of verl's settings give rollout and actor the same error.

Both ends compute ``noisy(x W) + x A B``: error is on the output of the frozen base layer, at the
site's own address, and what the adapter adds is clean. In the actor PEFT's layer holds the wrapped
one; in vLLM the adapter is loaded beside the base, whose method has the error. Adapters are no
sites, and AQN's offsets lie beside the norms, so that a sync of the adapter alone leaves both be.

Everything else that verl offers for LoRA is refused here, with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hetero_plugin.config import ConfigError, NoiseConfig

_MODEL = "actor_rollout_ref.model"
# Layers that no fused linear layer of vLLM holds: it would compute their adapters in other ways.
_OUTSIDE = ("lm_head", "model.embed_tokens")


def adapter_rank(model: Mapping[str, Any]) -> int:
    """The rank of the adapter that verl's FSDP actor trains; 0: it trains the whole model."""
    return int(model.get("lora_rank") or 0)


def check_adapter(config: Any, spec: NoiseConfig) -> None:
    """Refuses LoRA's settings under which one of the engines would have other error, or no adapter.

    Args:
        config: verl's configuration.
        spec: the run's noise.

    Raises:
        ConfigError: names the setting, why it can't be, and what would be right.
    """
    model = config.actor_rollout_ref.model
    lora: Mapping[str, Any] = model.get("lora") or {}
    rank, other = adapter_rank(model), int(lora.get("rank") or 0)
    path = model.get("lora_adapter_path")
    if path:
        raise ConfigError(
            f"{_MODEL}.lora_adapter_path={path!r}: going on from a trained adapter is not "
            "supported in a noisy verl run: without lora_rank verl never loads it, and one of "
            "another kind (DoRA, rsLoRA, layers trained whole) may not be what the rollout has. "
            "Merge it into its base and give that as model.path, with a new lora_rank."
        )
    if other and other != rank:
        raise ConfigError(
            f"{_MODEL}.lora.rank={other} with lora_rank={rank}: the rollout takes the former, the "
            "FSDP actor the latter, so they would differ. Set lora_rank alone."
        )
    if rank == 0:
        return
    if lora.get("merge"):
        raise ConfigError(
            f"{_MODEL}.lora.merge=True: the rollout would compute noisy(x (W + AB)), with an error "
            "relative to the merged layer's output, and the actor noisy(x W) + x A B, so that they "
            "would differ by more than the adapter's rounding. Set lora.merge=False."
        )
    if model.get("target_parameters"):
        raise ConfigError(
            f"{_MODEL}.target_parameters={model.target_parameters!r}: an adapter on a parameter is "
            "added to the weight before the layer runs, so it would have the layer's error. Use "
            "target_modules."
        )
    for name in _OUTSIDE:
        if _is_target(model.get("target_modules"), name):
            raise ConfigError(
                f"{_MODEL}.target_modules={model.target_modules!r} has an adapter on {name}; in a "
                "noisy verl run adapters are for the linear layers of the decoder. Set "
                "target_modules=all-linear, or a list of such layers."
            )
    mode = config.trainer.v1.trainer_mode
    if mode != "sync":
        raise ConfigError(
            f"trainer.v1.trainer_mode={mode} with lora_rank={rank}: an adapter that is exchanged "
            "under rollouts in flight was never seen to keep rollout and actor together; set "
            "trainer_mode=sync."
        )
    alone = [rule for rule in spec.rules if rule.direction == "backward" and rule.scale > 0]
    if alone:
        raise ConfigError(
            f"lora_rank={rank} with a rule that acts backward alone ({alone[0].targets}): the base "
            "is frozen, so it has no gradient of a weight, and grad_input of layer 0's q, k and v "
            "reaches no trained weight, so nobody could attest it. Use direction=both, or train "
            "the whole model (lora_rank=0)."
        )


def _is_target(targets: Any, name: str) -> bool:
    """Whether PEFT's ``target_modules`` names the module ``name``."""
    if targets is None or targets == "all-linear":  # which leaves the output layer out
        return False
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
