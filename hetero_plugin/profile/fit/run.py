"""A profile from two recordings: tables by kind, dtype and K, and a report of how well they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.errors.profile import EDGES, Bin, Profile, Table
from hetero_plugin.profile.fit import structure
from hetero_plugin.profile.fit.alike import Alike, correlations
from hetero_plugin.profile.fit.counts import Counts
from hetero_plugin.profile.fit.elements import Elements, differences
from hetero_plugin.profile.fit.goodness import Gaussian, goodness
from hetero_plugin.profile.fit.said import TAIL, sentences
from hetero_plugin.profile.fit.split import PARTS, held_layers, roles, size_of
from hetero_plugin.profile.fit.spread import between
from hetero_plugin.profile.fit.tables import binned, supported
from hetero_plugin.profile.recording import Recording, SiteRecord, check_comparable

__all__ = ["fit"]

Key = tuple[str, str, int]
Progress = Callable[[str, int, int], None]


@dataclass
class _Gathered:
    """All that was seen of one kind, dtype and K."""

    train: list[Counts] = field(default_factory=list)
    held: dict[str, list[Counts]] = field(default_factory=lambda: {part: [] for part in PARTS})
    alike: list[Alike] = field(default_factory=list)
    fresh: list[float] = field(default_factory=list)
    unsteady: list[tuple[float, float]] = field(default_factory=list)
    explained: list[structure.Tried] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    up: list[float] = field(default_factory=list)
    layers: list[int | None] = field(default_factory=list)
    elements: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    broken: int = 0

    @property
    def sites(self) -> int:
        """Operators."""
        return len(self.layers)

    def spread(self) -> dict[str, dict[str, float | bool] | None]:
        """`between` layers, and between operators."""
        ways = {"layers": self.layers, "operators": range(self.sites)}
        return {key: between(of, self.elements, self.changed) for key, of in ways.items()}


def fit(
    a: Recording,
    b: Recording,
    *,
    name: str,
    model: Path | None = None,
    tail: float | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Fits how machine B's results differ from machine A's.

    Args:
        a: of the machine whose results will be perturbed.
        b: of the machine that is to be imitated; the same operators on the same inputs.
        name: of the profile.
        model: the checkpoint, for the weights of linear layers: with them it is tried whether a
            known matrix unit explains a machine to the bit.
        tail: probability that every table must be known down to; None: what there is is said.
        progress: called with what is being done, how much of it is, and of how much.

    Raises:
        ConfigError: recordings of different things; too few elements for the tail that is asked.
    """
    names = check_comparable(a, b)
    layers: dict[tuple[str, int], list[int | None]] = {}
    for one in names:
        entry = a.entry(one)
        layers.setdefault((entry.kind, size_of(entry)), []).append(entry.layer)
    held = {key: held_layers(found) for key, found in layers.items()}
    weights = structure.checkpoint_weights(model) if model is not None else None
    gathered: dict[Key, _Gathered] = {}
    for done, one in enumerate(names):
        if progress is not None:
            progress("sites", done, len(names))
        left, right = a.site(one), b.site(one)
        elements = differences(left, right, EDGES)
        k = size_of(left.entry)
        key = (left.entry.kind, elements.dtype, k)
        whole = left.entry.layer in held[left.entry.kind, k]
        _add(gathered.setdefault(key, _Gathered()), elements, whole)
        found = _explained(left, right, elements, whole, weights)
        if found is not None:
            gathered[key].explained.append(found)
    tables = {key: _table(key, found) for key, found in sorted(gathered.items()) if found.train}
    if tail is not None:
        _check_tail(tables, tail)
    report = _report(tables, gathered)
    return Profile(
        name=name,
        made_from={"a": _summary(a), "b": _summary(b)},
        tables=tuple(tables.values()),
        report=report,
    )


def _add(found: _Gathered, elements: Elements, whole: bool) -> None:
    fitted, part, others = roles(len(elements.ulps), whole)
    everywhere = np.ones_like(elements.finite)
    if fitted.any():
        found.train.append(Counts.of(elements, everywhere & fitted[:, None]))
    found.held[part] += [Counts.of(elements, everywhere & rows[:, None]) for rows in others]
    found.alike.append(Alike(elements, len(EDGES) + 1))
    if elements.fresh is not None:
        found.fresh.append(elements.fresh)
    found.unsteady.append(elements.unsteady)
    fine = elements.finite
    found.squares.append(float((elements.change[fine] ** 2).mean()) if fine.any() else 0.0)
    found.up.append(float(elements.change[fine].mean()) if fine.any() else 0.0)
    found.layers.append(elements.entry.layer)
    found.elements.append(int(fine.sum()))
    found.changed.append(int((elements.ulps[fine] != 0).sum()))
    found.broken += int((~fine).sum())


def _explained(
    a: SiteRecord,
    b: SiteRecord,
    elements: Elements,
    whole: bool,
    weights: structure.Weights | None,
) -> structure.Tried | None:
    inputs: Mapping[str, Tensor] = a.inputs or b.inputs
    fitted, _, _ = roles(len(elements.ulps), whole)
    rows = torch.from_numpy(np.flatnonzero(~fitted))
    outputs = {"a": a.output[0], "b": b.output[0]}
    return structure.explain(a, inputs, outputs, rows, weights)


def _table(key: Key, found: _Gathered) -> Table:
    train = Counts.sum(found.train)
    if train.total == 0:
        raise ConfigError(f"{key[0]}: no output of these sites is a finite number on both machines")
    bins, _ = binned(train, len(EDGES) + 1, key[1])
    # The share is of squared error: sites with more of it weigh more.
    sizes = np.array(found.squares)
    known = len(found.fresh) == found.sites and sizes.sum() > 0
    fresh = float((np.array(found.fresh) * sizes).sum() / sizes.sum()) if known else 0.0
    return Table(
        kind=key[0],
        dtype=key[1],
        ks=(key[2],),
        bins=tuple(Bin(values=tuple(v), cumulative=tuple(c), n=n) for v, c, n in bins),
        fresh=fresh,
        n=train.total,
    )


def _check_tail(tables: Mapping[Key, Table], tail: float) -> None:
    for (kind, _, k), table in tables.items():
        if supported(table.n) > tail:
            need = int(np.ceil(table.n * supported(table.n) / tail))
            raise ConfigError(
                f"--tail {tail:g}: {kind} at K {k} has {table.n:,} elements to fit, which tell "
                f"probabilities down to {supported(table.n):.2g}; record about "
                f"{max(need, 1) / table.n:.1f} times as many rows or columns, or ask for less"
            )


def _report(tables: Mapping[Key, Table], gathered: Mapping[Key, _Gathered]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for key, table in tables.items():
        found = gathered[key]
        train = Counts.sum(found.train)
        gaussian = Gaussian(train, table.dtype)
        rows.append(
            {
                "kind": key[0],
                "dtype": key[1],
                "k": key[2],
                "sites": found.sites,
                "elements": train.total,
                "not_finite": found.broken,
                "changed": train.changed / train.total,
                "rms_of_row": float(np.sqrt(np.mean(found.squares))),
                "up": float(np.mean(found.up)),
                "bias_ulps": float((train.n * train.ulps).sum() / train.total),
                "rms_ulps": float(np.sqrt((train.n * train.ulps**2.0).sum() / train.total)),
                "gaussian_scale": gaussian.scale,
                "tail": supported(train.total),
                "fresh": table.fresh,
                "repeated": len(found.fresh) == found.sites,
                "unsteady": [float(np.mean(side)) for side in zip(*found.unsteady, strict=True)],
                "widened_bins": binned(train, len(table.bins), key[1])[1],
                "correlation": correlations(found.alike),
                "spread": found.spread(),
                "held_out": {
                    part: goodness(table, gaussian, train, found.held[part]) for part in PARTS
                },
                "structure": structure.best(found.explained) if found.explained else None,
            }
        )
    total = sum(row["sites"] * row["rms_of_row"] ** 2 for row in rows)
    for row in rows:
        share = row["sites"] * row["rms_of_row"] ** 2 / total if total > 0 else 0.0
        row["share_of_squared_error"] = share
    report = {
        "tables": rows,
        "held_out_k": _held_out_k(tables, gathered),
        "by_k": _by_k(rows),
    }
    return {"sentences": sentences(report, TAIL), **report}


def _held_out_k(
    tables: Mapping[Key, Table], gathered: Mapping[Key, _Gathered]
) -> list[dict[str, Any]]:
    """Of a kind with three K or more: the middle one, as the nearest other table has it."""
    found = []
    for kind, dtype in sorted({key[:2] for key in tables}):
        ks = [key[2] for key in tables if key[:2] == (kind, dtype)]
        if len(ks) < 3:
            continue
        out = sorted(ks)[len(ks) // 2]
        near = min((k for k in ks if k != out), key=lambda k: abs(np.log2(k) - np.log2(out)))
        table = tables[kind, dtype, near]
        train = Counts.sum(gathered[kind, dtype, near].train)
        gaussian = Gaussian(train, dtype)
        seen = gathered[kind, dtype, out]
        parts = [*seen.train, *seen.held["rows"], *seen.held["layers"]]
        held = goodness(table, gaussian, train, parts)
        found.append({"kind": kind, "dtype": dtype, "k": out, "from_k": near, "held_out": held})
    return found


def _by_k(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How the error of a kind grows: the exponent of K, by least squares of the logarithms."""
    found = []
    for kind, dtype in sorted({(row["kind"], row["dtype"]) for row in rows}):
        of = [r for r in rows if (r["kind"], r["dtype"]) == (kind, dtype) and r["rms_of_row"] > 0]
        if len(of) < 2:
            continue
        k = np.log2([row["k"] for row in of])
        size = np.log2([row["rms_of_row"] for row in of])
        exponent = float(((k - k.mean()) * size).sum() / ((k - k.mean()) ** 2).sum())
        found.append({"kind": kind, "dtype": dtype, "ks": len(of), "exponent": exponent})
    return found


def _summary(recording: Recording) -> dict[str, Any]:
    header = recording.header
    return {
        "machine": header.machine,
        "variant": header.variant,
        "engine": header.engine,
        "model": header.model.model_dump(mode="json"),
        "text": header.text.model_dump(mode="json"),
        "rows": len(header.tokens),
        "repeats": header.repeats,
        "columns": header.columns,
        "header_sha256": header.digest,
    }
