"""Figures of the report as inline SVG that follow the page's light or dark colours.

Figures are drawn in placeholder colours, which are then replaced by the page's CSS variables
(``var(--ink)``, ``var(--series-1)``, ...): one drawing serves both colour schemes.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

from hetero_plugin.figures import backend

_P = ParamSpec("_P")

# Placeholder -> CSS variable. Each must occur nowhere else in a drawing.
_INK, _MUTED, _GRID = "#010203", "#040506", "#070809"
_SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--grid)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(_SERIES, start=1)},
}

Curve = tuple[Sequence[float], Sequence[float]]


def _pyplot() -> Any:
    return backend.pyplot("the report's figures need")


def _style() -> dict[str, Any]:
    return {
        "svg.fonttype": "none",  # text stays text: selectable, and in the page's font
        "svg.hashsalt": "hetero",  # equal data, equal file
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.edgecolor": _MUTED,
        "axes.labelcolor": _INK,
        "axes.titlesize": 10,
        "axes.titlepad": 10,
        "axes.labelsize": 9.5,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "axes.titlelocation": "left",
        "axes.titlecolor": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _GRID,
        "grid.linewidth": 0.8,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
        "text.color": _INK,
        "lines.linewidth": 1.8,
    }


def _drawn(draw: Callable[_P, str]) -> Callable[_P, str]:
    """Draws in this module's style, and leaves matplotlib as it was."""

    @functools.wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> str:
        with _pyplot().rc_context(_style()):
            return draw(*args, **kwargs)

    return styled


def _new(width: float, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    figure, axes = _pyplot().subplots(1, columns, figsize=(width, height), squeeze=False)
    for axis in axes[0]:
        axis.tick_params(length=0)
    return figure, list(axes[0])


def _svg(figure: Any, name: str, label: str) -> str:
    """The drawing as an ``<svg>`` element with its own ids and an accessible name."""
    plt = _pyplot()
    figure.tight_layout()
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    # Several drawings share a page: their ids must not meet.
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def _legend(axis: Any, **options: Any) -> None:
    legend = axis.legend(frameon=False, fontsize=9, handlelength=1.6, **options)
    for text in legend.get_texts():
        text.set_color(_INK)


@_drawn
def accuracy_by_level(
    levels: Sequence[float], arms: Mapping[str, Sequence[Mapping[str, float]]]
) -> str:
    """Accuracy against noise level, one line an arm, with its intervals as bars.

    Args:
        levels: noise scales (fractions).
        arms: label -> per level ``{"value", "low", "high"}`` (fractions).
    """
    figure, (axis,) = _new(7.2, 3.7)
    positions = list(range(len(levels)))
    for i, (label, values) in enumerate(arms.items()):
        colour, marker = _SERIES[i % len(_SERIES)], _MARKERS[i % len(_MARKERS)]
        x = [p + (i - (len(arms) - 1) / 2) * 0.09 for p in positions]
        y = [100 * v["value"] for v in values]
        errors = [
            [100 * (v["value"] - v["low"]) for v in values],
            [100 * (v["high"] - v["value"]) for v in values],
        ]
        axis.errorbar(
            x, y, yerr=errors, color=colour, marker=marker, ms=6.5, lw=1.6, capsize=3.5, label=label
        )
    names = [f"{100 * level:g} % error" if level else "no error" for level in levels]
    axis.set_xticks(positions, names)
    axis.set_title("accuracy, %  (bars: 95 % intervals)")
    axis.grid(axis="x", visible=False)
    axis.margins(x=0.12, y=0.12)
    _legend(axis, loc="best")
    return _svg(figure, "accuracy", "Accuracy by noise level, one line an arm")


@_drawn
def dose(arms: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> str:
    """Fitted accuracy against the size of the error, with bands, points and the level at δ.

    Args:
        arms: label -> what ``dose.found.of_accuracy`` gives.
        order: arms in the page's order, which fixes their colours.
    """
    figure, (axis,) = _new(7.2, 3.7)
    for label, found in arms.items():
        index = order.index(label) % len(_SERIES)
        colour, curve = _SERIES[index], found["curve"]
        x, y, low, high = ([100 * v for v in curve[k]] for k in ("scale", "value", "low", "high"))
        axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        axis.plot(x, y, color=colour, label=label)
        points = found["points"]
        axis.plot(
            [100 * point["level"] for point in points],
            [100 * point["value"] for point in points],
            _MARKERS[index],
            color=colour,
            ms=6,
        )
        level = found["level"]
        if level is not None and level["value"] is not None:
            axis.axvline(100 * level["value"], color=colour, lw=1, ls="--")
    # Levels often grow by factors; the clean one has a place all the same.
    axis.set_xscale("symlog", linthresh=100 * min(found["least"] for found in arms.values()))
    ticks = sorted({100 * point["level"] for found in arms.values() for point in found["points"]})
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlim(left=0)
    axis.set_xlabel("size of the error, %")
    axis.set_title("accuracy, %  (bands: 95 %; dashed: where so much is lost)")
    _legend(axis, loc="best")
    return _svg(figure, "dose", "Fitted accuracy by size of the error, one curve an arm")


@_drawn
def differences(rows: Sequence[Mapping[str, Any]], margin: float, name: str) -> str:
    """Forest plot of paired differences. Rows: ``label, difference, low, high, series``."""
    figure, (axis,) = _new(7.2, 0.8 + 0.3 * len(rows))
    axis.axvspan(-100 * margin, 100 * margin, color=_GRID, lw=0, alpha=0.8)
    axis.axvline(0, color=_MUTED, lw=1)
    for y, row in enumerate(reversed(rows)):
        colour = _SERIES[row["series"] % len(_SERIES)]
        axis.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour, lw=2.2)
        marker = _MARKERS[row["series"] % len(_MARKERS)]
        axis.plot(100 * row["difference"], y, marker, color=colour, ms=6.5)
    axis.set_yticks(range(len(rows)), [row["label"] for row in reversed(rows)])
    axis.tick_params(axis="y", labelcolor=_INK)
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("percentage points")
    return _svg(figure, name, "Paired differences with 95 % intervals")


def _smooth(values: Sequence[float], window: int) -> list[float]:
    """Trailing mean over ``window`` steps."""
    out = []
    for i in range(len(values)):
        part = values[max(0, i + 1 - window) : i + 1]
        out.append(sum(part) / len(part))
    return out


@_drawn
def training(
    panels: Sequence[tuple[str, Mapping[str, Curve], bool]],
    order: Sequence[str],
    name: str = "training",
) -> str:
    """Curves over training steps, side by side.

    Args:
        panels: (title, arm -> (steps, values), whether to add a trailing mean).
        order: arms in the page's order, which fixes their colours.
        name: of the drawing, unique on the page.
    """
    width = 7.2 if len(panels) == 1 else 3.6 * len(panels)
    figure, axes = _new(width, 2.6 if len(panels) == 1 else 3.2, columns=len(panels))
    for axis, (title, curves, smooth) in zip(axes, panels, strict=True):
        for label in order:
            if label not in curves:
                continue
            steps, values = curves[label]
            index = order.index(label)
            colour = _SERIES[index % len(_SERIES)]
            window = max(1, len(values) // 10)
            if smooth and window > 1:
                axis.plot(steps, values, color=colour, lw=0.8, alpha=0.3)
                values = _smooth(values, window)
            marker = _MARKERS[index % len(_MARKERS)] if len(values) < 15 else ""
            axis.plot(steps, values, color=colour, marker=marker, ms=4.5, label=label)
        axis.set_title(title)
        axis.set_xlabel("training step")
        axis.grid(axis="x", visible=False)
    _legend(axes[0], loc="best")
    return _svg(figure, name, f"Training curves by arm: {', '.join(p[0] for p in panels)}")


@_drawn
def schedule(curves: Mapping[str, Curve], order: Sequence[str]) -> str:
    """AQN's σ by training step, as steps."""
    figure, (axis,) = _new(7.2, 2.3)
    for label, (steps, sigma) in curves.items():
        colour = _SERIES[order.index(label) % len(_SERIES)]
        axis.step(steps, sigma, where="post", color=colour, label=label)
        axis.fill_between(steps, sigma, step="post", color=colour, alpha=0.15, lw=0)
    axis.set_xlabel("training step")
    axis.set_title("σ of the noise on the norm weights")
    axis.grid(axis="x", visible=False)
    axis.set_ylim(bottom=0)
    _legend(axis, loc="best")
    return _svg(figure, "schedule", "Sigma of AQN by training step")
