"""Hardware error, on purpose: one machine that computes, numerically, like another.

Names are imported on first use, so that ``import hetero_plugin`` costs nothing and pulls in
no engine. vLLM and verl load this package in every process that they start.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Their types are in __init__.pyi.
_HOME = {
    "AQN": "hetero_plugin.hf",
    "AQNConfig": "hetero_plugin.config",
    "ConfigError": "hetero_plugin.config",
    "HeteroNoiseConfig": "hetero_plugin.hf",
    "NoiseConfig": "hetero_plugin.config",
    "NoiseRule": "hetero_plugin.config",
    "disabled": "hetero_plugin.hf",
    "phase": "hetero_plugin.hf",
    "set_step": "hetero_plugin.hf",
    "state_of": "hetero_plugin.hf",
    "unwrap": "hetero_plugin.hf",
    "update": "hetero_plugin.hf",
    "wrap": "hetero_plugin.hf",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Imports a public name from its module on first use.

    Raises:
        AttributeError: no such public name.
    """
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
