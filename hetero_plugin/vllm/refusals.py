"""What a noisy engine can't be, in one table: each way with what it is and why.

Asked where the engine is configured, before any process starts or any weight loads, and again in
each worker, whose configuration may have come another way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from hetero_plugin.config import ConfigError
from hetero_plugin.sites import Selected
from hetero_plugin.state.operands import units_missing
from hetero_plugin.vllm import connectors

if TYPE_CHECKING:
    from vllm.config import VllmConfig

__all__ = ["DRAFTLESS", "REFUSALS", "Refusal", "refuse"]

DRAFTLESS = ("ngram", "ngram_gpu", "suffix")
"""Ways to draft tokens without a model."""


Found: TypeAlias = "Callable[[VllmConfig, Sequence[Selected]], str]"


@dataclass(frozen=True)
class Refusal:
    """One thing that a noisy engine can't be.

    Args:
        name: of the thing, for the tests.
        found: what was given, in words; empty where it was not. It is asked with the engine's
            configuration and the sites of the spec that act in a rollout.
        why: what would be wrong, and what to do instead.
    """

    name: str
    found: Found
    why: str


def _size(name: str) -> Found:
    def found(made: VllmConfig, chosen: Sequence[Selected]) -> str:
        value = getattr(made.parallel_config, name, 1)
        return f"{name}={value}" if value > 1 and chosen else ""

    return found


def _pipeline(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    value = made.parallel_config.pipeline_parallel_size
    return f"pipeline_parallel_size={value}" if value > 1 else ""


def _microbatches(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    parallel = made.parallel_config
    if not chosen:
        return ""
    if getattr(parallel, "enable_dbo", False):
        return "enable_dbo=True (dual-batch overlap)"
    size = getattr(parallel, "ubatch_size", 0)
    if size > 1 or getattr(parallel, "use_ubatching", False):
        return f"ubatch_size={size}"
    return ""


def _in_sparse_block(one: Selected) -> bool:
    return (
        one.site.kind == "router" or ".experts." in one.site.name or "shared_exp" in one.site.name
    )


def _sequence_parallel(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    inside = [one.site.name for one in chosen if _in_sparse_block(one)]
    parallel = made.parallel_config
    if not (inside and getattr(parallel, "use_sequence_parallel_moe", False)):
        return ""
    return (
        f"sequence-parallel experts (all2all_backend={parallel.all2all_backend!r} with expert, "
        f"tensor and data parallelism) and {inside[0]}"
    )


def _split_norms(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    passes = getattr(made.compilation_config, "pass_config", None)
    for name in ("enable_sp", "enable_sequence_parallelism"):  # gone from newer versions
        if chosen and getattr(passes, name, False):
            return f"compilation_config.pass_config.{name}=True"
    return ""


def _positions(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    model = made.model_config
    for name, word in (("uses_mrope", "M-RoPE"), ("uses_xdrope_dim", "XD-RoPE")):
        if chosen and getattr(model, name, False):
            return f"a model with {word}"
    return ""


def _embeddings(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    given = chosen and getattr(made.model_config, "enable_prompt_embeds", False)
    return "enable_prompt_embeds=True" if given else ""


def _fast_prefill(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    given = chosen and getattr(made.cache_config, "kv_sharing_fast_prefill", False)
    return "kv_sharing_fast_prefill=True" if given else ""


def _drafts(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    given = made.speculative_config
    if given is None or given.method in DRAFTLESS:
        return ""
    return f"speculative_config with method={given.method!r}"


def _heads(chosen: Sequence[Selected]) -> list[str]:
    return [one.site.name for one in chosen if one.site.kind == "lm_head"]


def _head_dtype(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    model = made.model_config
    if not _heads(chosen) or model.runner_type == "pooling":  # its heads are refused altogether
        return ""
    head = getattr(model, "head_dtype", None)
    return (
        "" if head in (None, model.dtype) else f"head_dtype is {head} and the model's {model.dtype}"
    )


def _sharded_sampling(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    given = _heads(chosen) and getattr(made.parallel_config, "enable_batch_sharded_sampling", False)
    return "enable_batch_sharded_sampling=True" if given else ""


def _pooled_head(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    heads = _heads(chosen)
    if made.model_config.runner_type != "pooling" or not heads:
        return ""
    return f"{heads[0]} (kind lm_head) of a pooling model is selected"


def _units(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    dtype = str(made.model_config.dtype).removeprefix("torch.")
    for _, words in units_missing([(one, dtype) for one in chosen], besides="train"):
        return words
    return ""


def _scores(made: VllmConfig, chosen: Sequence[Selected]) -> str:
    for one in chosen:
        if one.site.kind == "attention_scores":
            return f"rules[{one.rules[0][0]}] selects {one.site.name} (kind attention_scores)"
    return ""


REFUSALS = (
    Refusal(
        "pipeline parallelism",
        _pipeline,
        "hetero_noise does not support pipeline parallelism in vLLM yet: the last stage does not "
        "see the token ids that its rows are known by. Use tensor_parallel_size",
    ),
    Refusal(
        "two batches at once",
        _microbatches,
        "several microbatches of a pass would share one buffer of row keys, and one's rows have "
        "the other's error. Leave it out",
    ),
    Refusal(
        "prefill context parallelism",
        _size("prefill_context_parallel_size"),
        "a prompt's rows are spread over ranks and gathered again for the head, and which rows "
        "those are is not known. Leave it out",
    ),
    Refusal(
        "sequence-parallel experts",
        _sequence_parallel,
        "each rank's router and experts get a part of the rows, and would take the keys of the "
        "first. Exclude the kind router and '*.mlp.*expert*', or choose another all2all_backend",
    ),
    Refusal(
        "sequence parallelism of the compiler",
        _split_norms,
        "it spreads a pass's rows over ranks between two sums, and was not written for error in "
        "between. Leave it out",
    ),
    Refusal(
        "several positions a token",
        _positions,
        "a row is known by one position and its token, and here a token has several positions",
    ),
    Refusal(
        "embeddings as prompts",
        _embeddings,
        "rows without a token id can't be known, so they can't be given their error. Leave it out",
    ),
    Refusal(
        "fast prefill",
        _fast_prefill,
        "later layers get some of the pass's rows only, and would take the keys of the first. "
        "Leave it out",
    ),
    Refusal(
        "a drafting model",
        _drafts,
        "a drafter's layers are no sites, and where it shares the model's head it asks it for rows "
        f"that are not known. Methods without a model work: {', '.join(DRAFTLESS)}",
    ),
    Refusal(
        "a head of another dtype",
        _head_dtype,
        "vLLM computes such a head without its layer, so lm_head would be clean; exclude lm_head, "
        "or take head_dtype out of hf_overrides",
    ),
    Refusal(
        "batch-sharded sampling",
        _sharded_sampling,
        "each rank's head gets a part of the rows, and which is not known; exclude lm_head, or "
        "leave it out",
    ),
    Refusal(
        "a pooling model's head",
        _pooled_head,
        "it is given pooled rows, which are no token's, and would be clean; exclude lm_head: the "
        "decoder below it is noisy then",
    ),
    Refusal(
        "attention scores",
        _scores,
        "vLLM's attention kernels never hold scores in memory: they can have error in Hugging "
        "Face's eager attention alone. Target the kind attention, whose error is on softmax·V, or "
        "give the rule phase: train",
    ),
    Refusal(
        "a matrix unit without the dtype",
        _units,
        "vLLM's option is dtype; FP8 operands (operands: e4m3) are made of any",
    ),
)
"""In the order in which they are asked."""


def acting(chosen: Sequence[Selected]) -> tuple[Selected, ...]:
    """The sites, and their rules, that could act in an engine: none of the backward pass alone.

    Rules of training stay, as an engine can be told that phase; but those on attention scores are
    for Hugging Face alone.
    """
    found = []
    for one in chosen:
        scores = one.site.kind == "attention_scores"
        rules = tuple(
            (index, rule)
            for index, rule in one.rules
            if rule.direction != "backward" and not (scores and rule.phase == "train")
        )
        if rules:
            found.append(Selected(one.site, rules))
    return tuple(found)


def refuse(vllm_config: VllmConfig, chosen: Sequence[Selected]) -> None:
    """Refuses an engine whose noise would be lost, or another than its address promises.

    Args:
        vllm_config: a noisy engine's.
        chosen: the sites that its spec selects; empty for AQN alone.

    Raises:
        ConfigError: says what was given, what would be wrong and what to do.
    """
    active = acting(chosen)
    for refusal in REFUSALS:
        what = refusal.found(vllm_config, active)
        if what:
            raise ConfigError(f"hetero_noise: {what}: {refusal.why}")
    connectors.refuse_configured(vllm_config)


def refuse_asked(arguments: object, rules: Sequence[object]) -> None:
    """Refuses what was asked for and vLLM has switched off here, as it would be on elsewhere.

    vLLM's CPU platform turns dual-batch overlap off; the same command is wrong on a GPU.

    Args:
        arguments: vLLM's EngineArgs.
        rules: of the spec.

    Raises:
        ConfigError: as `refuse`.
    """
    if rules and getattr(arguments, "enable_dbo", False):
        (row,) = (one for one in REFUSALS if one.found is _microbatches)
        raise ConfigError(f"hetero_noise: enable_dbo=True (dual-batch overlap): {row.why}")
