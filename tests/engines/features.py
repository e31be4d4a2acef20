"""The feature matrix: vLLM's features, how each is turned on, and the tests that hold it.

The one source of the table in docs/vllm.md (`python -m tests.engines.features` writes it anew), and
of tests/vllm/test_vllm_feature_table.py, which sees that each test named here is there, and that no
test of test_vllm_features.py or test_vllm_async.py is without a feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "vllm.md"
START, END = "<!-- feature matrix: written by tests/engines/features.py -->", "<!-- end -->"


@dataclass(frozen=True)
class Feature:
    """A feature of vLLM on a noisy engine."""

    name: str
    how: str
    """What turns it on."""
    check: str
    """How its noise is seen to be right."""
    tests: tuple[str, ...]
    """file::function, in tests/engines or, for what needs no engine, tests/vllm."""
    limit: str = ""
    """What could not be run here, and why."""


HF = "each token's log-probability is Hugging Face's"
F, A, N, P = (
    "test_vllm_features.py::",
    "test_vllm_async.py::",
    "test_vllm_noise.py::",
    "test_vllm_parallel.py::",
)
FEATURES = (
    Feature(
        "torch.compile",
        "default",
        "scale 0 is vLLM without the plugin, bit for bit; the worker's counters say compiled",
        (
            f"{N}test_scale_zero_is_vllm_without_the_plugin_bit_for_bit",
            f"{N}test_the_worker_says_once_what_it_does",
        ),
        "CUDA graphs: not here, but by `make gpu` on an H200",
    ),
    Feature(
        "compile cache",
        "default",
        "a second start compiles no kernel and answers bit for bit; another spec has a graph and "
        "kernels of its own, and its own noise",
        (f"{F}test_z_a_second_start_is_served_from_the_cache_and_another_spec_is_not",),
        "vLLM's CPU build saves its traced graph and can't load it, noisy or not (\"no attribute "
        "'finalize_loading'\"): it is traced anew, and the kernels come from the cache",
    ),
    Feature(
        "chunked prefill",
        "`max_num_batched_tokens` below the prompts' length",
        HF,
        (
            f"{F}test_prompts_in_pieces_beside_answers",
            f"{P}test_the_error_of_a_site_does_not_depend_on_sharding_or_chunks",
        ),
        'with a `seed` for each request, vLLM fails on CPU, noisy or not ("CPU Generator does not '
        'use offset")',
    ),
    Feature(
        "prefix caching",
        "default",
        f"{HF} after a prefix from the cache; a change of the noise empties it",
        (
            f"{F}test_a_prefix_from_the_cache",
            f"{N}test_changing_anything_empties_the_prefix_cache",
        ),
    ),
    Feature("`n>1`", "`SamplingParams(n=4)`", HF, (f"{F}test_n_samples_of_a_prompt",)),
    Feature(
        "beam search",
        "`LLM.beam_search`",
        f"{HF}, and beams' sums are those of their tokens",
        (f"{F}test_beams",),
    ),
    Feature(
        "prompt log-probs",
        "`prompt_logprobs=5`",
        "the five likeliest words at each place are Hugging Face's, with their log-probabilities",
        (f"{F}test_the_likeliest_tokens_of_a_prompt",),
    ),
    Feature(
        "guided decoding",
        "`StructuredOutputsParams(regex=…)`",
        "only allowed words; their log-probabilities are Hugging Face's over the allowed ones",
        (f"{F}test_a_grammar_leaves_the_noise_of_what_it_allows",),
    ),
    Feature(
        "speculative decoding",
        "`speculative_config`, n-gram, 3 tokens",
        f"{HF}, greedy and sampled, with drafts accepted and refused, and with prompt log-probs",
        (f"{A}test_a_drafted_token_has_its_own_error", f"{A}test_prompts_and_drafts_together"),
        "draft models: their layers are no sites; refused at configuration",
    ),
    Feature(
        "sleep, wake-up",
        "`LLM.sleep`, `wake_up`",
        f"{HF} after waking; a scale set while asleep is in force",
        (
            f"{F}test_asleep_and_awake",
            "test_vllm_self_attest.py::test_sleep_mode_is_refused_on_cpu_by_vllm_itself",
        ),
        "levels 1 and 2: vLLM's CPU worker ignores them, and `enable_sleep_mode` is refused "
        '("Sleep mode is not supported on current platform")',
    ),
    Feature(
        "weight sync",
        "`load_weights` on the live model, 50 times, processed each time",
        "weights and log-probabilities bit for bit, status the same, memory not grown",
        (
            f"{F}test_fifty_weight_syncs_leave_weights_noise_and_memory_as_they_were",
            f"{N}test_weights_can_be_loaded_again_and_noise_stays",
        ),
    ),
    Feature(
        "async engine",
        "`AsyncLLM`",
        f"{HF}; scales change under load, no request fails, nothing is compiled",
        (
            f"{A}test_scales_change_under_load_and_nothing_is_compiled",
            f"{A}test_a_drafted_token_has_its_own_error",
            f"{A}test_z_a_call_ends_when_the_engine_dies",
        ),
    ),
    Feature(
        "`VLLM_ENABLE_V1_MULTIPROCESSING=0`",
        "environment",
        HF,
        (f"{F}test_prompts_in_pieces_beside_answers",),
    ),
    Feature(
        "`VLLM_ENABLE_V1_MULTIPROCESSING=1`",
        "default",
        HF,
        (
            f"{P}test_the_error_of_a_site_does_not_depend_on_sharding_or_chunks",
            f"{A}test_a_drafted_token_has_its_own_error",
        ),
    ),
    Feature(
        "spawn",
        "what vLLM's CPU platform sets",
        HF,
        (
            f"{P}test_the_error_of_a_site_does_not_depend_on_sharding_or_chunks",
            "test_vllm_self_attest.py::test_vllm_spawns_its_processes_on_cpu",
        ),
    ),
    Feature(
        "fork",
        "`VLLM_WORKER_MULTIPROC_METHOD=fork`",
        HF,
        (f"{A}test_the_engine_is_a_forked_process", f"{A}test_a_drafted_token_has_its_own_error"),
        "vLLM's CPU platform sets spawn whatever the variable says: the test sets fork after that",
    ),
    Feature(
        "tensor parallel",
        "`tensor_parallel_size=2`",
        f"{HF}, scope by scope; ranks that disagree are an error that names them",
        (
            f"{P}test_the_error_of_a_site_does_not_depend_on_sharding_or_chunks",
            f"{P}test_one_prompt_alone_has_the_noise_of_the_crowd",
            "test_vllm_client.py::test_a_rank_that_differs_is_named_with_what_differs",
        ),
    ),
    Feature(
        "`vllm serve`",
        "completions, chat, streaming, 500 requests at once",
        f"{HF}; each response is under one setting",
        (
            "test_vllm_serve.py::test_completions_are_noisy_as_hugging_face_is_and_clean_at_zero",
            "test_vllm_serve.py::test_the_openai_client_completes_chats_and_streams",
            "test_vllm_serve.py::test_no_response_mixes_two_settings",
        ),
    ),
    Feature(
        "LoRA adapters",
        "`enable_lora=True`, a `LoRARequest`",
        f"{HF} (PEFT's for the adapter), with the adapter and without; both paths are attested",
        (
            "test_vllm_lora.py::test_base_and_adapter_have_the_error_of_the_base_layers",
            "test_vllm_lora.py::test_both_paths_are_attested",
        ),
        "compiled: vLLM's CPU platform compiles nothing where LoRA is on. Adapters under tensor "
        "parallelism are an error where the sum leaves the layer",
    ),
    Feature(
        "a quantisation underneath",
        "a checkpoint with a `quantization_config`: int8 weights and activations, float16",
        "its method runs, scale 0 is vLLM without the plugin bit for bit, every site is attested",
        (
            "test_vllm_quantised.py::test_the_checkpoints_method_runs_with_error_on_top",
            "test_vllm_quantised.py::test_every_site_of_a_quantised_model_is_attested",
        ),
        "FP8 and FP4 kernels: on no GPU yet",
    ),
    Feature(
        "embeddings, classes",
        "`runner='pooling'`",
        "embeddings and classes are Hugging Face's under the same spec; every site is attested",
        (
            "test_vllm_pooling.py::test_embeddings_have_the_decoders_noise",
            "test_vllm_pooling.py::test_an_embedding_engine_is_attested",
            "test_vllm_pooling.py::test_z_classes_come_from_a_noisy_decoder_and_a_clean_head",
        ),
        "the head of a classifier stays clean, and says so",
    ),
    Feature(
        "KV connectors",
        "`kv_transfer_config`, vLLM's example with a reset",
        "a change of noise or weights empties it; one that can't be emptied is refused",
        (
            "test_vllm_kv.py::test_another_noise_is_not_served_from_the_connector",
            "test_vllm_kv.py::test_a_connector_that_does_not_let_go_stops_the_change",
        ),
        "offloading, Mooncake: on no GPU yet",
    ),
    Feature(
        "preemption",
        "too few cache blocks",
        "the log-probabilities of a run without it",
        ("test_vllm_resample.py::test_a_preempted_request_gets_the_noise_it_would_have_had",),
    ),
    Feature(
        "float32, bfloat16",
        "`dtype`",
        f"{HF}, within half as much again as the clean engines differ by",
        (f"{N}test_the_error_is_the_same_number_as_in_hugging_face",),
    ),
)


def table() -> str:
    """The matrix as Markdown."""
    lines = [
        "| feature | turned on by | how the noise is checked | not run here |",
        "|---|---|---|---|",
    ]
    lines += [f"| {f.name} | {f.how} | {f.check} | {f.limit or '—'} |" for f in FEATURES]
    return "\n".join(lines)


def page(text: str) -> str:
    """The documentation's page with the table as it is now."""
    if START not in text or END not in text:
        raise ValueError(f"{DOCS.name} has no place for the matrix: {START} ... {END}")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    DOCS.write_text(page(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
