"""The scale table of a running model, in either engine: what is switched on, and in which draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from hetero_plugin.sites import Site

if TYPE_CHECKING:
    from vllm import LLM


class Table(Protocol):
    """Sets the noise of one model; compiles nothing.

    Attributes:
        sites: those that the spec selects.
    """

    sites: Sequence[Site]

    def scale(self, scale: float) -> None:
        """Every site at one scale."""

    def only(self, sites: Iterable[str]) -> None:
        """These sites at the scales of their rules, all others clean."""

    def draw(self, step: int) -> None:
        """The random numbers of a step."""

    def clean(self, off: bool) -> None:
        """Switches everything off, and on again as it was set."""

    def restore(self) -> None:
        """The scales of the rules and the step as they were found."""


class HFTable:
    """The table of a wrapped model of Hugging Face."""

    def __init__(self, model: nn.Module) -> None:
        from hetero_plugin.hf import state_of

        self._state = state_of(model)
        self._step = self._state.step
        self.sites: Sequence[Site] = [chosen.site for chosen in self._state.selected]

    def scale(self, scale: float) -> None:
        self._state.set_scale(scale)

    def only(self, sites: Iterable[str]) -> None:
        self._state.set_scale(enabled=False)
        for site in sites:
            self._state.set_scale(site=site, enabled=True)

    def draw(self, step: int) -> None:
        self._state.set_step(step)

    def clean(self, off: bool) -> None:
        self._state.set_enabled(not off)

    def restore(self) -> None:
        self._state.reset_scales()
        self._state.set_step(self._step)


class EngineTable:
    """The table of a noisy ``LLM``: each change is a call to its workers.

    Args:
        llm: the engine.
        sites: those that its spec selects.
    """

    def __init__(self, llm: LLM, sites: Sequence[Site]) -> None:
        self._llm = llm
        self.sites: Sequence[Site] = list(sites)
        self._on = {site.name for site in sites}
        self._step = int(self._call("status")["step"])

    def _call(self, name: str, *args: Any, **arguments: Any) -> Any:
        from hetero_plugin.vllm import client

        return getattr(client, name)(self._llm, *args, **arguments)

    def scale(self, scale: float) -> None:
        self._call("set_noise", scale=scale)

    def only(self, sites: Iterable[str]) -> None:
        # A call a site: between two sites alone, or two sites off, only two of them change.
        wanted = set(sites)
        for name in sorted(self._on ^ wanted):
            self._call("set_noise", site=name, enabled=name in wanted)
        self._on = wanted

    def draw(self, step: int) -> None:
        self._call("step", step)

    def clean(self, off: bool) -> None:
        self._call("set_noise", enabled=not off)

    def restore(self) -> None:
        self._call("set_noise", reset=True)
        self._on = {site.name for site in self.sites}
        self._call("step", self._step)
