"""More faults of vLLM: caches outside of it, batches side by side, other heads, processes left.

None needs an engine that runs: configurations are vLLM's own, and so is the engine core.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from tests.faults.registry import fault, noticed, refused
from tests.models import config_only

NORMS = {"rules": [{"targets": ["norm"], "scale": 0.05}]}
LINEAR = {"rules": [{"targets": ["linear"], "scale": 0.05}]}


@functools.cache
def _models() -> tuple[str, str]:
    """config.json of a dense and a sparse model."""
    folder = Path(tempfile.mkdtemp())
    shared = {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
    sparse = config_only(folder / "sparse", "qwen2_moe", **shared)
    return config_only(folder / "dense"), sparse


def _configure(spec: Any, *, sparse: bool = False, **settings: Any) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    from hetero_plugin.vllm import register

    register()
    return EngineArgs(
        model=_models()[sparse],
        skip_tokenizer_init=True,
        kv_cache_memory_bytes=1 << 24,
        quantization="hetero_noise",
        additional_config={"hetero_noise": spec},
        **settings,
    ).create_engine_config()


def _refused(spec: Any, *words: str, **settings: Any) -> str:
    from hetero_plugin.config import ConfigError

    return refused(lambda: _configure(spec, **settings), *words, kind=ConfigError)


def _refused_elsewhere(spec: Any, *words: str, sparse: bool = False, **parallel: Any) -> str:
    """A configuration that vLLM's CPU build would change, as a GPU's would have it."""
    from hetero_plugin.config import ConfigError
    from hetero_plugin.sites import select
    from hetero_plugin.vllm import refusals
    from hetero_plugin.vllm.spec import model_sites, settle

    made = _configure(spec, sparse=sparse)
    for name, value in parallel.items():
        setattr(made.parallel_config, name, value)
    chosen = select(settle(made), model_sites(made))
    return refused(lambda: refusals.refuse(made, chosen), *words, kind=ConfigError)


# ---- keys and values outside of vLLM's own cache


@fault(
    "the new noise: a tier of files keeps keys and values of the old one",
    "offloading with a secondary tier, whose reset vLLM leaves out on purpose",
    "ConfigError, before any process starts",
    by="error",
    engine="vllm",
)
def offloaded_to_files() -> str:
    return _refused(
        LINEAR,
        "OffloadingConnector",
        "secondary tiers",
        kv_transfer_config={
            "kv_connector": "OffloadingConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"secondary_tiers": [{"type": "fs"}]},
        },
    )


@fault(
    "the new noise: one of several connectors can't forget",
    "a MultiConnector that holds one with a reset and one without",
    "ConfigError, with the one's name",
    by="error",
    engine="vllm",
)
def one_of_several_connectors_keeps_its_cache() -> str:
    inside = [
        {"kv_connector": name, "kv_role": "kv_both"}
        for name in ("OffloadingConnector", "ExampleConnector")
    ]
    return _refused(
        LINEAR,
        "ExampleConnector has no reset_cache",
        kv_transfer_config={
            "kv_connector": "MultiConnector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"connectors": inside},
        },
    )


@fault(
    "the new AQN: a connector says nothing when it is told to forget",
    "`hetero_noise_aqn` on an engine core whose connector answers None, which vLLM takes for yes",
    "RuntimeError before the change is made",
    by="error",
    engine="vllm",
)
def connector_that_says_nothing() -> str:
    from tests.vllm.test_vllm_connectors import Connector, engine

    core, made = engine(Connector(None))
    words = refused(
        lambda: core.collective_rpc("hetero_noise_aqn", None, (), {"step": 1}),
        "Nothing was changed",
        kind=RuntimeError,
    )
    return noticed(made == [], words)


# ---- rows that are not where their keys are


@fault(
    "the rows' own error: three microbatches share one buffer of keys",
    "`ubatch_size=3` with noisy norms alone",
    "ConfigError",
    by="error",
    engine="vllm",
)
def three_microbatches() -> str:
    return _refused_elsewhere(NORMS, "ubatch_size=3", "microbatches", ubatch_size=3)


@fault(
    "the rows' own error: each rank's shared expert gets a part of the rows",
    "sequence-parallel experts with noise on the shared expert, the router clean",
    "ConfigError, with the site",
    by="error",
    engine="vllm",
)
def sequence_parallel_shared_expert() -> str:
    return _refused_elsewhere(
        {"rules": [{"targets": ["*.shared_expert.up_proj"], "scale": 0.05}]},
        "sequence-parallel experts",
        "model.layers.0.mlp.shared_expert.up_proj",
        sparse=True,
        all2all_backend="allgather_reducescatter",
        enable_expert_parallel=True,
        tensor_parallel_size=2,
        data_parallel_size=2,
    )


@fault(
    "the rows' own error: later layers get some of the rows",
    "`kv_sharing_fast_prefill=True`",
    "ConfigError",
    by="error",
    engine="vllm",
)
def fast_prefill() -> str:
    return _refused(NORMS, "kv_sharing_fast_prefill", kv_sharing_fast_prefill=True)


@fault(
    "the rows' identity: prompts may come as embeddings",
    "`enable_prompt_embeds=True`",
    "ConfigError, and not the first request's failure",
    by="error",
    engine="vllm",
)
def prompts_without_tokens() -> str:
    return _refused(NORMS, "enable_prompt_embeds", enable_prompt_embeds=True)


# ---- other heads


@fault(
    "the noise of a classifier's head, which is given pooled rows",
    "a glob that selects `score` in vLLM's classification",
    "ConfigError, with the head",
    by="error",
    engine="vllm",
)
def pooled_head_by_a_pattern() -> str:
    spec = {"rules": [{"targets": ["sc*", "*.o_proj"], "scale": 0.05}]}
    return _refused(spec, "score", "pooled rows", runner="pooling", convert="classify")


@fault(
    "the default noise where there is no lm_head",
    "`qerl-fp4`, which excludes lm_head, on an embedding model of vLLM",
    "the decoder's fourteen layers are noisy",
    by="values",
    engine="vllm",
)
def default_spec_without_a_head() -> str:
    from hetero_plugin.sites import select
    from hetero_plugin.vllm.spec import model_sites, settle

    made = _configure({"preset": "qerl-fp4"}, runner="pooling")
    chosen = select(settle(made), model_sites(made))
    return noticed(len(chosen) == 14, f"{len(chosen)} sites")


# ---- processes


def _left(deaf: bool) -> str:
    from tests.vllm.test_vllm_processes import left_of_an_engine

    left = left_of_an_engine(deaf)
    return noticed(left == [], f"processes left: {left}")


@fault(
    "memory: an engine's worker that outlives it",
    "the engine's process does not hear that it should end, and is killed",
    "its worker, and what nobody waited for, are ended and reaped",
    by="values",
    engine="cli",
)
def engine_killed_before_its_worker() -> str:
    return _left(deaf=True)


@fault(
    "a place in the process table",
    "a worker's helper ends, and the engine never waits for it",
    "it is reaped with the engine",
    by="values",
    engine="cli",
)
def helper_that_nobody_waited_for() -> str:
    return _left(deaf=False)
