"""Simulated studies of the evaluation's statistics: coverage, size, power, verdicts.

    python -m scripts.verdicts                  10,000 studies a line; about five minutes on a core
    python -m scripts.verdicts --page docs/evaluation.md       writes the table into that page too

Each line says what was simulated, the rate found, the rate that is right (nominal or predicted),
and the band in which the rate must lie. Exits with 1 if one lies outside. A rate of 95 % from
10,000 studies has a standard error of 0.22 points; the bands of ±1 point are four of those.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from hetero_plugin.evaluation import power, stats, variance
from hetero_plugin.evaluation.report import words

MARGIN = 0.02
Flips = list[tuple[int, int]]


@dataclass(frozen=True)
class Line:
    """A simulated rate, what it should be, and the band around it."""

    what: str
    rate: float
    right: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        return self.low <= self.rate <= self.high


def line(what: str, rate: float, right: float, band: float) -> Line:
    """A rate that has to be ``right`` within ±``band``."""
    return Line(what, rate, right, right - band, right + band)


def flips(rng: np.random.Generator, runs: int, n: int, difference: float, psi: float) -> Flips:
    """Numbers of lost and won questions of many studies at a true difference and discordance."""
    cells = [(psi - difference) / 2, (psi + difference) / 2, 1 - psi]
    return [(int(b), int(c)) for b, c, _ in rng.multinomial(n, cells, size=runs)]


@functools.cache
def verdict(b: int, c: int, n: int) -> str:
    """The verdict on one comparison, by the code that gives it on a report."""
    first = [1] * b + [0] * c + [1] * (n - b - c)
    second = [0] * b + [1] * c + [1] * (n - b - c)
    paired = stats.compare(first, second)
    row = {**paired.to_dict(), "p_adjusted": paired.mcnemar_p}
    row["equivalence"] = stats.equivalence(paired, MARGIN).to_dict()
    return words.verdict(row)


def share(found: Flips, n: int, *wanted: str) -> float:
    """Of the studies, those whose verdict is one of ``wanted``."""
    return sum(verdict(b, c, n) in wanted for b, c in found) / len(found)


def studies(runs: int, seed: int = 0) -> Iterator[Line]:
    """All lines, as they are simulated."""
    rng = np.random.default_rng(seed)
    band = 4 * (0.05 * 0.95 / runs) ** 0.5 + 0.0012  # four standard errors, and the method's own
    yield from _wilson(rng, runs, band)
    yield from _tango(rng, runs, band)
    yield from _tests(rng, runs)
    yield from _holm(rng, runs)
    yield from _levels(rng, runs)


def _wilson(rng: np.random.Generator, runs: int, band: float) -> Iterator[Line]:
    interval = functools.cache(stats.wilson)
    for n, p in ((1319, 0.7688), (1319, 0.27), (1024, 0.55), (300, 0.266)):
        hits = rng.binomial(n, p, size=runs)
        covered = np.mean([(w := interval(int(h), n)).low <= p <= w.high for h in hits])
        yield line(f"Wilson covers, n={n}, p={p:g}", float(covered), 0.95, band)


def _tango(rng: np.random.Generator, runs: int, band: float) -> Iterator[Line]:
    interval = functools.cache(stats.paired_interval)
    cases = ((1319, 0.0, 0.10), (1319, -0.03, 0.10), (1024, -0.08, 0.16), (300, -0.14, 0.28))
    for n, d, psi in cases:
        found = flips(rng, runs, n, d, psi)
        covered = sum((i := interval(b, c, n))[0] <= d <= i[1] for b, c in found) / runs
        yield line(f"Tango covers, n={n}, d={d:g}, flips={psi:g}", covered, 0.95, band)


def _tests(rng: np.random.Generator, runs: int) -> Iterator[Line]:
    n, psi = 1319, 0.10
    error = 4 * 0.5 / runs**0.5
    same = flips(rng, runs, n, 0.0, psi)
    # The exact test is conservative: the rate predicted is under 5 %, and half of it is a loss.
    size = power.power_of_mcnemar(n, 0.0, psi) / 2
    shown = share(same, n, "DEGRADED")
    yield Line("DEGRADED, of equal systems", shown, size, 0.0, 0.025 + error / 4)
    for loss in (0.02, 0.03, 0.05):
        predicted = power.power_of_mcnemar(n, -loss, psi)
        found = flips(rng, runs, n, -loss, psi)
        p = [stats.mcnemar_exact(b, c) < words.ALPHA and b > c for b, c in found]
        yield line(f"McNemar shows a loss of {loss:g}, n={n}", float(np.mean(p)), predicted, error)
    loser = flips(rng, runs, n, -0.03, psi)
    predicted = power.power_of_mcnemar(n, -0.03, psi)
    yield line("DEGRADED, of a loss of 3 points", share(loser, n, "DEGRADED"), predicted, error)
    edge = flips(rng, runs, n, -MARGIN, psi)
    yield Line(
        "EQUIVALENT, of a loss of the margin", share(edge, n, "EQUIVALENT"), 0.05, 0.0,
        0.05 + 4 * (0.05 * 0.95 / runs) ** 0.5 + 0.002,
    )  # fmt: skip
    predicted = power.power_of_equivalence(n, 0.0, psi, MARGIN)
    yield line("EQUIVALENT, of equal systems", share(same, n, "EQUIVALENT"), predicted, error)
    for d in (0.0, -0.01, -0.03):
        needed = power.questions_to_decide(d, psi, MARGIN)
        assert needed is not None
        right = ["EQUIVALENT"] * (abs(d) < MARGIN) + ["DEGRADED"] * (d < 0)
        found = flips(rng, runs, needed, d, psi)
        decided = share(found, needed, *right)
        # In steps of 1 % it comes out a little above 80 %.
        yield line(f"decided with {needed} questions, d={d:g}", decided, 0.805, error)


def _holm(rng: np.random.Generator, runs: int) -> Iterator[Line]:
    """Twelve comparisons of equal systems: any shown in at most 5 % of the pages."""
    p = functools.cache(stats.mcnemar_exact)
    found = flips(rng, 12 * (runs // 4), 1319, 0.0, 0.10)
    pages = [found[i : i + 12] for i in range(0, len(found), 12)]
    wrong = sum(min(stats.holm([p(b, c) for b, c in page])) < words.ALPHA for page in pages)
    rate = wrong / len(pages)
    yield Line(
        "any of 12 shown, all equal (Holm; a quarter)", rate, 0.05, 0.0,
        0.05 + 4 * (0.05 * 0.95 / len(pages)) ** 0.5,
    )  # fmt: skip


def _levels(rng: np.random.Generator, runs: int) -> Iterator[Line]:
    """The interval of a difference over training seeds, draws of the error and questions.

    A question is right where a normal variable of its own is under a limit, to which seeds add
    under error and draws add theirs; the true difference of the population is a loss of 3 points.
    Few seeds can't tell how much they vary: at least 95 % is promised, and less than 98.5 %.
    """
    cases = ((3, 4, 0.0, 0.0), (3, 4, 0.02, 0.02), (3, 4, 0.05, 0.02), (3, 4, 0.02, 0.05),
             (3, 4, 0.05, 0.1), (3, 1, 0.0, 0.05), (1, 4, 0.05, 0.0))  # fmt: skip
    for seeds, draws, of_draw, of_seed in cases:
        covered = 0
        for _ in range(runs):
            y = _population(rng, seeds, draws, of_draw, of_seed)
            found = variance.crossed(y)
            covered += found.low <= -0.03 <= found.high
        what = f"two levels, {seeds} seeds x {draws} draws, sd {of_seed:g}, {of_draw:g}"
        error = 4 * (0.05 * 0.95 / runs) ** 0.5
        yield Line(what, covered / runs, 0.95, 0.95 - error, 0.985 + error)


def _population(
    rng: np.random.Generator, seeds: int, draws: int, of_draw: float, of_seed: float
) -> np.ndarray:
    """Differences [seeds, draws, questions] of noisy and clean, of mean -0.03 in the population."""
    n, clean, own, cross, rest = 1319, 0.7, 0.1, 0.3, 0.7
    shared = rng.standard_normal(n) + own * rng.standard_normal((seeds, 1))
    shared = shared + cross * rng.standard_normal((seeds, n))
    error = rest * rng.standard_normal((seeds, draws, n))
    error += of_draw * rng.standard_normal((seeds, draws, 1))
    error += of_seed * rng.standard_normal((seeds, 1, 1))
    wide = 1 + own**2 + cross**2
    limits = [NormalDist().inv_cdf(p) for p in (clean, clean - 0.03)]
    right = shared < limits[0] * wide**0.5
    under = shared[:, None] + error
    kept = under < limits[1] * (wide + rest**2 + of_draw**2 + of_seed**2) ** 0.5
    return kept.astype(float) - right[:, None]


BEGIN, END = "<!-- written by scripts/verdicts.py -->", "<!-- until here -->"


def table(lines: Sequence[Line], runs: int, seed: int) -> str:
    """The lines in Markdown."""
    head = f"| simulated ({runs:,} studies a line, seed {seed}) | found | right | must lie in |"
    rows = [
        f"| {one.what} | {100 * one.rate:.2f} % | {100 * one.right:.2f} % | "
        f"{100 * one.low:.2f} to {min(100 * one.high, 100):.2f} % |"
        + ("" if one.holds else " OUTSIDE")
        for one in lines
    ]
    return "\n".join([head, "|---|---|---|---|", *rows])


def write(page: Path, lines: Sequence[Line], runs: int, seed: int) -> None:
    """Puts the table between the marks of a page.

    Raises:
        ValueError: the page has no marks.
    """
    text = page.read_text(encoding="utf-8")
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise ValueError(f"{page}: holds no {BEGIN} with {END} after it")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    made = f"{before}{BEGIN}\n\n{table(lines, runs, seed)}\n\n{END}{after}"
    page.write_text(made, encoding="utf-8")


def main() -> int:
    """Prints the table; 1 if a rate is outside its band."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, help="a page with marks for the table")
    given = parser.parse_args()
    wrong, lines = 0, []
    print(f"{given.runs:,} studies a line, seed {given.seed}\n")
    print(f"{'simulated':48} {'found':>7} {'right':>7}   band")
    for found in studies(given.runs, given.seed):
        wrong += not found.holds
        lines.append(found)
        print(
            f"{found.what:48} {100 * found.rate:6.2f}% {100 * found.right:6.2f}%   "
            f"{100 * found.low:.2f} to {100 * found.high:.2f}{'' if found.holds else '   OUTSIDE'}",
            flush=True,
        )
    if given.page is not None:
        write(given.page, lines, given.runs, given.seed)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
