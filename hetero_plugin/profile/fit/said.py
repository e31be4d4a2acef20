"""What a fit's report says in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["TAIL", "sentences"]

TAIL = 1e-6
"""The probability that a profile is meant to be known down to."""
_NEARLY = 0.999
_ALIKE = 0.05
"""Correlation from which drawing each element by itself makes too small an effect downstream."""
_APART = 0.05
"""Standard deviation between operators, over the mean, from which it is said."""


def sentences(report: Mapping[str, Any], tail: float) -> list[str]:
    """One or more a table, in the order of the tables, then what is said of several."""
    found: list[str] = []
    for row in report["tables"]:
        what = f"{row['kind']} in {row['dtype']} at K {row['k']}"
        found += [f"{what}: {text}" for text in _of(row)]
    few = [row for row in report["tables"] if row["tail"] > tail]
    if few:
        least = max(few, key=lambda row: row["tail"])
        found.append(
            f"{len(few)} of {len(report['tables'])} tables do not tell probabilities down to "
            f"{tail:g}; that of {least['kind']} at K {least['k']} tells them down to "
            f"{least['tail']:.1g} ({least['elements']:,} elements)"
        )
    for row in report["held_out_k"]:
        better = "better" if row["held_out"]["better"] else "not better"
        within = row["held_out"]["within"]["profile"]
        found.append(
            f"{row['kind']} at K {row['k']}, as the table of K {row['from_k']} has it: {better} "
            f"than a Gaussian, {within['all']} of {within['judged']} groups of bins within 10 %"
        )
    return found


def _of(row: Mapping[str, Any]) -> list[str]:
    held = {part: found for part, found in row["held_out"].items() if found is not None}
    found = []
    if row["changed"] == 0:
        found.append("the two machines agree to the bit in all elements that were fitted")
    elif not held:
        found.append("no element was held out: the fit is not tested")
    for part, one in held.items():
        if row["changed"] == 0 and one["changed"] == 0:
            continue
        within = one["within"]["profile"]
        word = "better" if one["better"] else "not better"
        bins = (
            f"{within['all']} of {within['judged']} groups of bins agree within 10 % in RMS, bias "
            "and share changed"
            if within["judged"]
            else f"its {one['changed']:,} changed elements are too few to be judged by bin"
        )
        over = one["overall"]
        found.append(
            f"held-out {part}: the profile is {word} than a Gaussian; {bins}; over all, "
            f"{100 * over['measured']['changed']:.3g} % changed and the profile says "
            f"{100 * over['profile']['changed']:.3g} %"
        )
    for direction, pairs in row["correlation"].items():
        for pair, value in pairs.items():
            if value is not None and abs(value) > _ALIKE:
                found.append(
                    f"differences {direction} correlate by {value:.2f} within a {pair}, and a "
                    "profile draws each by itself: the next operator sums more of it than it will"
                )
    apart = {key: one for key, one in row["spread"].items() if one is not None and one["sure"]}
    said = " and ".join(
        f"{key} by {100 * one['value']:.0f} %"
        for key, one in apart.items()
        if one["value"] > _APART
    )
    if said:
        found.append(
            f"among themselves {said} differ in the share changed (one standard deviation, beyond "
            "counting); the table is of all of them together, and no nearer to another one"
        )
    if row["not_finite"]:
        found.append(f"{row['not_finite']:,} elements are no finite numbers and were left out")
    if not row["repeated"]:
        found.append("recorded once only: whether the difference is fixed is not known; taken so")
    for machine, one in (row["structure"] or {}).items():
        if one["exact"]:
            found.append(
                f"machine {machine.upper()} is explained to the bit: {' or '.join(one['exact'])} "
                f"({one['elements']:,} held-out elements, {one['differ']:,} of them differ)"
            )
        elif one["share"] > _NEARLY and row["kind"] == "norm":
            found.append(
                f"machine {machine.upper()} is {one['candidate']} in {100 * one['share']:.3f} % of "
                "held-out elements, so nearly explained"
            )
    return found
