"""The passes of a sensitivity map, through the scale table of one model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.evaluation import files
from hetero_plugin.evaluation.fidelity.batch import Progress
from hetero_plugin.evaluation.fidelity.session import Asked, Session, drawn_by_step, opened
from hetero_plugin.evaluation.sensitivity import page
from hetero_plugin.evaluation.sensitivity.ranking import Budget, Map
from hetero_plugin.evaluation.sensitivity.store import KEPT, Store
from hetero_plugin.evaluation.specs import evaluation_spec
from hetero_plugin.sites import Site

_LAYER = re.compile(r"(?:^|\.)layers\.\d+\.(.+)$")


def sensitivity_spec(spec: Any, scale: float | None, seed: int | None) -> NoiseConfig:
    """The spec of a map: the rules of inference at their own scales, a draw a step.

    Raises:
        ConfigError: no rule acts in inference, or one has scale 0.
    """
    config = drawn_by_step(evaluation_spec(spec, seed, scale))
    for index, rule in enumerate(config.rules):
        if rule.scale == 0:
            raise ConfigError(
                f"rules[{index}].scale is 0, so its sites would stand in the map as harmless; "
                "give a scale over 0, with --scale for all rules"
            )
    return config


def measure_checkpoint(
    asked: Asked,
    out: Path,
    *,
    budget: Budget,
    all_but_one: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Makes the map of a checkpoint, or goes on with one.

    Args:
        asked: see ``Asked``; its config is ``sensitivity_spec``'s.
        out: folder of the map. Finished passes are kept in its ``measured.json``.
        budget: of the sites to keep clean.
        all_but_one: measure also each site off with all others on, which doubles the passes.
        progress: called with what is being done, and how far.

    Returns:
        What ``sensitivity.json`` holds.

    Raises:
        ConfigError: a bad setting, checkpoint or text.
        ResultError: ``out`` holds another map.
        Refused: the noise can't be attested.
    """
    store: Store | None = None
    if out.exists() and not out.is_dir():
        raise files.FileError(f"--out {out}: is a file; give a folder")

    def claimed(header: dict[str, Any]) -> None:
        nonlocal store
        store = Store(out, header)

    with files.locked(out / "measured.json", remedy="wait for it, or give another --out"):
        with opened(asked, progress, claimed) as session:
            assert store is not None
            document = measure(
                session, store, asked, budget=budget, all_but_one=all_but_one, progress=progress
            )
        page.write(out, document)
    return document


def measure(
    session: Session,
    store: Store,
    asked: Asked,
    *,
    budget: Budget,
    all_but_one: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """See ``measure_checkpoint``; the model's scales and step are put back afterwards."""
    sites = list(session.table.sites)
    runner = _Runner(session, store, asked)
    store.begin(
        session.attested,
        [describe(site) for site in sites],
        session.batch.tokens,
        session.batch.floor,
    )
    plan = conditions(sites, all_but_one)
    try:
        for done, (name, on) in enumerate(plan.items()):
            if progress is not None:
                progress("measuring sites", done, len(plan))
            runner.run(name, on)
        if progress is not None:
            progress("measuring sites", len(plan), len(plan))
        found = Map(store, list(plan))
        return found.document(budget, runner.keeping_clean, progress)
    finally:
        session.table.restore()


class _Runner:
    """Runs settings that are not finished yet."""

    def __init__(self, session: Session, store: Store, asked: Asked) -> None:
        self.session, self.store = session, store
        self.steps = [asked.step + i for i in range(asked.draws)]
        self.sites = [site.name for site in session.table.sites]
        self._same: dict[frozenset[str], str] = {}

    def run(self, name: str, on: Iterable[str], steps: list[int] | None = None) -> None:
        """Measures the model with these sites on alone, unless that is finished."""
        chosen = frozenset(on)
        # A model of one layer or a spec of one kind has settings that are the same.
        twin = self._same.setdefault(chosen, name) if steps is None else name
        if self.store.has(name):
            return
        if twin != name:
            self.store.add(name, self.store.get(twin))
            return
        self.session.table.only(chosen)
        parts = []
        for step in self.steps if steps is None else steps:
            self.session.table.draw(step)
            parts.append(self.session.batch.measure())
        self.store.add(name, {key: np.stack([part[key] for part in parts]) for key in KEPT})

    def keeping_clean(self, clean: list[str], fresh: bool) -> dict[str, np.ndarray]:
        """The sums of all sites on but these; ``fresh``: in a draw that no ranking has seen."""
        on = [site for site in self.sites if site not in set(clean)]
        name = f"keep clean {len(clean)}"
        steps = None
        if fresh:
            # Another list of as many sites does not arise: the ranking is a function of the rest.
            name, steps = f"fresh: {name}", [self.steps[-1] + 1]
        if not on:
            return {key: np.zeros((1, len(self.session.batch.tokens))) for key in KEPT}
        self.run(name, on, steps)
        return self.store.get(name)


def conditions(sites: list[Site], all_but_one: bool) -> dict[str, list[str]]:
    """Name of each setting -> the sites that are on."""
    names = [site.name for site in sites]
    plan = {"all": names}
    for site in sites:
        plan.setdefault(f"kind:{site.kind}", []).append(site.name)
        if site.layer is not None:
            plan.setdefault(f"layer:{site.layer}", []).append(site.name)
    plan |= {f"site:{name}": [name] for name in names}
    if all_but_one and len(names) > 1:
        plan |= {f"but:{name}": [other for other in names if other != name] for name in names}
    return plan


def describe(site: Site) -> dict[str, Any]:
    """A site as the map has it: ``name``, ``kind``, ``layer``, ``operator``."""
    found = _LAYER.search(site.name)
    operator = found[1] if found and site.layer is not None else site.name
    return {"name": site.name, "kind": site.kind, "layer": site.layer, "operator": operator}
