"""Profiles made small, and the page of one. About 12 s."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hetero_plugin.cli import app
from hetero_plugin.config import ConfigError
from hetero_plugin.errors.profile import Profile, bins_of, load_profile
from hetero_plugin.evaluation.report.profile import render
from hetero_plugin.profile.fit.compact import compacted
from hetero_plugin.profile.fit.figure import draw
from hetero_plugin.profile.fit.run import fit
from hetero_plugin.profile.fit.tables import moments
from tests.errors.profiles import mild
from tests.profile.synthetic import moved, recording, site


def machines(tmp_path: Path, differ: dict[str, float]) -> Profile:
    """A fit of kinds at K 64 and, of the first, K 128 too, with a share each that is an ulp off."""
    left, right = [], []
    generator = torch.Generator().manual_seed(5)
    sizes = [(kind, 64) for kind in differ] + [(next(iter(differ)), 128)]
    for kind, k in sizes:
        share = differ[kind] if k == 64 else 0.0
        for layer in range(4):
            y = torch.randn(256, 96, generator=generator).bfloat16()
            ulps = (torch.rand(y.shape, generator=generator) < share).long()
            name = f"model.layers.{layer}.{kind}{k}"
            n = 96 if kind == "linear" else k
            left.append(site(name, y[None], layer=layer, kind=kind, k=k, n=n))
            right.append(site(name, moved(y, ulps)[None], layer=layer, kind=kind, k=k, n=n))
    a = recording(tmp_path / "a.rec", left)
    b = recording(tmp_path / "b.rec", right)
    return fit(a, b, name="made up")


def test_a_small_profile_draws_the_same_of_what_was_seen(tmp_path: Path) -> None:
    whole = machines(tmp_path, {"linear": 0.1, "norm": 0.0})
    small = compacted(whole)
    # A kind in which the machines agree goes; a K in which they do stays beside one where not.
    assert [(one.kind, one.ks) for one in small.tables] == [("linear", (64,)), ("linear", (128,))]
    assert small.report["same"] == [{"kind": "norm", "dtype": "bfloat16", "k": 64}]
    for before, after in zip(whole.tables, small.tables, strict=False):
        seen = np.array([one.n > 0 for one in before.bins])
        assert seen.sum() == len(after.bins) < len(before.bins)
        assert after.n == before.n == sum(one.n for one in after.bins)
        for key, value in moments(after).items():
            np.testing.assert_allclose(value, moments(before)[key][seen], rtol=1e-6, atol=1e-9)
        # An element is in the bin that it was in, if the fit saw any in it.
        y = torch.randn(64, 512, generator=torch.Generator().manual_seed(2)).bfloat16()
        old, new = bins_of(y, before.edges), bins_of(y, after.edges)
        place = torch.from_numpy(np.cumsum(seen) - 1)
        known = torch.from_numpy(seen)[old]
        assert torch.equal(new[known], place[old][known])
    row = small.report["tables"][0]
    assert [one["bin"] for one in row["held_out"]["rows"]["bins"]] == sorted(
        one["bin"] for one in row["held_out"]["rows"]["bins"]
    )
    assert row["held_out"]["layers"]["bins"] == []
    assert row["changed"] == float(f"{whole.report['tables'][0]['changed']:.4g}")


def test_a_small_profile_is_a_third_of_the_file_and_still_has_its_figure(tmp_path: Path) -> None:
    whole = machines(tmp_path, {"linear": 0.1})
    whole.write(tmp_path / "whole.profile")
    small = compacted(whole)
    small.write(tmp_path / "small.profile", dense=True)
    sizes = [(tmp_path / f"{name}.profile").stat().st_size for name in ("small", "whole")]
    assert sizes[0] < sizes[1] / 3
    assert load_profile(tmp_path / "small.profile").digest == small.digest
    assert draw(small, tmp_path / "small.png")
    made = compacted(mild())  # by hand: there is no report, and no table goes
    assert len(made.tables) == len(mild().tables) and made.report == {}


def test_machines_that_agree_have_no_small_profile(tmp_path: Path) -> None:
    same = machines(tmp_path, {"linear": 0.0})
    with pytest.raises(ConfigError, match="agree to the bit in all elements of linear"):
        compacted(same)


def test_the_command_writes_a_small_file(tmp_path: Path) -> None:
    machines(tmp_path, {"linear": 0.1, "norm": 0.0})
    out = tmp_path / "ab.profile"
    words = ["profile", "fit", str(tmp_path / "a.rec"), str(tmp_path / "b.rec")]
    done = CliRunner().invoke(app, [*words, "--out", str(out), "--compact"])
    assert done.exit_code == 0, done.output
    assert [one.kind for one in load_profile(out).tables] == ["linear", "linear"]
    assert "\n" not in out.read_text().strip()


def test_the_page_of_a_profile_has_its_numbers_and_its_figure(tmp_path: Path) -> None:
    out = tmp_path / "floor.html"
    words = ["profile", "show", "bf16-kernel-floor", "--page"]
    done = CliRunner().invoke(app, [*words, str(out)])
    assert done.exit_code == 0, done.output
    text, profile = out.read_text(), load_profile("bf16-kernel-floor")
    assert profile.digest in text and "<svg" in text and "http://" not in text.split("<svg")[0]
    for sentence in profile.report["sentences"]:
        assert sentence in text
    for row in profile.report["tables"]:
        assert f"{row['elements']:,}" in text
        for part, found in row["held_out"].items():
            assert f"linear bfloat16 K {row['k']}, {part}" in text
            assert f"{found['changed']:,}" in text
    assert "too few to judge" in text
    done = CliRunner().invoke(app, [*words, str(tmp_path / "floor.md")])
    assert done.exit_code != 0 and "should end in .html" in done.output
    with pytest.raises(ConfigError, match="no report of `profile fit`"):
        render(mild())
