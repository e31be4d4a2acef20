"""AQNConfig: adaptive quantisation noise on RMSNorm weights, and its schedule over the steps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_serializer, field_validator, model_validator

from hetero_plugin.config import schedule as sched
from hetero_plugin.config.base import Frozen, Number, Seed, no_bool
from hetero_plugin.config.layers import as_entries, check_layers, numbers_of
from hetero_plugin.config.multipliers import Multipliers, factors_of, read_multipliers, written
from hetero_plugin.config.problems import ConfigError

__all__ = ["AQNConfig"]

# Bounds, because ladders are written out: one typing error must not fill the memory.
Count = Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=1_000)]
Steps = Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=10_000_000)]
Schedule = Literal["global", "epoch", "constant", "linear", "cosine"]

# The settings that each schedule reads. One that it does not read is refused: whoever wrote it
# expects an effect, and would get none.
_READS: dict[str, tuple[str, ...]] = {
    "global": ("sigma_start", "sigma_end", "stages", "total_steps"),
    "epoch": (
        "sigma_start",
        "sigma_end",
        "epoch_ranges",
        "stages_per_epoch",
        "steps_per_epoch",
        "epochs",
        "total_steps",
    ),
    "constant": ("sigma_start", "total_steps"),
    "linear": ("sigma_start", "sigma_end", "total_steps"),
    "cosine": ("sigma_start", "sigma_end", "total_steps"),
}
_SETTINGS = tuple(dict.fromkeys(name for names in _READS.values() for name in names))
# QeRL's released code: 5e-2 to 5e-4 in 10 stages.
_DEFAULTS: dict[str, Any] = {
    "sigma_start": 0.05,
    "sigma_end": 0.0005,
    "stages": 10,
    "stages_per_epoch": 5,
}


class AQNConfig(Frozen):
    """How much noise each RMSNorm weight gets at each training step.

    σ is absolute, in units of the weight: the norm computes with weight + σ·z, z standard
    normal. Steps count from 0.

    Example::

        AQNConfig(schedule="global", sigma_start=0.05, sigma_end=0.0005, stages=10,
                  total_steps=116).sigma(0)   # 0.0: the first stage is clean

    Raises:
        ConfigError: a value out of range, a setting that the schedule does not read, or two
            settings that disagree.
    """

    schedule: Schedule = "global"
    """how σ follows the steps"""
    sigma_start: Number | None = None
    """σ where the decay starts, and the σ of `constant`"""
    sigma_end: Number | None = None
    """σ where the decay ends"""
    stages: Count | None = None
    """`global`: equal stages, the first of them clean"""
    total_steps: Steps | None = None
    """steps of the run; a trainer fills them in"""
    epoch_ranges: tuple[tuple[Number, Number], ...] | None = None
    """`epoch`: start and end of each epoch; without it one geometric decay is cut into the
    epochs"""
    stages_per_epoch: Count | None = None
    """`epoch`: noisy stages of an epoch, after a clean one"""
    steps_per_epoch: Steps | None = None
    """`epoch`: steps of one; a trainer fills them in"""
    epochs: Count | None = None
    """`epoch`: how many"""
    precision: Literal["float32", "param"] = "float32"
    """an offset beside the weight in `float32`; or, for comparison, in the weight's own dtype,
    where a small σ rounds to nothing, as in QeRL. No parameter is touched by either"""
    targets: tuple[str, ...] = ("norm",)
    """norms: kinds, site names, globs, `re:` patterns"""
    layers: tuple[int | str, ...] | None = None
    """only the targets in these layers; `model.norm` is in none"""
    multipliers: Multipliers | None = None
    """σ of a layer is σ of the schedule times its factor: a list for every layer, or a mapping of
    layers to factors, others having 1. In a specification that is a file of its own also the path,
    from there, of a .json or .yaml file with one of these, alone or under the key `multipliers`"""
    seed: Seed = 0
    """of z"""

    @field_validator("layers", mode="before")
    @classmethod
    def _one_layer(cls, value: Any) -> Any:
        return as_entries(value)

    @field_validator("layers")
    @classmethod
    def _check_layers(cls, layers: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
        return check_layers(layers)

    @field_validator("multipliers", mode="before")
    @classmethod
    def _read_multipliers(cls, value: Any) -> Any:
        return read_multipliers(value)

    @field_serializer("multipliers")
    def _written(self, value: Multipliers | None) -> list[float] | dict[str, float] | None:
        return written(value)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if isinstance(data.get("targets"), str):
            data["targets"] = [data["targets"]]
        name = data.get("schedule", "global")
        reads = _READS.get(name) if isinstance(name, str) else None
        if reads is None:
            return data  # pydantic names the schedules that there are
        for key in _SETTINGS:
            if data.get(key) is not None and key not in reads:
                raise ConfigError(
                    f"{key}: the schedule {name!r} does not use it; it uses {', '.join(reads)}."
                )
        explicit = data.get("epoch_ranges") is not None
        if explicit:
            for key in ("sigma_start", "sigma_end"):
                if data.get(key) is not None:
                    raise ConfigError(
                        f"{key} and epoch_ranges are both given; the ranges say where each "
                        "epoch starts and ends, so leave one of the two out."
                    )
        for key, default in _DEFAULTS.items():
            if key in reads and data.get(key) is None and not (explicit and "sigma" in key):
                data[key] = default
        return data

    @model_validator(mode="after")
    def _check(self) -> AQNConfig:
        if not self.targets:
            raise ConfigError("targets: got none; AQN without a norm would add no noise.")
        chosen, factors = self.layer_set(), written(self.multipliers)
        if chosen is not None and isinstance(factors, dict):
            unused = sorted(set(map(int, factors)) - chosen)
            if unused:
                raise ConfigError(
                    f"multipliers: layer {', '.join(map(str, unused))} is not among `layers`, so "
                    "its factor would do nothing; add it there, or leave its factor out."
                )
        if self.schedule == "global":
            ladder = sched.global_ladder(self._start, self._end, self.stages or 0)
            self._check_fit(len(ladder), self.total_steps, "total_steps")
        elif self.schedule == "epoch":
            self._check_epochs()
        return self

    def layer_set(self) -> frozenset[int] | None:
        """The layers as numbers; None for all of them, and the norms outside layers."""
        return numbers_of(self.layers)

    def factor(self, layer: int | None) -> float:
        """What σ is multiplied by in a layer; 1 for a norm outside layers (``None``)."""
        return 1.0 if layer is None else factors_of(self.multipliers).get(layer, 1.0)

    def _check_epochs(self) -> None:
        ranges, epochs = self.epoch_ranges, self.epochs
        if ranges is not None and not ranges:
            raise ConfigError("epoch_ranges: got none; give one (start, end) for each epoch.")
        if ranges is not None and epochs is not None and epochs != len(ranges):
            raise ConfigError(
                f"epochs is {epochs} but epoch_ranges has {len(ranges)} ranges; they must agree."
            )
        per_epoch, total = self.steps_per_epoch, self.total_steps
        count = epochs if ranges is None else len(ranges)
        if total is not None and per_epoch is not None and count and total != per_epoch * count:
            raise ConfigError(
                f"total_steps is {total} but {count} epochs of {per_epoch} steps are "
                f"{per_epoch * count}; leave total_steps out or make them agree."
            )
        if self._ladders() is not None:
            self._check_fit((self.stages_per_epoch or 0) + 1, self._per_epoch(), "steps_per_epoch")

    @staticmethod
    def _check_fit(stages: int, steps: int | None, name: str) -> None:
        # With more stages than steps some are skipped, the last among them.
        if steps is not None and steps < stages:
            raise ConfigError(
                f"{name}: {steps} steps do not hold {stages} stages (the clean one included); "
                "use fewer stages."
            )

    @property
    def _start(self) -> float:
        return 0.0 if self.sigma_start is None else self.sigma_start

    @property
    def _end(self) -> float:
        return 0.0 if self.sigma_end is None else self.sigma_end

    def _per_epoch(self) -> int | None:
        """Steps of an epoch, given or worked out from the whole; None while not known."""
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        count = self.epochs if self.epoch_ranges is None else len(self.epoch_ranges)
        if self.total_steps is None or count is None:
            return None
        if self.total_steps % count:
            raise ConfigError(
                f"total_steps: {self.total_steps} is not a multiple of {count} epochs; "
                "give steps_per_epoch."
            )
        return self.total_steps // count

    def _ladders(self) -> tuple[tuple[float, ...], ...] | None:
        """The epochs' ladders; None while the number of epochs is not known."""
        ranges, count = self.epoch_ranges, self.epochs
        if ranges is None:
            if count is None and self.total_steps and self.steps_per_epoch:
                count = -(-self.total_steps // self.steps_per_epoch)
            if count is None:
                return None
            ranges = sched.geometric_ranges(self._start, self._end, count)
        return sched.epoch_ladders(ranges, self.stages_per_epoch or 1)

    def for_run(self, *, total_steps: int, steps_per_epoch: int | None = None) -> AQNConfig:
        """This configuration with the length of a run filled in where it was left open.

        Args:
            total_steps: steps of the whole run.
            steps_per_epoch: steps of one epoch, where the trainer knows them.

        Raises:
            ConfigError: the completed configuration contradicts itself.
        """
        changes: dict[str, int] = {}
        if self.schedule == "epoch" and self._ladders() is not None and self._per_epoch():
            return self
        if self.schedule == "epoch" and self.steps_per_epoch is None and steps_per_epoch:
            changes["steps_per_epoch"] = steps_per_epoch
        epochs = self.epochs if self.epoch_ranges is None else len(self.epoch_ranges)
        # Known epochs and their length say it all; a run cut short must not contradict them.
        needs_total = self.schedule != "epoch" or epochs is None or not changes
        if self.total_steps is None and needs_total:
            changes["total_steps"] = total_steps
        return self.replace(**changes) if changes else self

    def length(self) -> int | None:
        """Steps of the run as far as this configuration knows them."""
        if self.schedule == "epoch":
            ladders, per_epoch = self._ladders(), self._per_epoch()
            if ladders is not None and per_epoch is not None:
                return len(ladders) * per_epoch
        return self.total_steps

    def sigma(self, step: int) -> float:
        """σ at ``step`` (from 0), in units of the norm's weight.

        A step after the end has the last value.

        Raises:
            ConfigError: a negative or non-integer step, or the length of the run, which the
                schedule needs, is not known yet.
        """
        if self.schedule == "constant":
            return sched.constant(self._start, step)
        if self.schedule == "epoch":
            ladders, per_epoch = self._ladders(), self._per_epoch()
            if ladders is None or per_epoch is None:
                raise self._open("steps_per_epoch and epochs (or epoch_ranges)")
            return sched.epoch_sigma(ladders, step, per_epoch)
        if self.total_steps is None:
            raise self._open("total_steps")
        if self.schedule == "global":
            ladder = sched.global_ladder(self._start, self._end, self.stages or 0)
            return sched.staged_sigma(ladder, step, self.total_steps)
        shape = sched.linear if self.schedule == "linear" else sched.cosine
        return shape(self._start, self._end, step, self.total_steps)

    def _open(self, what: str) -> ConfigError:
        return ConfigError(
            f"AQNConfig: the schedule {self.schedule!r} needs {what}, which is not given; set it, "
            "or let the trainer do so with for_run(total_steps=…, steps_per_epoch=…)."
        )
