"""What is checked of a run before anything starts, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError
from hetero_plugin.sites import aqn_sites, counts, select, sites_from_config
from hetero_plugin.study.resolve import Resolved
from hetero_plugin.verl import node, preflight, resume
from hetero_plugin.verl.settings import RunNoise, resolve_driver

__all__ = ["check", "check_here", "compose", "facts", "shape_of"]

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


def shape_of(run: Resolved) -> dict[str, Any] | None:
    """config.json of the run's model: the file's, or what the study says; None: not known."""
    model = run.place.model or run.study.model
    path = Path(model.path).expanduser() / "config.json"
    if path.is_file():
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: can't be read as JSON: {error}") from None
        return data if isinstance(data, dict) else None
    return model.config


def compose(run: Resolved) -> Any:
    """The installed verl's configuration with the run's settings; None where verl is not installed.

    Raises:
        ConfigError: a key that verl does not have, or a value that its grammar does not take.
    """
    found = find_spec("verl")
    if found is None or not found.submodule_search_locations:
        return None
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException

    folder = Path(next(iter(found.submodule_search_locations))) / "trainer" / "config"
    with initialize_config_dir(version_base=None, config_dir=str(folder.absolute())):
        try:
            return hydra_compose("ppo_trainer", overrides=list(run.run().words))
        except HydraException as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ConfigError(
                f"{run.name}: verl {version('verl')} does not take a setting: {lines[0]} A key "
                "that it does not have needs a + before it."
            ) from None


def check(run: Resolved, config: Any = None) -> dict[str, str]:
    """Checks everything that needs no GPU and starts nothing; what was found, by its name.

    Args:
        config: verl's configuration of the run, if it has been composed.

    Raises:
        ConfigError: the first thing that can't work, with what would be right.
    """
    found: dict[str, str] = {}
    shape = shape_of(run)
    found["noise"] = "clean" if run.noise is None else f"specification {run.noise.fingerprint}"
    if run.noise is not None:
        if shape is None:
            found["sites"] = "not checked: the model is not here, nor its shape in the study"
        else:
            sites = sites_from_config(shape)
            try:
                kinds = counts(select(run.noise, sites))
                norms = aqn_sites(run.noise, sites)
            except ConfigError as error:
                model = (run.place.model or run.study.model).path
                raise ConfigError(f"{run.name}: noise of {model}: {error}") from None
            listed = ", ".join(f"{kind} {number}" for kind, number in kinds.items())
            found["sites"] = f"{sum(kinds.values())} ({listed})" if kinds else "none: AQN alone"
            if run.noise.aqn is not None:
                found["AQN"] = f"{len(norms)} norms; σ {', '.join(_sigmas(run))}"
    config = compose(run) if config is None else config
    if config is None:
        found["verl"] = "not installed here, so its keys are not checked"
    else:
        found["verl"] = f"every key is one of {version('verl')}'s, or added by +"
        _check_batches(config)
        noise = resolve_driver(config.actor_rollout_ref.rollout, {})
        _check_noise(run, noise)
        if noise is not None:
            preflight.check_noisy(config, noise)
        resume.check(config.trainer, noise)
        _check_seeds(run, config)
        found["seeds"] = _seeds(run)
        found["memory"] = node.check_memory(
            config, node.parameters_of(shape), run.place.gpus * run.place.nodes, None
        )
    found["folder"] = str(run.folder)
    found["checkpoints"] = "after steps " + ", ".join(map(str, run.study.checkpoints(run.steps)))
    return found


def check_here(run: Resolved) -> dict[str, str]:
    """The same, and whether this machine has what the run needs. Starts nothing.

    Raises:
        ConfigError: see `check`; or what is missing here.
    """
    if run.place.launch != "local":
        raise ConfigError(
            f"{run.where}: runs go there by {run.place.launch}, which is not started from here; "
            "submit the line that `hetero-noise study dry-run` prints."
        )
    if run.place.device == "gpu":
        node.check_devices(run.place.gpus)
    node.check_plugin()
    data = run.place.data or run.study.data
    for key, file in (("train", data.train), ("val", data.val)):
        if not Path(file).expanduser().is_file():
            raise ConfigError(
                f"data.{key}: there is no file {file}; it should be parquet as verl's GSM8K "
                f"preprocessing writes it. Say where it is with --set data.{key}=..."
            )
    config = compose(run)
    found = check(run, config)
    shape = shape_of(run)
    if run.place.device == "gpu":
        import torch

        node.check_attention(config)
        size = min(
            torch.cuda.get_device_properties(index).total_memory
            for index in range(torch.cuda.device_count())
        )
        parameters = node.parameters_of(shape)
        found["memory"] = node.check_memory(config, parameters, run.place.gpus, size)
        kept = run.steps // run.study.save_every(run.steps)  # verl keeps all that it saves
        found["disk"] = node.check_disk(run.folder, parameters, kept)
    return found


def _sigmas(run: Resolved) -> Iterator[str]:
    """σ by stage, as ``0-9: 0``; steps count from 0."""
    aqn = run.noise.aqn if run.noise is not None else None
    if aqn is None:
        return
    for sigma, steps in groupby(range(run.steps), aqn.sigma):
        stage = list(steps)
        last = f"-{stage[-1]}" if len(stage) > 1 else ""
        yield f"{stage[0]}{last}: {sigma:.4g}"


def _check_batches(config: Any) -> None:
    """What verl divides by, before two minutes of starting say so."""
    data, actor = config.data, config.actor_rollout_ref.actor
    rollout, gpus = config.actor_rollout_ref.rollout, config.trainer.n_gpus_per_node
    mini, micro = actor.ppo_mini_batch_size, actor.ppo_micro_batch_size_per_gpu
    ranks = gpus * config.trainer.nnodes
    whole, infer = data.train_batch_size * rollout.n, rollout.log_prob_micro_batch_size_per_gpu
    for what, number, by, divisor in (
        ("data.train_batch_size", data.train_batch_size, f"{_ACTOR}.ppo_mini_batch_size", mini),
        (
            f"{_ACTOR}.ppo_mini_batch_size x {_ROLLOUT}.n",
            mini * rollout.n,
            f"GPUs x {_ACTOR}.ppo_micro_batch_size_per_gpu",
            ranks * (micro or 1),
        ),
        (
            f"data.train_batch_size x {_ROLLOUT}.n",
            whole,
            f"GPUs x {_ROLLOUT}.log_prob_micro_batch_size_per_gpu",
            ranks * (infer or 1),
        ),
        (
            "GPUs",
            ranks,
            f"{_ROLLOUT}.tensor_model_parallel_size",
            rollout.tensor_model_parallel_size,
        ),
    ):
        if number % divisor:
            raise ConfigError(f"{what} is {number}, which {by} = {divisor} does not divide.")


def _check_noise(run: Resolved, noise: RunNoise | None) -> None:
    """The specification came through Hydra's grammar as it was."""
    came = None if noise is None else noise.config.fingerprint
    meant = None if run.noise is None else run.noise.fingerprint
    if came != meant:
        raise ConfigError(
            f"{run.name}: the command line says specification {came}, the study {meant}; a setting "
            f"under trainer changes {_ROLLOUT}.custom or {_ROLLOUT}.quantization."
        )


def _check_seeds(run: Resolved, config: Any) -> None:
    actor = config.actor_rollout_ref
    there = {
        "data.seed": config.data.seed,
        f"{_ACTOR}.data_loader_seed": actor.actor.data_loader_seed,
        f"{_ACTOR}.fsdp_config.seed": actor.actor.fsdp_config.seed,
        f"{_ROLLOUT}.seed": actor.rollout.seed,
    }
    if run.noise is not None:
        there["noise"] = run.noise.seed
        if run.noise.aqn is not None:
            there["AQN"] = run.noise.aqn.seed
    other = {name: value for name, value in there.items() if value != run.seed}
    if other:
        raise ConfigError(f"{run.name}: seeds that are not {run.seed}: {other}")


def _seeds(run: Resolved) -> str:
    words = ["data order", "trainer", "rollout"]
    if run.noise is not None:
        words += ["noise", *(["AQN"] if run.noise.aqn is not None else [])]
    return f"{run.seed} for {', '.join(words)}"


def facts(run: Resolved) -> dict[str, Any]:
    """A run as JSON data: command, what was checked, and what comes after training."""
    import shlex

    origin = run.study.arm(run.arm).origin
    return {
        "run": run.name,
        "where": run.where,
        "about": run.study.arm(run.arm).about,
        "origin": None if origin is None else origin.model_dump(mode="json", exclude_none=True),
        "command": shlex.join(run.command()),
        "then": [shlex.join(words) for words in run.afterwards()],
        "noise": None if run.noise is None else json.loads(run.noise.canonical),
        "checked": check(run),
    }
