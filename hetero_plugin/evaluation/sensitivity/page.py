"""A sensitivity map as files: ``sensitivity.json``, ``sensitivity.md`` and ``sensitivity.png``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hetero_plugin.evaluation import files
from hetero_plugin.figures import backend

NAMES = ("sensitivity.json", "sensitivity.md", "sensitivity.png")
SHOWN = 20  # sites of the figure's ranking


def write(folder: Path, document: Mapping[str, Any]) -> list[Path]:
    """Writes the three files.

    Raises:
        FileError: one can't be written.
    """
    paths = [folder / name for name in NAMES]
    try:
        files.write_json(paths[0], document)
        files.write_text(paths[1], markdown(document))
        draw(document, paths[2])
    except OSError as error:
        raise files.FileError(f"{folder}: can't be written: {files.reason(error)}") from None
    return paths


def markdown(document: Mapping[str, Any]) -> str:
    """The map's page."""
    spec, found = document["spec"], document["suggestion"]
    errors = sorted({f"{r['error']} at {r['scale']:g}" for r in spec["rules"]})
    lines = [
        "# Sensitivity to error at each site alone",
        "",
        f"{document['model']}, {document['dtype']}, {document['engine']}; {', '.join(errors)}; "
        f"spec {document['fingerprint']}. {document['predicted_tokens']:,} predicted tokens in "
        f"{document['windows']} windows of {document['text']}, {document['draws']} draw(s) of the "
        "error. KL (clean ‖ noisy) and change of the loss, nats per token; brackets: 95 % by "
        "bootstrap over windows and draws.",
        "",
        f"All sites: KL {_span(document['all']['kl'])}, loss {_span(document['all']['loss'])}. "
        f"Floor, clean against clean in another batch: KL {_span(document['floor']['kl'])}.",
        "",
        "## Sites to keep clean",
        "",
    ]
    if found is None:
        lines.append("None: all sites together are within the floor.")
    else:
        sentence = found["sentence"]
        lines += [
            f"{sentence[0].upper()}{sentence[1:]}.",
            f"In the draw of the ranking: {_percent(found['recovered'])}; if effects added up: "
            f"{100 * found['expected_if_additive']:.0f} %.",
            "",
            *(f"- `{name}`" for name in found["keep_clean"]),
        ]
    for title in ("kind", "layer"):
        key = f"by_{title}"
        if document[key]:
            lines += ["", f"## By {title}", "", f"| {title} | KL | loss |", "|---|---|---|"]
            lines += [
                f"| {name} | {_span(row['kl'])} | {_span(row['loss'])} |"
                for name, row in document[key].items()
            ]
    lines += [
        "",
        "## Ranking",
        "",
        "| rank | site | KL alone | loss alone | share | recovers if clean |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["sites"]:
        alone = row["recovers_alone"]
        lines.append(
            f"| {row['rank']} ({row['rank_low']}–{row['rank_high']}) | `{row['name']}`"
            f"{', within the floor' if row['within_floor'] else ''} | {_span(row['kl'])} | "
            f"{_span(row['loss'])} | {100 * row['share']:.1f} % | "
            f"{'–' if alone is None else _percent(alone)} |"
        )
    return "\n".join([*lines, ""])


def _span(row: Mapping[str, float]) -> str:
    return f"{row['value']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"


def _percent(row: Mapping[str, float]) -> str:
    return f"{100 * row['value']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def grid(document: Mapping[str, Any]) -> tuple[list[str], list[str], np.ndarray]:
    """The heat map: layers, operators, and KL [layers, operators], NaN where there is no site.

    Sites outside the layers (lm_head, the last norm) have a row of their own at the end.
    """
    sites = document["sites"]
    layers = sorted({row["layer"] for row in sites if row["layer"] is not None})
    inside = sorted({row["operator"] for row in sites if row["layer"] is not None})
    outside = sorted(row["operator"] for row in sites if row["layer"] is None)
    rows = [str(layer) for layer in layers] + (["outside"] if outside else [])
    columns = inside + outside
    values = np.full((len(rows), len(columns)), np.nan)
    for row in sites:
        at = len(layers) if row["layer"] is None else layers.index(row["layer"])
        values[at, columns.index(row["operator"])] = row["kl"]["value"]
    return rows, columns, values


def draw(document: Mapping[str, Any], path: Path) -> None:
    """The heat map, and the largest effects with their intervals, as a PNG.

    Raises:
        ImportError: matplotlib is missing.
        OSError: it can't be written.
    """
    pyplot = backend.pyplot("the map's figure needs")
    from matplotlib import colors

    rows, columns, values = grid(document)
    top = list(reversed(document["sites"][:SHOWN]))
    height = max(3.0, 0.22 * max(len(rows), len(top)) + 1.6)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, height), layout="constrained")
    floor = max(document["floor"]["kl"]["value"], 1e-12)
    shown = np.ma.masked_invalid(
        np.where(values > 0, values, np.where(np.isnan(values), np.nan, floor))
    )
    high = float(shown.max())
    low = min(float(shown.min()), high / 10)
    image = left.imshow(
        shown, aspect="auto", cmap="viridis", norm=colors.LogNorm(max(low, 1e-15), max(high, 1e-14))
    )
    left.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize=8)
    left.set_yticks(range(len(rows)), rows, fontsize=8)
    left.set_ylabel("layer")
    left.set_title("KL with error at one site alone, nats per token", loc="left", fontsize=10)
    figure.colorbar(image, ax=left)
    for y, row in enumerate(top):
        right.plot([row["kl"]["low"], row["kl"]["high"]], [y, y], color="C0", lw=2)
        right.plot(row["kl"]["value"], y, "o", color="C0", ms=5)
    right.axvline(document["floor"]["kl"]["high"], color="gray", lw=1, ls="--", label="floor")
    right.set_yticks(range(len(top)), [row["name"] for row in top], fontsize=7)
    right.set_title(f"the {len(top)} largest, 95 % intervals", loc="left", fontsize=10)
    right.set_xlim(left=0)
    right.legend(frameon=False, fontsize=8, loc="lower right")
    try:
        figure.savefig(path, dpi=130)
    finally:
        pyplot.close(figure)
