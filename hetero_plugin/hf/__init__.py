"""Hugging Face: wrap, unwrap, disabled, AQN; for transformers models, FSDP, PEFT, accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hetero_plugin.hf.aqn import AQN
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

if TYPE_CHECKING:
    from hetero_plugin.hf.trainer import HeteroNoiseCallback

register()

__all__ = [
    "AQN",
    "HeteroNoiseCallback",
    "HeteroNoiseConfig",
    "disabled",
    "phase",
    "set_step",
    "state_of",
    "unwrap",
    "update",
    "wrap",
]


def __getattr__(name: str) -> Any:
    """The callback on first use: Trainer's modules take a second that an engine need not pay."""
    if name == "HeteroNoiseCallback":
        from hetero_plugin.hf.trainer import HeteroNoiseCallback

        return HeteroNoiseCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
