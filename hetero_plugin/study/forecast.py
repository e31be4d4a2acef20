"""How long a study will still take, from expectations corrected by what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hetero_plugin.study.stages import Stage

__all__ = ["Forecast"]


class Forecast:
    """Seconds left.

    A stage of a kind that has been measured is expected to take as long as the last of its kind;
    any other is scaled by the machine's speed so far (measured over expected time). Kinds of which
    nothing is known count for nothing until the first of them has ended.
    """

    def __init__(self, order: Iterable[Stage], side_by_side: int = 1) -> None:
        self._waiting = {stage.name: stage for stage in order}
        self._lanes = side_by_side
        self._measured: dict[str, float] = {}
        self._spent = self._planned = 0.0

    def measured(self, stage: Stage, seconds: float) -> None:
        """A stage has ended after ``seconds``, in this attempt or in an earlier one."""
        self._waiting.pop(stage.name, None)
        self._measured[stage.kind] = seconds
        if stage.expected is not None:
            self._spent += seconds
            self._planned += stage.expected

    def expected(self, stage: Stage) -> float | None:
        """Seconds that a whole stage will probably take; None: not known."""
        if stage.kind in self._measured:
            return self._measured[stage.kind]
        if stage.expected is None:
            return None
        # A few quick stages say little about the machine, so its plan counts as 30 s of evidence.
        return stage.expected * (self._spent + 30.0) / (self._planned + 30.0)

    def remaining(self, current: Mapping[str, tuple[float, float]]) -> float | None:
        """Seconds left; None: not known.

        Args:
            current: of the stages that run: how long they have, and which share is done.
        """
        total = 0.0
        for name, stage in self._waiting.items():
            whole = self.expected(stage)
            if whole is None:
                return None
            if name in current:
                elapsed, share = current[name]
                if share > 0.3:  # by then the stage itself says more than any plan
                    whole = (1.0 - share) * whole + share * elapsed / share
                whole = max(whole - elapsed, 0.05 * whole)
            total += whole
        return total / self._lanes
