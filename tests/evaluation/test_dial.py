"""The dial: its search on known curves, on a miniature, and its command. About 15 s."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hetero_plugin.cli import _run
from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.evaluation.dial.run import dial_spec, find, find_in_checkpoint
from hetero_plugin.evaluation.dial.search import CLOSE, Curve, Want, interval, root
from hetero_plugin.evaluation.fidelity.batch import FixedBatch
from hetero_plugin.evaluation.fidelity.resample import Resamples
from hetero_plugin.evaluation.fidelity.session import Asked, Session
from hetero_plugin.evaluation.fidelity.table import HFTable
from hetero_plugin.hf import set_step, state_of, wrap
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save

SHAPE = MiniatureShape(layers=2, hidden=32, intermediate=48)
TOKENS = np.array([9.0] * 11 + [4.0])


def known(power: float, size: float = 3.0, draws: int = 2) -> Curve:
    """A curve that is ``size * scale ** power`` in every window and draw."""
    return Curve(
        lambda scale: np.tile(size * scale**power * TOKENS, (draws, 1)), Resamples(TOKENS, draws)
    )


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("want", [1e-6, 0.015, 2.9])
def test_the_root_of_a_power_law(power: float, want: float) -> None:
    curve = known(power)
    found = root(curve, Want("kl", want), 1.0)
    assert curve.at(found) == pytest.approx(want, rel=CLOSE)
    assert len(curve.sums) <= 14 and not curve.falls
    row = interval(curve, Want("kl", want), found, 1.0)
    exact = (want / 3.0) ** (1 / power)
    if row["high"] is not None:  # None: all resamples are alike, and it lies at the largest scale
        assert row["low"] == pytest.approx(exact, rel=CLOSE)
        assert row["high"] == pytest.approx(exact, rel=CLOSE)
    assert [one for one in row["by_draw"] if one] == pytest.approx(
        [exact] * len([one for one in row["by_draw"] if one]), rel=CLOSE
    )


def test_a_root_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"not reached; the largest scale, 0\.5, gives 0\.75"):
        root(known(2.0), Want("kl", 1.0), 0.5)

    def stairs(scale: float) -> np.ndarray:
        return np.tile(math.floor(4 * scale) / 4 * TOKENS, (1, 1))

    curve = Curve(stairs, Resamples(TOKENS, 1))
    with pytest.raises(
        ConfigError, match=r"at the scale 0\.5 the measure jumps from 0\.25 to 0\.5"
    ):
        root(curve, Want("kl", 0.4), 1.0)
    falling = Curve(lambda s: np.tile((1.2 - s) * TOKENS, (1, 1)), Resamples(TOKENS, 1))
    falling.at(0.5)
    falling.at(1.0)
    assert falling.falls


def test_a_share_of_tokens_moves_in_steps() -> None:
    per = TOKENS.sum()

    def share(scale: float) -> np.ndarray:
        return (math.floor(scale * per) / per * TOKENS)[None]

    curve = Curve(share, Resamples(TOKENS, 1))
    found = root(curve, Want("ratio-out", 0.0755), 1.0)
    assert abs(curve.at(found) - 0.0755) <= 1 / per


def test_the_interval_covers_over_texts() -> None:
    """Windows of 40 texts of one population; the true scale is in most intervals."""
    rng = np.random.default_rng(5)
    tokens = np.full(24, 20.0)
    want, inside = Want("kl", 0.02), 0
    for _ in range(100):
        sizes = rng.lognormal(-0.125, 0.5, size=(1, 24))  # of mean 1
        curve = Curve(lambda s, sizes=sizes: sizes * s**2 * tokens, Resamples(tokens, 1))
        scale = root(curve, want, 1.0)
        row = interval(curve, want, scale, 1.0)
        assert row["low"] <= scale <= row["high"]
        inside += row["low"] <= math.sqrt(0.02) <= row["high"]
    # Quantiles of 24 skewed windows cover a little less than 95 %; 100 trials: ± 5 points.
    assert 85 <= inside <= 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("want", "error"),
    [
        ("kl=0.002", "relative_gaussian"),
        ("mean-dlogp=0.02", "relative_uniform"),
        ("ratio-out=0.1", "absolute_gaussian"),
    ],
)
def test_the_scale_that_is_found_gives_what_was_wanted(
    want: str, error: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(4)
    text = [torch.randint(3, 60, (12,), generator=generator) for _ in range(9)]
    text.append(torch.randint(3, 60, (5,), generator=generator))
    config = dial_spec({"error": error, "targets": ["linear"], "scale": 0.0}, 1.0, None)
    model = wrap(build_model(SHAPE, 0).to(dtype).eval(), config, quiet=True)
    set_step(model, 5)
    asked = Asked(Path(), Path(), config, draws=2)
    session = Session(HFTable(model), FixedBatch(model, text), {}, {})
    wanted = Want.parse(want)
    found = find(session, asked, wanted, 1.0)
    assert state_of(model).step == 5 and state_of(model).scales.max() == pytest.approx(0.05)
    near = 1 / 103 if wanted.measure == "ratio-out" else 0.02 * wanted.value
    reached = found["measures"][wanted.measure]
    assert abs(reached["value"] - wanted.value) <= near
    assert found["in_fresh_draws"][wanted.measure]["value"] == pytest.approx(wanted.value, rel=0.5)

    # By a model wrapped under the spec that was found, draw by draw.
    alone = wrap(
        build_model(SHAPE, 0).to(dtype).eval(), NoiseConfig.parse(found["found_spec"]), quiet=True
    )
    assert state_of(alone).fingerprint == found["found_fingerprint"]
    batch, total = FixedBatch(alone, text), 0.0
    for step in (0, 1):
        set_step(alone, step)
        total += batch.measure()[wanted.measure].sum() / batch.tokens.sum() / 2
    assert total == pytest.approx(reached["value"], rel=1e-9)


def test_within_the_floor() -> None:
    config = dial_spec("linear", 1.0, None)
    model = wrap(build_model(SHAPE, 0).eval(), config, quiet=True)
    text = [torch.arange(3, 15) + i for i in range(8)]
    batch = FixedBatch(model, text)
    batch.floor = {name: np.full(8, 0.11) for name in batch.floor}  # 0.01 a token
    with pytest.raises(ConfigError, match=r"within the floor; .* has 0\.01 \(up to 0\.01\)"):
        find(
            Session(HFTable(model), batch, {}, {}),
            Asked(Path(), Path(), config),
            Want("kl", 0.01),
            1.0,
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dial")
    save(
        build_model(MiniatureShape(layers=1, hidden=32, intermediate=48), 0).to(torch.bfloat16),
        build_tokenizer(),
        path / "model",
    )
    (path / "text.txt").write_text("12+34=46 " * 20)
    return path


def call(folder: Path, *args: str) -> int:
    given = ["--model", str(folder / "model"), "--text", str(folder / "text.txt")]
    with pytest.raises(SystemExit) as left:
        _run("dial", [*given, "--context", "12", "--tokens", "120", *args])
    return int(left.value.code or 0)


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "dial.json"
    assert call(folder, "--want", "kl=0.001", "--preset", "all-ops", "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "gives kl = 0.001" in said and "fresh draws" in said and "of 13 sites" in said
    found = json.loads(out.read_text())
    assert found["attestation"]["passed"] and found["draws"] == 4 and found["monotone"]
    assert len(found["scale"]["by_draw"]) == 4
    assert found["scale"]["low"] < found["scale"]["value"] < found["scale"]["high"]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    for row in found["curve"]:
        assert row["low"] <= row["value"] <= row["high"]


def test_the_same_call_gives_the_same_scale(folder: Path) -> None:
    config = dial_spec("qerl-fp4", 1.0, 7)
    asked = Asked(folder / "model", folder / "text.txt", config, draws=2, tokens=120, context=12)
    one, two = (find_in_checkpoint(asked, Want("kl", 5e-4)) for _ in range(2))
    for found in (one, two):
        found.pop("attestation")
    assert one == two and one["seed"] == 7


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--want", "kl=0"), "--want 'kl=0'"),
        (("--want", "kl=inf"), "--want 'kl=inf'"),
        (("--want", "ratio-out=1"), "--want 'ratio-out=1'"),
        (("--want", "accuracy=2"), "it should be one of kl=NATS"),
        (("--want", "kl=50"), "not reached; the largest scale, 1, gives"),
        (("--want", "kl=1", "--largest", "0"), "--largest 0"),
        (("--want", "kl=1", "--context", "40"), "an interval needs 8 windows"),
        (("--want", "kl=1", "--out", "dial.txt"), "it should end in .json"),
        (("--want", "kl=1", "--model", "nowhere"), "not a Hugging Face checkpoint"),
        (
            ("--want", "kl=1", "--config", '{"error": "mxfp4"}', "--largest", "2"),
            "of a number format it is from 0",
        ),
    ],
)
def test_bad_settings(
    folder: Path, args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(folder, *args) == 2
    assert message in capsys.readouterr().err


def test_by_accuracy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is answered is simulated: a loss of two points at a known scale."""
    from toy import simulate_result

    from hetero_plugin.evaluation.dial import accuracy

    levels = {0.0: 0.7, 0.01: 0.695, 0.02: 0.685, 0.05: 0.63, 0.1: 0.5, 0.2: 0.25}
    asked: dict[str, object] = {}

    def answered(*_: object, **given: object) -> dict[str, object]:
        asked.update(given)
        document = simulate_result(seed=3, accuracies=levels, n=2000)
        document["header"] |= {"spec": {"preset": "linear"}, "dtype": "auto", "step": 0}
        return document

    monkeypatch.setattr(accuracy, "evaluate", answered)
    out = tmp_path / "d.json"
    found = accuracy.find(folder, folder, 0.02, spec="linear", out=out)
    assert asked["levels"] == list(levels) and asked["out"] == tmp_path / "d.eval.json"
    assert 0.015 < found["scale"]["value"] < 0.035
    assert found["scale"]["low"] is None or found["scale"]["low"] <= found["scale"]["value"]
    scales = {rule.scale for rule in NoiseConfig.parse(found["found_spec"]).rules}
    assert scales == {found["scale"]["value"]} and json.loads(out.read_text()) == found
    with pytest.raises(ConfigError, match=r"accuracy-loss=60pp: .* over 20 %"):
        accuracy.find(folder, folder, 0.6, spec="linear", out=out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--want", "accuracy-loss=2"), "such as accuracy-loss=2pp"),
        (("--want", "accuracy-loss=0pp"), "such as accuracy-loss=2pp"),
        (("--want", "accuracy-loss=2pp"), "is about answers: give --data"),
        (("--want", "kl=1", "--data", "x"), "is about a text"),
    ],
)
def test_bad_wishes_of_accuracy(
    folder: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(folder, *words) == 2
    assert message in capsys.readouterr().err
