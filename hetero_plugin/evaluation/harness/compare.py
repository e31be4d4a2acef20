"""The paired page of two runs, whoever made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hetero_plugin.config.problems import ConfigError
from hetero_plugin.evaluation import files, guard, power, results, stats
from hetero_plugin.evaluation.harness.runs import Item, Run
from hetero_plugin.evaluation.records import ResultError
from hetero_plugin.evaluation.report import words

FORMAT = 1
_SHOWN = 20  # flipped items by name; all of them are in the JSON


def compare(
    first: Run,
    second: Run,
    *,
    margin: float,
    chance: float = 0.0,
    common: bool = False,
) -> dict[str, Any]:
    """Two runs, item by item, as JSON-able data; differences are second minus first.

    Args:
        first: what is compared with.
        second: the other.
        margin: of equivalence, a share; it should have been chosen before either run was seen.
        chance: the accuracy of guessing.
        common: compare what both have where their items differ.

    Raises:
        ResultError: the runs have other items, or other content under one id, or metrics of
            different names.
        ConfigError: ``margin`` or ``chance`` is no share.
    """
    if not 0 < margin < 1 or not 0 <= chance < 1:
        raise ConfigError(f"margin {margin} and chance {chance} should be shares, such as 0.02")
    if first.metric != second.metric:
        raise ResultError(
            f"{first.name} is judged by {first.metric!r} and {second.name} by {second.metric!r}; "
            "give --metric, one that both have"
        )
    ids = _ids(first, second, common)
    one, two = _row(first, ids), _row(second, ids)
    against = guard.pair_reasons(
        one, two, margin=margin, chance=chance, names=(first.name, second.name)
    )
    row = {"level": 0.0, **results.paired(one, two, margin, against)}
    row["p_adjusted"] = row["mcnemar_p"]  # one comparison
    row["verdict"] = words.verdict(row)
    return {
        "format": FORMAT,
        "metric": first.metric,
        "margin": margin,
        "chance": chance,
        "runs": [_about(run, data) for run, data in ((first, one), (second, two))],
        "left_out": [len(run.items) - len(ids) for run in (first, second)],
        "differences": _differences(first, second),
        "comparison": row,
        "sentence": (
            f"{second.name} against {first.name}: {words.points(row['difference'])} points "
            f"{words.interval(row)}, {words.p_value(row['mcnemar_p'])}. "
            f"{words.verdict_sentence(row, margin)}"
        ),
        "unknown": _unknown(one, two),
        "power": _power(row, len(ids), margin),
        "legacy": _legacy(row),
        "flips": [
            {"id": key, "to": "right" if second.items[key].right else "wrong"}
            for key in ids
            if first.items[key].right != second.items[key].right
        ],
    }


def _power(row: Mapping[str, Any], n: int, margin: float) -> dict[str, Any]:
    """What ``n`` questions can show, at the share of answers that flipped here."""
    psi = row["discordance"]
    losses = [loss for loss in (0.0, 0.01, 0.02, 0.03, 0.05) if loss <= psi]
    return power.outlook(n, min(1.0, max(psi, 1 / n)), margin, losses=losses or [0.0])


def _legacy(row: Mapping[str, Any]) -> dict[str, Any]:
    """The old rule's word, and how often it calls robust what is equal, or loses 3 points."""
    old, psi = row["legacy"], max(row["discordance"], 0.03)
    rates = [power.legacy_rates(loss, psi, old["n"])["robust"] for loss in (0.0, -0.03)]
    return {**old, "equal_called_robust": rates[0], "loser_called_robust": rates[1]}


def write_page(found: Mapping[str, Any], out: Path) -> tuple[Path, Path]:
    """Writes ``out`` with the suffixes ``.json`` and ``.html``.

    Raises:
        ResultError: they can't be written.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hetero_plugin.evaluation.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=words.percent, points=words.points, interval=words.interval, pvalue=words.p_value
    )
    page = environment.get_template("compare.html.j2").render(found=found, shown=_SHOWN)
    paths = out.with_suffix(".json"), out.with_suffix(".html")
    try:
        files.write_json(paths[0], found)
        files.write_text(paths[1], page)
    except OSError as error:
        raise ResultError(f"{out}: the page can't be written: {files.reason(error)}") from None
    return paths


def _ids(first: Run, second: Run, common: bool) -> list[str]:
    both = [key for key in first.items if key in second.items]
    only = [len(run.items) - len(both) for run in (first, second)]
    if not both:
        raise ResultError(f"{first.name} and {second.name} have no item in common")
    if any(only) and not common:
        raise ResultError(
            f"{only[0]} items of {first.name} are not in {second.name}, and {only[1]} of that one "
            f"not in the first; --common compares the {len(both)} that both have"
        )
    for key in both:
        mine, theirs = first.items[key].content, second.items[key].content
        if mine is not None and theirs is not None and mine != theirs:
            raise ResultError(
                f"the item {key!r} is one question in {first.name} and another in {second.name}: "
                "they are runs of different tasks, or of different versions of one"
            )
    return both


def _row(run: Run, ids: list[str]) -> dict[str, Any]:
    items: list[Item] = [run.items[key] for key in ids]
    row: dict[str, Any] = {"outcomes": [item.right for item in items]}
    if all(item.text is not None for item in items):
        row["texts"] = [item.text for item in items]
    if all(item.cut is not None for item in items):
        row["truncated_share"] = sum(bool(item.cut) for item in items) / len(items)
    return row


def _about(run: Run, row: Mapping[str, Any]) -> dict[str, Any]:
    texts = row.get("texts")
    return {
        "name": run.name,
        "kind": run.kind,
        "facts": run.facts,
        "accuracy": stats.accuracy(row["outcomes"]).to_dict(),
        "truncated": row.get("truncated_share"),
        "mean_characters": None if texts is None else sum(map(len, texts)) / len(texts),
    }


def _differences(first: Run, second: Run) -> list[dict[str, Any]]:
    """What the files tell of both runs, and is not the same."""
    found = []
    if first.kind != second.kind:
        found.append({"field": "harness", "values": [first.kind, second.kind]})
    for key in first.facts:
        values = [first.facts[key], second.facts.get(key)]
        texts = [json.dumps(value, sort_keys=True, default=str) for value in values]
        if texts[0] != texts[1]:
            found.append({"field": key, "values": values})
    return found


def _unknown(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """What could stand against a verdict and these files don't tell."""
    found = []
    if "truncated_share" not in one or "truncated_share" not in two:
        found.append("how many answers were cut off")
    if "texts" not in one or "texts" not in two:
        found.append("what the answers were, so that empty ones would not be seen")
    return found
