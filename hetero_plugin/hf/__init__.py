"""Hugging Face: wrap, unwrap, disabled, AQN; for transformers models, FSDP, PEFT, accelerate."""

from hetero_plugin.hf.adaptive import AQN
from hetero_plugin.hf.quantizer import HeteroNoiseConfig, register
from hetero_plugin.hf.wrap import (
    disabled,
    phase,
    set_step,
    state_of,
    unwrap,
    update,
    wrap,
)

register()

__all__ = [
    "AQN",
    "HeteroNoiseConfig",
    "disabled",
    "phase",
    "set_step",
    "state_of",
    "unwrap",
    "update",
    "wrap",
]
