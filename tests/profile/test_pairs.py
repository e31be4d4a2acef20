"""The committed profiles of pairs of machines, and the page about them. About 20 s."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hetero_plugin.config import NoiseConfig
from hetero_plugin.errors.profile import Drawn, Table, bins_of, load_profile, ordered
from hetero_plugin.profile.asked import Asked
from hetero_plugin.profile.fit.tables import moments
from hetero_plugin.profile.record import record
from scripts import pairs_page
from scripts.pairs_page import DATA, PAGE, PAIRS, PROFILES, fitted, read
from scripts.pairs_text import page, replaced

COMMITTED = [pair.path for pair in PAIRS if pair.path.exists()]
MOST = 100_000
"""Bytes of a committed profile."""


def rows_of(table: Table, seed: int) -> Tensor:
    """Random rows [T, 2048] in the table's dtype, of a normal distribution with heavy tails."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(256, 2048, generator=generator)
    y *= 1 + 4 * (torch.rand(y.shape, generator=generator) < 0.02)
    return y.to(getattr(torch, table.dtype))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_profile_draws_what_its_tables_say(path: Path) -> None:
    profile = load_profile(path)
    assert profile.name == path.stem and path.stat().st_size <= MOST
    for number, table in enumerate(profile.tables):
        y, drawn = rows_of(table, number), Drawn.of(table)
        generator = torch.Generator().manual_seed(100 + number)
        words = torch.randint(0, 1 << 31, y.shape, generator=generator)
        moved_to = drawn.apply(y, words, torch.zeros_like(words), torch.tensor(1.0))
        ulps = (ordered(moved_to) - ordered(y)).double() * torch.where(y < 0, -1, 1)
        at, said = bins_of(y, table.edges), moments(table)
        p, square = (torch.from_numpy(said[key])[at] for key in ("changed", "square"))
        # Sums of independent draws, within five of their standard deviations; of one element the
        # square varies by at most the table's fourth moment.
        changed = float((ulps != 0).sum())
        assert abs(changed - float(p.sum())) <= 5 * float((p * (1 - p)).sum()) ** 0.5 + 1
        largest = torch.tensor(
            [max(max(map(abs, pair)) for pair in one.ranges) for one in table.bins],
            dtype=torch.float64,
        )
        spread = float((square * largest[at] ** 2).sum()) ** 0.5
        assert abs(float((ulps**2).sum()) - float(square.sum())) <= 5 * spread + 1
        assert any(one["changed"] for one in profile.report["tables"])


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_profile_says_what_it_is_of_and_can_be_used(path: Path) -> None:
    profile = load_profile(path)
    kinds = sorted({table.kind for table in profile.tables})
    config = NoiseConfig(targets=kinds, error="profile", path=str(path))
    assert config.rules[0].digest == profile.digest
    for side in ("a", "b"):
        made = profile.made_from[side]
        assert made["machine"]["torch"] and made["rows"] >= 128
        assert made["model"] == profile.made_from["a"]["model"]
    for place in (path, DATA):
        text = place.read_text(encoding="utf-8")
        assert "/work" not in text and "/home" not in text and "/tmp" not in text


def test_a_pair_has_a_profile_if_it_differs() -> None:
    recorded = read()["recorded"]
    assert set(recorded) <= {pair.name for pair in PAIRS}
    assert {path.name for path in PROFILES.glob("*.profile")} <= {path.name for path in COMMITTED}
    for pair in PAIRS:
        found = recorded.get(pair.name)
        differs = found is not None and any(one["changed"] for one in found[-1]["kinds"])
        assert differs == pair.path.exists(), pair.name


def test_the_page_is_of_these_profiles() -> None:
    text, profiles = PAGE.read_text(encoding="utf-8"), fitted()
    assert replaced(text, page(read(), profiles)) == text, "run python -m scripts.pairs_page page"
    digests = re.findall(r"sha256 `([0-9a-f]{64})`", text)
    assert digests == [profile.digest for profile in profiles.values()]


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="pairs: begin"):
        replaced("no marks", "made")
    numbers: dict[str, Any] = json.loads(DATA.read_text())
    assert {"recorded", "checks"} <= set(numbers)


# ---- how they are made ----


def test_a_pair_from_recordings_to_its_page(
    checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`scripts.pairs_page fit`, `scripts.pairs_check` and `page`, on a tiny model."""
    from scripts import pairs_check, pairs_text

    monkeypatch.setattr(pairs_page, "PROFILES", tmp_path)
    monkeypatch.setattr(pairs_page, "DATA", tmp_path / "pairs.json")
    noisy = pairs_page.Pair("noisy", "plain", "noisy", "as it is, and a Gaussian",
                            ("linear", "norm"), as_b="gaussian:0.02")  # fmt: skip
    same = pairs_page.Pair("same", "plain", "plain", "twice the same")
    for module in (pairs_page, pairs_text):
        monkeypatch.setattr(module, "PAIRS", (noisy, same))
    plain = tmp_path / "plain.rec"
    record(Asked(checkpoint, plain, text=text, rows=128, columns=64, repeats=1))
    record(Asked(checkpoint, tmp_path / "noisy.rec", replay=plain, variant=noisy.as_b, columns=64,
                 repeats=1))  # fmt: skip
    pairs_page.fit_pairs([tmp_path], checkpoint, [])
    assert noisy.path.exists() and not same.path.exists()
    data = pairs_page.read()
    assert not any(one["changed"] for one in data["recorded"]["same"][-1]["kinds"])

    session = pairs_check.Session(checkpoint, text, 320, 32)
    found = pairs_check.check(session, noisy)
    # Each kind alone is nearer to A than both, and A with the profile about as far.
    kl = {kinds: one["kl"]["value"] for kinds, one in found["by_kind"].items()}
    assert set(kl) == {"linear", "norm", "linear + norm"} and min(kl.values()) > 0
    assert kl["linear + norm"] == max(kl.values())
    assert found["pairs"]["a_b"]["kl"]["value"] == kl["linear + norm"]
    assert 0.5 < found["ratio"]["kl"]["value"] < 2
    assert all(torch.equal(a, b) for a, b in zip(session.plain, session.logits(), strict=True))
    pairs_page.write({**data, "checks": {"noisy": found}})
    made = page(pairs_page.read(), pairs_page.fitted())
    digest = load_profile(noisy.path).digest
    assert f"sha256 `{digest}`" in made and "**same** (twice the same): all" in made
