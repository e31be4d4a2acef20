"""What the user asked for: NoiseConfig, its rules, presets, parsing, precedence."""

from hetero_plugin.config.aqn import AQNConfig
from hetero_plugin.config.base import table_number, whole_step
from hetero_plugin.config.error_models import ERROR_MODELS, FORMATS
from hetero_plugin.config.options import FP8, MX, NVFP4, Accumulate, Integer
from hetero_plugin.config.problems import ConfigError
from hetero_plugin.config.rule import NoiseRule
from hetero_plugin.config.spec import (
    DEFAULT_PRESET,
    ENVIRONMENT,
    METHOD,
    PRESETS,
    NoiseConfig,
    preset,
    resolve,
)

__all__ = [
    "DEFAULT_PRESET",
    "ENVIRONMENT",
    "ERROR_MODELS",
    "FORMATS",
    "FP8",
    "METHOD",
    "MX",
    "NVFP4",
    "PRESETS",
    "AQNConfig",
    "Accumulate",
    "ConfigError",
    "Integer",
    "NoiseConfig",
    "NoiseRule",
    "preset",
    "resolve",
    "table_number",
    "whole_step",
]
