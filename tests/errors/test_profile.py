"""A measured profile: its file, its bins, and what a rule that names one means. About 10 s."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from hetero_plugin import NoiseConfig, wrap
from hetero_plugin.config import ConfigError
from hetero_plugin.config.profile import profile_path
from hetero_plugin.errors.profile import (
    EDGES,
    Bin,
    Profile,
    Table,
    bins_of,
    from_ordered,
    load_profile,
    nearest_k,
    ordered,
    profile_of,
    row_rms,
    shipped_profiles,
)
from hetero_plugin.errors.profile.bins import power_below
from tests.errors.profiles import mild, wild, written
from tests.models import qwen2

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def rule(path: str, **more: Any) -> dict[str, Any]:
    return {"rules": [{"targets": ["linear"], "error": "profile", "path": path, **more}]}


# ---- the file ----


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = wild()
    path = written(made, tmp_path)
    read = load_profile(path)
    assert read == made and read.digest == made.digest and len(read.digest) == 64
    # The report and the names are for people; a table is not.
    data = json.loads(Path(path).read_text())
    same = Profile(**{**data, "name": "other", "report": {"a": 1}, "made_from": {"a": {}}})
    assert same.digest == made.digest
    data["tables"][0]["fresh"] = 0.5
    assert Profile(**data).digest != made.digest


def test_the_profiles_of_the_package_can_be_read() -> None:
    for name in shipped_profiles():
        assert load_profile(name).digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no JSON", "is not JSON"),
        ("[]", "has no format 'hetero-noise profile'"),
        ('{"format": "hetero-noise profile", "version": 3}', "version: got 3; this package"),
        ('{"format": "hetero-noise profile", "version": 1}', "fit it again from its recordings"),
        ('{"format": "hetero-noise profile", "version": 2, "name": "x"}', "tables: is required"),
        (
            '{"format": "hetero-noise profile", "version": 2, "name": "x", "tables": [], "n": 1}',
            "unknown key 'n'",
        ),
    ],
)
def test_what_is_no_profile_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "ab.profile"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"ab\.profile") as caught:
        load_profile(path)
    assert words in str(caught.value)


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "folder.profile").mkdir()
    for path, words in (
        (tmp_path / "none.profile", "No such file"),
        (tmp_path / "folder.profile", "is no plain file"),
        (tmp_path / "ab.json", "ends in .profile"),
        ("bf16-kernel-flor", "ends in .profile"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_profile(path)


BIN: dict[str, Any] = {"values": (-1, 0, (1, 3)), "cumulative": (0.1, 0.9, 1.0), "n": 1}
TABLE: dict[str, Any] = {
    "kind": "linear", "dtype": "bfloat16", "ks": (64,), "edges": (-1.0, 0.0),
    "bins": (Bin(**BIN),) * 3, "n": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": (0, -1, (1, 3))}, "should ascend"),
        ({"values": (-1, 0, (0, 3))}, "not overlap"),
        ({"values": (-1, 0, (3, 1))}, "should not be the larger"),
        ({"values": (-1, 0)}, "2 values and 3 probabilities"),
        ({"cumulative": (0.1, 0.1, 1.0)}, "probabilities should rise"),
        ({"cumulative": (0.1, float("nan"), 1.0)}, "probabilities should rise"),
        ({"cumulative": (0.1, 0.5, 0.9)}, "should end at 1"),
    ],
)
def test_a_bin_that_contradicts_itself(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Bin(**{**BIN, **change})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"edges": (0.0,)}, "1 edges and 3 bins"),
        ({"edges": (0.0, 0.1)}, "ascend by 0.2"),
        ({"edges": (0.0, 17.0)}, "within ±16"),
        ({"ks": (64, 32)}, "ascend"),
        ({"dtype": "float64"}, "dtype"),
        ({"fresh": 1.5}, "fresh"),
        ({"bins": (Bin(values=(0, 40000), cumulative=(0.5, 1.0), n=1),) * 3}, "32639 ulps"),
    ],
)
def test_a_table_that_contradicts_itself(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Table(**{**TABLE, **change})
    with pytest.raises(ConfigError, match="is in another table"):
        Profile(name="twice", tables=(Table(**TABLE), Table(**TABLE)))


# ---- bins and ulps ----


@pytest.mark.parametrize("dtype", FLOATS)
def test_bins_are_those_of_float64(dtype: torch.dtype) -> None:
    x = torch.randn(60, 515, generator=torch.Generator().manual_seed(0))
    x = (x * torch.logspace(-3, 3, 60)[:, None]).to(dtype)
    exact = x.double().square().mean(-1, keepdim=True).sqrt()
    assert ((row_rms(x).double() / exact - 1).abs() < 1e-3).all()
    lowest = torch.finfo(dtype).smallest_normal
    power = torch.exp2(torch.frexp(x.double().abs()).exponent.double() - 1).clamp_min(lowest)
    power = torch.where(x == 0, lowest, power)
    assert torch.equal(power_below(x).double(), power)
    size = (power / exact).log2()
    edges = torch.tensor(EDGES, dtype=torch.float64)
    right = torch.bucketize(size, edges, right=True)
    far = (size[..., None] - edges).abs().amin(-1) > 2e-3  # of an edge, by more than the RMS is off
    assert torch.equal(bins_of(x, EDGES)[far], right[far]) and far.double().mean() > 0.98
    assert torch.equal(bins_of(x, EDGES, row_rms(x)), bins_of(x, EDGES))


@pytest.mark.parametrize("dtype", FLOATS)
def test_elements_of_a_row_in_one_bin_have_one_ulp(dtype: torch.dtype) -> None:
    x = torch.randn(40, 700, generator=torch.Generator().manual_seed(2))
    x = (x * torch.logspace(-4, 4, 40)[:, None]).to(dtype)
    up = from_ordered(ordered(x.abs()) + 1, dtype).double() - x.abs().double()
    where = bins_of(x, EDGES)
    for row, ulp in zip(where, up, strict=True):
        for index in row.unique().tolist():
            if 0 < index < len(EDGES):
                assert len(ulp[row == index].unique()) == 1
    # Of all rows: within half an octave of their RMS.
    against = (up / row_rms(x).double()).log2()
    for index in range(1, len(EDGES)):
        here = against[where == index]
        assert not len(here) or here.max() - here.min() <= 0.5 + 1e-6


@pytest.mark.parametrize("dtype", FLOATS)
def test_powers_of_two_begin_a_bin_and_what_is_subnormal_shares_one(dtype: torch.dtype) -> None:
    two = torch.tensor([1.0, 2.0, 4.0]).to(dtype)
    below = from_ordered(ordered(two) - 1, dtype)
    rms = torch.tensor([1.0])
    assert bins_of(two, EDGES, rms).tolist() == [21, 23, 25]
    assert bins_of(below, EDGES, rms).tolist() == [19, 21, 23]
    assert bins_of(-below, EDGES, rms).tolist() == [19, 21, 23]
    # From 0 to the smallest normal number and the ulps after it: one size of ulp.
    bits = 10 if dtype == torch.float16 else 7 if dtype == torch.bfloat16 else 23
    small = from_ordered(
        torch.tensor([0, 1, 5, (1 << bits) - 1, 1 << bits, (2 << bits) - 1]), dtype
    )
    assert power_below(small).unique().tolist() == [torch.finfo(dtype).smallest_normal]
    rms = torch.tensor([torch.finfo(dtype).smallest_normal])
    assert bins_of(small, EDGES, rms).unique().tolist() == [21]


def test_bins_do_not_depend_on_the_order_of_columns() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 4864, generator=generator)
    x[0, 3] = 3000.0
    order = torch.randperm(4864, generator=generator)
    assert torch.equal(row_rms(x), row_rms(x[:, order]))
    assert torch.equal(bins_of(x, EDGES)[:, order], bins_of(x[:, order], EDGES))


def test_bins_of_rows_without_a_size() -> None:
    x = torch.zeros(3, 7)
    x[1] = 1e-40
    x[2, :2] = torch.tensor([float("inf"), float("nan")])
    assert row_rms(x).isfinite().all()
    assert (bins_of(x, EDGES)[:2] == 0).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_ulps_are_in_the_order_of_numbers(dtype: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    every = bits.view(dtype) if dtype != torch.float32 else bits.view(torch.bfloat16).float()
    numbers = every[every.isfinite()].sort().values
    steps = ordered(numbers).diff()
    assert (steps >= 0).all() and torch.equal(steps == 0, numbers.diff() == 0)
    assert torch.equal(from_ordered(ordered(numbers), dtype), numbers)
    most = torch.finfo(dtype).max
    far = torch.tensor([2**40, -(2**40)])
    assert from_ordered(far, dtype).tolist() == [most, -most]
    with pytest.raises(TypeError, match="float64"):
        ordered(torch.ones(1, dtype=torch.float64))


def test_the_nearest_size_is_that_of_log2() -> None:
    ks = (100, 400, 1600)
    assert [nearest_k(ks, k) for k in (100, 199, 200, 201, 799, 801, 1600)] == [
        100, 100, 100, 400, 400, 1600, 1600,
    ]  # fmt: skip
    assert nearest_k(ks, 99) is None and nearest_k(ks, 1601) is None and nearest_k((), 5) is None


# ---- the rule ----


def test_a_specification_carries_the_digest_and_means_it(tmp_path: Path) -> None:
    profile = mild()
    path = written(profile, tmp_path)
    config = NoiseConfig(**rule(path))
    assert config.rules[0].digest == profile.digest and config.rules[0].scale == 1
    assert config.rules[0].direction == "forward" and config.rules[0].path == path
    again = NoiseConfig.parse(config.canonical)
    assert again == config and again.fingerprint == config.fingerprint
    assert NoiseConfig.parse(json.dumps(config.model_dump(mode="json"))) == config
    # Elsewhere the same file is the same specification; another one is not.
    other = NoiseConfig(**rule(written(profile, tmp_path, "copy")))
    assert other.fingerprint == config.fingerprint
    changed = NoiseConfig(**rule(written(mild(0.03), tmp_path, "other")))
    assert changed.fingerprint != config.fingerprint


def test_a_path_is_relative_to_the_specifications_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(mild(), tmp_path)
    (tmp_path / "spec.json").write_text(json.dumps(rule("ab.profile")))
    (tmp_path / "flat.yaml").write_text("error: profile\npath: ab.profile\n")
    for name in ("spec.json", "flat.yaml"):
        read = NoiseConfig.parse(tmp_path / name)
        assert read.rules[0].path == str(tmp_path / "ab.profile")
    monkeypatch.chdir(tmp_path)
    assert NoiseConfig(**rule("ab.profile")).rules[0].path == str(tmp_path / "ab.profile")


def test_a_process_with_another_file_refuses(tmp_path: Path) -> None:
    path = written(mild(0.011), tmp_path)
    config = NoiseConfig(**rule(path))
    mild(0.012).write(path)
    with pytest.raises(ConfigError, match="or this machine has another") as caught:
        wrap(qwen2(torch.bfloat16), config)
    assert config.rules[0].digest is not None and config.rules[0].digest in str(caught.value)
    Path(path).unlink()
    again = NoiseConfig.parse(config.canonical)  # which says what it means, and is not read
    with pytest.raises(ConfigError, match="No such file"):
        wrap(qwen2(torch.bfloat16), again)
    with pytest.raises(ConfigError, match="was read in this process"):
        profile_of("0" * 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": None}, "path: got none"),
        ({"point": "input"}, "measured of outputs"),
        ({"direction": "both"}, "nothing is known of gradients"),
        ({"scale": 1.5}, "from 0 (clean) to 1"),
        ({"digest": "12"}, "digest"),
        ({"error": "relative_gaussian", "scale": 1, "digest": None}, "belongs to the error model"),
        ({"relative": True}, "belongs to the error model"),
    ],
)
def test_rules_that_mean_nothing(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    given = {**rule(written(mild(), tmp_path))["rules"][0], **change}
    with pytest.raises(ConfigError) as caught:
        NoiseConfig(rules=[given])
    assert words in str(caught.value)


def test_what_was_not_measured_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = qwen2(torch.bfloat16)
    norms = written(mild(kinds=("norm",)), tmp_path, "norms")
    with pytest.raises(ConfigError, match="the kind linear, which the profile 'mild'"):
        wrap(model, NoiseConfig(**rule(norms)))
    table = TABLE | {"bins": (Bin(**BIN),) * 3}
    for ks, words in (((65, 128), "has the size 64"), ((16, 48), "from 16 to 48")):
        small = Profile(name="small", tables=(Table(**table | {"ks": ks}),))
        with pytest.raises(ConfigError, match=words):
            wrap(model, NoiseConfig(**rule(written(small, tmp_path, "small"), exclude=["lm_head"])))
    near = Profile(name="near", tables=(Table(**table | {"ks": (48, 1024)}),))
    with caplog.at_level(logging.WARNING, "hetero_noise"):
        spec = NoiseConfig(**rule(written(near, tmp_path, "near"), exclude=["lm_head"]))
        wrap(qwen2(torch.float32), spec)
    assert "of size 64 in bfloat16; its table of size 48 stands for it" in caplog.text


def test_a_dtype_without_a_table_is_refused_at_first_use(tmp_path: Path) -> None:
    only = Profile(name="only", tables=(Table(**TABLE | {"ks": (16, 1024)}),))
    spec = NoiseConfig(**rule(written(only, tmp_path), exclude=["lm_head"]))
    model = wrap(qwen2(torch.float32), spec)
    with pytest.raises((ConfigError, ValueError), match="no table for"):
        model(torch.arange(4)[None])


def test_a_chain_is_sent_with_its_profile(tmp_path: Path) -> None:
    model = wrap(qwen2(torch.bfloat16), NoiseConfig(**rule(written(mild(), tmp_path))))
    ids = torch.arange(9)[None]
    with torch.no_grad():
        first = model(ids).logits
        assert torch.equal(pickle.loads(pickle.dumps(model))(ids).logits, first)


@pytest.mark.parametrize("name", shipped_profiles())
def test_a_profile_that_ships_says_where_it_is_from(name: str) -> None:
    config = NoiseConfig(targets=["linear"], exclude=["lm_head"], error="profile", path=name)
    path = profile_path(name)
    profile = load_profile(path)
    assert profile.name == name and config.rules[0].digest == profile.digest
    for side in ("a", "b"):
        made = profile.made_from[side]
        assert made["machine"]["torch"] and made["variant"] and made["rows"] >= 512
    assert min(table.n for table in profile.tables) > 1_000_000
    text = path.read_text(encoding="utf-8")
    assert "/work" not in text and "/home" not in text


@pytest.mark.parametrize("name", shipped_profiles())
def test_a_profile_that_ships_is_a_preset(name: str) -> None:
    config = NoiseConfig(preset=name)
    (rule,) = config.rules
    assert (rule.error, rule.path, rule.scale) == ("profile", name, 1)
    assert rule.digest == load_profile(name).digest
    assert NoiseConfig.parse(name) == config and NoiseConfig.parse(config.canonical) == config
    assert NoiseConfig(preset=name, scale=0.5).rules[0].scale == 0.5
    # On a model of a measured size it runs, on another it says why not.
    ids = torch.arange(40)[None]
    small = qwen2(torch.bfloat16)
    with pytest.raises(ConfigError, match="was measured from 896 to 4864"):
        wrap(small, name)
    sized = qwen2(torch.bfloat16, hidden_size=896, intermediate_size=1024)
    with torch.no_grad():
        clean = sized(ids).logits
        assert not torch.equal(wrap(sized, name)(ids).logits, clean)


def test_a_profile_ships() -> None:
    assert "bf16-kernel-floor" in shipped_profiles()
