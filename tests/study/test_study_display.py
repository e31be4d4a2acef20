"""What a running study shows: stages, what they found, time so far and left; in a log as lines."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from hetero_plugin.study import display
from hetero_plugin.study.forecast import Forecast
from hetero_plugin.study.stages import Outcome, Stage


def _stage(name: str, expected: float | None = None) -> Stage:
    kind = name.partition(" ")[0]
    return Stage(name, kind, Path("none"), dict, lambda report: Outcome({}, ()), expected)


def _record(seconds: float, words: str) -> dict[str, object]:
    return {"seconds": seconds, "result": {"words": words}}


ORDER = (
    _stage("prepare cpu", 60.0),
    _stage("train clean/seed-0", 100.0),
    _stage("train noise/seed-0", 100.0),
    _stage("evaluate clean/seed-0", 50.0),
)


def _watch(console: Console) -> None:
    prepare, first, second, _ = ORDER
    with display.Display(console) as shown:
        shown.planned(ORDER)
        shown.ended(prepare, _record(3.0, "52.0% of 500 after 170 steps"), reused=True)
        shown.began(first)
        shown.began(second)
        shown.progressed(first, 0.5, "step 6 of 12")
        shown.ended(first, _record(61.0, "reward 0.45 to 0.60"), reused=False)
        assert shown.current == "train noise/seed-0"


def test_plain_lines_without_a_terminal() -> None:
    out = io.StringIO()
    _watch(Console(file=out, force_terminal=False, width=60))
    lines = out.getvalue().splitlines()
    assert lines[0] == "[ 1/4] prepare cpu: already finished; 52.0% of 500 after 170 steps"
    assert lines[1].startswith("[ 2/4] train clean/seed-0 ... (0:00 so far, about ")
    assert lines[3] == "[ 2/4] train clean/seed-0: took 1:01; reward 0.45 to 0.60"
    assert len(lines) == 4 and "\x1b" not in out.getvalue()


def test_a_terminal_shows_what_runs_and_what_is_left() -> None:
    out = io.StringIO()
    _watch(Console(file=out, force_terminal=True, width=100, height=40))
    text = out.getvalue()
    assert "2 of 4 stages" in text and "left" in text and "52.0% of 500" in text


def test_a_failure_is_told_at_once_and_named_at_the_end() -> None:
    out = io.StringIO()
    with display.Display(Console(file=out, force_terminal=False, width=60)) as shown:
        shown.planned(ORDER, 2)
        shown.began(ORDER[1])
        shown.began(ORDER[2])
        shown.failed(ORDER[2], RuntimeError("the engine is gone\nand more"))
        assert out.getvalue().endswith("train noise/seed-0: failed: the engine is gone\n")
        assert shown.current == "train noise/seed-0", "and not what goes on beside it"


def test_durations() -> None:
    said = [display.duration(s) for s in (0, 59.6, 187, -3, 3725)]
    assert said == ["0:00", "1:00", "3:07", "0:00", "1:02:05"]


def test_the_forecast_follows_what_was_measured() -> None:
    warm, first, second = _stage("warm", 60.0), _stage("train a", 100.0), _stage("train b", 100.0)
    forecast = Forecast((warm, first, second))
    assert forecast.remaining({}) == 260.0
    forecast.measured(warm, 150.0)  # the machine is twice as slow: (150+30)/(60+30)
    assert forecast.remaining({}) == pytest.approx(400.0)
    forecast.measured(first, 130.0)  # of this kind, the measurement counts and nothing else
    assert forecast.remaining({}) == 130.0
    assert forecast.remaining({"train b": (100.0, 0.5)}) == pytest.approx(65.0)
    assert forecast.remaining({"train b": (500.0, 0.1)}) == pytest.approx(6.5)


def test_nothing_is_forecast_of_what_is_not_known() -> None:
    first, second = _stage("train a"), _stage("train b")
    forecast = Forecast((first, second), side_by_side=2)
    assert forecast.remaining({}) is None
    forecast.measured(first, 130.0)
    assert forecast.remaining({}) == 65.0  # two lanes
