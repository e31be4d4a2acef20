"""What a study file may say. The schema checks the file alone; nothing here looks at a machine."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from hetero_plugin.config import ConfigError
from hetero_plugin.config.base import Frozen, Number, Seed, no_bool
from hetero_plugin.config.problems import did_you_mean, shown

__all__ = ["Arm", "Data", "Evaluation", "Model", "Origin", "Place", "Preparation", "Study"]

Count = Annotated[int, BeforeValidator(no_bool), Field(ge=1)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEY = re.compile(r"\+{0,2}[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")

# What a study says by a key of its own, and every run has of its own: seeds, folders, lengths.
# Given as a trainer's setting too, one of the two would be lost.
OWN: dict[str, str] = {
    "actor_rollout_ref.model.path": "model.path",
    "data.train_files": "data.train",
    "data.val_files": "data.val",
    "data.seed": "seeds",
    "actor_rollout_ref.actor.data_loader_seed": "seeds",
    "actor_rollout_ref.actor.fsdp_config.seed": "seeds",
    "actor_rollout_ref.ref.fsdp_config.seed": "seeds",
    "actor_rollout_ref.rollout.seed": "seeds",
    "actor_rollout_ref.rollout.quantization": "arms.NAME.noise",
    "actor_rollout_ref.rollout.custom.hetero_noise": "arms.NAME.noise",
    "actor_rollout_ref.rollout.custom.hetero_run": "arms.NAME.options",
    "trainer.total_training_steps": "steps",
    "trainer.total_epochs": "epochs",
    "trainer.save_freq": "resume_every",
    "trainer.nnodes": "places.NAME.nodes",
    "trainer.n_gpus_per_node": "places.NAME.gpus",
    "trainer.default_local_dir": "output",
    "trainer.project_name": "name",
    "trainer.experiment_name": "name",
}


def _check_name(name: str) -> str:
    # It becomes a folder: no separator, no hidden file, nothing that a shell reads.
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"got {shown(name)}; a name is letters, digits, '.', '_' and '-', and begins with a "
            "letter or digit."
        )
    return name


def _check_trainer(settings: dict[str, Any]) -> dict[str, Any]:
    for key in settings:
        if not _KEY.fullmatch(key):
            raise ConfigError(
                f"got the key {shown(key)}; it should be a path in verl's configuration, such as "
                "actor_rollout_ref.actor.optim.lr, with + before it if verl does not have it."
            )
        own = OWN.get(key.lstrip("+"))
        if own is not None:
            raise ConfigError(
                f"{key}: every run has its own, from `{own}` of the study; say it there."
            )
    return settings


class Model(Frozen):
    """What training starts from."""

    path: str
    """a folder with a Hugging Face checkpoint, or its name on the hub"""
    size: str
    """one word for it in the name of a run's folder, such as 1.5b"""
    config: dict[str, Any] | None = None
    """what its config.json says of its shape, so that sites are known where the model is not"""

    _size = field_validator("size")(_check_name)


class Data(Frozen):
    """Questions, as parquet in the layout of verl's preprocessing."""

    train: str
    """to train on"""
    val: str
    """to validate on during training"""
    test: str | None = None
    """to evaluate checkpoints on; none: `val`"""


class Origin(Frozen):
    """What the study that an arm repeats reported; percent."""

    accuracy: float | tuple[float, float] | None = None
    """final accuracy, or from where to where; none: it was not run"""
    after_steps: Count | None = None
    """training steps it was reported after"""
    by_step: dict[int, float] | None = None
    """accuracy by step, where it was reported"""
    note: str | None = None
    """what has to be known to read the number"""


class Arm(Frozen):
    """One way of training, run once for each seed."""

    about: str
    """in a line, what it is"""
    noise: str | dict[str, Any] | None
    """null: clean; a preset; the path of a specification; or a specification, to which `spec` may
    name a preset or path that it changes. Its seeds are the training seed's"""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """verl's settings that are this arm's alone"""
    options: dict[str, Any] = Field(default_factory=dict)
    """how the run is measured: the keys of `hetero_run`"""
    origin: Origin | None = None
    """what was reported of it; none: nothing"""

    _trainer = field_validator("trainer")(_check_trainer)


class Evaluation(Frozen):
    """How trained checkpoints are judged. Fixed before the first answer."""

    levels: tuple[Number, ...] = (0.0, 0.05, 0.1)
    """scales of the error; 0 has to be among them"""
    under: tuple[str, ...] = ("linear",)
    """presets, or paths of specifications: which sites have it"""
    draws: Count = 1
    """of the error at each level"""
    seed: Seed = 0
    """of the error in evaluations"""
    margin: Number = 0.02
    """of the equivalence test, a share"""
    questions: Count | None = None
    """only the first so many; none: all"""
    checkpoints: tuple[Count, ...] | None = None
    """steps whose checkpoints are kept, merged and evaluated; none: the last one alone"""
    dtype: str = "auto"
    """of the engine that answers"""
    max_tokens: Count | None = None
    """of an answer; none: what is known of the data's source"""
    engine: dict[str, Any] = Field(default_factory=dict)
    """further arguments of vllm.LLM"""
    contrasts: tuple[tuple[str, str], ...] = ()
    """pairs of arms that are compared, STUDY/ARM for one of another file beside this; any other
    comparison is exploration"""

    @model_validator(mode="after")
    def _check(self) -> Evaluation:
        if 0.0 not in self.levels or max(self.levels) <= 0:
            raise ConfigError(
                f"levels: got {list(self.levels)}; they should be 0 and at least one above it."
            )
        for name in ("levels", "under", "contrasts"):
            values = getattr(self, name)
            if len(set(values)) != len(values) or (not values and name != "contrasts"):
                raise ConfigError(f"{name}: got {list(values)}; give one or more, each once.")
        if not 0 < self.margin < 1:
            raise ConfigError(
                f"margin: got {self.margin:g}; it should be a share between 0 and 1, such as 0.02."
            )
        stems = [Path(under).stem for under in self.under]  # of the results files
        if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
            raise ConfigError(
                f"under: got {list(self.under)}, of which several are called {twice[0]!r}, as "
                "their results would be; give the files other names."
            )
        pairs = [frozenset(pair) for pair in self.contrasts]
        for pair in self.contrasts:
            if pair[0] == pair[1] or pairs.count(frozenset(pair)) > 1:
                why = "itself" if pair[0] == pair[1] else "the other both ways"
                raise ConfigError(
                    f"contrasts: got {list(pair)}, which compares an arm with {why}; give two "
                    "arms, and each pair once."
                )
        return self

    def at(self, changes: dict[str, Any]) -> Evaluation:
        """With the changes of a place.

        Raises:
            ConfigError: a key that is not one, or a value that can't be.
        """
        return Evaluation(**{**self.model_dump(exclude_unset=True), **changes})


class Preparation(Frozen):
    """What makes the model and the questions of a place, once, before its first run."""

    script: str
    """a Python file, from the study's; called with --out FOLDER and the options"""
    folder: Path
    """that it fills: `model` and `data` of the place name files in it"""
    options: dict[str, str | bool | int | float] = Field(default_factory=dict)
    """of the script, without the dashes"""


class Place(Frozen):
    """Where runs go, and what is other there."""

    launch: Literal["local", "slurm", "ray"] = "local"
    """started here; by sbatch; or by ray job submit"""
    device: Literal["gpu", "cpu"] = "gpu"
    """cpu: verl on its CPU platform, with the settings it needs there"""
    nodes: Count = 1
    """machines of a run"""
    gpus: Count = 8
    """of each; on a CPU processes, which share its cores"""
    options: dict[str, str | int] = Field(default_factory=dict)
    """further options of sbatch or ray job submit, without the dashes"""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """verl's settings of this place; stronger than an arm's"""
    model: Model | None = None
    """instead of the study's"""
    data: Data | None = None
    """instead of the study's"""
    prepare: Preparation | None = None
    """what makes them; none: they are there"""
    steps: Count | None = None
    """instead of the study's: a shrunk run, whose AQN follows the first steps of its schedule"""
    evaluation: dict[str, Any] = Field(default_factory=dict)
    """what is other of the evaluation"""
    side_by_side: Count = 1
    """runs at once"""
    threads: Count = 1
    """of each process of a run on a CPU"""
    timeout: Annotated[float, BeforeValidator(no_bool), Field(gt=0)] | None = None
    """seconds after which a training run is stopped as hung"""

    _trainer = field_validator("trainer")(_check_trainer)

    @model_validator(mode="after")
    def _check(self) -> Place:
        if self.launch == "slurm" and self.nodes > 1:
            raise ConfigError(
                f"nodes: got {self.nodes} with launch: slurm; a job over several nodes needs a Ray "
                "cluster on them: start one in an allocation and use launch: ray."
            )
        if self.launch == "local" and self.nodes > 1:
            raise ConfigError(f"nodes: got {self.nodes} with launch: local; use launch: ray.")
        if self.device == "cpu" and self.launch != "local":
            raise ConfigError(f"launch: got {self.launch} with device: cpu, which goes with local.")
        return self


class Study(Frozen):
    """A study, read by `hetero_plugin.study.read` with what its base says.

    Raises:
        ConfigError: a key that is not one, a value that can't be, or two that contradict each
            other.
    """

    name: str
    """of the study, and of its folder"""
    about: str
    """what it reproduces or asks"""
    differs: dict[str, str] = Field(default_factory=dict)
    """in what it differs from what it reproduces, and why"""
    model: Model
    data: Data
    steps: Count
    """training steps of every run"""
    epochs: Count = 1
    """times through the questions, at most"""
    trainer: dict[str, Any]
    """verl's settings, by their path in its configuration"""
    arms: dict[str, Arm]
    resume_every: Count | None = None
    """steps between checkpoints from which a run that was stopped goes on; none: those that are
    evaluated, and a run on a CPU, whose steps are short, begins anew"""
    seeds: tuple[Seed, ...]
    """of training: data order, trainer, rollout, error and AQN"""
    evaluation: Evaluation = Field(default_factory=Evaluation)
    where: str
    """the place that runs go to unless --where says another"""
    places: dict[str, Place]
    output: Path = Path("runs")
    """folder of all runs"""

    _name = field_validator("name")(_check_name)
    _trainer = field_validator("trainer")(_check_trainer)

    @model_validator(mode="after")
    def _check(self) -> Study:
        if not self.arms:
            raise ConfigError("arms: got none; a study compares at least one with what is known.")
        for kind, names in (("arms", self.arms), ("places", self.places)):
            for name in names:
                try:
                    _check_name(name)
                except ConfigError as error:
                    raise ConfigError(f"{kind}: {error}") from None
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"seeds: got {list(self.seeds)}; give one or more, each once.")
        self.place(self.where)
        for name, place in self.places.items():
            where = f"places.{name}.evaluation"
            if "checkpoints" in place.evaluation:
                raise ConfigError(
                    f"{where}.checkpoints: a study's are the same at every place; say them in "
                    "evaluation.checkpoints."
                )
            try:
                here = self.evaluation.at(place.evaluation)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
            self._check_arms(here, f"{where}.contrasts")
        self._check_arms(self.evaluation, "evaluation.contrasts")
        for step in self.evaluation.checkpoints or ():
            if step > self.steps:
                raise ConfigError(
                    f"evaluation.checkpoints: step {step} comes after the last, {self.steps}."
                )
        return self

    def _check_arms(self, evaluation: Evaluation, where: str) -> None:
        for pair in evaluation.contrasts:
            for name in pair:
                if "/" not in name:  # an arm of another study is looked up where files are read
                    self.arm(name, where)

    def arm(self, name: str, where: str = "--arm") -> Arm:
        """The arm of that name.

        Raises:
            ConfigError: there is none; ``where`` says who asked.
        """
        if name not in self.arms:
            raise ConfigError(
                f"{where}: {name!r} is no arm of {self.name}.{did_you_mean(name, self.arms)} There "
                f"are: {', '.join(self.arms)}."
            )
        return self.arms[name]

    def place(self, name: str, where: str = "where") -> Place:
        """The place of that name.

        Raises:
            ConfigError: there is none.
        """
        if name not in self.places:
            raise ConfigError(
                f"{where}: {name!r} is no place of {self.name}.{did_you_mean(name, self.places)} "
                f"There are: {', '.join(self.places)}."
            )
        return self.places[name]

    def checkpoints(self, steps: int | None = None) -> tuple[int, ...]:
        """Steps whose checkpoints are kept, for a run of ``steps`` (default: the study's)."""
        last = steps or self.steps
        kept = [step for step in self.evaluation.checkpoints or () if step < last]
        return tuple(sorted({*kept, last}))

    def save_every(self, steps: int | None = None) -> int:
        """Steps between verl's checkpoints, so that those asked for are among them."""
        return math.gcd(*self.checkpoints(steps), self.resume_every or 0)
