"""Dose and response: known curves, results of levels, the page and the command. About 15 s."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import NAMES, simulate_result, simulate_run

from hetero_plugin.cli import _run
from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.errors.formats import FORMATS
from hetero_plugin.evaluation import results
from hetero_plugin.evaluation.dose import found as found_module
from hetero_plugin.evaluation.dose import sequence
from hetero_plugin.evaluation.dose.curve import fit, lost_at, parabola, parabola_at, response
from hetero_plugin.evaluation.dose.found import of_accuracy, of_kl
from hetero_plugin.evaluation.report import page
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save

LEVELS = np.array([0.0, 0.01, 0.02, 0.05, 0.1, 0.2])
FALL = {0.0: 0.62, 0.01: 0.615, 0.02: 0.6, 0.05: 0.55, 0.1: 0.38}


def theta(clean: float, middle: float, steep: float, floor: float = 0.0) -> np.ndarray:
    above = (clean - floor) / (1 - floor)
    return np.array([[math.log(above / (1 - above)), math.log(middle), math.log(steep)]])


@pytest.mark.parametrize("floor", [0.0, 0.25])
@pytest.mark.parametrize(
    ("clean", "middle", "steep"), [(0.7, 0.15, 2.0), (0.4, 0.06, 3.0), (0.9, 0.1, 1.0)]
)
def test_a_fit_without_chance_is_exact(
    clean: float, middle: float, steep: float, floor: float
) -> None:
    shares = response(theta(clean, middle, steep, floor), LEVELS, floor)
    by_hand = [floor + (clean - floor) / (1 + (s / middle) ** steep) for s in LEVELS]
    np.testing.assert_allclose(shares[0], by_hand, rtol=1e-12)
    found = fit(LEVELS, shares, 1000, floor)
    np.testing.assert_allclose(response(found, LEVELS, floor), shares, atol=1e-4)
    scale = lost_at(found, 0.02, floor)
    assert scale[0] == pytest.approx(
        middle * (0.02 / (clean - floor - 0.02)) ** (1 / steep), rel=0.02
    )
    lost = response(found, np.array([0.0, scale[0]]), floor)[0]
    assert lost[0] - lost[1] == pytest.approx(0.02, abs=1e-9)


def test_resamples_are_fitted_each_as_if_alone() -> None:
    rng = np.random.default_rng(1)
    true = response(theta(0.7, 0.15, 2.0), LEVELS, 0.0)[0]
    shares = rng.binomial(300, true, size=(20, 6)) / 300
    together = fit(LEVELS, shares, 300, 0.0)
    for row in (0, 7, 19):
        alone = fit(LEVELS, shares[row : row + 1], 300, 0.0)
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-3, atol=1e-3)


def test_no_loss_and_too_great_a_loss_are_nowhere() -> None:
    flat = fit(LEVELS, np.full((1, 6), 0.6), 1000, 0.0)
    assert lost_at(flat, 0.02, 0.0)[0] > 0.2
    assert lost_at(theta(0.1, 0.1, 2.0), 0.2, 0.0)[0] == math.inf


@pytest.mark.slow
def test_the_interval_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    """25 studies; `docs/evaluation.md` has 500."""
    monkeypatch.setattr(found_module, "RESAMPLES", 200)
    rng = np.random.default_rng(4)
    curve = theta(0.7, 0.15, 2.0)
    true = response(curve, LEVELS, 0.0)[0]
    level, inside = float(lost_at(curve, 0.02, 0.0)[0]), 0
    for seed in range(25):
        # The same questions at each level, by difficulty, with answers that flip.
        draw = 0.9 * rng.normal(size=(400, 1)) + math.sqrt(0.19) * rng.normal(size=(400, 6))
        right = draw < [_normal_quantile(p) for p in true]
        document = {
            "header": {},
            "levels": [
                {
                    "level": s,
                    "outcomes": right[:, i].astype(int).tolist(),
                    "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6},
                }
                for i, s in enumerate(LEVELS)
            ],
        }
        found = of_accuracy(document, seed=seed)
        assert found is not None and found["level"] is not None
        low, high = found["level"]["low"], found["level"]["high"]
        inside += (low or 0.0) <= level <= (high or math.inf)
    assert inside >= 21


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


def test_a_level_of_results() -> None:
    document = simulate_result(seed=1, accuracies=FALL)
    found = of_accuracy(document)
    assert found is not None and found["misfit"] < 3
    level = found["level"]
    assert 0.02 < level["low"] < level["value"] < level["high"] < 0.05
    assert found["sentence"].startswith("2 points of accuracy are lost at an error of 2.")
    curve = found["curve"]
    assert curve["scale"][0] == 0 and curve["scale"][-1] == 0.1
    assert all(
        low <= value <= high
        for low, value, high in zip(curve["low"], curve["value"], curve["high"], strict=True)
    )
    more = of_accuracy(document, delta=0.1)
    assert more is not None and more["level"]["value"] > level["high"]
    assert of_accuracy(document) == found, "a seed is a seed"


@pytest.mark.parametrize(
    ("accuracies", "sentence"),
    [
        (dict.fromkeys(FALL, 0.62), "at an error over 10 %"),
        ({0.0: 0.6, 0.1: 0.01, 0.2: 0.01, 0.5: 0.01, 0.7: 0.01}, "at an error under 10 %"),
        (dict.fromkeys(FALL, 0.01), "no level is given at which 2 points of accuracy are lost"),
        ({0.0: 0.6, 0.1: 0.5, 0.2: 0.6, 0.5: 0.3, 0.7: 0.4}, "read the levels themselves"),
    ],
)
def test_nothing_is_read_off_that_was_not_seen(
    accuracies: dict[float, float], sentence: str
) -> None:
    found = of_accuracy(simulate_result(seed=1, accuracies=accuracies))
    assert found is not None and sentence in found["sentence"]


def test_what_bears_no_curve() -> None:
    four = {level: FALL[level] for level in list(FALL)[:4]}
    assert of_accuracy(simulate_result(seed=1, accuracies=four)) is None
    no_clean = {level + 0.01: value for level, value in FALL.items()}
    assert of_accuracy(simulate_result(seed=1, accuracies=no_clean)) is None
    with pytest.raises(ConfigError, match="delta 2"):
        of_accuracy(simulate_result(seed=1, accuracies=FALL), delta=2)
    cut = simulate_result(seed=1, accuracies=FALL)
    cut["levels"][-1]["truncated_share"] = 0.2
    found = of_accuracy(cut)
    assert found is not None and found["level"] is None and "cut off" in found["sentence"]


def fidelity(power: float = 2.0, levels: int = 6) -> dict[str, Any]:
    """KL of 3·s^power, windows that differ by a factor of their own."""
    rng = np.random.default_rng(2)
    tokens = [31] * 11 + [9]
    factors = rng.lognormal(-0.02, 0.2, size=12)
    rows = []
    for level in np.geomspace(0.01, 0.3, levels):
        sums = 3 * level**power * factors * tokens
        kl = float(sums.sum() / sum(tokens))
        measures = {"kl_mean": {"value": kl, "low": kl, "high": kl}}
        rows.append({"level": level, "measures": measures, "kl_by_window": sums.tolist()})
    floor = {"measures": {"kl_mean": {"value": 1e-7, "low": 0.0, "high": 2e-7}}}
    return {"levels": rows, "floor": floor, "tokens_by_window": tokens}


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_kl_by_level(power: float) -> None:
    document = fidelity(power)
    want = 3 * 0.07**power
    found = of_kl(document, want)
    assert found is not None
    row = document["levels"][0]
    size = sum(row["kl_by_window"]) / sum(document["tokens_by_window"]) / row["level"] ** power
    level = found["level"]
    assert level["value"] == pytest.approx((want / size) ** (1 / power), rel=1e-2)
    assert level["low"] < level["value"] < level["high"]
    assert found["misfit"] < 1e-3 and f"KL has reached {want:g} at an error of" in found["sentence"]
    beyond = of_kl(document, 50.0)
    assert beyond is not None and beyond["sentence"].endswith("at an error over 30 %")
    under = of_kl(document, 1e-5)
    assert under is not None and under["sentence"].endswith("at an error under 1 %")
    within = of_kl(document, 1e-7)
    assert within is not None and "within the floor" in within["sentence"]


def test_a_parabola_is_numpys() -> None:
    levels = np.array([0.01, 0.03, 0.1, 0.3, 1.0])
    found = parabola(levels, (2 * levels**1.5)[None])
    np.testing.assert_allclose(found[0], [0.0, 1.5, math.log(2)], atol=1e-9)
    np.testing.assert_allclose(parabola_at(found, levels)[0], 2 * levels**1.5, rtol=1e-9)


def test_the_report_has_it_from_five_levels_on(tmp_path: Path) -> None:
    run = simulate_run(tmp_path / "run", steps=2)
    json_path, html_path = page.build(run)
    assert not any(json.loads(json_path.read_text())["dose"].values())
    assert "Dose and response" not in html_path.read_text()
    for seed, name in enumerate(("clean", "noise", "noise_aqn")):
        document = simulate_result(seed=seed + 10, accuracies=FALL)
        results.write_json(run / "eval" / f"{name}.json", document)
    json_path, html_path = page.build(run)
    found = json.loads(json_path.read_text())["dose"]
    assert all(one["level"]["value"] for one in found.values()) and len(found) == 3
    shown = html_path.read_text()
    assert shown.count("2 points of accuracy are lost at an error of") == 3
    assert 'aria-label="Fitted accuracy by size of the error' in shown


def call(*args: object) -> int:
    with pytest.raises(SystemExit) as left:
        _run("dose", [str(arg) for arg in args])
    return int(left.value.code or 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "eval.json", tmp_path / "dose.json"
    results.write_json(path, simulate_result(seed=1, accuracies=FALL))
    assert call(path, "--points", "5", "--out", out) == 0
    said = capsys.readouterr().out
    assert "5 points of accuracy are lost at an error of" in said and "accuracy at 10 %" in said
    assert json.loads(out.read_text())["delta"] == 0.05
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = tmp_path / "eval.json", tmp_path / "other.json"
    results.write_json(path, simulate_result(seed=1, accuracies={0.0: 0.6, 0.1: 0.5}))
    other.write_text("{}")
    for args, message in (
        ((path,), "a curve needs 5 levels, one of them 0; there are 0, 0.1"),
        ((path, "--kl", "0.1"), "holds accuracies; give --points"),
        ((other,), "is no file of `eval`, and none of `fidelity`"),
        ((tmp_path / "none.json",), "no such file"),
    ):
        assert call(*args) == 2
        assert message in capsys.readouterr().err
    results.write_json(path, simulate_result(seed=1, accuracies=FALL, dead=[NAMES[0]]))
    assert call(path) == 1
    assert capsys.readouterr().err.startswith("REFUSED: ")


SIZES = {"int8": 0.007, "mxfp6_e2m3": 0.028, "fp8_e5m2": 0.05, "nvfp4": 0.095, "mxfp4": 0.115}


def of_format(name: str, document: dict[str, Any], **rule: Any) -> dict[str, Any]:
    """A document's last level as the only one, of a format."""
    rules = [{"targets": ["linear"], "error": name, "point": "weight", **rule}]
    about = {"spec": {"rules": rules}, "model": "weights"}
    if "header" in document:
        return {**document, "header": {**document["header"], **about}}
    return {**document, **about}


def test_formats_are_a_sequence_by_their_own_error() -> None:
    """Of KL that grows as the square of a format's size, and of accuracies that fall with it."""

    def size(model: Path, config: NoiseConfig) -> float:
        assert model == Path("weights")
        return SIZES[config.rules[0].error]

    whole = fidelity()
    named = []
    for name in ("nvfp4", "int8", "mxfp4", "fp8_e5m2", "mxfp6_e2m3"):
        sums = [4.0 * SIZES[name] ** 2 * n for n in whole["tokens_by_window"]]
        mean = {"value": 4.0 * SIZES[name] ** 2, "low": None, "high": None}
        level = {"level": 1.0, "kl_by_window": sums, "measures": {"kl_mean": mean}}
        named.append((f"{name}.json", of_format(name, {**whole, "levels": [level]})))
    document = sequence.merged(named, size)
    assert [row["name"] for row in document["formats"]] == list(SIZES)
    found = of_kl(document, 4.0 * 0.07**2)
    assert found is not None and found["level"]["value"] == pytest.approx(0.07, rel=0.01)
    assert sequence.words(document["formats"]).startswith("int8 0.7 %, mxfp6_e2m3 2.8 %")

    answers = []
    for name, own in SIZES.items():
        results_of = simulate_result(seed=3, accuracies={0.0: 0.7, 1.0: 0.7 - 4 * own}, n=800)
        answers.append((name, of_format(name, results_of)))
    lost = of_accuracy(sequence.merged(answers, size), 0.1)
    assert lost is not None and len(lost["points"]) == 6
    # 10 points are lost between the formats of 0.007 (2.8 points) and 0.05 (20 points).
    assert 0.007 < lost["level"]["value"] < 0.05


def test_what_is_no_sequence_of_formats() -> None:
    def size(model: Path, config: NoiseConfig) -> float:
        return SIZES[config.rules[0].error]

    one = simulate_result(seed=3, accuracies={0.0: 0.7, 1.0: 0.6}, n=50)
    first = ("a", of_format("int8", one))
    other = of_format("nvfp4", one)
    for bad, message in (
        (of_format("int8", one), "both of int8"),
        ({**other, "header": {**other["header"], "n": 9}}, "n is 50 and 9"),
        (
            of_format("relative_gaussian", one, point="output", scale=0.1),
            "a sequence of number formats",
        ),
        (of_format("nvfp4", one, point="input"), "with point: weight"),
        (of_format("nvfp4", one, options={"tensor_scale": "max"}), "no options"),
        ({**other, "levels": other["levels"][:1]}, "has no level 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            sequence.merged([first, ("b", bad)], size)
    with pytest.raises(ConfigError, match="the checkpoint is not there"):
        sequence.merged([first], None)


@pytest.mark.parametrize("name", ["nvfp4", "int8"])
def test_a_formats_own_error_is_that_of_the_weights(tmp_path: Path, name: str) -> None:
    model = build_model(MiniatureShape(layers=1), 0)
    save(model, build_tokenizer(), tmp_path)
    spec = {"rules": [{"targets": ["linear"], "exclude": ["lm_head"], "error": name,
                       "point": "weight"}]}  # fmt: skip
    found = sequence.own_error(tmp_path, NoiseConfig.parse(spec))
    changed = signal = 0.0
    for key, weight in model.state_dict().items():
        if "_proj.weight" in key:
            rounded = FORMATS[name].apply(weight.float())
            changed += float((rounded.double() - weight.double()).square().sum())
            signal += float(weight.double().square().sum())
    assert found == pytest.approx((changed / signal) ** 0.5, rel=1e-9)
