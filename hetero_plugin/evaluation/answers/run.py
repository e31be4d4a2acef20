"""Evaluates a checkpoint at several noise levels in one attested engine.

The engine is started once, with the sites of every specification; levels, draws and specifications
are set in its scale table at run time, which compiles nothing. It is attested before the first
answer, and after each change its workers are asked for the scales in force: a level that is not
there is an error, not a result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from hetero_plugin import attestation
from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.evaluation import checkpoints, files, results, stats
from hetero_plugin.evaluation.answers import items
from hetero_plugin.evaluation.answers.answerer import (
    Answerer,
    EngineAnswerer,
    HFAnswerer,
    require_level,
)
from hetero_plugin.evaluation.answers.settings import Case, Pass, Settings, cases_of
from hetero_plugin.evaluation.needs import check_packages
from hetero_plugin.evaluation.scoring.judge import Judge, judge_of
from hetero_plugin.evaluation.scoring.sources import answer_tokens
from hetero_plugin.evaluation.tasks import Task, load_task, prompt_ids

Progress = Callable[[str, int, int], None]  # what, done, of
Document = dict[str, Any]


def evaluate(
    model_path: str | Path,
    data_file: str | Path,
    *,
    spec: Any = None,
    out: str | Path,
    progress: Progress | None = None,
    **settings: Any,
) -> Document:
    """Answers a question file at each noise level; writes and returns the results.

    Args:
        model_path: folder of a clean Hugging Face checkpoint.
        data_file: GSM8K JSONL or parquet, or a generated task (``tasks.load_task``).
        spec: which sites and what error (anything NoiseConfig.parse takes; None: ``qerl-fp4``).
            Its scales are replaced by the levels, and AQN, which is part of training, is dropped.
        out: results file; an interrupted evaluation goes on at the first unfinished pass. The
            answers one by one lie beside it, as parquet.
        progress: called with what is being done, and how far.
        settings: fields of ``answers.settings.Settings``:

            * levels: noise scales; every rule of the spec is set to each in turn. 0 is clean.
            * n: only the first so many questions.
            * seed: of the noise; None: the spec's.
            * step: noise step, which names the draw under ``resample: step``.
            * draws: of the error at each level, at as many steps from ``step`` on.
            * samples, temperature: answers to each question; at temperature 0, greedy, one.
            * max_tokens: of an answer; None: what is known of the data source (1,024 for GSM8K).
            * reward: ``FILE.py:function``, which judges in place of the data source's own rule;
              called as verl calls a custom reward function.
            * chance: the accuracy of guessing, near which no verdict is given.
            * dtype: the engine's.
            * margin: of the equivalence test, written down before the first answer.
            * allow_unattested: keep going without a passing attestation (reports mark it).
            * realised: also measure what error the sites receive, in Hugging Face.
            * control: answer clean once more, in another order and smaller batches.
            * backend: ``vllm``, or ``hf`` for Hugging Face in eager mode.
            * engine: further arguments of ``vllm.LLM``.

    Raises:
        Refused: the engine's noise could not be attested.
        ConfigError: bad spec, levels or settings, or a checkpoint that is not there.
        DataError: a question file that can't be used.
        ResultError: ``out`` holds another run, or another process is writing it.
        FileError: ``out`` can't be written.
        ImportError: a package that the evaluation will need is missing.
    """
    found = evaluate_specs(
        model_path, data_file, {"spec": spec}, {"spec": Path(out)},
        Settings(**settings), progress,
    )  # fmt: skip
    return found["spec"]


def evaluate_specs(
    model_path: str | Path,
    data_file: str | Path,
    specs: Mapping[str, Any],
    outs: Mapping[str, Path],
    settings: Settings,
    progress: Progress | None = None,
) -> dict[str, Document]:
    """`evaluate` of several specifications in one engine: a results file each.

    Args:
        model_path, data_file, progress: as for `evaluate`.
        specs: name -> specification.
        outs: name -> results file.
        settings: the same for all.

    Returns:
        Name -> results.

    Raises:
        As `evaluate`; ConfigError also where two specifications can't be in one engine.
    """
    check_packages(settings.backend)
    model = Path(model_path)
    task = load_task(data_file, limit=settings.n)
    config, cases = cases_of(specs, outs, settings)
    hf_config = checkpoints.check_clean(model, config)
    for case in cases:
        files.check_target(case.out)
    budget = answer_tokens(task.data_source, settings.max_tokens)
    judge = judge_of(task.questions, settings.reward)
    headers = _headers(model, data_file, task, config, cases, settings, budget, judge)
    with ExitStack() as locks:
        for case in cases:
            locks.enter_context(files.locked(case.out, error=results.ResultError))
        documents = {case.name: results.resume(case.out, headers[case.name]) for case in cases}
        run = _Run(task, config, cases, documents, settings, judge, progress)
        if run.todo():
            run.check_length(checkpoints.tokenizer(model), model, hf_config, budget)
            for case in cases:  # the margin is on disk before the first answer
                results.write_json(case.out, documents[case.name])
            run.tell("starting the engine", 0, 1)
            answerer = run.start(model, hf_config, budget)
            try:
                run.attest(answerer)
                run.answer(answerer)
            finally:
                answerer.close()
        run.realised(model)
        for case in cases:
            results.write_json(case.out, documents[case.name])
            items.write(case.out, documents[case.name], task)
        return documents


def _headers(
    model: Path,
    data_file: str | Path,
    task: Task,
    config: NoiseConfig,
    cases: Sequence[Case],
    settings: Settings,
    budget: int,
    judge: Judge,
) -> dict[str, Document]:
    common = {
        "model": str(model),
        "model_sha256": checkpoints.weights_digest(model),
        "task": str(data_file),
        "task_sha256": task.sha256,
        "data_source": task.data_source,
        "total": task.total,
        "n": len(task),
        "fingerprint": config.fingerprint,
        "seed": config.seed,
        "step": settings.step,
        "max_tokens": budget,
        "scorer": judge.scorer,
        "chance": settings.chance,
        "dtype": settings.dtype,
        "decoding": settings.decoding,
        "margin": settings.margin,
        "engine": dict(settings.engine),
        **settings.of_header(),
    }
    headers = {}
    for case in cases:
        own: Document = {**common, "spec": json.loads(case.config.canonical)}
        if len(cases) > 1:  # what was attested is the engine's specification, with these rules
            own |= {"engine_spec": json.loads(config.canonical), "rules": list(case.rules)}
        headers[case.name] = own
    return headers


class _Run:
    """The passes of one checkpoint that are not finished yet."""

    def __init__(
        self,
        task: Task,
        config: NoiseConfig,
        cases: Sequence[Case],
        documents: Mapping[str, Document],
        settings: Settings,
        judge: Judge,
        progress: Progress | None,
    ) -> None:
        self.task, self.config, self.cases, self.documents = task, config, cases, documents
        self.settings, self.judge, self.progress = settings, judge, progress
        self.prompts: list[list[int]] = []
        self._tokenizer: Any = None
        self._longest = 0

    def tell(self, what: str, done: int, of: int) -> None:
        if self.progress is not None:
            self.progress(what, done, of)

    def todo(self) -> list[tuple[Case, Pass | None]]:
        """What is not finished, in order; None: the control."""
        found: list[tuple[Case, Pass | None]] = []
        for case in self.cases:
            document = self.documents[case.name]
            found += [
                (case, one)
                for one in self.settings.passes()
                if results.pass_row(document, one.level, one.draw, one.sample) is None
            ]
            if self.settings.control and 0.0 in self.settings.levels and "control" not in document:
                found.append((case, None))
        # The clean passes first: they are the same for all.
        return sorted(found, key=lambda one: one[1] is not None and one[1].level > 0)

    def check_length(
        self, tokenizer: Any, model: Path, hf_config: Mapping[str, Any], budget: int
    ) -> None:
        """Reads the prompts.

        Raises:
            ConfigError: the longest leaves no room for an answer.
        """
        self._tokenizer = tokenizer
        self.prompts = [prompt_ids(tokenizer, question) for question in self.task.questions]
        longest = max(len(prompt) for prompt in self.prompts)
        limit = int(hf_config.get("max_position_embeddings") or longest + budget)
        if longest + 1 > limit:
            raise ConfigError(
                f"{self.task.path}: the longest prompt has {longest} tokens, and {model} takes "
                f"{limit} with the answer"
            )
        self._longest = min(limit, longest + budget)

    def start(self, model: Path, hf_config: Mapping[str, Any], budget: int) -> Answerer:
        """Starts the engine."""
        if self.settings.backend == "hf":
            return HFAnswerer(self.config, model, self._tokenizer, self.settings, max_tokens=budget)
        return EngineAnswerer(
            self.config, model, hf_config, self.settings,
            longest=self._longest, max_tokens=budget, n=len(self.task),
        )  # fmt: skip

    def attest(self, answerer: Answerer) -> None:
        """Attests the engine, and writes down that it did.

        Raises:
            Refused: it failed.
        """
        record = attestation.attest(
            answerer.probe(), progress=lambda done, of: self.tell("attesting", done, of)
        )
        session = {"attestation": record, "versions": attestation.versions()}
        for case in self.cases:
            self.documents[case.name]["sessions"].append(session)
            results.write_json(case.out, self.documents[case.name])
        if not self.settings.allow_unattested:
            attestation.require(record, self.config.fingerprint)

    def answer(self, answerer: Answerer) -> None:
        """Answers what is left; each pass is on the disk before the next."""
        clean: dict[tuple[int, bool], Document] = {}
        for case, one in self.todo():
            document = self.documents[case.name]
            what = Pass(0.0) if one is None else one
            key = (what.sample, one is None)
            row = clean.get(key) if what.level == 0 else None
            if row is None:
                row = self._pass(answerer, case, what, control=one is None)
                if what.level == 0:
                    clean[key] = row
            row = {**row, "session": len(document["sessions"]) - 1}
            if one is None:
                document["control"] = row
            elif one.first:
                document["levels"].append({"level": one.level, **row})
                document["levels"].sort(key=lambda found: found["level"])
            else:
                document.setdefault("draws", []).append(
                    {"level": one.level, "draw": one.draw, "sample": one.sample, **row}
                )
            results.write_json(case.out, document)

    def _pass(self, answerer: Answerer, case: Case, one: Pass, *, control: bool) -> Document:
        what = "answering clean again" if control else self._name(case, one)
        answerer.set(one.level, case.rules, one.draw)
        require_level(answerer.scales(), case, one.level)
        started = time.perf_counter()
        found = answerer.answer(
            self.prompts,
            one.sample,
            lambda done: self.tell(what, done, len(self.prompts)),
            control=control,
        )
        scales = require_level(answerer.scales(), case, one.level)
        seconds = round(time.perf_counter() - started, 3)
        self.tell(f"judging at {100 * one.level:g} %", 0, 1)
        judged = self.judge.judge(self.task.questions, found.texts)
        return {
            "accuracy": stats.accuracy(judged.right).to_dict(),
            "outcomes": judged.right,
            "scored_by": judged.by,
            "also": {
                rule: {"accuracy": stats.accuracy(right).to_dict(), "outcomes": right}
                for rule, right in judged.also.items()
            },
            "texts": found.texts,
            "tokens": found.tokens,
            "truncated": found.cut,
            "truncated_share": sum(found.cut) / len(found.cut),
            "mean_tokens": sum(found.tokens) / len(found.tokens),
            "mean_token_logprob": float(np.mean(found.logprobs)) if found.logprobs else None,
            "scales": scales,
            "seconds": seconds,
        }

    def _name(self, case: Case, one: Pass) -> str:
        name = f"answering at {100 * one.level:g} %"
        if len(self.cases) > 1 and one.level:
            name = f"{case.name}: {name}"
        for word, number, of in (
            ("draw", one.draw, self.settings.draws if one.level else 1),
            ("sample", one.sample, self.settings.samples),
        ):
            name += f", {word} {number + 1} of {of}" if of > 1 else ""
        return name

    def realised(self, model: Path) -> None:
        """Measures realised error at the lowest level, unless that was done."""
        noisy = [level for level in self.settings.levels if level > 0]
        if not self.settings.realised or not noisy:
            return
        from hetero_plugin.evaluation.realised import measure_checkpoint

        for case in self.cases:
            document = self.documents[case.name]
            if document.get("realised") is None:
                document["realised"] = measure_checkpoint(
                    model, case.config, self.task, scale=min(noisy), step=self.settings.step,
                    progress=lambda done, of: self.tell("measuring realised error", done, of),
                )  # fmt: skip
