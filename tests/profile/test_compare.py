"""Two machines compared: planted bugs, correct differences, profiles. About 20 s."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from hetero_plugin.cli import app
from hetero_plugin.config import ConfigError
from hetero_plugin.profile.compare.attention import mixed, turned
from hetero_plugin.profile.compare.patterns import patterns
from hetero_plugin.profile.compare.run import compare
from hetero_plugin.profile.fit.run import fit
from hetero_plugin.profile.recording import SiteRecord
from scripts import planted
from tests.profile.synthetic import recording, site

T, C = 96, 64


def exact(seed: int) -> Tensor:
    return torch.randn(T, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sites(change: dict[int, Any]) -> tuple[list[SiteRecord], list[SiteRecord]]:
    """Eight layers on A, and on B, where some give ``change[layer](reference)``."""
    left, right = [], []
    for layer in range(8):
        reference = exact(layer)
        y = reference.bfloat16()
        other = change[layer](reference).bfloat16() if layer in change else y
        name = f"model.layers.{layer}.mlp.down_proj"
        left.append(site(name, y[None], reference, layer=layer))
        right.append(site(name, other[None], reference, layer=layer))
    return left, right


def compared(tmp_path: Path, change: dict[int, Any], **how: Any) -> dict[str, Any]:
    left, right = sites(change)
    a, b = recording(tmp_path / "a.rec", left), recording(tmp_path / "b.rec", right)
    return compare(a, b, **how)


def test_the_first_operator_in_execution_order_is_named(tmp_path: Path) -> None:
    bias = 0.05 * torch.randn(C, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    found = compared(tmp_path, {5: lambda y: y * 1.5, 2: lambda y: y + bias})
    assert found["first"] == "model.layers.2.mlp.down_proj"
    assert found["ranked"][0] == "model.layers.5.mlp.down_proj"
    causes = {row["layer"]: row["cause"]["name"] for row in found["sites"] if row["beyond"]}
    assert causes == {2: "bias", 5: "scale"}
    assert "the first of 2 beyond the limit" in found["sentence"]


def test_two_correct_machines_are_a_floor(tmp_path: Path) -> None:
    found = compared(tmp_path, {3: lambda y: y * (1 + 2**-12), 4: lambda y: y.float()})
    assert found["first"] is None
    assert "no operator of 8 is beyond the limit" in found["sentence"]


def test_the_odd_machine_may_be_the_first(tmp_path: Path) -> None:
    left, right = sites({1: lambda y: y * 1.1})
    a, b = recording(tmp_path / "a.rec", right), recording(tmp_path / "b.rec", left)
    (row,) = [row for row in compare(a, b)["sites"] if row["beyond"]]
    assert (row["machine"], row["cause"]["name"]) == ("a", "scale")
    assert row["ratio"] < 0.1


def test_numbers_that_are_none_on_one_machine(tmp_path: Path) -> None:
    def broken(y: Tensor) -> Tensor:
        y = y.clone()
        y[3, 4] = float("nan")
        return y

    found = compared(tmp_path, {6: broken})
    (row,) = [row for row in found["sites"] if row["beyond"]]
    assert (row["layer"], row["cause"]["name"]) == (6, "not finite")
    json.dumps(found, allow_nan=False)


def noisy(seed: int, scale: float) -> Any:
    def change(y: Tensor) -> Tensor:
        z = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)
        return y + scale * z * y.abs()

    return change


def test_a_profile_is_a_floor_of_its_own(tmp_path: Path) -> None:
    left, right = sites({layer: noisy(layer, 6e-3) for layer in range(8)})
    a, b = recording(tmp_path / "a.rec", left), recording(tmp_path / "b.rec", right)
    assert compare(a, b)["first"] == "model.layers.0.mlp.down_proj"
    profile = fit(a, b, name="known")
    _, other = sites({layer: noisy(100 + layer, 6e-3) for layer in range(8)})
    same = recording(tmp_path / "c.rec", other)
    assert compare(a, same, profile=profile)["first"] is None
    other[4] = sites({4: noisy(4, 3e-2)})[1][4]
    worse = recording(tmp_path / "d.rec", other)
    found = compare(a, worse, profile=profile)
    assert [row["layer"] for row in found["sites"] if row["beyond"]] == [4]
    assert found["sites"][4]["ratio"] == pytest.approx(5, rel=0.15)


def test_limits_and_missing_references_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--limit 1: it should be over 1"):
        compared(tmp_path, {}, limit=1.0)
    y = exact(0).bfloat16()[None]
    a = recording(tmp_path / "c.rec", [site("x", y)])
    b = recording(tmp_path / "d.rec", [site("x", y)])
    with pytest.raises(ConfigError, match="hold no float64 results"):
        compare(a, b)


@pytest.mark.parametrize("name", ["factor", "row factor", "column factor", "column offset"])
def test_a_pattern_is_found_under_rounding(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    reference = torch.randn(T, C, generator=generator, dtype=torch.float64)
    size = torch.ones(T, dtype=torch.float64)
    made = {
        "factor": 2e-3 * reference,
        "row factor": 2e-3 * torch.randn(T, 1, generator=generator).double() * reference,
        "column factor": 2e-3 * torch.randn(1, C, generator=generator).double() * reference,
        "column offset": (2e-3 * torch.randn(1, C, generator=generator).double()).expand(T, C),
    }[name]
    rounding = reference.bfloat16().double() - reference
    unit = float(rounding.square().mean().sqrt())
    found = patterns((rounding + made).numpy(), reference.numpy(), size.numpy(), unit)
    assert found[0].name == name and found[0].real
    none = patterns(rounding.numpy(), reference.numpy(), size.numpy(), unit)
    assert not any(one.real for one in none)


def test_rope_of_another_base_is_what_it_would_have_been() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 2, 8, generator=generator, dtype=torch.float64)
    places = torch.arange(7)
    zero = torch.zeros(7, dtype=torch.long)
    assert torch.equal(turned(x, zero, 1e4, 1e6), x)
    once = turned(x, places, 1e4, 1e6)
    back = turned(once, places, 1e6, 1e4)
    assert torch.allclose(back, x, atol=1e-12)
    assert torch.allclose(once.norm(dim=-1), x.norm(dim=-1))
    y = mixed(x, x, x, (3, 4), 0.3)
    of = torch.nn.functional.scaled_dot_product_attention(
        x[3:].transpose(0, 1), x[3:].transpose(0, 1), x[3:].transpose(0, 1),
        is_causal=True, scale=0.3,
    )  # fmt: skip
    assert torch.allclose(y[3:], of.transpose(0, 1))


def test_planted_bugs_are_found_and_named_and_floors_are_not_called_bugs() -> None:
    """What `python -m scripts.planted` does on 208 and 224 cases, on 39 and 42."""
    rates, said = planted.simulate(planted.bugs, 3)
    assert sum(rate.cases for rate in rates.values()) == 39
    assert all(rate.flagged == rate.cases for rate in rates.values()), rates
    assert sum(rate.named for rate in rates.values()) >= 37, said
    rates, said = planted.simulate(planted.floors, 3)
    assert said == []
    assert sum(rate.cases for rate in rates.values()) == 42


def test_the_commands(tmp_path: Path) -> None:
    left, right = sites({5: lambda y: y * 1.5})
    for name, records in (("a", left), ("b", right)):
        recording(tmp_path / f"{name}.rec", records).close()
    run = CliRunner().invoke
    paths = [str(tmp_path / "a.rec"), str(tmp_path / "b.rec")]
    out = tmp_path / "found.json"
    done = run(app, ["compare-machines", *paths, "--out", str(out)])
    assert done.exit_code == 1 and "machine B, scale" in " ".join(done.output.split())
    assert json.loads(out.read_text())["first"] == "model.layers.5.mlp.down_proj"
    assert out.with_suffix(".png").stat().st_size > 0
    done = run(app, ["compare-machines", paths[0], paths[0]])
    assert done.exit_code == 0
    made = tmp_path / "ab.profile"
    done = run(app, ["profile", "fit", *paths, "--out", str(made)])
    assert done.exit_code == 0 and "than a Gaussian" in " ".join(done.output.split())
    assert made.with_suffix(".png").stat().st_size > 0
    done = run(app, ["profile", "show", str(made)])
    assert done.exit_code == 0 and "linear in bfloat16" in " ".join(done.output.split())
