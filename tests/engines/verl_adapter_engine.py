"""vLLM with verl's worker extension, whose weights come from files in place of verl's sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.engines.vllm_adapter_engine import AdapterEngine, AdapterServer
from tests.engines.vllm_engine import Record

SETTINGS: Record = {
    "dtype": "float32",
    "load_format": "dummy",  # verl's default: all weights come by the first sync
    "enable_lora": True,
    "max_loras": 1,
    "max_lora_rank": 8,
    "worker_extension_cls": ("verl.workers.rollout.vllm_rollout.utils.vLLMColocateWorkerExtension"),
    "quantization": "hetero_noise",
}
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    "VERL_PLATFORM": "cpu",
    "VERL_REPLICA_RANK": "0",  # as verl's server sets it for its engines
}


class Files:
    """Stands in for verl's receiver: two buckets of what is in a file."""

    path: Path

    def __init__(self, **_: Any) -> None: ...

    def receive_weights(self, on_bucket_received: Any) -> None:
        from safetensors.torch import load_file

        weights = list(load_file(self.path).items())
        half = len(weights) // 2
        on_bucket_received(weights[:half], False)
        on_bucket_received(weights[half:], True)


class VerlServer(AdapterServer):
    def _adapter(self, path: str | None) -> Any:
        """verl's own request, which names no folder; any ``path`` asks for it."""
        from verl.workers.rollout.vllm_rollout import utils
        from vllm.lora.request import LoRARequest

        if path is None:
            return None
        name, number, folder = utils.VLLM_LORA_NAME, utils.VLLM_LORA_INT_ID, utils.VLLM_LORA_PATH
        return LoRARequest(name, number, folder)

    def sync(self, path: str, peft: Record, base_done: bool) -> list[int]:
        """verl's sync of these weights; returns the adapters that the worker then has."""
        from verl.workers.rollout.vllm_rollout import bucketed_weight_transfer as transfer

        Files.path = Path(path)
        transfer.BucketedWeightReceiver = Files  # type: ignore[misc,assignment]
        how = {"peft_config": peft, "base_sync_done": base_done, "use_shm": True}
        self.llm.collective_rpc("update_weights_from_ipc", kwargs=how)
        return sorted(self.llm.collective_rpc("list_loras")[0])


class VerlEngine(AdapterEngine):
    """An `Engine` that answers what `VerlServer` does."""

    server = VerlServer
