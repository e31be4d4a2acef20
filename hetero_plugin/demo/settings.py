"""What a demonstration run does: typed settings, and the two presets `short` and `full`.

Settings that change a result are the run's identity (`DemoSettings.identity`); a run folder holds
one identity. How many threads are used is not among them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hetero_plugin.config import AQNConfig, ConfigError, NoiseConfig, NoiseRule
from hetero_plugin.demo.model import MiniatureShape
from hetero_plugin.demo.warmup import WarmupSettings

ArmName = Literal["clean", "noise", "noise_aqn"]
ARMS: tuple[ArmName, ...] = ("clean", "noise", "noise_aqn")
LABELS = {"clean": "clean", "noise": "noise", "noise_aqn": "noise + AQN"}


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskSettings(_Settings):
    """The generated additions."""

    digits: int = Field(default=5, ge=1, le=9)
    operands: int = Field(default=2, ge=2, le=4)
    n_train: int = Field(default=4096, ge=1)
    n_dev: int = Field(default=500, ge=1)
    n_test: int = Field(default=1000, ge=1)

    @property
    def longest_answer(self) -> int:
        """Characters, hence tokens, of the largest sum."""
        return len(str(self.operands * (10**self.digits - 1)))


class GRPOSettings(_Settings):
    """verl's training, the same in every arm."""

    steps: int = Field(default=12, ge=1)
    batch: int = Field(default=8, ge=1)
    samples: int = Field(default=8, ge=2)
    learning_rate: float = Field(default=1e-4, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    test_every: int = -1
    """Steps between validations on the development questions; -1: none."""
    response_length: int | None = Field(default=None, ge=1)
    """Tokens of an answer; None: what the generated task needs, or 256 for files."""
    timeout: float = Field(default=3600, gt=0)
    """Seconds after which a training run is stopped as hung."""


class DemoSettings(_Settings):
    """One demonstration run.

    Raises:
        ValueError: settings that exclude each other (the message says which and what to do).
    """

    preset: Literal["short", "full"] = "short"
    seed: int = Field(default=0, ge=0)
    task: TaskSettings = TaskSettings()
    shape: MiniatureShape = MiniatureShape()
    warmup: WarmupSettings = WarmupSettings()
    grpo: GRPOSettings = GRPOSettings()
    arms: tuple[ArmName, ...] = ARMS
    noise_scale: float = Field(default=0.05, gt=0, lt=1)
    aqn_epoch_ranges: tuple[tuple[float, float], ...] = ((0.05, 0.01), (0.01, 0.0005))
    aqn_stages_per_epoch: int = Field(default=5, ge=1)
    levels: tuple[float, ...] = (0.0, 0.05, 0.10)
    n_eval: int | None = Field(default=None, ge=1)
    """Questions of the test set that are evaluated; None: all."""
    margin: float = Field(default=0.02, gt=0)
    model: Path | None = None
    """A Qwen2 checkpoint to start from, in place of the warmed-up miniature."""
    train_file: Path | None = None
    test_file: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> DemoSettings:
        if (self.train_file is None) != (self.test_file is None):
            given, missing = (
                ("train_file", "test_file") if self.train_file else ("test_file", "train_file")
            )
            raise ValueError(f"{given} is given without {missing}; give both, or neither")
        if self.train_file is not None and self.model is None:
            raise ValueError(
                "train_file and test_file need model: the miniature only learns generated "
                "additions; give the folder of a Qwen2 checkpoint"
            )
        if not self.arms or len(set(self.arms)) != len(self.arms):
            raise ValueError(f"arms is {list(self.arms)}; name one or more of {ARMS}, each once")
        if 0.0 not in self.levels or max(self.levels) <= 0:
            raise ValueError(f"levels is {list(self.levels)}; give 0 and at least one above it")
        if "noise_aqn" in self.arms:
            aqn = self.aqn()  # says what is wrong with the schedule before anything runs
            aqn.sigma(self.grpo.steps - 1)
        return self

    def aqn(self) -> AQNConfig:
        """The epoch-aware schedule, its epochs of equal length filling the run.

        Raises:
            ValueError: the steps don't divide into the epochs.
        """
        epochs = len(self.aqn_epoch_ranges)
        if epochs == 0 or self.grpo.steps % epochs:
            raise ValueError(
                f"grpo.steps = {self.grpo.steps} does not divide into {epochs} AQN epochs of equal "
                f"length; give a multiple of {epochs}, or other aqn_epoch_ranges"
            )
        return AQNConfig(
            schedule="epoch",
            epoch_ranges=self.aqn_epoch_ranges,
            stages_per_epoch=self.aqn_stages_per_epoch,
            steps_per_epoch=self.grpo.steps // epochs,
            seed=self.seed,
        )

    def evaluation_spec(self) -> NoiseConfig:
        """The sites of every evaluation and of the noisy arms: all linear layers but the head."""
        rule = NoiseRule(
            targets=("linear",),
            exclude=("lm_head",),
            error="relative_gaussian",
            scale=self.noise_scale,
        )
        return NoiseConfig(seed=self.seed, rules=(rule,))

    def noise(self, arm: ArmName) -> NoiseConfig | None:
        """The specification that an arm trains under; None trains clean."""
        if arm == "clean":
            return None
        spec = self.evaluation_spec()
        return spec.replace(aqn=self.aqn()) if arm == "noise_aqn" else spec

    def response_length(self) -> int:
        """Tokens of an answer, the end token included."""
        if self.grpo.response_length is not None:
            return self.grpo.response_length
        return 256 if self.train_file is not None else self.task.longest_answer + 1

    def identity(self) -> dict[str, Any]:
        """Everything that decides the results, as JSON data; files by absolute path."""
        data = self.model_dump(mode="json")
        for key in ("model", "train_file", "test_file"):
            if data[key] is not None:
                data[key] = str(Path(data[key]).absolute())
        return data


def short(**changes: Any) -> DemoSettings:
    """`make demo`: everything once, at most 15 minutes on two cores."""
    return _build({"preset": "short"}, changes)


def full(**changes: Any) -> DemoSettings:
    """`make demo-full`: long enough to see an effect, at most 75 minutes on two cores."""
    base = {
        "preset": "full",
        "task": {"n_train": 16384, "n_test": 2000},
        "grpo": {"steps": 150, "batch": 16, "test_every": 50},
    }
    return _build(base, changes)


def _build(base: dict[str, Any], changes: dict[str, Any]) -> DemoSettings:
    """`base` with `changes` merged into it, one level deep.

    Raises:
        ConfigError: what pydantic found wrong, by the name of the setting.
    """
    from pydantic import ValidationError

    merged = dict(base)
    for key, value in changes.items():
        both_maps = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both_maps else value
    try:
        return DemoSettings.model_validate(merged)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in e['loc']) or 'demo'}: "
            f"{e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise ConfigError("; ".join(problems)) from None


def digest(value: Any) -> str:
    """Short stable hash of JSON data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
