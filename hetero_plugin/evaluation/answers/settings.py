"""What an evaluation is asked for, and its passes: level by level, draw by draw."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.evaluation.specs import evaluation_spec

LEVELS = (0.0, 0.05, 0.10)
# Fixed before any answer is seen: two points is what the full GSM8K test set can just resolve.
MARGIN = 0.02
BACKENDS = ("vllm", "hf")


@dataclass(frozen=True)
class Settings:
    """See ``run.evaluate``, whose arguments these are.

    Raises:
        ConfigError: one can't be.
    """

    levels: Sequence[float] = LEVELS
    n: int | None = None
    seed: int | None = None
    step: int = 0
    draws: int = 1
    samples: int = 1
    temperature: float = 0.0
    max_tokens: int | None = None
    reward: str | None = None
    chance: float = 0.0
    dtype: str = "auto"
    margin: float = MARGIN
    allow_unattested: bool = False
    realised: bool = True
    control: bool = False
    backend: str = "vllm"
    engine: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = sorted({float(level) for level in self.levels})
        if not found or any(not np.isfinite(level) or level < 0 for level in found):
            raise ConfigError(f"levels are {list(self.levels)}; each must be a finite number >= 0")
        if found == [0.0]:
            raise ConfigError("levels are [0]: without a noisy level there is nothing to compare")
        object.__setattr__(self, "levels", found)
        for name in ("margin", "chance"):
            value = getattr(self, name)
            if not 0 <= value < 1 or (name == "margin" and not value):
                least = "from 0 to under 1" if name == "chance" else "between 0 and 1, such as 0.02"
                raise ConfigError(f"{name} is {value}; it should be a share {least}")
        for name in ("draws", "samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it should be 1 or more")
        if not 0 <= self.temperature <= 10:
            raise ConfigError(f"temperature is {self.temperature}; it should be from 0 to 10")
        if self.samples > 1 and not self.temperature:
            raise ConfigError(
                f"samples is {self.samples} at temperature 0, where all are alike; give "
                "--temperature over 0, such as 0.7, or one sample"
            )
        if self.backend not in BACKENDS:
            raise ConfigError(
                f"the engine is {self.backend!r}; it should be one of {', '.join(BACKENDS)}; "
                "arguments of vllm.LLM are given with --engine-args"
            )
        if self.backend == "hf" and self.engine:
            raise ConfigError(
                f"arguments of vLLM's engine are given ({', '.join(sorted(self.engine))}), and the "
                "engine is Hugging Face's"
            )

    def passes(self) -> Iterator[Pass]:
        """Every pass over the questions, the clean ones first."""
        for level in self.levels:
            for draw in range(self.draws if level else 1):
                for sample in range(self.samples):
                    yield Pass(level, draw, sample)

    def of_header(self) -> dict[str, Any]:
        """What a header says beyond what it always did, where it is not the usual."""
        unusual: dict[str, Any] = {}
        if self.draws > 1:
            unusual["draws"] = self.draws
        if self.temperature:
            unusual |= {"samples": self.samples, "temperature": self.temperature}
        if self.backend != "vllm":
            unusual["backend"] = self.backend
        return unusual

    @property
    def decoding(self) -> str:
        return f"sampled, temperature {self.temperature:g}" if self.temperature else "greedy"


@dataclass(frozen=True)
class Pass:
    """One answer to each question: at a level, in a draw of the error, of a sample."""

    level: float
    draw: int = 0
    sample: int = 0

    @property
    def first(self) -> bool:
        """Whether it is the one that stands in ``levels``; the others stand in ``draws``."""
        return self.draw == self.sample == 0


@dataclass(frozen=True)
class Case:
    """One specification that is evaluated, in an engine that may hold those of others too.

    Attributes:
        name: of the preset, or ``spec``.
        config: its own.
        rules: numbers of its rules in the engine's specification.
        out: its results file.
    """

    name: str
    config: NoiseConfig
    rules: tuple[int, ...]
    out: Path


def cases_of(
    specs: Mapping[str, Any], outs: Mapping[str, Path], settings: Settings
) -> tuple[NoiseConfig, list[Case]]:
    """The engine's specification, which has the rules of all, and where those of each are in it.

    Args:
        specs: name -> specification, as for ``NoiseConfig.parse``.
        outs: name -> results file.
        settings: of the evaluation; the largest level is every rule's scale.

    Raises:
        ConfigError: one is invalid, or two differ in what an engine has once (seed, resampling).
    """
    configs: dict[str, NoiseConfig] = {}
    for name, spec in specs.items():
        config = evaluation_spec(spec, settings.seed, max(settings.levels))
        if settings.draws > 1:
            if config.resample == "call":
                raise ConfigError(
                    f"{name}: resample is 'call', which draws anew at each call; several "
                    "noise seeds need 'step' or 'never'"
                )
            config = config.replace(resample="step")  # a step is a draw
        configs[name] = config
    names = list(configs)
    first = configs[names[0]]
    for name in names[1:]:
        own, others = (_apart(configs[one]) for one in (name, names[0]))
        different = [key for key in own if own[key] != others[key]]
        if different:
            raise ConfigError(
                f"{name} and {names[0]} differ in {', '.join(different)}, of which an engine has "
                "one; evaluate them by themselves, or give --seed if it is the seed"
            )
    rules = [rule for config in configs.values() for rule in config.rules]
    whole = first if len(names) == 1 else first.replace(rules=tuple(rules))
    cases, start = [], 0
    for name, config in configs.items():
        end = start + len(config.rules)
        cases.append(Case(name, config, tuple(range(start, end)), outs[name]))
        start = end
    return whole, cases


def _apart(config: NoiseConfig) -> dict[str, Any]:
    """A specification without its rules."""
    found: dict[str, Any] = json.loads(config.canonical)
    found.pop("rules", None)
    return found
