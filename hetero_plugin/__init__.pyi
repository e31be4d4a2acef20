from hetero_plugin.config import AQNConfig, ConfigError, NoiseConfig, NoiseRule
from hetero_plugin.hf import AQN, HeteroNoiseConfig
from hetero_plugin.hf.wrap import disabled, phase, set_step, state_of, unwrap, update, wrap

__all__ = [
    "AQN",
    "AQNConfig",
    "ConfigError",
    "HeteroNoiseConfig",
    "NoiseConfig",
    "NoiseRule",
    "disabled",
    "phase",
    "set_step",
    "state_of",
    "unwrap",
    "update",
    "wrap",
]

__version__: str
