"""The report as one Markdown file: the page's numbers and sentences, without its drawings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hetero_plugin.evaluation.report import words

Report = Mapping[str, Any]


def render(report: Report) -> str:
    """The report in Markdown: verdicts first, then what they rest on.

    Args:
        report: as `page.assemble` gives it. One that is refused has no numbers.
    """
    return "\n\n".join(part for part in _parts(report) if part) + "\n"


def _parts(report: Report) -> Iterator[str]:
    yield f"# {_cell(report['title'])}"
    yield f"{report['status']}. {report['time']}."
    if report["refused"]:
        yield _list(f"{row['arm']}: {row['problem']}" for row in report["refused"])
    if report["status"] == "REFUSED":
        return
    yield "## Verdicts"
    yield _list(report["summary"]["headlines"])
    for detail in report["summary"]["details"]:
        if detail["sentences"]:
            yield f"**{_cell(detail['about'])}**"
            yield _list(detail["sentences"])
    yield f"## Accuracy, n = {report['n']:,}"
    arms = report["arms"].values()
    yield _table(
        ["evaluated at", *(arm["label"] for arm in arms)],
        [
            [words.level(level), *(_accuracy(arm, level) for arm in arms)]
            for level in report["levels"]
        ],
    )
    yield _flips(report)
    for title, found in (
        ("Clean against clean", [row["sentence"] for row in report["floors"].values()]),
        ("Where the variance comes from", [row["sentence"] for row in report["sources"]]),
        (
            "Dose and response",
            [f"{name}: {one['sentence']}" for name, one in report["dose"].items() if one],
        ),
    ):
        if found:
            yield f"## {title}"
            yield _list(found)
    yield from _fidelity(report["panels"]["fidelity"])
    yield from _sensitivity(report["panels"]["sensitivity"])
    yield from _dial(report["panels"]["dial"])
    yield "## Attested"
    yield _list(
        f"{arm['label']}: {arm['seen']} of {arm['of']} sites"
        for arm in report["attestation"].values()
    )
    if report["differences"]:
        yield "## What differs between the runs"
        yield _list(
            f"{row['field']}: " + ", ".join(f"{name} {one}" for name, one in row["values"].items())
            for row in report["differences"]
        )
    yield "## What this can't show"
    yield _list(report["limits"])


def _accuracy(arm: Mapping[str, Any], level: float) -> str:
    row = next((one for one in arm["levels"] if one["level"] == level), None)
    if row is None:
        return ""
    text = f"{words.percent(row['value'])} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    if row["truncated"] is not None:
        text += f"; {words.percent(row['truncated'])} cut off"
    if row["mean_tokens"] is not None:
        text += f"; {row['mean_tokens']:.0f} tokens"
    return text


def _flips(report: Report) -> str:
    rows = [
        [
            f"{report['arms'][row['second']]['label']} against "
            + ("itself" if row["type"] == "noise" else report["arms"][row["first"]]["label"]),
            words.level(row["level"]),
            f"{words.points(row['difference'])} {words.interval(row)}",
            f"{row['only_first']} / {row['only_second']}",
            words.percent(row["changed_texts"]) if row.get("changed_texts") is not None else "",
            words.p_value(row["p_adjusted"]),
            row["verdict"],
        ]
        for row in report["comparisons"]
    ]
    head = ["compared", "at", "points, 95 %", "lost / won", "texts changed", "p (Holm)", "verdict"]
    return _table(head, rows) if rows else ""


def _fidelity(panels: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield f"## Fidelity: {_cell(panel['name'])}"
        yield (
            f"{panel['tokens']:,} tokens of {_cell(panel['text'])}; {panel['engine']}, "
            f"{panel['dtype']}; nats."
        )
        yield _table(
            ["", *panel["measures"]],
            [[_at(row["level"]), *(_span(row[name]) for name in panel["measures"])]
             for row in panel["rows"]],
        )  # fmt: skip
        yield _list(f"{_at(row['level'])}: {row['sentence']}" for row in panel["sampled"])


def _sensitivity(panels: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield f"## Sensitivity: {_cell(panel['name'])}"
        yield (
            f"KL of each site alone, nats a token; all {panel['of']} sites: {_span(panel['all'])}; "
            f"floor: {_span(panel['floor'])}."
        )
        yield _table(
            ["rank (95 %)", "site", "KL alone", "share"],
            [[f"{row['rank']} ({row['rank_low']} to {row['rank_high']})", f"`{row['name']}`",
              _span(row["kl"]) + (", within the floor" if row["within_floor"] else ""),
              words.percent(row["share"])] for row in panel["rows"]],
        )  # fmt: skip
        yield _list([panel["sentence"]] if panel["sentence"] else [])


def _dial(panels: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield f"## Dial: {_cell(panel['name'])}"
        yield _list(
            [
                panel["sentence"]
                or f"scale {_span(panel['scale'])} gives {panel['want']['measure']} = "
                f"{panel['want']['value']:g} in {panel['draws']} draws"
            ]
        )


def _at(level: float | None) -> str:
    return "floor: clean, other batches" if level is None else words.level(level)


def _span(row: Mapping[str, Any]) -> str:
    if row["low"] is None or row["high"] is None:
        return f"{row['value']:.3g}"
    return f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def _list(sentences: Any) -> str:
    return "\n".join(f"- {_cell(one).rstrip('.')}." for one in sentences)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[_cell(one) for one in line] for line in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: object) -> str:
    """Text that can't end a table's cell, a line, or begin a tag."""
    return " ".join(str(text).replace("|", "\\|").replace("<", "&lt;").split())
