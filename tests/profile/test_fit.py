"""Fits of differences that are known. About 15 s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.errors.profile import EDGES, Drawn, Profile, bins_of
from hetero_plugin.profile.fit import baselines
from hetero_plugin.profile.fit.counts import Counts
from hetero_plugin.profile.fit.elements import differences
from hetero_plugin.profile.fit.goodness import drawn, measured
from hetero_plugin.profile.fit.run import fit
from hetero_plugin.profile.fit.spread import between
from hetero_plugin.profile.fit.structure import norm_candidates, product_candidates
from hetero_plugin.profile.fit.tables import moments, shares
from tests.profile.synthetic import moved, recording, site

T, C, LAYERS = 512, 96, 4


def clean(seed: int, rows: int = T, columns: int = C) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=made).bfloat16()


def pair(
    tmp_path: Path,
    draw: Any,
    *,
    layers: int = LAYERS,
    repeats: int = 3,
    ks: tuple[int, ...] = (64,),
) -> Profile:
    """A profile of machines that differ by ``draw(generator, y)`` ulps [R, T, C] away from 0."""
    left, right = [], []
    generator = torch.Generator().manual_seed(1)
    for number, k in enumerate(ks):
        for layer in range(layers):
            y = clean(100 * number + layer)
            whole = y.expand(repeats, -1, -1)
            ulps = draw(generator, whole)
            name = f"model.layers.{layer}.k{k}"
            left.append(site(name, whole.clone(), layer=layer, k=k))
            right.append(site(name, moved(whole, ulps), layer=layer, k=k))
    a = recording(tmp_path / "a.rec", left)
    b = recording(tmp_path / "b.rec", right)
    return fit(a, b, name="made up")


def fixed(probabilities: dict[int, float]) -> Any:
    """The same draw in each repetition, of values with these probabilities, else 0."""

    def draw(generator: torch.Generator, y: Tensor) -> Tensor:
        u = torch.rand(y.shape[1:], generator=generator, dtype=torch.float64)
        ulps, low = torch.zeros(y.shape[1:], dtype=torch.int64), 0.0
        for value, p in probabilities.items():
            ulps[(u >= low) & (u < low + p)] = value
            low += p
        return ulps.expand(y.shape)

    return draw


def table(profile: Profile) -> Any:
    (row,) = profile.report["tables"]
    return row


@pytest.mark.parametrize(
    "known",
    [{1: 1e-3, -1: 1e-3}, {-1: 0.08, 1: 0.02}, {v: 0.02 for v in range(-20, 21) if v}],
    ids=["rare flips", "toward zero", "wide"],
)
def test_a_known_table_comes_back(tmp_path: Path, known: dict[int, float]) -> None:
    profile = pair(tmp_path, fixed(known))
    (fitted,) = profile.tables
    found = moments(fitted)
    n = np.array([one.n for one in fitted.bins], float)
    seen = n > 3000
    share = sum(known.values())
    mean = sum(v * p for v, p in known.items())
    square = sum(v * v * p for v, p in known.items())
    fourth = sum(v**4 * p for v, p in known.items())
    # Five standard errors of n independent draws, in every bin.
    assert seen.sum() >= 8
    assert np.all(np.abs(found["changed"] - share)[seen] <= 5 * np.sqrt(share / n[seen]))
    assert np.all(np.abs(found["mean"] - mean)[seen] <= 5 * np.sqrt(square / n[seen]))
    assert np.all(np.abs(found["square"] - square)[seen] <= 5 * np.sqrt(fourth / n[seen]))
    assert fitted.fresh == 0.0


def test_held_out_bins_agree_and_bias_makes_it_better_than_a_gaussian(tmp_path: Path) -> None:
    profile = pair(tmp_path, fixed({-1: 0.15, 1: 0.05}))
    row = table(profile)
    for part in ("rows", "layers"):
        held = row["held_out"][part]
        within = held["within"]
        # 1600 changed elements have 2.5 % of noise, twice: 10 % is three standard errors.
        assert within["profile"]["judged"] >= 3
        assert within["profile"]["all"] == within["profile"]["judged"]
        assert within["nothing"]["all"] == 0
        assert within["gaussian"]["bias"] == 0
        assert held["better"]
    assert row["bias_ulps"] == pytest.approx(-0.1, abs=0.005)
    assert any("the profile is better than a Gaussian" in s for s in profile.report["sentences"])


def test_a_gaussian_is_called_one(tmp_path: Path) -> None:
    scale = 2e-3

    def draw(generator: torch.Generator, y: Tensor) -> Tensor:
        z = torch.randn(y.shape[1:], generator=generator)
        mantissa = torch.frexp(y[0].float().abs()).mantissa * 256
        u = torch.rand(y.shape[1:], generator=generator)
        return torch.floor(z * scale * mantissa + u).long().expand(y.shape)

    profile = pair(tmp_path, draw)
    row = table(profile)
    assert row["gaussian_scale"] == pytest.approx(scale, rel=0.02)
    assert not row["held_out"]["rows"]["better"]
    assert any("not better than a Gaussian" in text for text in profile.report["sentences"])
    within = row["held_out"]["rows"]["within"]["gaussian"]
    assert within["all"] >= within["judged"] - 1


def test_what_is_drawn_anew_is_told_from_what_stays(tmp_path: Path) -> None:
    def draw(generator: torch.Generator, y: Tensor) -> Tensor:
        stays = torch.randint(0, 2, y.shape[1:], generator=generator)
        one = fixed({1: 0.1, -1: 0.1})(generator, y)
        other = (torch.rand(y.shape, generator=generator) < 0.2).long()
        other = other * (2 * torch.randint(0, 2, y.shape, generator=generator) - 1)
        return torch.where(stays.bool(), one, other)

    profile = pair(tmp_path, draw)
    assert profile.tables[0].fresh == pytest.approx(0.5, abs=0.02)
    row = table(profile)
    assert row["unsteady"][0] == 0 and row["unsteady"][1] > 0.1


def test_machines_that_agree_are_said_to(tmp_path: Path) -> None:
    profile = pair(tmp_path, fixed({}), layers=2)
    assert profile.tables[0].bins[20].values == (0,)
    assert any("agree to the bit" in text for text in profile.report["sentences"])


def test_a_third_k_is_predicted_from_the_nearest(tmp_path: Path) -> None:
    profile = pair(tmp_path, fixed({1: 0.1}), layers=4, ks=(64, 128, 256))
    (row,) = profile.report["held_out_k"]
    assert (row["k"], row["from_k"]) == (128, 64)
    assert row["held_out"]["within"]["profile"]["judged"] >= 4
    assert [one.ks for one in profile.tables] == [(64,), (128,), (256,)]
    assert profile.report["by_k"][0]["exponent"] == pytest.approx(0, abs=0.1)


def test_errors_of_a_row_that_are_alike_are_said(tmp_path: Path) -> None:
    def draw(generator: torch.Generator, y: Tensor) -> Tensor:
        rows = torch.randint(-1, 2, (y.shape[1], 1), generator=generator)
        return rows.expand(y.shape)

    profile = pair(tmp_path, draw, layers=4)
    pairs = table(profile)["correlation"]["toward zero or away"]
    assert pairs["row"] == pytest.approx(1, abs=0.02)
    assert abs(pairs["column"]) < 0.02
    assert any("within a row" in text for text in profile.report["sentences"])


def test_what_layers_differ_by_among_themselves_is_told_from_counting() -> None:
    rng, true = np.random.default_rng(5), 0.25
    n, layers = np.array([1_000_000, 3_000_000] * 12), list(range(24))

    def found(share: Any) -> tuple[np.ndarray, float]:
        made = [between(layers, n, rng.binomial(n, share())) or {} for _ in range(500)]
        return np.array([one["value"] for one in made]), np.mean([one["sure"] for one in made])

    # The mean of 500 estimates, of 24 layers each: standard error 0.002.
    value, sure = found(lambda: 5e-4 * (1 + true * rng.standard_normal(24)))
    assert np.mean(value**2) ** 0.5 == pytest.approx(true, abs=0.015) and sure == 1
    value, sure = found(lambda: 5e-4)
    assert max(value) < 0.05 and sure < 0.015  # counting alone makes one of 0.02 to 0.045
    value, sure = found(lambda: 5e-7)  # of 48 changed elements in all it makes a large one
    assert max(value) > 0.5 and sure < 0.015
    halves = np.repeat(layers, 2)  # two operators of a layer that differ are no layers that do
    counted = np.tile([200, 600], 24)
    assert between(halves.tolist(), [1_000_000] * 48, counted) == {"value": 0, "sure": False}
    single = between(range(48), [1_000_000] * 48, counted)
    assert single == {"value": pytest.approx(0.5, abs=0.02), "sure": True}
    assert between([0, 1, 2], [10, 10, 10], [1, 5, 9]) is None
    assert between(layers, n, [0] * 24) is None


def test_layers_that_differ_among_themselves_are_said(tmp_path: Path) -> None:
    rates = iter([0.05, 0.1, 0.15, 0.2, 0.1, 0.1, 0.1, 0.1])

    def draw(generator: torch.Generator, y: Tensor) -> Tensor:
        return fixed({1: next(rates)})(generator, y)

    profile = pair(tmp_path, draw, layers=4)
    spread = table(profile)["spread"]
    assert spread["layers"] == spread["operators"]
    assert spread["layers"] == {"value": pytest.approx(0.52, abs=0.05), "sure": True}
    assert any("layers by 5" in text for text in profile.report["sentences"])
    (tmp_path / "alike").mkdir()
    alike = pair(tmp_path / "alike", draw, layers=4)
    assert not any("among themselves" in text for text in alike.report["sentences"])


def test_numbers_that_are_none_are_left_out_and_counted(tmp_path: Path) -> None:
    y = clean(0, 64, 32)
    other = y.clone()
    other[3, 5], other[7, 7] = float("nan"), float("inf")
    a = recording(tmp_path / "a.rec", [site("x", y[None])])
    b = recording(tmp_path / "b.rec", [site("x", other[None])])
    profile = fit(a, b, name="x")
    row = table(profile)
    assert (row["not_finite"], row["changed"]) == (2, 0)
    assert any("recorded once only" in text for text in profile.report["sentences"])


def test_a_tail_that_the_elements_do_not_tell_is_refused(tmp_path: Path) -> None:
    y = clean(0, 64, 32)
    a = recording(tmp_path / "a.rec", [site("x", y[None])])
    b = recording(tmp_path / "b.rec", [site("x", y[None])])
    with pytest.raises(ConfigError, match=r"--tail 1e-06: linear at K 64 has 1,536 elements"):
        fit(a, b, name="x", tail=1e-6)
    fit(a, b, name="x", tail=0.01)


def test_other_dtypes_are_refused(tmp_path: Path) -> None:
    y = clean(0, 16, 8)
    a = recording(tmp_path / "a.rec", [site("x", y[None])])
    b = recording(tmp_path / "b.rec", [site("x", y[None].half())])
    with pytest.raises(ConfigError, match="bfloat16 in one recording and float16 in the other"):
        fit(a, b, name="x")


@pytest.mark.parametrize("sigma", [1e-4, 0.03, 0.7, 5.0, 30.0])
def test_the_rounded_gaussian_against_numerical_integrals(sigma: float) -> None:
    k = np.arange(-300, 301)
    p = baselines.rounded_gaussian(k, np.array(sigma))
    assert p.sum() == pytest.approx(1, abs=1e-9)
    square = float((p * k**2).sum())
    assert square == pytest.approx(float(baselines.second_moment(np.array(sigma))), rel=1e-3)
    rng = np.random.default_rng(0)
    drawn = np.floor(sigma * rng.standard_normal(400_000) + rng.random(400_000))
    for value in (0, 1, -2):
        share = p[k == value][0]
        assert abs((drawn == value).mean() - share) <= 5 * np.sqrt(share / 400_000) + 1e-5


def test_rare_flips_follow_their_trend_where_few_are_seen() -> None:
    """Shares that fall with magnitude: far nearer to the truth than what each bin saw."""
    rng = np.random.default_rng(0)
    n = 20_000 * np.exp(-(((np.arange(30) - 20) / 4.0) ** 2)) + 5
    truth = 0.2 * 2.0 ** (-0.5 * np.arange(30))
    errors = []
    for _ in range(20):
        seen = rng.binomial(n.astype(int), truth)
        made = shares(n, seen)
        errors.append([np.log(made / truth)[2:26], (seen / n / truth - 1)[2:26]])
    fitted, raw = (np.sqrt(np.mean(np.array(e) ** 2)) for e in zip(*errors, strict=True))
    assert fitted < 0.35 and fitted < raw / 2
    # Many elements outweigh any trend.
    jumps = np.where(np.arange(30) % 2, 0.3, 0.1)
    many = np.full(30, 1e6)
    assert np.allclose(shares(many, many * jumps), jumps, rtol=1e-3)
    assert not shares(many, np.zeros(30)).any()


def test_casts_of_norms_are_explained(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 48, generator=generator).bfloat16()
    weight = (1 + 0.2 * torch.randn(48, generator=generator)).bfloat16()
    made = dict(norm_candidates(x, weight, 1e-6))
    names = ("cast before the weight", "cast after the weight")
    left, right = (
        site("model.norm", made[name][None], kind="norm", layer=None, k=48, inputs={"x": x},
             weight=weight, extra={"eps": 1e-6})
        for name in names
    )  # fmt: skip
    a, b = recording(tmp_path / "a.rec", [left]), recording(tmp_path / "b.rec", [right])
    profile = fit(a, b, name="casts")
    found = table(profile)["structure"]
    assert names[0] in found["a"]["exact"] and names[1] in found["b"]["exact"]
    said = " ".join(profile.report["sentences"])
    assert f"machine B is explained to the bit: {names[1]}" in said


def test_a_known_matrix_unit_is_explained(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    # All of one sign: what is cut off adds up, and many results differ.
    x = torch.rand(256, 1024, generator=generator).half()
    weight = torch.rand(32, 1024, generator=generator).half()
    name = "model.layers.0.mlp.down_proj"
    other, bias = name.replace("0", "1"), torch.rand(32, generator=generator).half()
    parts = {f"{name}.weight": weight, f"{other}.weight": weight.clone(), f"{other}.bias": bias}
    save_file(parts, tmp_path / "model.safetensors")
    made = dict(product_candidates(x, weight, None))
    with_bias = dict(product_candidates(x, weight, bias))
    left, right = (
        [
            site(name, made[unit][None], k=1024, inputs={"x": x}),
            site(other, with_bias[f"{unit}, bias before rounding"][None], layer=1, k=1024,
                 inputs={"x": x}),
        ]
        for unit in ("exact", "hopper")
    )  # fmt: skip
    a, b = recording(tmp_path / "a.rec", left[:1]), recording(tmp_path / "b.rec", right[:1])
    profile = fit(a, b, name="units", model=tmp_path)
    found = table(profile)["structure"]
    assert found["b"]["differ"] >= 20
    assert found["b"]["exact"] == ["hopper", "blackwell"]
    # A site that has no bias says nothing of where one is added.
    two = fit(recording(tmp_path / "c.rec", left), recording(tmp_path / "d.rec", right),
              name="units", model=tmp_path)  # fmt: skip
    exact = table(two)["structure"]["b"]["exact"]
    assert exact == [f"{unit}, bias before rounding" for unit in ("hopper", "blackwell")]
    with pytest.raises(ConfigError, match=r"it should be a folder with .safetensors files"):
        fit(a, b, name="units", model=tmp_path / "none")


def test_what_crosses_zero_is_not_replayed_as_a_jump(tmp_path: Path) -> None:
    """An error of fixed size: small elements change sign, and none may become a large one."""
    left, right = [], []
    generator = torch.Generator().manual_seed(0)
    for layer in range(4):
        y = clean(layer)
        y = y * torch.exp2(4 * torch.randn(T, 1, generator=generator)).bfloat16()
        rms = y.double().square().mean(1, keepdim=True).sqrt()
        error = 2e-3 * rms * torch.randn(y.shape, generator=generator)
        left.append(site(f"model.layers.{layer}.x", y[None], layer=layer))
        right.append(site(f"model.layers.{layer}.x", (y + error).bfloat16()[None], layer=layer))
    a, b = recording(tmp_path / "a.rec", left), recording(tmp_path / "b.rec", right)
    (fitted,) = fit(a, b, name="crossing").tables
    assert min(one.ranges[0][0] for one in fitted.bins) == -6 * 128
    # Drawn anew for rows of other sizes, the error is of the size that it was.
    y = clean(9) * torch.exp2(torch.linspace(-8, 8, T))[:, None].bfloat16()
    rms = y.double().square().mean(1, keepdim=True).sqrt()
    u = torch.rand(y.shape, generator=generator, dtype=torch.float64)
    ulps = torch.zeros(y.shape, dtype=torch.int64)
    where = bins_of(y, fitted.edges, rms)
    for number, one in enumerate(fitted.bins):
        at = where == number
        place = torch.searchsorted(
            torch.tensor(one.cumulative, dtype=torch.float64), u[at], right=True
        )
        middles = torch.tensor([(low + high) // 2 for low, high in one.ranges])
        ulps[at] = middles[place]
    drawn = (moved(y, ulps).double() - y.double()) / rms
    true = torch.cat(
        [
            (r.output[0].double() - q.output[0].double()) / q.row_rms[:, None]
            for q, r in zip(left, right, strict=True)
        ]
    )
    assert float(drawn.square().mean().sqrt()) == pytest.approx(
        float(true.square().mean().sqrt()), rel=0.1
    )


@pytest.mark.parametrize(
    ("size", "relative", "within"),
    [(3e-4, False, 0.01), (3e-3, False, 0.02), (3e-3, True, 0.015), (0.03, False, 0.1)],
)
def test_a_replay_has_the_mean_square_of_the_error(
    tmp_path: Path, size: float, relative: bool, within: float
) -> None:
    """Of an error that is the same whatever the ulp, and of one that grows with the element.

    One of 3 % of the row's RMS moves most elements across a power of two, where ulps change.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = [], []
    for layer in range(2):
        x = torch.randn(1000, 256, generator=generator)
        x = x * torch.exp2(8 * torch.rand(1000, 1, generator=generator))
        rms = x.square().mean(1, keepdim=True).sqrt()
        error = size * torch.randn(x.shape, generator=generator)
        y, z = x.bfloat16(), (x + error * (x.abs() if relative else rms)).bfloat16()
        left.append(site(f"model.layers.{layer}.x", y[None], layer=layer))
        right.append(site(f"model.layers.{layer}.x", z[None], layer=layer))
    a, b = recording(tmp_path / "a.rec", left), recording(tmp_path / "b.rec", right)
    (fitted,) = fit(a, b, name="x").tables
    pairs = [differences(one, two, EDGES) for one, two in zip(left, right, strict=True)]
    counts = Counts.sum(Counts.of(one, one.finite) for one in pairs)
    n = counts.by_bin(30)
    seen, made = measured(counts, 30), drawn(fitted, counts)
    true = (n * seen["square"]).sum()
    assert (n * made["square"]).sum() == pytest.approx(true, rel=within)
    assert (n * made["changed"]).sum() == pytest.approx((n * seen["changed"]).sum(), rel=0.025)
    # What is said to be drawn is drawn, of other rows.
    y = torch.randn(1000, 256, generator=generator)
    y = (y * torch.exp2(8 * torch.rand(1000, 1, generator=generator))).bfloat16()
    words = torch.randint(0, 2**31, y.shape, generator=generator)
    replay = Drawn.of(fitted).apply(y, words, torch.zeros_like(words), torch.tensor(1.0))
    rms = y.double().square().mean(1, keepdim=True).sqrt()
    mean = float(((replay.double() - y.double()) / rms).square().mean())
    assert mean == pytest.approx(true / counts.total, rel=within + 0.03)
