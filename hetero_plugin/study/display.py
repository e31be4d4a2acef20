"""What a running study shows: stages, time so far and left; on a terminal or as lines."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hetero_plugin.study.forecast import Forecast
from hetero_plugin.study.stages import Stage

__all__ = ["Display", "duration"]

_PLAIN_EVERY = 20.0  # seconds between plain progress lines
_KEPT = 12  # finished stages that a terminal goes on showing


def duration(seconds: float) -> str:
    """Minutes and seconds, as ``3:07``; hours before them where there are any."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{head}:{whole % 60:02d}"


class Display:
    """Shows a study on a terminal (redrawn twice a second) or, elsewhere, line by line.

    Its methods may be called from several threads.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._began = time.monotonic()
        self._numbers: dict[str, int] = {}
        self._forecast = Forecast(())
        self._ended: deque[str] = deque(maxlen=_KEPT)
        self._done = 0
        self._current: dict[str, tuple[float, float, str]] = {}
        """Began, share, message of what runs."""
        self._failed: list[str] = []
        self._lines: dict[str, float] = {}
        self._lock = threading.RLock()

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
    def current(self) -> str:
        """What failed; else what runs, or ran when the study stopped."""
        return ", ".join(self._failed or self._current) or "study"

    def planned(self, stages: tuple[Stage, ...], side_by_side: int = 1) -> None:
        """Called once, before the first stage."""
        self._numbers = {stage.name: number for number, stage in enumerate(stages, start=1)}
        self._forecast = Forecast(stages, side_by_side)

    def began(self, stage: Stage) -> None:
        """A stage has begun."""
        with self._lock:
            now = time.monotonic()
            self._current[stage.name] = (now, 0.0, "")
            self._lines[stage.name] = now
            self._line(f"{self._place(stage)} {stage.name} ... ({self._clock()})")

    def progressed(self, stage: Stage, share: float, message: str) -> None:
        """A stage is done to ``share``."""
        with self._lock:
            now = time.monotonic()
            self._current[stage.name] = (self._current[stage.name][0], share, message)
            if now - self._lines[stage.name] >= _PLAIN_EVERY:
                self._lines[stage.name] = now
                self._line(f"{self._place(stage)} {stage.name}: {message} ({self._clock()})")

    def ended(self, stage: Stage, record: dict[str, Any], *, reused: bool) -> None:
        """A stage has ended, now or in an earlier attempt."""
        with self._lock:
            seconds = float(record["seconds"])
            self._forecast.measured(stage, seconds)
            self._current.pop(stage.name, None)
            self._done += 1
            words = str(record["result"].get("words", ""))
            how = "already finished" if reused else f"took {duration(seconds)}"
            line = f"{self._place(stage)} {stage.name}: {how}{'; ' + words if words else ''}"
            self._ended.append(line)
            self._line(line)

    def failed(self, stage: Stage, error: BaseException) -> None:
        """A stage has failed; what goes on beside it is finished first, and then all is told."""
        with self._lock:
            words = str(error).splitlines()[:1] or [type(error).__name__]
            line = f"{self._place(stage)} {stage.name}: failed: {words[0]}"
            self._failed.append(stage.name)
            self._current.pop(stage.name, None)
            self._ended.append(line)
            self._line(line)

    def _place(self, stage: Stage) -> str:
        return f"[{self._numbers[stage.name]:2d}/{len(self._numbers)}]"

    def _clock(self) -> str:
        now = time.monotonic()
        running = {name: (now - began, share) for name, (began, share, _) in self._current.items()}
        left = self._forecast.remaining(running)
        about = "" if left is None else f", about {duration(left)} left"
        return f"{duration(now - self._began)} so far{about}"

    def _line(self, text: str) -> None:
        if self._live is None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        with self._lock:
            table = Table.grid(padding=(0, 2))
            for name, (began, share, message) in self._current.items():
                elapsed = duration(time.monotonic() - began)
                table.add_row(
                    Text(">", style="bold cyan"),
                    Text(name, style="bold"),
                    elapsed,
                    f"{share:.0%}",
                    Text(message),
                )
            past = [Text(line, style="dim") for line in self._ended]
            status = f"{self._done} of {len(self._numbers)} stages; {self._clock()}"
            return Group(*past, table, Text(status, style="bold"))
