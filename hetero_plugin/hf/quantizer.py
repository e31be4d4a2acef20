"""The way of transformers: a quantization config that makes ``from_pretrained`` wrap the model.

The loaded model is marked as unquantised: its weights are the clean ones, and so is what it saves.
"""

from __future__ import annotations

from typing import Any

from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hetero_plugin.config import METHOD, NoiseConfig
from hetero_plugin.hf.wrap import wrap


class HeteroNoiseConfig(QuantizationConfigMixin):
    """A spec for ``from_pretrained(..., quantization_config=HeteroNoiseConfig(scale=5e-2))``.

    Takes what `NoiseConfig` takes; nothing given means the preset ``qerl-fp4``. The same keys
    beside ``"quant_method": "hetero_noise"`` in a checkpoint's config.json do so too, also in vLLM.

    Raises:
        ConfigError: as NoiseConfig.
    """

    def __init__(self, quant_method: str = METHOD, **spec: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]
        self.spec = spec
        self.noise = NoiseConfig(**spec)

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": METHOD, **self.spec}

    def __repr__(self) -> str:
        return f"HeteroNoiseConfig({', '.join(f'{k}={v!r}' for k, v in self.spec.items())})"


class HeteroNoiseQuantizer(HfQuantizer):
    """Wraps a model once its weights are there."""

    requires_calibration = False

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        config = self.quantization_config
        assert isinstance(config, HeteroNoiseConfig)
        self.remove_quantization_config(model)
        return wrap(model, config.noise)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_compileable(self) -> bool:
        return True


def register() -> None:
    """Makes transformers know the method; once is enough, twice does no harm."""
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(HeteroNoiseConfig)
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(METHOD)(HeteroNoiseQuantizer)
