"""A model as it is, as another machine, and with an error of its own. About 10 s."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hetero_plugin import NoiseConfig
from hetero_plugin.cli import app
from hetero_plugin.config import ConfigError
from hetero_plugin.errors.profile import load_profile
from hetero_plugin.evaluation.fidelity.machines import as_machine, checked_kinds, compared
from hetero_plugin.evaluation.fidelity.three import side_by_side
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save
from hetero_plugin.profile.operators.variants import variant
from tests.errors.profiles import mild, written
from tests.models import qwen2

KINDS = ("linear", "norm", "activation")


def windows(count: int = 24) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 100, (24,), generator=generator) for _ in range(count)]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.stack(windows(2)), use_cache=False).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_machine_is_there_within_and_gone_afterwards(dtype: torch.dtype) -> None:
    model = qwen2(dtype).eval()
    before = logits(model)
    with as_machine(model, variant("plain")):
        assert torch.equal(logits(model), before)
    with as_machine(model, variant("gaussian:0.05")):
        one = logits(model)
    assert not torch.equal(one, before)
    assert torch.equal(logits(model), before)
    assert not any("forward" in module.__dict__ for module in model.modules())
    with as_machine(model, variant("gaussian:0.05"), ["norm"]):
        assert not torch.equal(logits(model), one)
    with (
        pytest.raises(ConfigError, match="attention: the model has no such operators"),
        as_machine(model, variant("plain"), ["attention"]),
    ):
        pass


def test_a_profile_is_checked_at_the_kinds_that_it_has(tmp_path: Path) -> None:
    assert checked_kinds("bf16-kernel-floor") == ["linear"]
    path = written(mild(kinds=("norm", "lm_head", "linear", "attention")), tmp_path)
    assert checked_kinds(path) == ["linear", "norm"]
    with pytest.raises(ConfigError, match="name what to check with --targets"):
        checked_kinds(written(mild(kinds=("lm_head",)), tmp_path, "head"))


def test_an_error_that_is_the_machines_is_within_and_a_larger_one_is_not() -> None:
    model = qwen2(torch.bfloat16).eval()
    rule = {
        "targets": list(KINDS),
        "exclude": ["lm_head"],
        "error": "relative_gaussian",
        "direction": "forward",
    }
    before = logits(model)

    def found(scale: float) -> dict:
        noise = NoiseConfig(seed=3, rules=[{**rule, "scale": scale}])
        return compared(model, windows(), variant("gaussian:0.02"), noise, KINDS)

    same = found(0.02)
    assert same["within"]["kl"] and same["within"]["gap"]
    # One draw of each: its own spread is not in the interval over windows.
    assert same["ratio"]["kl"]["value"] == pytest.approx(1, abs=0.15)
    # Two independent errors: A with the error is further from B than from A.
    assert same["pairs"]["profile_b"]["kl"]["value"] > 1.3 * same["pairs"]["a_b"]["kl"]["value"]
    larger = found(0.06)
    assert not larger["within"]["kl"] and larger["ratio"]["kl"]["low"] > 3
    assert torch.equal(logits(model), before)


def test_machines_that_agree_have_no_ratio() -> None:
    rows = {
        "kl": np.zeros(5),
        "delta_logp": np.zeros(5),
        "delta_p": np.zeros(5),
        "same_top": np.ones(5),
    }
    pairs = {"a_b": rows, "a_profile": rows, "profile_b": rows}
    found = side_by_side([pairs] * 8)
    assert found["ratio"] == {"kl": None, "gap": None, "flips": None}
    assert found["within"] == {"kl": True, "gap": True, "flips": True}
    with pytest.raises(ValueError, match="7 windows"):
        side_by_side([pairs] * 7)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint with a tokenizer, and a text, of 240 letters a line."""
    folder = tmp_path_factory.mktemp("whole")
    shape = MiniatureShape(hidden=64, layers=4, heads=4, kv_heads=2, intermediate=192)
    save(build_model(shape, seed=0).to(torch.bfloat16), build_tokenizer(), folder / "tiny")
    text = folder / "text.txt"
    text.write_text("".join(f"{n} plus {3 * n} makes {4 * n}. " for n in range(90)))
    return folder / "tiny", text


def test_recorded_fitted_replayed_and_compared_in_four_commands(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    model, text = map(str, whole)
    a, b, made = (str(tmp_path / name) for name in ("a.rec", "b.rec", "ab.profile"))

    def run(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    plain = ("--rows", "256", "--repeats", "2", "--targets", "linear,norm,activation")
    run("profile", "record", "--model", model, "--text", text, "--out", a, *plain)
    replay = ("--replay-inputs", a, "--as", "gaussian:0.02", "--repeats", "2")
    run("profile", "record", "--model", model, "--out", b, *replay)
    said = run("profile", "fit", a, b, "--out", made)
    assert "not better than a Gaussian" in said
    profile = load_profile(made)
    for row in profile.report["tables"]:
        assert row["gaussian_scale"] == pytest.approx(0.02, rel=0.06)
        assert row["fresh"] == 0
    out = tmp_path / "check.json"
    run(
        "profile", "check", made, "--model", model, "--text", text, "--as", "gaussian:0.02",
        "--out", str(out),
    )  # fmt: skip
    found = json.loads(out.read_text())
    assert found["within"]["kl"] and found["within"]["gap"]
    # One draw of each, as above.
    assert found["ratio"]["kl"]["value"] == pytest.approx(1, abs=0.25)
    assert "beyond the limit" in run("compare-machines", a, b, code=1)
    assert "no operator" in run("compare-machines", a, b, "--profile", made)
