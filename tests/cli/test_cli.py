"""The command line: what it lists, how it fails, and plan and schedule themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import hetero_plugin
from hetero_plugin.cli import COMMANDS, app
from hetero_plugin.config import ENVIRONMENT, preset

QWEN_1_5B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "num_hidden_layers": 28,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_1_5B))
    return tmp_path


def call(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_help_lists_the_commands_that_exist_and_no_other() -> None:
    result = call("--help")
    assert result.exit_code == 0
    folder = Path(__file__).parents[2] / "hetero_plugin" / "cli"
    for name in COMMANDS:
        module = name.replace("-", "_")
        there = any((folder / f"{module}{end}").exists() for end in ("", ".py"))
        listed = any(line.strip("│ ").startswith(f"{name} ") for line in result.stdout.splitlines())
        assert listed == there, name
    assert "plan" in result.stdout and "schedule" in result.stdout


def test_the_version_is_the_packages() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"hetero-noise {hetero_plugin.__version__}\n")


def test_every_command_file_is_registered() -> None:
    folder = Path(__file__).parents[2] / "hetero_plugin" / "cli"
    for path in folder.glob("*.py"):
        if "\ndef command(" in path.read_text():
            assert path.stem in COMMANDS, f"{path.name} is not listed in hetero_plugin/cli"


def test_an_unknown_command_is_a_clean_error() -> None:
    result = call("plna")
    assert result.exit_code == 2
    assert "plna" in result.stderr and "plan" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_loads_no_engine_and_not_even_torch() -> None:
    code = (
        "import sys\n"
        "import hetero_plugin.cli\n"
        "heavy = {'torch', 'transformers', 'vllm', 'verl', 'ray', 'matplotlib', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_console_script_prints_one_paragraph_and_exits_with_2(model: Path) -> None:
    script = Path(sys.executable).with_name("hetero-noise")
    env = {k: v for k, v in os.environ.items() if k != ENVIRONMENT}
    done = subprocess.run(
        [script, "plan", "--model", model, "--preset", "rmsnrm"],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("hetero-noise plan: error: ")
    assert "Did you mean 'rmsnorm'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "total"), [("rmsnorm", 57), ("mlp", 85), ("linear", 197), ("all", 254)]
)
def test_plan_counts_the_experiments_sites(model: Path, name: str, total: int) -> None:
    result = call("plan", "--model", model, "--preset", name, "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["total"] == len(data["sites"]) == sum(data["by_kind"].values()) == total
    assert data["fingerprint"] == preset(name).fingerprint
    assert {"name", "kind", "layer"} <= set(data["sites"][0])


def test_plan_takes_the_file_itself_and_prints_for_people(model: Path) -> None:
    result = call("plan", "--model", model / "config.json", "--preset", "qerl-fp4")
    assert result.exit_code == 0, result.stderr
    assert "linear: 196 of 196" in result.stdout
    assert "total: 196 of 366 sites" in result.stdout
    assert "model.layers.27.mlp.down_proj" in result.stdout


# Of the published config.json files of Phi-3-mini, Gemma-2-2b and OLMo-2-7B, what matters here.
OTHER_FAMILIES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "phi3": (
        {
            "architectures": ["Phi3ForCausalLM"],
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "num_hidden_layers": 32,
            "vocab_size": 32064,
        },
        {"linear": 128, "lm_head": 1, "norm": 65, "activation": 32, "attention": 32},
    ),
    "gemma2": (
        {
            "architectures": ["Gemma2ForCausalLM"],
            "head_dim": 256,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "num_hidden_layers": 26,
            "vocab_size": 256000,
        },
        {"linear": 182, "lm_head": 1, "norm": 105, "activation": 26, "attention": 26},
    ),
    "olmo2": (
        {
            "architectures": ["Olmo2ForCausalLM"],
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "vocab_size": 100352,
        },
        {"linear": 224, "lm_head": 1, "norm": 129, "activation": 32, "attention": 32},
    ),
}


@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_plan_counts_other_families(tmp_path: Path, family: str) -> None:
    config, kinds = OTHER_FAMILIES[family]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **config}))
    spec = '{"preset": "all-ops", "aqn": {"total_steps": 10}}'
    result = call("plan", "--model", tmp_path, "--config", spec, "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["by_kind"] == kinds
    assert len(data["aqn_sites"]) == kinds["norm"]


def test_plan_reads_a_specification_and_a_scale(model: Path) -> None:
    spec = model / "spec.yaml"
    spec.write_text("preset: all\nlayers: ['0-1']\naqn: {total_steps: 100}\n")
    result = call("plan", "--model", model, "--config", spec, "--scale", "0.01", "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["by_kind"] == {"linear": 14, "norm": 4}
    assert len(data["aqn_sites"]) == 57
    assert data["spec"]["rules"][0]["scale"] == 0.01


def test_plan_without_options_takes_what_would_apply(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint() -> str:
        result = call("plan", "--model", model, "--json")
        assert result.exit_code == 0, result.stderr
        return str(json.loads(result.stdout)["fingerprint"])

    assert fingerprint() == preset("qerl-fp4").fingerprint
    monkeypatch.setenv(ENVIRONMENT, "all")
    assert fingerprint() == preset("all").fingerprint
    monkeypatch.delenv(ENVIRONMENT)
    own = {"quant_method": "hetero_noise", "preset": "mlp"}
    (model / "config.json").write_text(json.dumps({**QWEN_1_5B, "quantization_config": own}))
    assert fingerprint() == preset("mlp").fingerprint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "all", "--config", "{}"], "both given"),
        (["--scale", "-1"], "scale: got -1"),
        (["--scale", "nan"], "scale: got nan"),
        (["--config", '{"scale": 1, "targets": ["conv"]}'], "'conv' matches none"),
        (["--config", '{"scale": 1, "layers": [28]}'], "no layer 28"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--config", '{"rules": [], "aqn": {}}', "--scale", "1"], "no rule"),
    ],
)
def test_plan_says_what_is_wrong(model: Path, options: list[str], words: str) -> None:
    result = call("plan", "--model", model, *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("hetero-noise plan: error: ") and words in result.stderr


UNIT = '{"error": "accumulate", "targets": ["linear"], "options": {"hardware": "volta"}%s}'


def test_plan_refuses_what_the_model_could_not_run(model: Path) -> None:
    """In the checkpoint's dtype, or the one that --dtype says."""
    (model / "config.json").write_text(json.dumps({**QWEN_1_5B, "dtype": "bfloat16"}))
    words = ["plan", "--model", model, "--config", UNIT % ""]
    result = call(*words)
    assert result.exit_code == 2
    for said in ("'volta'", "q_proj multiplies in bfloat16", "(float16)", "--dtype"):
        assert said in result.stderr
    assert call(*words, "--dtype", "float16").exit_code == 0
    bad = call(*words, "--dtype", "fp16")
    assert bad.exit_code == 2 and "--dtype fp16: it should be one of bfloat16" in bad.stderr
    # Of a rule of training alone the engine's dtype is not known.
    train = call("plan", "--model", model, "--config", UNIT % ', "phase": "train"')
    assert train.exit_code == 0 and "note: in train, should it be loaded in" in train.stdout
    norms = '{"targets": ["norm"], "point": "weight", "scale": 0.1}'
    assert "which has no matrix" in call("plan", "--model", model, "--config", norms).stderr


def test_plan_says_the_bytes_of_weights_that_are_computed_once(model: Path, tmp_path: Path) -> None:
    layer = 1536 * (1536 + 256 + 256 + 1536 + 3 * 8960)
    words = ["plan", "--model", model, "--preset", "nvfp4-w4a16"]
    data = json.loads(call(*words, "--json").stdout)
    assert data["held"] == {"weights": 196, "bytes": 28 * layer * 2, "dtype": "bfloat16"}
    wide = call(*words, "--dtype", "float32")
    assert f"196, computed once and kept beside the clean ones: {28 * layer * 4:,}" in wide.stdout
    assert "fixed" not in call("plan", "--model", model, "--preset", "qerl-fp4").stdout
    # A weight with a random error too is computed in every pass.
    rules = [
        {"targets": ["linear"], "exclude": ["lm_head"], "error": "mxfp4", "point": "weight"},
        {"targets": ["*.0.*.up_proj"], "point": "weight", "scale": 0.1},
    ]
    spec = json.dumps({"rules": rules})
    data = json.loads(call("plan", "--model", model, "--config", spec, "--json").stdout)
    assert data["held"]["weights"] == 195
    # Experts are one weight, all of them.
    sizes = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 768}
    sparse = {**QWEN_1_5B, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]}
    (tmp_path / "sparse.json").write_text(json.dumps({**sparse, "num_hidden_layers": 1, **sizes}))
    spec = json.dumps({"targets": ["*.experts.*_proj"], "error": "mxfp4", "point": "weight"})
    found = call("plan", "--model", tmp_path / "sparse.json", "--config", spec, "--json")
    assert json.loads(found.stdout)["held"]["bytes"] == 8 * 3 * 768 * 1536 * 2


def test_plan_says_what_is_wrong_with_the_model(tmp_path: Path) -> None:
    assert "there is no file" in call("plan", "--model", tmp_path).stderr
    path = tmp_path / "config.json"
    for text, words in (
        ("{", "can't be read as JSON"),
        ("[]", "got list"),
        ('{"model_type": "gemma3"}', "'gemma3' has no map"),
        ('{"model_type": "qwen2"}', "hidden_size is missing"),
    ):
        path.write_text(text)
        result = call("plan", "--model", tmp_path)
        assert result.exit_code == 2 and words in result.stderr


def test_schedule_prints_every_step() -> None:
    result = call("schedule", "--total-steps", "116")
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [int(row[0]) for row in rows] == list(range(116))
    assert [float(rows[i][1]) for i in (0, 11, 12, 115)] == [0.0, 0.0, 0.05, 0.0005]


def test_schedule_of_the_experiments_epochs_as_json_and_figure(tmp_path: Path) -> None:
    figure = tmp_path / "sigma.png"
    options = ["--schedule", "epoch", "--epoch-ranges", "0.05:0.01,0.01:0.0005"]
    options += ["--stages-per-epoch", "5", "--steps-per-epoch", "58", "--json", "--plot", figure]
    result = call("schedule", *options)
    assert result.exit_code == 0, result.stderr
    sigma = json.loads(result.stdout)["sigma"]
    assert len(sigma) == 116
    assert [sigma[i] for i in (0, 10, 57, 58, 68, 115)] == [0, 0.05, 0.01, 0, 0.01, 0.0005]
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 5000


def test_schedule_takes_the_aqn_of_a_specification(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text('{"scale": 0.1, "aqn": {"schedule": "linear", "sigma_end": 0}}')
    result = call("schedule", "--config", spec, "--total-steps", "3", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["sigma"] == pytest.approx([0.05, 0.025, 0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--total-steps"),
        (["--schedule", "epoch"], "--steps-per-epoch"),
        (["--schedule", "exponential"], "exponential"),
        (["--stages", "1", "--total-steps", "9"], "constant"),
        (["--schedule", "epoch", "--epoch-ranges", "0.05-0.01"], "START:END"),
        (["--config", '{"scale": 1}', "--total-steps", "9"], "no aqn"),
        (["--total-steps", "20", "--plot", "no/such/folder/a.png"], "no folder"),
    ],
)
def test_schedule_says_what_is_wrong(options: list[str], words: str) -> None:
    result = call("schedule", *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("hetero-noise schedule: error: ") and words in result.stderr


def test_a_command_with_sub_commands_lists_and_runs_them(tmp_path: Path) -> None:
    result = call("profile", "--help")
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert {"record", "import"} <= set(listed)
    result = call("profile", "rcord")
    assert result.exit_code == 2 and "rcord" in result.stderr
    out = str(tmp_path / "a.rec")
    result = call("profile", "record", "--model", str(tmp_path), "--out", out, "--text", "none")
    assert result.exit_code == 2
    assert result.stderr.startswith("hetero-noise profile record: error: ")
    assert "no config.json" in result.stderr


def test_a_terminated_command_cleans_up(tmp_path: Path) -> None:
    """What it started ends with it, as on an interrupt: an engine would go on computing."""
    code = f"""
import time, types, sys
module = types.ModuleType("hetero_plugin.cli.plan")
def command() -> None:
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        open({str(tmp_path / "ended")!r}, "w").close()
module.command = command
sys.modules["hetero_plugin.cli.plan"] = module
from hetero_plugin.cli import app
app()
"""
    words = [sys.executable, "-c", code, "plan"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(30) == 143
    assert (tmp_path / "ended").is_file()
