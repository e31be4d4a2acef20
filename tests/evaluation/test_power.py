"""Power: against exact sums, published figures and simulated studies."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hetero_plugin.evaluation import power, stats
from scripts import verdicts


@pytest.mark.slow
def test_simulated_studies_hold() -> None:
    """200 studies a line, seed fixed; scripts/verdicts.py does 10,000. About 8 s."""
    lines = list(verdicts.studies(200, seed=3))
    assert len(lines) == 26
    assert [line for line in lines if not line.holds] == []


def test_the_table_of_the_page_is_the_scripts(tmp_path: Path) -> None:
    lines = [verdicts.line("a rate", 0.951, 0.95, 0.01), verdicts.line("one", 0.9, 0.95, 0.01)]
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{verdicts.BEGIN}\nold\n{verdicts.END}\nafter\n")
    verdicts.write(page, lines, 200, 3)
    verdicts.write(page, lines, 200, 3)
    text = page.read_text()
    assert "| a rate | 95.10 % | 95.00 % | 94.00 to 96.00 % |\n" in text and "old" not in text
    assert text.count("OUTSIDE") == 1 and text.startswith("before") and text.endswith("after\n")
    page.write_text("no marks")
    with pytest.raises(ValueError, match="holds no"):
        verdicts.write(page, lines, 200, 3)
    committed = (Path(verdicts.__file__).parents[1] / "docs" / "evaluation.md").read_text()
    part = committed.split(verdicts.BEGIN)[1].split(verdicts.END)[0]
    assert "10,000 studies a line" in part and "OUTSIDE" not in part
    names = [line.what for line in verdicts.studies(4)]
    assert [row.split(" | ")[0].strip("| ") for row in part.split("\n") if "%" in row] == names


def exact(n: int, difference: float, psi: float, wanted: Callable[[int, int], bool]) -> float:
    """Probability of the tables that are wanted, by summing over all of them."""
    lost, won = (psi - difference) / 2, (psi + difference) / 2
    return sum(
        math.comb(n, b) * math.comb(n - b, c) * lost**b * won**c * (1 - psi) ** (n - b - c)
        for b in range(n + 1)
        for c in range(n - b + 1)
        if wanted(b, c)
    )


def test_power_of_mcnemar_is_the_sum_over_all_tables() -> None:
    total = exact(30, -0.2, 0.6, lambda b, c: stats.mcnemar_exact(b, c) < 0.05)
    assert 0.1 < total < 0.9
    assert power.power_of_mcnemar(30, -0.2, 0.6) == pytest.approx(total, abs=1e-8)


def test_power_of_equivalence_is_the_sum_over_all_tables() -> None:
    n, difference, psi, margin = 60, -0.05, 0.2, 0.15

    def accepted(b: int, c: int) -> bool:
        z = [stats.score_z(b, c, n, edge) for edge in (-margin, margin)]
        return z[0] > 1.6448536 and z[1] < -1.6448536

    total = exact(n, difference, psi, accepted)
    assert 0.2 < total < 0.9
    found = power.power_of_equivalence(n, difference, psi, margin)
    assert found == pytest.approx(total, abs=1e-8)


def test_power_of_mcnemar_is_near_connors() -> None:
    n = power.questions_needed(0.03, 0.10)
    assert power.power_of_mcnemar(n, -0.03, 0.10) == pytest.approx(0.80, abs=0.03)
    assert power.power_of_mcnemar(1319, 0.0, 0.10) < 0.05
    assert power.power_of_mcnemar(1319, 0.0, 0.0) == 0.0


def test_questions_to_decide() -> None:
    """Near the normal forms, and above: the exact test is conservative."""
    equal = power.questions_to_decide(0.0, 0.10, 0.02)
    assert equal == pytest.approx(power.questions_for_equivalence(0.02, 0.10), rel=0.03)
    lost = power.questions_to_decide(-0.05, 0.10, 0.02)
    assert lost == pytest.approx(1.05 * power.questions_needed(0.05, 0.10), rel=0.05)
    assert power.questions_to_decide(0.01, 0.10, 0.02) == pytest.approx(2500, rel=0.02)
    assert power.questions_to_decide(0.05, 0.10, 0.02) == lost
    assert power.questions_to_decide(0.0, 0.0, 0.02) is None


def test_seeds() -> None:
    """Two-sample t test, alpha 5 %, power 80 %: 3 a group see 3.07 standard deviations."""
    sd = (0.005**2 + 0.10 / (2 * 1319)) ** 0.5
    assert power.seeds_detectable(3, 0.005, 1319, 0.10) == pytest.approx(3.07 * sd, rel=0.005)
    assert power.seeds_detectable(17, 0.02, 10**9, 0.10) == pytest.approx(0.02 * 0.9909, rel=0.01)
    with pytest.raises(ValueError, match="seeds >= 2"):
        power.seeds_detectable(1, 0.005, 1319, 0.10)


def test_the_old_rules_error_rates() -> None:
    """An equal model passes in a quarter of studies, a loser of 3 points in a ninth."""
    equal = power.legacy_rates(0.0, 0.10)
    loser = power.legacy_rates(-0.03, 0.10)
    assert sum(equal.values()) == pytest.approx(1, abs=1e-9)
    assert equal["robust"] == pytest.approx(0.264, abs=1e-3)
    assert loser["robust"] == pytest.approx(0.111, abs=1e-3)
    assert power.legacy_rates(0.0, 0.0)["robust"] == 1.0


@pytest.mark.parametrize(
    ("lost", "word"),
    [(0, "robust"), (1, "robust"), (2, "moderately robust"), (6, "moderately robust"),
     (7, "not robust")],
)  # fmt: skip
def test_the_old_rule_looks_at_200_questions(lost: int, word: str) -> None:
    first = [1] * 1319
    second = [0] * lost + [1] * (200 - lost) + [0] * 1119
    found = power.legacy(first, second)
    assert (found.n, found.word, found.difference) == (200, word, -lost / 200)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "hetero-noise"), "power", *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command() -> None:
    done = command("--seeds", "3", "--legacy-verdict")
    assert done.returncode == 0, done.stderr
    assert "a difference of 2.4 points is found with 80 %" in done.stdout
    assert "from 2,141 questions on" in " ".join(done.stdout.split())
    assert "3 training seeds" in done.stdout and "old rule" in done.stdout
    found = json.loads(command("--n", "200", "--json").stdout)
    assert found["detectable"] == pytest.approx(0.063, abs=1e-3) and found["seeds"] is None
    assert [row["loss"] for row in found["losses"]] == [0, 0.01, 0.02, 0.03, 0.05]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--discordance", "0"), "--discordance 0"),
        (("--losses", "0.2"), "a loss of 0.2 can't be, with 0.1 of answers flipped"),
        (("--losses", "x"), "--losses 'x'"),
        (("--seeds", "1"), "--seeds"),
    ],
)
def test_bad_settings(words: tuple[str, ...], message: str) -> None:
    done = command(*words)
    assert done.returncode == 2 and message in done.stderr
