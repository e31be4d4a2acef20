"""vLLM, as its users configure it: what would be another noise than the one asked for is refused.

`LLM` refuses before it starts a process or loads a weight. What works is run in tests/engines: KV
connectors in test_vllm_kv.py, embeddings and classes in test_vllm_pooling.py, and what
``hetero-noise eval`` leaves behind in test_evaluation_vllm.py.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm import LLM

from hetero_plugin.config import ConfigError
from tests.models import config_only

SPEC: dict[str, Any] = {"scale": 0.05}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint without weights: it is not looked at."""
    return config_only(tmp_path_factory.mktemp("model"))


def start(model: str, **settings: Any) -> None:
    LLM(
        model,
        quantization="hetero_noise",
        skip_tokenizer_init=True,
        kv_cache_memory_bytes=1 << 24,
        **{"additional_config": {"hetero_noise": SPEC}, **settings},
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}},
            "computed under another noise",
        ),
        ({"enable_dbo": True}, "share one buffer of row keys"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        (
            {"runner": "pooling", "convert": "classify"}
            | {
                "additional_config": {
                    "hetero_noise": {"rules": [{"targets": ["linear"], "scale": 0.05}]}
                }
            },
            "score (kind lm_head) of a pooling model",
        ),
    ],
)
def test_another_noise_than_asked_for_is_refused_at_once(
    model: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        start(model, **settings)
    assert said in str(caught.value)
