"""Every thing that a noisy engine can't be is refused where it is configured, with its sentence.

The configurations are vLLM's own. What its CPU build would not accept is set on one that it made:
the rows of `refusals.REFUSALS` read nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.logits_processor import LogitsProcessor

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.sites import select
from hetero_plugin.vllm import install, refusals, register, spec
from tests.models import EXPERTS, config_only

pytestmark = pytest.mark.compat("refusals")

Record = dict[str, Any]
HEAD: Record = {"rules": [{"targets": ["linear"], "scale": 0.1}]}
DECODER: Record = {"rules": [{"targets": ["linear"], "exclude": ["lm_head"], "scale": 0.1}]}
NORMS: Record = {"rules": [{"targets": ["norm"], "scale": 0.1}]}
AQN: Record = {"rules": [], "aqn": {"schedule": "constant", "sigma_start": 0.1, "total_steps": 2}}


def summed(hardware: str, **rule: Any) -> Record:
    """Products added up as on a machine."""
    how = {"error": "accumulate", "options": {"hardware": hardware}}
    return {"rules": [{"targets": ["linear"], **how, **rule}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """config.json of a dense and a sparse model: no weights are needed to configure an engine."""
    register()
    path = tmp_path_factory.mktemp("models")
    return {
        "dense": config_only(path / "dense"),
        "sparse": config_only(path / "sparse", "qwen3_moe", head_dim=32, **EXPERTS),
    }


def configured(model: str, given: Record, **settings: Any) -> Any:
    args = EngineArgs(
        model=model,
        skip_tokenizer_init=True,
        kv_cache_memory_bytes=1 << 24,
        quantization="hetero_noise",
        additional_config={"hetero_noise": given},
        **settings,
    )
    return args.create_engine_config()


def asked(model: str, given: Record, change: Callable[[Any], None]) -> None:
    """The refusals of a configuration of vLLM's that is then changed."""
    made = configured(model, given)
    refusals.refuse(made, select(spec.settle(made), spec.model_sites(made)))
    change(made)
    refusals.refuse(made, select(spec.settle(made), spec.model_sites(made)))


def parallel(**values: Any) -> Callable[[Any], None]:
    def change(made: Any) -> None:
        for name, value in values.items():
            if not hasattr(made.parallel_config, name):
                pytest.skip(f"this vLLM has no {name}")
            setattr(made.parallel_config, name, value)

    return change


MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}


@pytest.mark.parametrize(
    ("row", "settings", "given", "said"),
    [
        ("pipeline parallelism", {"pipeline_parallel_size": 2}, HEAD, "pipeline_parallel_size=2"),
        ("pipeline parallelism", {"pipeline_parallel_size": 2}, AQN, "pipeline_parallel_size=2"),
        (
            "several positions a token",
            {"hf_overrides": {"rope_parameters": MROPE}},
            NORMS,
            "a model with M-RoPE",
        ),
        (
            "a head of another dtype",
            {"hf_overrides": {"head_dtype": "float32"}, "dtype": "bfloat16"},
            HEAD,
            "head_dtype is torch.float32 and the model's torch.bfloat16",
        ),
        ("embeddings as prompts", {"enable_prompt_embeds": True}, NORMS, "enable_prompt_embeds"),
        ("fast prefill", {"kv_sharing_fast_prefill": True}, NORMS, "kv_sharing_fast_prefill"),
        (
            "a drafting model",
            {"speculative_config": {"method": "draft_model", "num_speculative_tokens": 2}},
            HEAD,
            "method='draft_model'",
        ),
        ("two batches at once", {"enable_dbo": True}, NORMS, "dual-batch overlap"),
        (
            "a pooling model's head",
            {"runner": "pooling", "convert": "classify"},
            HEAD,
            "score (kind lm_head)",
        ),
        (
            "attention scores",
            {},
            {"rules": [{"targets": ["attention_scores"], "scale": 0.1}]},
            "rules[0] selects model.layers.0.self_attn.scores",
        ),
        (
            "a matrix unit without the dtype",
            {"dtype": "bfloat16"},
            summed("volta"),
            "'volta', which has no matrix unit for operands of bfloat16, and "
            "model.layers.0.self_attn.q_proj multiplies in bfloat16",
        ),
        (
            "a matrix unit without the dtype",
            {"dtype": "float32"},
            summed("cdna2"),
            "that cdna2 multiplies (bfloat16, float16)",
        ),
    ],
)
def test_what_vllm_accepts_here_is_refused_by_its_configuration(
    models: dict[str, str], row: str, settings: Record, given: Record, said: str
) -> None:
    model = models["dense"]
    if "hf_overrides" in settings and "self.head_dtype = " not in inspect.getsource(
        LogitsProcessor
    ):
        pytest.skip("this vLLM computes every head in the model's dtype")
    if "speculative_config" in settings:
        settings = {"speculative_config": {**settings["speculative_config"], "model": model}}
    with pytest.raises(ConfigError) as caught:
        configured(model, given, **settings)
    why = {one.name: one.why for one in refusals.REFUSALS}[row]
    assert said in str(caught.value) and why in str(caught.value)


def compiler_passes(**values: bool) -> Callable[[Any], None]:
    """For passes that this vLLM may not have any more."""

    def change(made: Any) -> None:
        made.compilation_config.pass_config = SimpleNamespace(**values)

    return change


SEQUENCE_PARALLEL = parallel(
    all2all_backend="deepep_low_latency",
    enable_expert_parallel=True,
    tensor_parallel_size=2,
    data_parallel_size=2,
)
ROUTER: Record = {"rules": [{"targets": ["router"], "scale": 0.1}]}


@pytest.mark.parametrize(
    ("row", "model", "given", "change", "said"),
    [
        ("two batches at once", "dense", NORMS, parallel(ubatch_size=3), "ubatch_size=3"),
        ("two batches at once", "dense", HEAD, parallel(enable_dbo=True), "enable_dbo=True"),
        (
            "prefill context parallelism",
            "dense",
            HEAD,
            parallel(prefill_context_parallel_size=2),
            "prefill_context_parallel_size=2",
        ),
        (
            "sequence-parallel experts",
            "sparse",
            ROUTER,
            SEQUENCE_PARALLEL,
            "and model.layers.0.mlp.gate",
        ),
        (
            "sequence-parallel experts",
            "sparse",
            {"rules": [{"targets": ["*.mlp.experts.down_proj"], "scale": 0.1}]},
            SEQUENCE_PARALLEL,
            "and model.layers.0.mlp.experts.down_proj",
        ),
        (
            "sequence parallelism of the compiler",
            "dense",
            NORMS,
            compiler_passes(enable_sp=True),
            "pass_config.enable_sp",
        ),
        (
            "batch-sharded sampling",
            "dense",
            HEAD,
            parallel(enable_batch_sharded_sampling=True),
            "enable_batch_sharded_sampling",
        ),
    ],
)
def test_what_vllm_runs_elsewhere_is_refused_too(
    models: dict[str, str],
    row: str,
    model: str,
    given: Record,
    change: Callable[[Any], None],
    said: str,
) -> None:
    with pytest.raises(ConfigError) as caught:
        asked(models[model], given, change)
    why = {one.name: one.why for one in refusals.REFUSALS}[row]
    assert said in str(caught.value) and why in str(caught.value)


@pytest.mark.parametrize(
    ("model", "given", "change"),
    [
        # No rows are keyed, or none that the feature moves.
        ("dense", AQN, parallel(enable_dbo=True)),
        ("sparse", NORMS, SEQUENCE_PARALLEL),
        ("dense", DECODER, parallel(enable_batch_sharded_sampling=True)),
        ("dense", DECODER, parallel(decode_context_parallel_size=2, tensor_parallel_size=2)),
    ],
)
def test_what_moves_no_noisy_row_is_let_through(
    models: dict[str, str], model: str, given: Record, change: Callable[[Any], None]
) -> None:
    asked(models[model], given, change)


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (DECODER, {"hf_overrides": {"head_dtype": "float32"}, "dtype": "bfloat16"}),
        (HEAD, {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}),
        (
            {"rules": [{"targets": ["attention_scores"], "scale": 0.1, "phase": "train"}]},
            {"attention_backend": None},
        ),
        (summed("volta"), {"dtype": "float16"}),
        (summed("volta", phase="train"), {"dtype": "bfloat16"}),  # the trainer's dtype is its own
        (summed("ampere"), {"dtype": "float32"}),
    ],
)
def test_what_works_is_configured(models: dict[str, str], given: Record, settings: Record) -> None:
    assert spec.settle(configured(models["dense"], given, **settings)) == NoiseConfig.parse(given)


def test_experts_and_points_without_a_meaning_are_refused_at_configuration(
    models: dict[str, str],
) -> None:
    with pytest.raises(ConfigError, match=r"experts\.gate_up_proj is of experts, which kernels"):
        configured(models["sparse"], summed("hopper"))
    norms = {"rules": [{"targets": ["norm"], "point": "weight", "scale": 0.1}]}
    with pytest.raises(ConfigError, match="which has no matrix"):
        configured(models["dense"], norms)


def test_every_refusal_has_a_test() -> None:
    """A new row of the table needs a case above."""
    cases: Sequence[Any] = [
        *test_what_vllm_accepts_here_is_refused_by_its_configuration.pytestmark,  # type: ignore[attr-defined]
        *test_what_vllm_runs_elsewhere_is_refused_too.pytestmark,  # type: ignore[attr-defined]
    ]
    tried = {case[0] for mark in cases for case in mark.args[1]}
    assert tried == {one.name for one in refusals.REFUSALS}


def test_a_worker_refuses_what_its_engine_was_not_asked(models: dict[str, str]) -> None:
    """A configuration that was settled elsewhere, or by hand: before the model is looked at."""
    made = configured(models["dense"], HEAD)
    made.parallel_config.pipeline_parallel_size = 2

    class Runner:
        def get_model(self) -> Any:
            return SimpleNamespace()

    worker = SimpleNamespace(vllm_config=made, model_runner=Runner(), rank=0, device="cpu")
    with pytest.raises(ConfigError, match="does not support pipeline parallelism"):
        install.install(worker)


# ---- pooling models: names start at the decoder, and the default spec is for them too


def test_an_embedding_model_has_the_decoders_sites_and_no_head(models: dict[str, str]) -> None:
    made = configured(models["dense"], {"preset": "qerl-fp4"}, runner="pooling")
    whole = spec.model_sites(configured(models["dense"], {"preset": "qerl-fp4"}))
    assert spec.model_sites(made) == tuple(site for site in whole if site.name != "lm_head")
    with pytest.raises(ConfigError, match=r"targets: 'lm_head' matches none"):
        configured(
            models["dense"], {"rules": [{"targets": ["lm_head"], "scale": 1}]}, runner="pooling"
        )


@pytest.mark.parametrize("own", [False, True])
def test_a_classifier_has_a_head_of_the_kind_lm_head(
    models: dict[str, str], tmp_path: Path, own: bool
) -> None:
    """A language model's checkpoint that is converted, and a classifier's own."""
    from transformers import Qwen2Config

    model = models["dense"]
    if own:
        config = Qwen2Config.from_pretrained(model)
        config.architectures = ["Qwen2ForSequenceClassification"]
        config.save_pretrained(tmp_path)
        model = str(tmp_path)
    made = configured(model, DECODER, runner="pooling", convert="classify")
    head = spec.model_sites(made)[-1]
    assert (head.name, head.kind, head.features, head.in_features) == ("score", "lm_head", 2, 64)
    chosen = select(spec.settle(made), spec.model_sites(made))
    assert len(chosen) == 14 and head not in [one.site for one in chosen]
