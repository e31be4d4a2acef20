"""A profile made small, to be sent along or committed: what is needed to draw, show and figure it.

Kinds in which the machines agree go, and are named. Bins that the fit saw no element of go into
the next one, numbers have the digits that mean something, and of what was held out by bin the rows
stay, which the figure shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hetero_plugin.config import ConfigError
from hetero_plugin.errors.profile import Bin, Profile, Table
from hetero_plugin.profile.fit.said import TAIL, sentences

__all__ = ["compacted"]

_DECIMALS = 10
"""Of a cumulative share; replay knows shares down to 2^-31."""
_DIGITS = 4
_MODELS = ("measured", "profile", "gaussian")


def compacted(profile: Profile) -> Profile:
    """The same profile in fewer bytes; its digest is another one.

    Its ``report`` has ``same`` besides: kind, dtype and K of the tables that were left out. No
    element of that kind and dtype differed at any K, fitted or held out. Of a profile that `fit`
    did not make, no table is left out.

    Raises:
        ConfigError: the machines do not differ in any element.
    """
    rows = {(r["kind"], r["dtype"], r["k"]): r for r in profile.report.get("tables", [])}
    differ = {key[:2] for key, row in rows.items() if not _agrees(row)}
    tables, kept, same = [], [], []
    for table in profile.tables:
        row = rows.get((table.kind, table.dtype, table.ks[0]))
        if row is not None and (table.kind, table.dtype) not in differ:
            same.append({"kind": table.kind, "dtype": table.dtype, "k": table.ks[0]})
            continue
        bins = _bins_that_were_seen(table)
        tables.append(_with_fewer_bins(table, bins))
        if row is not None:
            kept.append(_row(row, {old: new for new, old in enumerate(bins)}))
    if not tables:
        raise ConfigError(
            f"{profile.name}: the two machines agree to the bit in all elements of "
            f"{profile.contents}; there is nothing to draw"
        )
    report = {**profile.report, "tables": kept, "same": same} if rows else dict(profile.report)
    for key in ("by_k", "held_out_k"):
        if key in report:
            report[key] = [
                _without_bins(one) for one in report[key] if (one["kind"], one["dtype"]) in differ
            ]
    if rows:
        report["sentences"] = sentences(report, TAIL)
    return Profile(
        name=profile.name,
        made_from=profile.made_from,
        tables=tuple(tables),
        report=_rounded(report),
    )


def _agrees(row: Mapping[str, Any]) -> bool:
    held = [part for part in row["held_out"].values() if part is not None]
    return row["changed"] == 0 and not any(part["changed"] for part in held)


def _bins_that_were_seen(table: Table) -> list[int]:
    """Their indices; of a table whose bins say nothing of elements, all."""
    seen = [at for at, one in enumerate(table.bins) if one.n > 0]
    return seen or list(range(len(table.bins)))


def _with_fewer_bins(table: Table, bins: Sequence[int]) -> Table:
    """Each bin left out goes to the next smaller one that is kept, the first ones to the first."""
    return table.replace(
        edges=tuple(table.edges[at - 1] for at in bins[1:]),
        bins=tuple(_short(table.bins[at]) for at in bins),
    )


def _short(one: Bin) -> Bin:
    values, cumulative = [], []
    last = 0.0
    for value, share in zip(one.values, one.cumulative, strict=True):
        share = round(share, _DECIMALS)
        if share > last:  # what is rarer than the last digit goes
            values.append(value)
            cumulative.append(share)
            last = share
    return Bin(values=tuple(values), cumulative=tuple(cumulative), n=one.n)


def _row(row: Mapping[str, Any], at: Mapping[int, int]) -> dict[str, Any]:
    """Of what was held out by bin, that of the part that is drawn, in the bins that are left."""
    held: dict[str, Any] = {}
    for part, found in row["held_out"].items():
        if found is None:
            held[part] = None
            continue
        drawn = part == ("rows" if row["held_out"].get("rows") is not None else "layers")
        bins = [
            {
                "bin": at[one["bin"]],
                "elements": one["elements"],
                "changed": one["changed"],
                **{name: one[name] for name in _MODELS},
            }
            for one in found["bins"]
            if drawn and one["bin"] in at
        ]
        groups = [{**group, "bins": _moved(group["bins"], at)} for group in found["judged"]]
        whole = {**found["overall"], "bins": _moved(found["overall"]["bins"], at)}
        held[part] = {**found, "bins": bins, "judged": groups, "overall": whole}
    return {**row, "held_out": held}


def _moved(ends: Sequence[int], at: Mapping[int, int]) -> list[int]:
    """The first and the last bin of a group, in the bins that are left."""
    inside = [new for old, new in at.items() if ends[0] <= old <= ends[1]]
    below = sum(old < ends[0] for old in at)
    return [min(inside), max(inside)] if inside else [max(0, below - 1)] * 2


def _without_bins(one: Mapping[str, Any]) -> dict[str, Any]:
    held = one.get("held_out")
    return {**one, "held_out": {**held, "bins": []}} if held else dict(one)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
