"""A study's report as Markdown: for a page of documentation, a pull request, a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hetero_plugin.evaluation.report import words

__all__ = ["render"]


def render(report: Mapping[str, Any]) -> str:
    """The report's findings; what each seed did by itself is left to the page.

    Args:
        report: as `results.assemble` gives it.
    """
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {report['title']}"
    yield ""
    yield report["about"]
    yield ""
    seeds = ", ".join(map(str, report["seeds"]))
    yield (
        f"{report['status']}. Training seeds {seeds}; {report['steps']} steps; "
        f"{report['draws']} draws of the error a level; margin ±{100 * report['margin']:g} points, "
        f"fixed before the first answer; {report['where']}; {report['time']}."
    )
    if report["unfinished"]:
        yield ""
        yield f"Not finished: {'; '.join(report['unfinished'])}."
    for row in report["refused"]:
        yield ""
        yield f"Left out: `{row['file']}`: {row['problem']}."
    for panel in report["panels"]:
        yield ""
        yield f"### After step {panel['step']}, error of {panel['under']}, n = {panel['n']:,}"
        yield ""
        yield from _table(
            ["trained under", "seeds", *(words.level(level) for level in panel["levels"])],
            (
                [name, str(rows[0]["seeds"]), *(_share(row) for row in rows)]
                for name, rows in panel["accuracy"].items()
            ),
        )
        if panel["contrasts"]:
            yield ""
            yield from _table(
                [
                    "contrast",
                    "evaluated at",
                    "Δ points",
                    "95 %",
                    "p",
                    "its variance",
                    "verdict",
                    "old rule, by seed",
                ],
                map(_contrast, panel["contrasts"]),
            )
            yield ""
            yield (
                "The old rule looks at 200 questions, one draw and one training seed: under 1 "
                "point, 1 to 3, over 3. Its words, of as many seeds as there are."
            )
    if report["training"]:
        yield ""
        yield "Means over the last quarter of the steps and over seeds:"
        yield ""
        arms = report["trained"]
        yield from _table(
            ["", *arms],
            (
                [row["label"], *(_number(row["values"].get(arm)) for arm in arms)]
                for row in report["training"]
            ),
        )
    yield ""
    for line in report["limits"]:
        yield f"- {line}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', 'ǀ') for cell in row)} |"


def _share(row: Mapping[str, Any]) -> str:
    return f"{words.percent(row['value'])} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _contrast(row: Mapping[str, Any]) -> list[str]:
    shares = [f"{name} {share:.0%}" for name, share in row["shares"].items() if share >= 0.005]
    return [
        f"{row['second']} − {row['first']}",
        words.level(row["level"]),
        words.points(row["value"]),
        words.interval(row),
        words.p_value(row["p_adjusted"]).removeprefix("p ").removeprefix("= "),
        ", ".join(shares) or "none",
        row["verdict"],
        ", ".join(f"{word} {count}" for word, count in row["legacy"].items()),
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
