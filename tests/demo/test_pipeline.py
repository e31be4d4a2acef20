"""The order of stages, resuming, and the forecast of the time left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hetero_plugin.demo import pipeline, settings
from hetero_plugin.demo.pipeline import Forecast, Stage
from hetero_plugin.demo.runfolder import RunFolder
from hetero_plugin.demo.stages import Context, Outcome


class Watcher:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def planned(self, stages: tuple[Stage, ...]) -> None:
        self.order = stages

    def began(self, stage: Stage) -> None:
        self.events.append(("began", stage.name))

    def progressed(self, stage: Stage, share: float, message: str) -> None:
        self.events.append((message, stage.name))

    def ended(self, stage: Stage, record: dict[str, Any], *, reused: bool) -> None:
        self.events.append(("reused" if reused else "ended", stage.name))


def _writes(name: str, ran: list[str], fail: list[str]) -> Any:
    """A stage that writes one file; it fails as long as it is named in `fail`."""

    def act(ctx: Context) -> Outcome:
        ran.append(name)
        if name in fail:
            raise RuntimeError(f"{name} broke")
        ctx.report(0.5, "half")
        path = ctx.folder.path / f"{name}.txt"
        path.write_text(name)
        return Outcome({"n": len(name)}, (path,))

    return act


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """A plan of three stages, a -> b -> c, in place of the real one: (ran, fail)."""
    ran: list[str] = []
    fail: list[str] = []
    chain = (("a", ()), ("b", ("a",)), ("c", ("b",)))
    order = tuple(Stage(n, n, needs, 10.0, _writes(n, ran, fail)) for n, needs in chain)
    monkeypatch.setattr(pipeline, "plan", lambda settings: order)
    return ran, fail


def _run(path: Path, **changes: Any) -> Watcher:
    chosen, watcher = settings.short(**changes), Watcher()
    with RunFolder(path) as folder:
        folder.claim(chosen)
        pipeline.run(chosen, folder, watcher, threads=1)
    return watcher


def test_an_interrupted_run_goes_on_at_the_stage_that_failed(
    tmp_path: Path, small: tuple[list[str], list[str]]
) -> None:
    ran, fail = small
    fail.append("b")
    with pytest.raises(RuntimeError, match="b broke"):
        _run(tmp_path / "run")
    assert ran == ["a", "b"]
    fail.clear()
    ran.clear()
    watcher = _run(tmp_path / "run")
    assert ran == ["b", "c"]
    assert ("reused", "a") in watcher.events and ("half", "b") in watcher.events
    ran.clear()
    assert {what for what, _ in _run(tmp_path / "run").events} == {"reused"}
    assert ran == []


def test_a_damaged_output_repeats_its_stage_but_not_what_is_still_right(
    tmp_path: Path, small: tuple[list[str], list[str]]
) -> None:
    ran, _ = small
    _run(tmp_path / "run")
    (tmp_path / "run" / "b.txt").write_text("damaged")
    ran.clear()
    _run(tmp_path / "run")
    assert ran == ["b"]  # it wrote the same again, so c's inputs are unchanged


def test_the_real_plan_does_each_stage_after_what_it_needs() -> None:
    order = pipeline.plan(settings.short())
    names = [stage.name for stage in order]
    assert names[:2] == ["prepare", "warm-up"] and names[-1] == "report"
    for arm in ("clean", "noise", "noise_aqn"):
        assert {f"train:{arm}", f"merge:{arm}", f"evaluate:{arm}"} <= set(names)
    for index, stage in enumerate(order):
        assert set(stage.needs) <= set(names[:index]), stage.name


def test_the_expected_times_keep_to_the_budgets() -> None:
    assert sum(stage.expected for stage in pipeline.plan(settings.short())) <= 15 * 60
    assert sum(stage.expected for stage in pipeline.plan(settings.full())) <= 75 * 60


def _stage(name: str, kind: str, expected: float) -> Stage:
    return Stage(name, kind, (), expected, lambda context: Outcome({}, ()))


def test_the_forecast_follows_what_was_measured() -> None:
    warm = _stage("warm", "warm", 60.0)
    first, second = _stage("t:1", "train", 100.0), _stage("t:2", "train", 100.0)
    forecast = Forecast((warm, first, second))
    assert forecast.remaining(None) == 260.0
    forecast.measured(warm, 150.0)  # the machine is twice as slow: (150+30)/(60+30)
    assert forecast.remaining(None) == pytest.approx(400.0)
    forecast.measured(first, 130.0)  # of this kind, the measurement counts and nothing else
    assert forecast.remaining(None) == 130.0
    assert forecast.remaining(second, elapsed=100.0, share=0.5) == pytest.approx(65.0)
    assert forecast.remaining(second, elapsed=500.0, share=0.1) == pytest.approx(6.5)
