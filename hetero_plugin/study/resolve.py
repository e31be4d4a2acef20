"""A study, an arm, a seed and a place as one run: verl's settings, its noise, its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hetero_plugin.config import METHOD, ConfigError, NoiseConfig
from hetero_plugin.study.read import noise_of
from hetero_plugin.study.schema import OWN, Evaluation, Model, Place, Study
from hetero_plugin.verl.miniature import MiniatureRun, hydra
from hetero_plugin.verl.noderun import NodeRun

__all__ = ["Resolved", "cache_folder", "model_folder", "resolve", "resolve_all"]

_SUFFIXES = (".yaml", ".yml", ".json")
_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"

# Settings that the CPU platform has its own words for, and so its own value of.
_OF_MINIATURE = {
    "data.train_batch_size": "batch",
    "data.max_prompt_length": "prompt_length",
    "data.max_response_length": "response_length",
    f"{_ACTOR}.optim.lr": "learning_rate",
    f"{_ACTOR}.ppo_mini_batch_size": "mini_batch",
    f"{_ACTOR}.ppo_micro_batch_size_per_gpu": "micro_batch",
    f"{_ACTOR}.entropy_coeff": "entropy",
    f"{_ROLLOUT}.n": "samples",
    f"{_ROLLOUT}.temperature": "temperature",
    f"{_ROLLOUT}.tensor_model_parallel_size": "tensor_parallel",
    "trainer.n_gpus_per_node": "gpus",
    "trainer.test_freq": "test_every",
    "trainer.val_before_train": "test_before",
}


@dataclass(frozen=True)
class Resolved:
    """One run of a study."""

    study: Study
    arm: str
    seed: int
    where: str
    place: Place
    steps: int
    noise: NoiseConfig | None
    settings: dict[str, Any]
    """verl's settings by path, in the order of the command line; ``+`` where verl lacks the key"""
    folder: Path
    """of this run and no other: output/study/size/arm/seed-N"""

    @property
    def name(self) -> str:
        return f"{self.study.name}/{self.size}/{self.arm}/seed-{self.seed}"

    @property
    def size(self) -> str:
        return (self.place.model or self.study.model).size

    @property
    def evaluation(self) -> Evaluation:
        """The study's, as it is at this place."""
        return self.study.evaluation.at(self.place.evaluation)

    def model_at(self, step: int) -> Path:
        """The folder of the merged checkpoint of a step."""
        return self.folder / f"model-step{step}"

    def evaluated_at(self, step: int, under: str) -> Path:
        """The results file of an evaluation."""
        return self.folder / f"eval-step{step}-{Path(under).stem}.json"

    def environment(self) -> dict[str, str]:
        """Of processes that work on what training left."""
        env = self.run().environment()
        for name in ("VERL_PLATFORM", "VERL_FILE_LOGGER_PATH"):
            env.pop(name, None)
        return env

    def words(self) -> list[str]:
        """Hydra overrides for ``verl.trainer.main_ppo``."""
        return [f"{key}={hydra(value)}" for key, value in self.settings.items()]

    def run(self) -> NodeRun | MiniatureRun:
        """The run, for `hetero_plugin.verl.launch.execute`."""
        if self.place.device == "gpu":
            return NodeRun(
                output=self.folder,
                name=self.name,
                steps=self.steps,
                noise=self.noise,
                words=tuple(self.words()),
            )
        return self._miniature()

    def _miniature(self) -> MiniatureRun:
        """The same settings on verl's CPU platform, which has a few of its own."""
        model, data = _model(self.study, self.place), _data(self.study, self.place)
        fields = {
            field: self.settings[key]
            for key, field in _OF_MINIATURE.items()
            if key in self.settings
        }
        options = self.study.arm(self.arm).options
        known: dict[str, Any] = {
            **fields,
            "model": Path(model.path),
            "train_files": Path(data.train),
            "val_files": Path(data.val),
            "output": self.folder,
            "name": self.name,
            "steps": self.steps,
            "noise": self.noise,
            "seed": self.seed,
            "validation": options.get("validation", "both"),
            "threads": self.place.threads,
            "cache": cache_folder(),
            "save_every": self.study.save_every(self.steps),
            "resume": self.study.resume_every is not None,
        }
        try:
            plain = MiniatureRun(**known)
        except ValidationError as error:
            problems = "; ".join(item["msg"] for item in error.errors())
            raise ConfigError(f"{self.name} at {self.where}: {problems}") from None
        cpu = {word.partition("=")[0].lstrip("+") for word in plain.words}
        # What the platform sets is its own; a place that wants it otherwise says so itself.
        more = [
            f"{key}={hydra(value)}"
            for key, value in self.settings.items()
            if key.lstrip("+") not in cpu or key in self.place.trainer
            if key not in _OF_MINIATURE
        ]
        more += [
            f"+{_ROLLOUT}.custom.hetero_run.{key}={hydra(value)}"
            for key, value in options.items()
            if key != "validation"
        ]
        return MiniatureRun(**known, overrides=tuple(more))

    def command(self) -> list[str]:
        """What starts the training at its place, word by word."""
        plain = ["python3", "-m", "verl.trainer.main_ppo"]
        if self.place.device == "cpu":
            made = self._miniature()
            needs = [f"{key}={value}" for key, value in made.environment({}).items()]
            return ["env", *needs, *plain, *made.words]
        train = [*plain, *self.words()]
        logger = {"VERL_FILE_LOGGER_PATH": str(self.folder / "metrics.jsonl")}
        more = [f"--{key}={value}" for key, value in self.place.options.items()]
        if self.place.launch == "ray":
            sent = json.dumps({"env_vars": logger})
            return [
                "ray",
                "job",
                "submit",
                f"--runtime-env-json={sent}",
                *more,
                "--",
                *train,
            ]
        alone = ["env", *(f"{key}={value}" for key, value in logger.items()), *train]
        if self.place.launch == "slurm":
            import shlex

            return [
                "sbatch",
                f"--job-name={self.study.name}-{self.arm}-{self.seed}",
                f"--nodes={self.place.nodes}",
                f"--gpus-per-node={self.place.gpus}",
                *more,
                f"--wrap={shlex.join(alone)}",
            ]
        return alone

    def merger(self, step: int) -> list[str]:
        """verl's command that makes a Hugging Face folder of a step's checkpoint."""
        actor = self.folder / "checkpoints" / f"global_step_{step}" / "actor"
        return [
            "python3", "-m", "verl.model_merger", "merge", "--backend", "fsdp",
            "--local_dir", str(actor), "--target_dir", str(self.model_at(step)),
        ]  # fmt: skip

    def afterwards(self) -> Iterator[list[str]]:
        """Merging and evaluating each checkpoint that is kept, a command each."""
        evaluation = self.evaluation
        for step in self.study.checkpoints(self.steps):
            yield self.merger(step)
            data = _data(self.study, self.place)
            files = [under for under in evaluation.under if under.endswith(_SUFFIXES)]
            presets = [under for under in evaluation.under if under not in files]
            for which in (*([f] for f in files), *([presets] if presets else [])):
                option = "--config" if which[0] in files else "--presets"
                out = self.evaluated_at(step, which[0])
                yield [
                    "hetero-noise", "eval", "--model", str(self.model_at(step)),
                    "--data", data.test or data.val,
                    "--levels", ",".join(f"{level:g}" for level in evaluation.levels),
                    option, ",".join(which), "--seed", str(evaluation.seed),
                    "--noise-seeds", str(evaluation.draws), "--margin", f"{evaluation.margin:g}",
                    *(["--n", str(evaluation.questions)] if evaluation.questions else []),
                    "--out", str(out if len(which) == 1 else self.folder / f"eval-step{step}"),
                ]  # fmt: skip


def _model(study: Study, place: Place) -> Any:
    return place.model or study.model


def _data(study: Study, place: Place) -> Any:
    """Files by absolute path: verl's processes run in another folder."""
    data = place.data or study.data
    return data.replace(
        train=str(Path(data.train).expanduser().absolute()),
        val=str(Path(data.val).expanduser().absolute()),
        test=None if data.test is None else str(Path(data.test).expanduser().absolute()),
    )


def model_folder(model: Model) -> Path | None:
    """The folder of a model; None where it is a name on the hub."""
    path = Path(model.path).expanduser()
    return path.absolute() if path.is_dir() or path.is_absolute() else None


def cache_folder() -> Path:
    """Compiled code that the engines of all runs on a CPU share."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "hetero_noise" / "compiled"


def resolve(study: Study, arm: str, seed: int, where: str | None = None) -> Resolved:
    """One run of a study.

    Raises:
        ConfigError: no such arm, place or seed.
    """
    name = where or study.where
    place = study.place(name, "--where" if where else "where")
    chosen = study.arm(arm)
    if seed not in study.seeds:
        raise ConfigError(
            f"--seed {seed}: the study has {', '.join(map(str, study.seeds))}; add it to `seeds`."
        )
    model, data = _model(study, place), _data(study, place)
    steps = place.steps or study.steps
    folder = study.output.absolute() / study.name / model.size / arm / f"seed-{seed}"
    noise = noise_of(study, arm, seed)
    path = Path(model.path).expanduser()
    made = place.prepare is not None and path.absolute().is_relative_to(
        place.prepare.folder.absolute()
    )
    here = made or path.is_dir()  # what is prepared need not be there yet
    settings: dict[str, Any] = {
        "actor_rollout_ref.model.path": str(path.absolute()) if here else model.path,
        "data.train_files": data.train,
        "data.val_files": data.val,
        **_over(study.trainer, chosen.trainer, place.trainer),
        "data.seed": seed,
        f"{_ACTOR}.data_loader_seed": seed,
        f"{_ACTOR}.fsdp_config.seed": seed,
        "actor_rollout_ref.ref.fsdp_config.seed": seed,
        f"{_ROLLOUT}.seed": seed,
        "trainer.nnodes": place.nodes,
        "trainer.n_gpus_per_node": place.gpus,
        "trainer.total_training_steps": steps,
        "trainer.total_epochs": study.epochs,
        "trainer.save_freq": study.save_every(steps),
        "trainer.default_local_dir": str(folder / "checkpoints"),
        "trainer.project_name": study.name,
        "trainer.experiment_name": f"{arm}-{model.size}-seed{seed}",
    }
    if noise is not None:
        settings[f"{_ROLLOUT}.quantization"] = METHOD
        settings[f"+{_ROLLOUT}.custom.hetero_noise"] = json.loads(noise.canonical)
        if chosen.options:
            settings[f"+{_ROLLOUT}.custom.hetero_run"] = chosen.options
    elif chosen.options:
        raise ConfigError(f"arms.{arm}.options: they say how noise is measured; the arm is clean.")
    missing = set(OWN) - {key.lstrip("+") for key in settings}
    assert missing <= {key for key in OWN if key.startswith(_ROLLOUT)}, missing
    return Resolved(study, arm, seed, name, place, steps, noise, settings, folder)


def _over(*layers: dict[str, Any]) -> dict[str, Any]:
    """Settings laid over one another; one that is added (``+``) below is added above too."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            same = [old for old in result if old.lstrip("+") == key.lstrip("+")]
            result[same[0] if same else key] = value
    return result


def resolve_all(
    study: Study, arms: Sequence[str] = (), seeds: Sequence[int] = (), where: str | None = None
) -> list[Resolved]:
    """Every run that is asked for, seed by seed: so an early end leaves whole comparisons."""
    return [
        resolve(study, arm, seed, where)
        for seed in dict.fromkeys(seeds or study.seeds)
        for arm in dict.fromkeys(arms or study.arms)
    ]
