"""The commands of evaluation: exit status, words, and nothing written over."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from toy import NAMES, simulate_result, simulate_run

from hetero_plugin.cli import _run
from hetero_plugin.cli.screen import Bars, print_levels
from hetero_plugin.evaluation import engines
from hetero_plugin.evaluation.answers.run import evaluate
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save
from tests import forked

Doctor = Callable[..., tuple[int, list[str]]]


def call(name: str, *args: object) -> int:
    """Runs a sub-command in this process; its exit status."""
    with pytest.raises(SystemExit) as left:
        _run(name, [str(arg) for arg in args])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    save(build_model(MiniatureShape(layers=1), 0), build_tokenizer(), path)
    return path


def test_report_names_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = simulate_run(tmp_path / "run", steps=4)
    assert call("report", run) == 0
    assert capsys.readouterr().out.split() == [str(run / "report.json"), str(run / "report.html")]


def test_report_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = simulate_run(tmp_path / "run", steps=4, dead=[NAMES[0]])
    assert call("report", run) == 1
    said = capsys.readouterr().err
    assert said.startswith("REFUSED: noise: session 0: ") and NAMES[0] in said
    assert call("report", run, "--allow-unattested") == 0
    assert call("report", tmp_path / "nowhere") == 2
    assert "no such run folder" in capsys.readouterr().err


def test_report_takes_what_eval_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = simulate_run(tmp_path / "run", steps=4)
    for name in ("clean", "noise"):
        (run / "eval" / f"{name}.json").rename(tmp_path / f"{name}.json")
    one = tmp_path / "noise.json"
    assert call("report", one) == 0
    written = [tmp_path / "noise-report.json", tmp_path / "noise-report.html"]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    assert "noise" in json.loads(written[0].read_text())["arms"]
    assert call("report", one, tmp_path / "clean.json") == 0
    both = json.loads(written[0].read_text())
    assert sorted(both["arms"]) == ["clean", "noise"] and both["baseline"] == "clean"
    assert {row["type"] for row in both["comparisons"]} == {"noise", "arms"}


def test_report_says_what_is_wrong_with_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = simulate_run(tmp_path / "run", steps=4)
    for args, message in (
        ((tmp_path / "none.json",), "none.json"),
        ((run / "eval" / "noise.json",), f"give the run: {run}"),
        ((run, run / "eval" / "noise.json"), f"{run}: is a folder"),
        ((run, run), f"{run}: is a folder"),
    ):
        assert call("report", *args) == 2
        said = capsys.readouterr().err
        assert said.startswith("hetero-noise report: error: ") and message in said, said


@pytest.mark.parametrize(("package", "extra"), [("scipy", "eval"), ("vllm", "vllm")])
def test_eval_without_a_package_says_so_before_any_work(
    package: str,
    extra: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def started(*args: object) -> None:
        raise AssertionError("an engine was started")

    monkeypatch.setattr(engines, "start", started)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    data, out = tmp_path / "t.jsonl", tmp_path / "out.json"
    data.write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    assert call("eval", "--model", checkpoint, "--data", data, "--out", out) == 2
    said = capsys.readouterr().err
    assert f"needs {package}" in said and f"pip install 'hetero-plugin[{extra}]'" in said
    with pytest.raises(ImportError, match=f"needs {package}"):  # in Python too
        evaluate(checkpoint, data, out=out)
    assert not out.exists()


def test_attest_shows_every_site_of_a_real_model(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "record.json"
    command = ("--model", checkpoint, "--engine", "hf", "--preset", "linear", "--out", out)
    assert call("attest", *command) == 0
    said = capsys.readouterr().out
    assert "8 of 8 sites seen (linear 7 of 7, lm_head 1 of 1)" in said
    assert "model.layers.0.mlp.down_proj" in said
    record = json.loads(out.read_text())
    assert record["passed"] and record["signature"] in said


def test_attest_refuses_what_a_forward_pass_of_this_phase_cant_show(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = '{"preset": "linear", "phase": "rollout"}'
    assert call("attest", "--model", checkpoint, "--engine", "hf", "--config", spec) == 1
    assert "REFUSED" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--model", "nowhere"), "there is no file"),
        (("--preset", "linaer"), "not a preset"),
        (("--config", '{"targets": ["model.layers.7.*"], "scale": 0.1}'), "model.layers.7"),
        (("--preset", "linear", "--scale", "-1"), "scale"),
    ],
)
def test_attest_names_bad_settings(
    checkpoint: Path, args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = () if "--model" in args else ("--model", checkpoint)
    assert call("attest", *model, "--engine", "hf", *args) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--levels", "0,x"), "--levels '0,x'"),
        (("--levels", "0"), "without a noisy level"),
        (("--levels", "0,-0.1"), "finite number >= 0"),
        (("--levels", "0,nan"), "finite number >= 0"),
        (("--engine-args", "[]"), "it should be an object"),
        (("--engine-args", "{"), "not JSON"),
        (("--engine", "{}"), "go to --engine-args"),
        (("--engine", "sglang"), "it should be one of vllm, hf"),
        (("--samples", "2"), "where all are alike"),
        (("--presets", "linear,linear"), "it should be different names"),
        (("--presets", "linear,mlp", "--out", "x.json"), "it should be a folder"),
        (("--n", "0"), "at least 1"),
        (("--max-tokens", "0"), "at least 1"),
        (("--chance", "1"), "chance is 1.0"),
        (("--reward", "reward.py"), "give FILE.py:function"),
        (("--reward", "nowhere.py:score"), "there is no file nowhere.py"),
        (("--model", "nowhere"), "not a Hugging Face checkpoint"),
        (("--data", "nowhere.jsonl"), "no such question file"),
        (("--config", '{"preset": "linear", "direction": "backward"}'), "would be clean"),
        (("--config", '{"preset": "linear", "phase": "train"}'), "would be clean"),
        (("--config", '{"rules": [], "aqn": {"sigma_start": 0.01}}'), ""),
    ],
)
def test_eval_names_bad_settings_before_an_engine_starts(
    checkpoint: Path,
    tmp_path: Path,
    args: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "t.jsonl"
    data.write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    given = dict(zip(args[::2], args[1::2], strict=True))
    settings = {
        "--model": checkpoint,
        "--data": data,
        "--out": tmp_path / "out.json",
        **given,
    }
    assert call("eval", *(part for pair in settings.items() for part in pair)) == 2
    said = capsys.readouterr().err
    assert said.startswith("hetero-noise eval: error: ") and message in said
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("source", "truth", "args", "header"),
    [
        ("openai/gsm8k", "2", (), {"max_tokens": 1024, "scorer": "verl, strict: the number"}),
        ("openai/gsm8k", "2", ("--max-tokens", "300"), {"max_tokens": 300}),
        (
            "lighteval/MATH",
            r"\frac12",
            (),
            {"max_tokens": 2048, "scorer": "verl: the last \\boxed"},
        ),
        ("nobody/knows", "2", (), "give --max-tokens"),
        ("nobody/knows", "2", ("--reward", "r.py:score"), "give --max-tokens"),
        (
            "nobody/knows",
            "2",
            ("--reward", "r.py:score", "--max-tokens", "40"),
            {"max_tokens": 40, "scorer": "r.py:score"},
        ),
    ],
)
def test_budget_and_scorer_follow_the_data_source(
    checkpoint: Path,
    tmp_path: Path,
    source: str,
    truth: str,
    args: tuple[str, ...],
    header: dict[str, object] | str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file that every recipe uses, verl's parquet; the engine is not started."""

    class StartedError(Exception):
        pass

    def started(*args: object) -> None:
        raise StartedError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "start", started)
    Path("r.py").write_text("def score(**_):\n    return 1.0\n")
    row = {
        "data_source": source,
        "prompt": [{"role": "user", "content": "1+1?"}],
        "reward_model": {"ground_truth": truth},
        "extra_info": {"index": 0},
    }
    Path("t.jsonl").write_text(json.dumps(row) + "\n")
    command = ["eval", "--model", checkpoint, "--data", "t.jsonl", "--out", "out.json", *args]
    if isinstance(header, str):
        assert call(command[0], *command[1:]) == 2
        assert header in capsys.readouterr().err and not Path("out.json").exists()
        return
    with pytest.raises(StartedError):
        _run("eval", [str(part) for part in command[1:]])
    written = json.loads(Path("out.json").read_text())["header"]
    assert written["max_tokens"] == header["max_tokens"]
    assert written["scorer"].startswith(str(header.get("scorer", "")))


def test_eval_refuses_a_checkpoint_with_a_quantization_of_its_own(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "t.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    assert call("eval", "--model", tmp_path, "--data", tmp_path / "t.jsonl") == 2
    assert "quantization_config of its own (awq)" in capsys.readouterr().err


@pytest.fixture
def doctor(tmp_path_factory: pytest.TempPathFactory) -> Doctor:
    """Exit status and lines; in a process of its own, since it imports every engine's hooks."""

    def run(**environment: str) -> tuple[int, list[str]]:
        code, folder = "from hetero_plugin.cli import app; app()", tmp_path_factory.mktemp("said")
        done = forked.python(code, "doctor", folder=folder, env=environment)
        return done.returncode, done.stdout.splitlines()

    return run


def test_doctor_says_one_line_each(doctor: Doctor) -> None:
    status, lines = doctor()
    assert all(line[:4] in ("ok  ", "--  ", "!!  ") for line in lines), lines
    assert status == int(any(line.startswith("!!") for line in lines))
    for subject in ("hetero-plugin", "torch", "entry point vllm.general_plugins", "kernel"):
        assert sum(line[4:].startswith(subject + ":") for line in lines) == 1


def test_doctor_finds_what_would_make_a_run_clean(doctor: Doctor) -> None:
    status, lines = doctor(VLLM_PLUGINS="another_plugin", HETERO_NOISE_CONFIG='{"scael": 0.05}')
    wrong = [line for line in lines if line.startswith("!!")]
    assert status == 1
    assert any("VLLM_PLUGINS: is 'another_plugin'" in line for line in wrong)
    assert any("HETERO_NOISE_CONFIG" in line and "scael" in line for line in wrong)


def test_doctor_on_a_machine_without_a_compiler(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    nothing = {"PATH": str(tmp_path / "bin"), "CXX": "", "HETERO_NOISE_CACHE": str(tmp_path / "c")}
    status, lines = doctor(**nothing)
    assert status == 1 and len(lines) > 15, lines
    wrong = [line for line in lines if line.startswith("!!")]
    assert any(line.startswith("!!  compiler: no C++ compiler") for line in wrong), wrong
    assert any(line.startswith("!!  kernel: reference: right but slow: no C++") for line in wrong)
    assert lines[-1][4:].startswith(("verl", "vLLM", "kernel")), "the doctor stopped half-way"


def test_doctor_names_a_cache_that_is_not_safe(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(0o777)
    status, lines = doctor(HETERO_NOISE_CACHE=str(tmp_path / "c"))
    assert status == 1
    assert any(
        line.startswith(f"!!  kernel cache: others can write to {tmp_path / 'c'}") for line in lines
    ), lines
    assert any(line.startswith("!!  kernel: reference") for line in lines), lines


def test_the_levels_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """Truncation, length, flips and the verdict, and the old rule only when asked for."""
    document = simulate_result(seed=1, accuracies={0.0: 0.6, 0.05: 0.58, 0.1: 0.4})
    document["levels"][2]["truncated_share"] = 0.3
    print_levels(document, 0.02, legacy=True)
    said = " ".join(capsys.readouterr().out.split())
    assert "NO VERDICT: 30.0 % of the noisy answers were cut off" in said
    assert "the model at 5 % error: −2.0 points" in said and "DEGRADED: a loss is shown" in said
    assert "the old rule on 200 questions" in said and "every level attested" in said
    print_levels(document, 0.02)
    assert "old rule" not in capsys.readouterr().out


def test_a_log_shows_that_work_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal: a line at the start of each task, then at most two a minute."""
    now = 0.0
    with Bars(lambda: now) as bars:
        for done in range(301):
            now = done * 1.0
            bars.update("answering at 5 %", done, 300)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "answering at 5 % (300)" and len(said) == 10
    assert said[1] == "answering at 5 %: 30 of 300, about 4.5 min left"
