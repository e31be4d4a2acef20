"""Models with random weights in the shapes of real ones; tiny ones for a rehearsal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scripts.gpu.findings import Size

# Qwen2.5-1.5B, Qwen3-0.6B and a small mixture of experts.
SHAPES: dict[str, dict[str, int]] = {
    "qwen2": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
              "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151_936},
    "qwen3": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
              "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
              "vocab_size": 151_936},
    "qwen3_moe": {"hidden_size": 1024, "intermediate_size": 2048, "moe_intermediate_size": 512,
                  "num_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 4,
                  "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128,
                  "vocab_size": 32_768},
}  # fmt: skip
TINY: dict[str, int] = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "head_dim": 32,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 199,
}  # fmt: skip


def config(kind: str, size: Size, layers: int | None = None) -> Any:
    """The Hugging Face configuration of one of `SHAPES`."""
    from transformers import AutoConfig

    shape = dict(SHAPES[kind])
    if size.rehearsal:
        shape |= {key: value for key, value in TINY.items() if key in shape}
        if "moe_intermediate_size" in shape:
            shape |= {"moe_intermediate_size": 64, "num_experts": 4}
    if layers is not None:
        shape["num_hidden_layers"] = min(layers, shape["num_hidden_layers"])
    return AutoConfig.for_model(
        kind,
        **shape,
        max_position_embeddings=4096,
        tie_word_embeddings=kind == "qwen2",
        # Sharp enough that the error is seen in log-probabilities, at either size.
        initializer_range=0.1 if size.rehearsal else 0.02,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def build(
    kind: str,
    size: Size,
    dtype: torch.dtype = torch.bfloat16,
    *,
    layers: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Any:
    """A model of that shape in evaluation mode; equal arguments give equal weights."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    with torch.device(device or size.device):
        model = AutoModelForCausalLM.from_config(config(kind, size, layers))
    _spread(model)
    return model.to(dtype).eval()


@torch.no_grad()
def _spread(model: nn.Module) -> None:
    """Norms that are not all one and biases that are not all zero."""
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.add_(0.1 * torch.randn_like(parameter))


def folder(kind: str, size: Size, seed: int = 0) -> Path:
    """The checkpoint of such a model in bfloat16, made at the first asking."""
    path = size.out / "models" / f"{kind}-{seed}{'-tiny' if size.rehearsal else ''}"
    if not (path / "made").exists():
        build(kind, size, seed=seed).save_pretrained(path)
        (path / "made").touch()
    return path


def fp8_folder(size: Size) -> Path:
    """The Qwen2 with linear weights as float8_e4m3fn, one scale a tensor, inputs scaled as run."""
    from safetensors.torch import load_file, save_file

    path = size.out / "models" / "qwen2-fp8"
    if (path / "made").exists():
        return path
    source = folder("qwen2", size)
    path.mkdir(parents=True, exist_ok=True)
    quantised: dict[str, torch.Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        for name, weight in load_file(file).items():
            if name.endswith("_proj.weight"):
                step = weight.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max
                quantised[name] = (weight.float() / step).to(torch.float8_e4m3fn)
                quantised[name.replace(".weight", ".weight_scale")] = step
            else:
                quantised[name] = weight
    save_file(quantised, path / "model.safetensors", metadata={"format": "pt"})
    words = json.loads((source / "config.json").read_text())
    words["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    (path / "config.json").write_text(json.dumps(words))
    (path / "made").touch()
    return path


def prompts(size: Size, count: int, length: int = 24) -> list[list[int]]:
    """Token ids of ``count`` prompts of unequal lengths from ``length`` on, each its own."""
    vocab = config("qwen2", size).vocab_size
    return [
        [3 + (j * 7919 + i * 104_729 + j * j * 31) % (vocab - 3) for j in range(length + i % 13)]
        for i in range(count)
    ]
