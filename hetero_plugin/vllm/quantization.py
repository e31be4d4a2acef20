"""The quantization method ``hetero_noise``: what vLLM asks for its linear layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import (
    QuantizationConfig,
    QuantizeMethodBase,
)

from hetero_plugin.config import METHOD, ConfigError, resolve

if TYPE_CHECKING:
    from torch import nn


class HeteroNoiseQuantConfig(QuantizationConfig):
    """Weights stay as they are; the linear layers get methods that can add error.

    Args:
        spec: the model's own ``quantization_config``, if it has one.
    """

    def __init__(self, spec: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.spec = spec

    def get_name(self) -> str:  # type: ignore[override]
        return METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16, torch.float32]

    @classmethod
    def get_min_capability(cls) -> int:
        return -1  # adds arithmetic to the model's own layers, so any device will do

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> HeteroNoiseQuantConfig:
        """From the ``quantization_config`` of a model's config.json.

        Raises:
            ConfigError: it is not a valid spec.
        """
        resolve(model_config=config, environ={})  # a bad one is an error here already
        return cls(config)

    @classmethod
    def from_config_file(cls, config_file: str) -> HeteroNoiseQuantConfig:
        """From the file that ``hf_overrides["quantization_config_file"]`` names."""
        return cls.from_config_dict_json(Path(config_file).read_text(encoding="utf-8"))

    @classmethod
    def from_config_dict_json(cls, config_dict_json: str) -> HeteroNoiseQuantConfig:
        """From the text of ``hf_overrides["quantization_config_dict_json"]``."""
        config = json.loads(config_dict_json)
        if not isinstance(config, dict):
            raise ConfigError(f"hf_overrides: the quantization config is {config!r}, not a mapping")
        return cls.from_config(config)

    def get_quant_method(self, layer: nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """The method of a linear layer or LM head; None leaves any other layer as it is."""
        from vllm.model_executor.layers.linear import LinearBase
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        from hetero_plugin.vllm.linear import NoisyHeadMethod, NoisyLinearMethod

        if isinstance(layer, LinearBase):
            return NoisyLinearMethod()
        if isinstance(layer, ParallelLMHead):
            return NoisyHeadMethod()
        return None


def register_method() -> None:
    """Tells vLLM the method's name; a second call finds it there."""
    from vllm.model_executor.layers import quantization as registry

    known = registry._CUSTOMIZED_METHOD_TO_QUANT_CONFIG.get(METHOD)
    if known is None:
        register_quantization_config(METHOD)(HeteroNoiseQuantConfig)
    elif known is not HeteroNoiseQuantConfig:
        raise RuntimeError(
            f"another plugin has registered the quantization method {METHOD!r}: {known!r}; "
            "VLLM_PLUGINS chooses which plugins vLLM loads"
        )
