"""Evaluation and attestation through real vLLM: compiled, in processes of its own.

One checkpoint, one plain engine and one noisy engine serve the module; starting one takes most of
the time.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hetero_plugin import attestation
from hetero_plugin.evaluation import engines, results, tasks
from hetero_plugin.evaluation.answers import run as run_of_answers
from hetero_plugin.evaluation.report import page as report
from hetero_plugin.miniature import task as arithmetic
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save

pytestmark = [pytest.mark.engine, pytest.mark.slow]
pytest.importorskip("vllm", reason="vLLM is not installed")

N = 48
SPEC = {"preset": "all-ops", "seed": 5}
LEVELS = [0.0, 0.05, 0.5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random miniature and its questions."""
    path = tmp_path_factory.mktemp("evaluation")
    save(build_model(MiniatureShape(layers=2), 1), build_tokenizer(), path / "model")
    splits = arithmetic.make_splits(digits=3, operands=2, n_train=2, n_dev=2, n_test=N, seed=0)
    arithmetic.write_parquet(arithmetic.to_rows(splits.test, "test"), path / "test.parquet")
    return path


def evaluate(folder: Path, out: str = "eval.json", **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "levels": LEVELS,
        "spec": SPEC,
        "max_tokens": 6,
        "dtype": "float32",
        "out": folder / out,
    }
    return run_of_answers.evaluate(
        folder / "model", folder / "test.parquet", **{**arguments, **changes}
    )


@dataclass
class Run:
    """The command, run to its end."""

    document: dict[str, Any]
    stderr: str
    left: list[str]
    """Processes that it started and that are there afterwards, dead or alive."""


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """``hetero-noise eval``, and what it leaves behind."""
    psutil = pytest.importorskip("psutil")
    own = psutil.Process()
    before = {child.pid for child in own.children(recursive=True)}
    prctl = ctypes.CDLL(None).prctl
    prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans of the command come here
    try:
        done = subprocess.run(
            [
                str(Path(sys.executable).parent / "hetero-noise"),
                *("eval", "--model", str(folder / "model"), "--data", str(folder / "test.parquet")),
                *("--out", str(folder / "eval.json"), "--config", json.dumps(SPEC)),
                *("--levels", ",".join(map(str, LEVELS)), "--dtype", "float32"),
                *("--max-tokens", "6"),
            ],
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        left = [
            f"{child.status()}: {child.name()}"
            for child in own.children(recursive=True)
            if child.pid not in before
        ]
    finally:
        prctl(36, 0, 0, 0, 0)
    assert done.returncode == 0, done.stderr[-6000:]
    return Run(json.loads((folder / "eval.json").read_text()), done.stderr, left)


@pytest.fixture(scope="module")
def document(run: Run) -> dict[str, Any]:
    return run.document


def test_the_command_leaves_no_process_and_no_semaphore(run: Run) -> None:
    assert run.left == []
    assert "resource_tracker" not in run.stderr and "leaked" not in run.stderr


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[str, Any]:
    """What an engine without the plugin says: answers, log-probabilities, and an attestation."""
    from vllm import SamplingParams

    from hetero_plugin.config import NoiseConfig
    from hetero_plugin.vllm.probe import VLLMProbe

    llm = engines.start_plain(
        {
            "model": str(folder / "model"),
            "dtype": "float32",
            "max_model_len": 32,
            "kv_cache_memory_bytes": 1 << 26,
            "max_num_seqs": N,
        }
    )
    try:
        tokenizer = build_tokenizer()
        questions = tasks.load_task(folder / "test.parquet").questions
        prompts: Any = [
            {"prompt_token_ids": tasks.prompt_ids(tokenizer, question)} for question in questions
        ]
        greedy = SamplingParams(temperature=0.0, max_tokens=6, logprobs=0)
        outputs = [answer.outputs[0] for answer in llm.generate(prompts, greedy, use_tqdm=False)]
        logprobs: list[float] = []
        for output in outputs:
            assert output.logprobs is not None
            rows = zip(output.token_ids, output.logprobs, strict=True)
            logprobs += [row[token].logprob for token, row in rows]
        return {
            "texts": [output.text for output in outputs],
            "mean": sum(logprobs) / len(logprobs),
            # The historical mistake: noise set up in the parent, an engine that never had it.
            "record": attestation.attest(VLLMProbe(llm, NoiseConfig.parse(SPEC))),
        }
    finally:
        engines.stop(llm)


def test_every_site_is_seen_in_the_compiled_engine(document: dict[str, Any]) -> None:
    (session,) = document["sessions"]
    record = session["attestation"]
    assert record["engine"] == "vllm-compiled" and record["passed"], record["failures"]
    assert (record["seen"], record["of"]) == (24, 24)
    assert record["by_kind"] == {
        "linear": {"seen": 14, "of": 14},
        "norm": {"seen": 5, "of": 5},
        "activation": {"seen": 2, "of": 2},
        "attention": {"seen": 2, "of": 2},
        "lm_head": {"seen": 1, "of": 1},
    }
    assert record["seconds"] < 120
    assert results.problems(document) == []


def test_level_zero_is_the_engine_without_the_plugin(
    document: dict[str, Any], plain: dict[str, Any]
) -> None:
    clean = results.level_row(document, 0.0)
    assert clean is not None and clean["texts"] == plain["texts"]
    # Answers of a random model may agree by chance; their log-probabilities do not.
    assert clean["mean_token_logprob"] == pytest.approx(plain["mean"], abs=1e-6)
    noisy = results.level_row(document, 0.05)
    assert noisy is not None
    assert abs(noisy["mean_token_logprob"] - plain["mean"]) > 1e-4, "the noise must be seen"


def test_noise_changes_answers_and_is_at_its_level(document: dict[str, Any]) -> None:
    rows = [results.level_row(document, level) for level in LEVELS]
    assert all(row is not None for row in rows)
    assert rows[2]["texts"] != rows[0]["texts"]  # type: ignore[index]
    for level, row in zip(LEVELS, rows, strict=True):
        assert row is not None and results.is_level(row["scales"], level)
        assert len(row["outcomes"]) == len(row["texts"]) == N


def test_the_historical_mistake_is_refused(plain: dict[str, Any]) -> None:
    record = plain["record"]
    assert not record["passed"] and record["seen"] == 0
    with pytest.raises(attestation.Refused, match="REFUSED"):
        attestation.require(record)
    assert "one fingerprint in every process" in " ".join(record["failures"])


def test_realised_error_is_what_was_asked(document: dict[str, Any]) -> None:
    for row in document["realised"]["by_kind"]:
        assert row["asked"] == 0.05
        assert row["rms_relative"] == pytest.approx(0.05, rel=0.1)


def test_an_interrupted_evaluation_goes_on_where_it_was(
    folder: Path, document: dict[str, Any]
) -> None:
    """The last level is lost; the second run answers it alone, in an engine attested anew."""
    path = folder / "resumed.json"
    cut = json.loads(json.dumps(document))
    lost = cut["levels"].pop()
    marked = cut["levels"][0]["texts"][0] = "kept from the first run"
    results.write_json(path, cut)
    again = evaluate(folder, "resumed.json")
    assert again["levels"][0]["texts"][0] == marked
    assert again["levels"][2]["session"] == 1 and len(again["sessions"]) == 2
    # Same seed, same step: the same noise, so the same answers.
    assert again["levels"][2]["texts"] == lost["texts"]
    finished = evaluate(folder, "resumed.json")  # nothing left to do: no engine is started
    assert len(finished["sessions"]) == 2
    with pytest.raises(results.ResultError, match="holds another run"):
        evaluate(folder, "resumed.json", seed=6)


def test_the_report_of_it_is_attested(folder: Path, document: dict[str, Any]) -> None:
    run = folder / "run"
    results.write_json(run / "eval" / "clean.json", document)
    found = json.loads(report.build(run)[0].read_text())
    assert found["status"] == "ATTESTED" and found["n"] == N
    assert found["attestation"]["clean"]["seen"] == 24


def test_the_command_refuses_an_engine_that_is_kept_from_loading_the_plugin(folder: Path) -> None:
    """VLLM_PLUGINS without this plugin: vLLM doesn't know the method, and nothing is written."""
    environment = {**os.environ, "VLLM_PLUGINS": "another_plugin"}
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "hetero-noise"),
            *("eval", "--model", str(folder / "model"), "--data", str(folder / "test.parquet")),
            *("--out", str(folder / "none.json"), "--levels", "0,0.1"),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode != 0 and "hetero_noise" in done.stderr
    written = json.loads((folder / "none.json").read_text())
    assert written["levels"] == []


def shell(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The installed command, run in ``folder`` as a user would."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HETERO_NOISE_CONFIG",)}
    return subprocess.run(
        [str(Path(sys.executable).parent / "hetero-noise"), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )


def test_eval_by_the_command_line_with_its_defaults(folder: Path) -> None:
    """Nothing but a model and questions is given: three levels of qerl-fp4, in eval.json here."""
    here = folder / "defaults"
    here.mkdir()
    done = shell(here, "eval", "--model", "../model", "--data", "../test.parquet")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "eval.json" in done.stdout.splitlines() and "every level attested" in done.stdout
    assert sorted(path.name for path in here.iterdir()) == ["eval.json", "eval.parquet"]
    found = results.load(here / "eval.json")
    assert [row["level"] for row in found["levels"]] == [0.0, 0.05, 0.1]
    assert found["header"]["spec"]["rules"][0]["exclude"] == ["lm_head"]
    (session,) = found["sessions"]
    assert (session["attestation"]["seen"], session["attestation"]["of"]) == (14, 14)
    assert results.problems(found) == []
    clean, *noisy = ([row["mean_token_logprob"], row["texts"]] for row in found["levels"])
    assert all(row != clean for row in noisy) and noisy[0] != noisy[1]
    for row in found["realised"]["by_kind"]:
        assert row["rms_relative"] == pytest.approx(0.05, rel=0.15)


def test_attest_by_the_command_line_with_its_defaults(folder: Path) -> None:
    """vLLM, compiled, qerl-fp4; every site by name on the screen, and the record beside it."""
    done = shell(folder, "attest", "--model", "model", "--out", "record.json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "14 of 14 sites seen (linear 14 of 14)" in done.stdout
    assert "model.layers.1.mlp.down_proj" in done.stdout
    record = json.loads((folder / "record.json").read_text())
    assert record["engine"] == "vllm-compiled" and record["passed"]
    assert attestation.problems(record) == [] and record["signature"] in done.stdout
    again = shell(folder, "attest", "--model", "model", "--out", "record.json")
    assert again.returncode == 2 and "is there already" in again.stderr


def test_doctor_attests_every_engine_of_the_machine(folder: Path) -> None:
    """Hugging Face and vLLM, eager and compiled, and a step of verl with both its engines."""
    done = shell(folder, "doctor", "--attest")
    lines = done.stdout.splitlines()
    wrong = [line for line in lines if line.startswith("!!")]
    assert (done.returncode, wrong) == (0, []), done.stdout + done.stderr[-2000:]
    for engine in ("hf eager", "hf compiled", "vllm eager", "vllm compiled"):
        (line,) = (one for one in lines if f"attested, {engine}:" in one)
        assert "24 of 24 sites seen" in line, line
    if importlib.util.find_spec("verl") is not None:
        (line,) = (one for one in lines if "attested, verl:" in one)
        assert line.startswith("ok") and line.count("sites seen") >= 2, line


@pytest.fixture(scope="module")
def text(folder: Path) -> Path:
    """A text of which two windows are alike, and the last is shorter."""
    path = folder / "text.txt"
    sums = [f"{n}+{2 * n}={3 * n} " for n in range(11, 60)]
    path.write_text("".join(sums[:2] * 6 + sums))
    return path


def near(one: dict[str, Any], two: dict[str, Any], rel: float) -> None:
    """Two values that are equal to within ``rel``, and each in the other's interval."""
    assert one["value"] == pytest.approx(two["value"], rel=rel, abs=1e-9)
    assert one["low"] <= two["value"] <= one["high"] and two["low"] <= one["value"] <= two["high"]


def test_texts_have_the_same_numbers_in_both_engines(folder: Path, text: Path) -> None:
    """Fidelity, sensitivity and dial in one engine of vLLM, against Hugging Face in eager mode."""
    from hetero_plugin.evaluation.checkpoints import check_clean
    from hetero_plugin.evaluation.dial.run import dial_spec, find
    from hetero_plugin.evaluation.dial.search import Want
    from hetero_plugin.evaluation.fidelity.engine import EngineBatch, Texts
    from hetero_plugin.evaluation.fidelity.run import measure, measure_checkpoint
    from hetero_plugin.evaluation.fidelity.session import Asked, Session, opened
    from hetero_plugin.evaluation.fidelity.text import read_windows
    from hetero_plugin.evaluation.sensitivity import run as sensitivity
    from hetero_plugin.evaluation.sensitivity.ranking import Budget
    from hetero_plugin.evaluation.sensitivity.store import Store

    config = dial_spec({"preset": "all-ops", "seed": 5, "scale": 0.05}, 1.0, None)
    model = folder / "model"
    asked = Asked(model, text, config, draws=2, dtype="float32", tokens=300, context=24)
    windows = read_windows(model, text, tokens=300, context=24).windows
    want = Want("kl", 1e-3)
    texts = Texts(
        model, check_clean(model, config), config, dtype="float32", context=24, sampling=0
    )
    try:
        fidelity = measure(texts, windows, [0.02, 0.2], step=3)
        again = measure(texts, windows, [0.2], step=3)
        session = Session(texts.table, EngineBatch(texts, windows), {}, {"attestation": {}})
        dial = find(session, asked, want, 1.0)
        store = Store(folder / "map", {})
        found = sensitivity.measure(session, store, asked, budget=Budget(sites=3))
        wrong = texts.table.sites[0].name
        texts.table.only([wrong])
        alone = session.batch.measure()
    finally:
        texts.close()
    assert texts.record["passed"] and texts.name == "vllm-compiled"

    eager = measure_checkpoint(
        model,
        text,
        levels=[0.02, 0.2],
        spec=config,
        step=3,
        dtype="float32",
        tokens=300,
        context=24,
    )
    assert fidelity["tokens_by_window"] == eager["tokens_by_window"]
    for one, two in zip(fidelity["levels"], eager["levels"], strict=True):
        for name in ("kl_mean", "kl_99", "delta_logp_rms", "perplexity_ratio"):
            near(one["measures"][name], two["measures"][name], 0.02)
        assert one["measures"]["same_top"]["value"] == two["measures"]["same_top"]["value"]
        drawn, others = one["sampled"], two["sampled"]
        assert drawn["agree"]["value"] == pytest.approx(others["agree"]["value"], abs=0.01)
    assert fidelity["floor"]["sampled"]["agree"]["value"] >= 0.99
    assert fidelity["levels"][1]["sampled"]["agree"]["value"] < 0.99
    assert again["levels"][0]["measures"]["kl_mean"]["value"] == pytest.approx(
        fidelity["levels"][1]["measures"]["kl_mean"]["value"], rel=1e-4
    )
    smallest = fidelity["levels"][0]["measures"]["kl_mean"]["value"]
    assert fidelity["floor"]["measures"]["kl_mean"]["value"] < 1e-3 * smallest

    with opened(asked) as other:
        by_hand = find(other, asked, want, 1.0)
        same = sensitivity.measure(
            other, Store(folder / "eager", {}), asked, budget=Budget(sites=3)
        )
    assert dial["scale"]["value"] == pytest.approx(by_hand["scale"]["value"], rel=0.02)
    rows, others = ({row["name"]: row for row in one["sites"]} for one in (found, same))
    assert set(rows) == set(others) and len(rows) == 24
    for name, row in rows.items():
        near(row["kl"], others[name]["kl"], 0.05)
    assert found["suggestion"]["keep_clean"] == same["suggestion"]["keep_clean"]
    total = alone["kl"].sum() / session.batch.tokens.sum()
    assert total == pytest.approx(rows[wrong]["kl"]["value"], rel=0.5), "one draw of two"


def test_one_engine_serves_presets_draws_and_the_control(folder: Path) -> None:
    """Against Hugging Face, answer by answer: the same clean answers, and the same noise."""
    from hetero_plugin.evaluation.answers.settings import Settings

    specs = {"linear": {"preset": "linear", "seed": 5}, "mlp": {"preset": "mlp", "seed": 5}}
    made = {}
    for backend in ("vllm", "hf"):
        outs = {name: folder / f"{backend}-{name}.json" for name in specs}
        settings = Settings(
            levels=[0.0, 0.5], draws=2, max_tokens=6, dtype="float32", control=True,
            realised=False, backend=backend,
        )  # fmt: skip
        made[backend] = run_of_answers.evaluate_specs(
            folder / "model", folder / "test.parquet", specs, outs, settings
        )
    for name in specs:
        one, two = made["vllm"][name], made["hf"][name]
        assert results.problems(one) == [] == results.problems(two)
        assert len(one["sessions"]) == 1, "one engine for all"
        assert one["control"]["texts"] == one["levels"][0]["texts"]
        rows = [results.pass_row(document, 0.5, draw) for document in (one, two) for draw in (0, 1)]
        texts = [row["texts"] for row in rows if row is not None]
        assert texts[0] != texts[1], "two draws"
        for ours, theirs in ((one["levels"][0]["texts"], two["levels"][0]["texts"]),
                             (texts[0], texts[2]), (texts[1], texts[3])):  # fmt: skip
            # vLLM holds back the bytes of a character that an answer cut off leaves unfinished.
            pairs = [
                [text.rstrip("\ufffd") for text in pair] for pair in zip(ours, theirs, strict=True)
            ]
            same = sum(a == b for a, b in pairs)
            assert same >= 0.9 * N, f"{name}: {same} of {N} answers are alike"
    assert made["vllm"]["linear"]["levels"][1]["texts"] != made["vllm"]["mlp"]["levels"][1]["texts"]
    assert made["vllm"]["linear"]["levels"][0]["texts"] == made["vllm"]["mlp"]["levels"][0]["texts"]
