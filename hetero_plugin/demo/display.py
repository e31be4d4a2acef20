"""What a demonstration run shows: stages, time so far and left; on a terminal or as lines."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hetero_plugin.demo.pipeline import Forecast, Stage

_PLAIN_EVERY = 20.0  # seconds between plain progress lines


def duration(seconds: float) -> str:
    """Minutes and seconds, as `3:07`."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"


class Display:
    """Shows a run on a terminal (redrawn twice a second) or, elsewhere, line by line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._began = self._stage_began = time.monotonic()
        self._order: tuple[Stage, ...] = ()
        self._forecast = Forecast(())
        self._ended: dict[str, tuple[float, bool, str]] = {}
        self._current: Stage | None = None
        self._share, self._message, self._last_line = 0.0, "", 0.0

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=2
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def current(self) -> Stage | None:
        """The stage that is running, or was when the run stopped."""
        return self._current

    def planned(self, stages: tuple[Stage, ...]) -> None:
        self._order, self._forecast = stages, Forecast(stages)

    def began(self, stage: Stage) -> None:
        self._current, self._share, self._message = stage, 0.0, ""
        self._stage_began = self._last_line = time.monotonic()
        self._line(f"{self._place(stage)} {stage.name} ... ({self._clock()})")

    def progressed(self, stage: Stage, share: float, message: str) -> None:
        self._share, self._message = share, message
        if time.monotonic() - self._last_line >= _PLAIN_EVERY:
            self._last_line = time.monotonic()
            self._line(f"{self._place(stage)} {stage.name}: {message} ({self._clock()})")

    def ended(self, stage: Stage, record: dict[str, Any], *, reused: bool) -> None:
        seconds = float(record["seconds"])
        self._forecast.measured(stage, seconds)
        words = summary(stage, record["result"])
        self._ended[stage.name] = (seconds, reused, words)
        self._current = None
        how = "already finished" if reused else f"took {duration(seconds)}"
        self._line(f"{self._place(stage)} {stage.name}: {how}{'; ' + words if words else ''}")

    def _place(self, stage: Stage) -> str:
        names = [one.name for one in self._order]
        return f"[{names.index(stage.name) + 1:2d}/{len(names)}]"

    def _clock(self) -> str:
        elapsed = time.monotonic() - self._stage_began if self._current else 0.0
        left = self._forecast.remaining(self._current, elapsed, self._share)
        return f"{duration(time.monotonic() - self._began)} so far, about {duration(left)} left"

    def _line(self, text: str) -> None:
        if self._live is None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for stage in self._order:
            if stage.name in self._ended:
                seconds, reused, words = self._ended[stage.name]
                mark = Text("=" if reused else "+", style="dim" if reused else "green")
                table.add_row(mark, Text(stage.name), duration(seconds), Text(words, style="dim"))
            elif self._current is not None and stage.name == self._current.name:
                elapsed = time.monotonic() - self._stage_began
                mark, name = Text(">", style="bold cyan"), Text(stage.name, style="bold")
                table.add_row(mark, name, duration(elapsed), Text(self._message))
            else:
                expected = f"~{duration(self._forecast.expected(stage))}"
                table.add_row("", Text(stage.name, style="dim"), Text(expected, style="dim"), "")
        return Group(table, Text(self._clock(), style="bold"))


def summary(stage: Stage, result: dict[str, Any]) -> str:
    """The one thing worth saying about a finished stage."""
    if stage.kind == "prepare":
        sizes = result["questions"]
        return (
            ", ".join(f"{sizes[name]} {name}" for name in ("train", "dev", "test")) + " questions"
        )
    if stage.kind == "warm-up" and "accuracy" in result:
        return f"{result['accuracy']:.1%} of {result['n_dev']} after {result['steps']} steps"
    if stage.kind == "train" and result.get("last_reward") is not None:
        said = len(result["processes"])
        noisy = f", {said} noisy processes" if said else ", no noisy process"
        return f"reward {result['first_reward']:.2f} to {result['last_reward']:.2f}{noisy}"
    if stage.kind == "evaluate":
        parts = [
            f"{row['value']:.1%} at {float(level):.0%}" for level, row in result["accuracy"].items()
        ]
        return f"{', '.join(parts)} (n={result['n']})"
    return ""
