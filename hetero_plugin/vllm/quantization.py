"""The quantization method ``hetero_noise``: what vLLM asks for its linear layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import (
    QuantizationConfig,
    QuantizeMethodBase,
)

from hetero_plugin.config import METHOD, ConfigError, NoiseConfig, resolve

if TYPE_CHECKING:
    from torch import nn
    from vllm.config import VllmConfig
    from vllm.model_executor.layers.quantization import QuantizationMethods


class HeteroNoiseQuantConfig(QuantizationConfig):
    """Weights stay as they are; the linear layers get methods that can add error.

    Args:
        spec: that of the model's own ``quantization_config``, if it is one.
        inner: the quantization that the checkpoint carries, if it carries one. Everything is left
            to it, and error comes on top.
    """

    def __init__(
        self, spec: NoiseConfig | None = None, inner: QuantizationConfig | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.inner = inner
        if inner is not None:
            if hasattr(inner, "_ignore_unexpected_suffixes"):  # vLLM 0.24 has none
                self._ignore_unexpected_suffixes = inner._ignore_unexpected_suffixes
            # One mapping for both: models write the names of their fused layers into it.
            self.packed_modules_mapping = inner.packed_modules_mapping

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        inner = self.__dict__.get("inner")
        if inner is not None and name in ("packed_modules_mapping", "online_quantization_config"):
            setattr(inner, name, value)

    def __getattr__(self, name: str) -> Any:
        # What vLLM asks of the checkpoint's quantization: block sizes and the like.
        inner = self.__dict__.get("inner")
        if inner is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(inner, name)

    def get_name(self) -> QuantizationMethods:
        return cast("QuantizationMethods", METHOD)  # registered: `register_method`

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        own = [torch.bfloat16, torch.float16, torch.float32]
        if self.inner is None:
            return own
        return [dtype for dtype in self.inner.get_supported_act_dtypes() if dtype in own]

    @classmethod
    def override_quantization_method(
        cls, hf_quant_cfg: dict[str, Any], user_quant: str | None, hf_config: Any = None
    ) -> Any:
        """Ours, for a checkpoint with a quantization of its own, where the user asks for ours."""
        theirs = hf_quant_cfg.get("quant_method")
        return METHOD if user_quant == METHOD and theirs != METHOD else None

    # By `super()`: a method of the object in vLLM 0.24, static in later ones.
    def get_cache_scale_mapper(self) -> Any:  # type: ignore[override]
        return (
            super().get_cache_scale_mapper()
            if self.inner is None
            else self.inner.get_cache_scale_mapper()
        )

    def get_checkpoint_weight_mapper(self) -> Any:  # type: ignore[override]
        return (
            super().get_checkpoint_weight_mapper()
            if self.inner is None
            else self.inner.get_checkpoint_weight_mapper()
        )

    def is_mxfp4_quant(self, *args: Any, **kwargs: Any) -> bool:
        # vLLM 0.24 asks, before it makes a MoE layer; later ones do not.
        asked = getattr(self.inner, "is_mxfp4_quant", None)
        return asked is not None and bool(asked(*args, **kwargs))

    def apply_vllm_mapper(self, hf_to_vllm_mapper: Any) -> None:
        if self.inner is not None:
            self.inner.apply_vllm_mapper(hf_to_vllm_mapper)

    def maybe_update_config(self, *args: Any, **kwargs: Any) -> None:
        if self.inner is not None:
            self.inner.maybe_update_config(*args, **kwargs)

    @classmethod
    def get_min_capability(cls) -> int:
        # Adds arithmetic to the model's own layers, so any device will do; what a checkpoint's
        # quantization needs is asked of it in `from_config`.
        return -1

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> HeteroNoiseQuantConfig:
        """From the ``quantization_config`` of a model's config.json: a spec, or a quantization.

        Raises:
            ConfigError: it is neither a valid spec nor a quantization that vLLM can run here.
        """
        name = config.get("quant_method", METHOD)
        if name != METHOD:
            return cls(inner=_theirs(name, config))
        return cls(resolve(model_config=config, environ={}))

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
        """The method of a linear layer, LM head or experts; None: any other stays as it is."""
        from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
        from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
            UnquantizedFusedMoEMethod,
        )
        from vllm.model_executor.layers.linear import (
            LinearBase,
            LinearMethodBase,
            UnquantizedLinearMethod,
        )
        from vllm.model_executor.layers.vocab_parallel_embedding import (
            ParallelLMHead,
            UnquantizedEmbeddingMethod,
        )

        from hetero_plugin.vllm.experts import NoisyExpertsMethod
        from hetero_plugin.vllm.head import NoisyHeadMethod
        from hetero_plugin.vllm.linear import NoisyLinearMethod
        from hetero_plugin.vllm.quantised import around

        if self.inner is not None:
            theirs = self.inner.get_quant_method(layer, prefix)
            plain = (UnquantizedLinearMethod, UnquantizedEmbeddingMethod, UnquantizedFusedMoEMethod)
            if isinstance(layer, LinearBase) and type(theirs) not in (*plain, type(None)):
                assert isinstance(theirs, LinearMethodBase)
                return around(theirs)
            if type(theirs) not in (*plain, type(None)):
                return theirs  # carries no error; a spec that wants some is refused
        if isinstance(layer, LinearBase):
            return NoisyLinearMethod()
        if isinstance(layer, ParallelLMHead):
            return NoisyHeadMethod()
        if isinstance(layer, RoutedExperts):
            return NoisyExpertsMethod(layer.moe_config)
        return None


def _theirs(name: Any, config: dict[str, Any]) -> QuantizationConfig:
    """vLLM's own configuration of a checkpoint's quantization.

    Raises:
        ConfigError: vLLM does not know it, or the device can't run it.
    """
    from vllm.model_executor.layers.quantization import (
        QUANTIZATION_METHODS,
        get_quantization_config,
    )
    from vllm.platforms import current_platform

    if name not in QUANTIZATION_METHODS:
        raise ConfigError(
            f"the checkpoint's quantization_config has quant_method {name!r}, which this vLLM does "
            f"not know, so quantization={METHOD!r} can't put error on top of it; it knows: "
            f"{', '.join(QUANTIZATION_METHODS)}"
        )
    current_platform.verify_quantization(name)
    made = get_quantization_config(name).from_config(config)
    capability = current_platform.get_device_capability()
    if capability is not None and capability.to_int() < made.get_min_capability():
        raise ConfigError(
            f"the checkpoint's quantization {name!r} needs a GPU of capability "
            f"{made.get_min_capability()}, and this one has {capability.to_int()}"
        )
    return made


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


def is_noisy(vllm_config: VllmConfig) -> bool:
    """Whether an engine was asked to be noisy."""
    return isinstance(vllm_config.quant_config, HeteroNoiseQuantConfig)
