"""Every change this package makes to vLLM's own code, each with its reason.

A patch checks that its target has the signature it was written for, and is applied once. When a
target has changed, `PatchError` names it with both versions, at start-up: an engine that can't be
made noisy rightly must not start as if it were.
"""

from __future__ import annotations

import functools
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from hetero_plugin.vllm import connectors, weights, wheel
from hetero_plugin.vllm.followed import FOLLOWED, follow_load_model
from hetero_plugin.vllm.patching import (
    Function,
    PatchError,
    Target,
    wrap,
)

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.entrypoints.serve.engine.protocol import ModelList
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.worker.worker_base import WorkerWrapperBase


__all__ = ["FOLLOWED", "SERVED", "WRAPPED", "PatchError", "apply", "apply_to_server"]

ADD_CLI_ARGS = Target(
    "vllm.engine.arg_utils",
    "EngineArgs",
    "add_cli_args",
    ("parser",),
    "vLLM has no extension point for arguments of a plugin",
)
FROM_CLI_ARGS = Target(
    "vllm.engine.arg_utils",
    "EngineArgs",
    "from_cli_args",
    ("args",),
    "the arguments become quantization and additional_config, in whatever order they were given",
)
CREATE_CONFIG = Target(
    "vllm.engine.arg_utils",
    "EngineArgs",
    "create_engine_config",
    ("self", "usage_context", "headless"),
    "the spec is resolved, checked and stamped into additional_config (and so into the compile "
    "hash) where the user can see the error, before any process starts",
)
INIT_DEVICE = Target(
    "vllm.v1.worker.worker_base",
    "WorkerWrapperBase",
    "init_device",
    ("self",),
    "every executor calls it once its worker is made, and before load_model, which is followed; "
    "init_worker would be too late to wrap: it is what loads plugins in a spawned worker",
)
COLLECTIVE_RPC = Target(
    "vllm.v1.engine.core",
    "EngineCore",
    "collective_rpc",
    ("self", "method", "timeout", "args", "kwargs"),
    "the prefix cache belongs to the scheduler, which a worker can't reach",
)
MAKE_SCHEDULER = Target(
    "vllm.v1.core.sched.scheduler",
    "Scheduler",
    "__init__",
    None,
    "it makes the KV connector, whose store may hold another engine's keys and values; EngineCore "
    "loads plugins too late for a wrapper of its own",
)
PROCESS_WEIGHTS = Target(
    "vllm.model_executor.layers.linear",
    "UnquantizedLinearMethod",
    "process_weights_after_loading",
    ("self", "layer"),
    "vLLM builds some layers (Qwen2-MoE's gates) without asking for their method, and on CPU drops "
    "their weights, so that the next weight sync has nowhere to write",
)
WRAPPED = (
    ADD_CLI_ARGS,
    FROM_CLI_ARGS,
    CREATE_CONFIG,
    INIT_DEVICE,
    COLLECTIVE_RPC,
    MAKE_SCHEDULER,
    PROCESS_WEIGHTS,
)

# Wrapped in the process of a server whose engine is noisy, when it is configured.
ASYNC_RPC = Target(
    "vllm.v1.engine.async_llm",
    "AsyncLLM",
    "collective_rpc",
    ("self", "method", "timeout", "args", "kwargs"),
    "its answers are what the metrics show: vLLM tells a plugin nothing of the workers' state",
)
SHOW_MODELS = Target(
    "vllm.entrypoints.openai.models.serving",
    "OpenAIServingModels",
    "show_available_models",
    ("self",),
    "the card of a noisy model says so, that nobody takes it for a clean one",
)
SUPPORTED_TASKS = Target(
    "vllm.v1.engine.async_llm",
    "AsyncLLM",
    "get_supported_tasks",
    ("self",),
    "a server awaits it before it starts, and each request before it is taken: the place of an "
    "attestation at start",
)
SERVED = (ASYNC_RPC, SHOW_MODELS, SUPPORTED_TASKS)


def apply() -> None:
    """Applies every patch of `WRAPPED`, and adds the worker calls; a second call does nothing.

    Raises:
        PatchError: a target has changed.
    """
    wrap(ADD_CLI_ARGS, _add_cli_args)
    wrap(FROM_CLI_ARGS, _from_cli_args)
    wrap(CREATE_CONFIG, _create_engine_config)
    wrap(INIT_DEVICE, _init_device)
    wrap(COLLECTIVE_RPC, connectors.follow_calls)
    wrap(MAKE_SCHEDULER, connectors.follow_making)
    wrap(PROCESS_WEIGHTS, weights.keep)


def apply_to_server() -> None:
    """Applies every patch of `SERVED`; importing their targets in a worker would slow its start."""
    wrap(ASYNC_RPC, _async_rpc)
    wrap(SHOW_MODELS, _show_models)
    wrap(SUPPORTED_TASKS, _supported_tasks)


def name_cpu_wheel() -> None:
    """Entry point of ``vllm.platform_plugins`` that offers no platform.

    With the CPU wheel no ``vllm serve`` starts otherwise, and platform plugins are the only ones
    that vLLM loads early enough.
    """
    wheel.name_cpu_wheel()


def _add_cli_args(original: Function) -> Function:
    def add_cli_args(parser: ArgumentParser) -> ArgumentParser:
        from hetero_plugin.vllm.args import add_arguments

        parser = original(parser)
        add_arguments(parser)
        return parser

    return add_cli_args


def _from_cli_args(original: Function) -> Function:
    def from_cli_args(cls: type[EngineArgs], args: Namespace) -> EngineArgs:
        from hetero_plugin.vllm.args import merge

        return original(cls, merge(args))

    return from_cli_args


def _create_engine_config(original: Function) -> Function:
    def create_engine_config(self: EngineArgs, *args: object, **kwargs: object) -> VllmConfig:
        from hetero_plugin.vllm import refusals, spec
        from hetero_plugin.vllm.quantization import is_noisy
        from hetero_plugin.vllm.serve import self_attest

        made = original(self, *args, **kwargs)
        attest, noisy = self_attest.take(made), is_noisy(made)
        context = kwargs.get("usage_context", args[0] if args else None)
        served = getattr(context, "name", None) == "OPENAI_API_SERVER"
        config = spec.settle(made) if noisy else None
        if config is None:
            spec.check_clean(made)
        else:
            refusals.refuse_asked(self, config.rules)
        if config is not None and served:
            from hetero_plugin.vllm.serve import metrics

            apply_to_server()
            metrics.register(config, spec.model_sites(made))
        if attest:
            self_attest.ask(made, config, served)
        return made

    return create_engine_config


def _async_rpc(original: Function) -> Function:
    async def collective_rpc(self: AsyncLLM, method: object, *args: object, **more: object) -> Any:
        answers = await original(self, method, *args, **more)
        if isinstance(method, str) and method.startswith("hetero_noise_"):
            from hetero_plugin.vllm.serve import metrics

            metrics.update(method, answers)
        return answers

    return collective_rpc


def _show_models(original: Function) -> Function:
    async def show_available_models(self: OpenAIServingModels) -> ModelList:
        from hetero_plugin.vllm.client import aio
        from hetero_plugin.vllm.serve import self_attest

        models = await original(self)
        status = await aio.status(self.engine_client)
        keys = ("noisy", "fingerprint", "sites", "scales", "enabled", "step", "sigma")
        attested = self_attest.shown()
        for card in models.data:
            card.hetero_noise = {key: status.get(key) for key in keys}
            card.hetero_noise["attested"] = attested is not None and attested["passed"]
        return models

    return show_available_models


def _supported_tasks(original: Function) -> Function:
    async def get_supported_tasks(self: AsyncLLM) -> tuple[str, ...]:
        from hetero_plugin.vllm.serve import self_attest

        await self_attest.attest_once(self)
        return await original(self)

    return get_supported_tasks


def _init_device(original: Function) -> Function:
    def init_device(self: WorkerWrapperBase) -> object:
        from hetero_plugin.vllm.quantization import is_noisy
        from hetero_plugin.vllm.serve import control

        worker: Any = self.worker  # of any device: `install.Worker` is what is used of it
        for call in control.CALLS:
            setattr(worker, call.__name__, functools.partial(call, worker))
        if is_noisy(worker.vllm_config):
            follow_load_model(worker)
        return original(self)

    return init_device
