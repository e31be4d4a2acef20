"""The order of stages, what each depends on, and how a run resumes. No screen in here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hetero_plugin.demo import stages
from hetero_plugin.demo.runfolder import RunFolder
from hetero_plugin.demo.settings import ArmName, DemoSettings
from hetero_plugin.demo.stages import Context, Outcome


@dataclass(frozen=True)
class Stage:
    """One step of a run. `expected` is its time in seconds on two quiet cores."""

    name: str
    kind: str
    needs: tuple[str, ...]
    expected: float
    act: Callable[[Context], Outcome]


class Observer(Protocol):
    """Who watches a run. All calls come from the thread that runs it."""

    def planned(self, stages: tuple[Stage, ...]) -> None: ...
    def began(self, stage: Stage) -> None: ...
    def progressed(self, stage: Stage, share: float, message: str) -> None: ...
    def ended(self, stage: Stage, record: dict[str, Any], *, reused: bool) -> None: ...


def plan(settings: DemoSettings) -> tuple[Stage, ...]:
    """The stages of a run in their order."""
    steps, questions = settings.grpo.steps, settings.n_eval or settings.task.n_test
    # A verl run starts a dozen processes one after the other; a step is 0.36 s a prompt.
    train_time = 140.0 + 0.36 * steps * settings.grpo.batch
    evaluate_time = 45.0 + 0.006 * questions * len(settings.levels)
    warm_time = 3.0 if settings.model is not None else 60.0
    found = [
        Stage("prepare", "prepare", (), 4.0, stages.prepare),
        Stage("warm-up", "warm-up", ("prepare",), warm_time, stages.warm_up),
    ]
    for arm in settings.arms:
        needs = ("prepare", "warm-up")
        found.append(Stage(f"train:{arm}", "train", needs, train_time, _of(stages.train, arm)))
        needs = ("warm-up", f"train:{arm}")
        found.append(Stage(f"merge:{arm}", "merge", needs, 2.0, _of(stages.merge_arm, arm)))
    for arm in settings.arms:
        needs = ("prepare", f"merge:{arm}")
        act = _of(stages.evaluate, arm)
        found.append(Stage(f"evaluate:{arm}", "evaluate", needs, evaluate_time, act))
    everything = tuple(f"{kind}:{arm}" for kind in ("train", "evaluate") for arm in settings.arms)
    found.append(Stage("report", "report", everything, 6.0, stages.report))
    return tuple(found)


def _of(act: Callable[[Context, ArmName], Outcome], arm: ArmName) -> Callable[[Context], Outcome]:
    return lambda context: act(context, arm)


def run(
    settings: DemoSettings, folder: RunFolder, observer: Observer, *, threads: int
) -> dict[str, dict[str, Any]]:
    """Run every stage that is not finished yet, in order.

    The folder must be claimed for these settings. A stage counts as finished if it was recorded
    with the same settings and the same outputs of the stages that it needs, and if its own
    outputs are unchanged.

    Returns:
        The record of every stage by its name.

    Raises:
        Whatever a stage raises; all that finished before it stays recorded.
    """
    order = plan(settings)
    observer.planned(order)
    records: dict[str, dict[str, Any]] = {}
    for stage in order:
        inputs = {
            "settings": settings.identity(),
            "needs": {name: records[name]["outputs"] for name in stage.needs},
        }
        record = folder.finished(stage.name, inputs)
        if record is not None:
            records[stage.name] = record
            observer.ended(stage, record, reused=True)
            continue
        observer.began(stage)

        def report(share: float, message: str, stage: Stage = stage) -> None:
            observer.progressed(stage, share, message)

        began = time.monotonic()
        outcome = stage.act(Context(settings, folder, threads, report))
        seconds = time.monotonic() - began
        record = folder.finish(stage.name, inputs, outcome.result, outcome.outputs, seconds)
        records[stage.name] = record
        observer.ended(stage, record, reused=False)
    return records


class Forecast:
    """How long a run will still take, from expectations corrected by what was measured.

    A stage of a kind that has been measured is expected to take as long as the last of its kind;
    any other is scaled by the machine's speed so far (measured over expected time).
    """

    def __init__(self, order: tuple[Stage, ...]) -> None:
        self._waiting = {stage.name: stage for stage in order}
        self._measured: dict[str, float] = {}
        self._spent = self._planned = 0.0

    def measured(self, stage: Stage, seconds: float) -> None:
        """A stage has ended after `seconds`, in this attempt or in an earlier one."""
        self._waiting.pop(stage.name, None)
        self._measured[stage.kind] = seconds
        self._spent += seconds
        self._planned += stage.expected

    def expected(self, stage: Stage) -> float:
        """Seconds that a whole stage will probably take."""
        if stage.kind in self._measured:
            return self._measured[stage.kind]
        # A few quick stages say little about the machine, so its plan counts as 30 s of evidence.
        return stage.expected * (self._spent + 30.0) / (self._planned + 30.0)

    def remaining(self, current: Stage | None, elapsed: float = 0.0, share: float = 0.0) -> float:
        """Seconds left, `current` having run for `elapsed` and being done to `share`."""
        total = sum(
            self.expected(stage)
            for name, stage in self._waiting.items()
            if current is None or name != current.name
        )
        if current is None:
            return total
        whole = self.expected(current)
        if share > 0.3:  # by then the stage itself says more than any plan
            whole = (1.0 - share) * whole + share * elapsed / share
        return total + max(whole - elapsed, 0.05 * whole)
