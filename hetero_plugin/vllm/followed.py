"""What is wrapped on one object of a noisy engine, not on a class: its worker, its runner."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hetero_plugin.vllm import weights
from hetero_plugin.vllm.patching import Function, PatchError, Target, Wrapper, follow, versions

if TYPE_CHECKING:
    from hetero_plugin.vllm.held import HeldWeights
    from hetero_plugin.vllm.rows import Rows

__all__ = ["FOLLOWED", "follow_head_rows", "follow_load_model"]

LOAD_MODEL = Target(
    "vllm.v1.worker.gpu_worker",
    "Worker",
    "load_model",
    ("self", "load_dummy_weights"),
    "layers are given their noise after loading and before the first pass",
)
EXECUTE_MODEL = Target(
    "vllm.v1.worker.gpu_worker",
    "Worker",
    "execute_model",
    ("self", "scheduler_output"),
    "before a step, weights with a fixed error are made anew if something has changed: a captured "
    "graph of the whole model runs no hook",
)
PREPARE_INPUTS = Target(
    "vllm.v1.worker.gpu_model_runner",
    "GPUModelRunner",
    "_prepare_inputs",
    ("self", "scheduler_output", "num_scheduled_tokens"),
    "returns the rows that the LM head will be given",
)
PROMPT_LOGPROBS = Target(
    "vllm.v1.worker.gpu_model_runner",
    "GPUModelRunner",
    "_get_prompt_logprobs_dict",
    ("self", "hidden_states", "num_scheduled_tokens"),
    "gives the LM head slices of all rows",
)
DUMMY_SAMPLER = Target(
    "vllm.v1.worker.gpu_model_runner",
    "GPUModelRunner",
    "_dummy_sampler_run",
    ("self", "hidden_states"),
    "gives the LM head random rows",
)
SAMPLE_V2 = Target(
    "vllm.v1.worker.gpu.model_runner",
    "GPUModelRunner",
    "sample",
    ("self", "hidden_states", "input_batch", "grammar_output"),
    "gives the LM head the rows input_batch.logits_indices",
)
DUMMY_SAMPLER_V2 = Target(
    "vllm.v1.worker.gpu.model_runner",
    "GPUModelRunner",
    "_dummy_sampler_run",
    ("self", "hidden_states"),
    "gives the LM head made-up rows",
)
FOLLOWED = (
    LOAD_MODEL,
    EXECUTE_MODEL,
    PREPARE_INPUTS,
    PROMPT_LOGPROBS,
    DUMMY_SAMPLER,
    SAMPLE_V2,
    DUMMY_SAMPLER_V2,
)


def follow_load_model(worker: Any) -> None:
    """Has a worker give its model its noise once it is loaded, and follow what happens to it."""

    def wrapper(original: Function) -> Function:
        def load_model(*args: object, **kwargs: object) -> object:
            from hetero_plugin.vllm.install import head_is_noisy, install

            result = original(*args, **kwargs)
            worker.hetero_noise = installed = install(worker)
            runner, model = worker.model_runner, worker.model_runner.get_model()
            weights.follow_loading(model, installed)
            if installed is not None and installed.held.all:
                _follow_steps(worker, installed.held)
            if installed is not None:
                installed.tell_rows = functools.partial(follow_head_rows, runner, installed.rows)
                if head_is_noisy(model):
                    installed.tell_rows()
            return result

        return load_model

    follow(worker, LOAD_MODEL, wrapper)


def _follow_steps(worker: object, held: HeldWeights) -> None:
    def wrapper(original: Function) -> Function:
        def execute_model(*args: object, **kwargs: object) -> object:
            return held.step(lambda: original(*args, **kwargs))

        return execute_model

    follow(worker, EXECUTE_MODEL, wrapper)


def follow_head_rows(runner: object, rows: Rows) -> None:
    """Tells the LM head which rows it is given, in either of vLLM's model runners.

    Raises:
        PatchError: the runner is of a third kind, or one of its methods has changed.
    """
    kinds = {f"{cls.__module__}.{cls.__name__}" for cls in type(runner).__mro__}

    def dummy(original: Function) -> Function:
        def run(*args: object, **kwargs: object) -> object:
            with rows.dummy():
                return original(*args, **kwargs)

        return run

    def slices(original: Function) -> Function:
        def run(hidden_states: Tensor, *args: object, **kwargs: object) -> object:
            with rows.slices_of(hidden_states):
                return original(hidden_states, *args, **kwargs)

        return run

    if f"{PREPARE_INPUTS.module}.{PREPARE_INPUTS.owner}" in kinds:

        def prepare(original: Function) -> Function:
            def run(*args: object, **kwargs: object) -> object:
                result = original(*args, **kwargs)
                rows.pick(result[0])
                return result

            return run

        follow(runner, PREPARE_INPUTS, prepare)
        follow(runner, PROMPT_LOGPROBS, slices)
        follow(runner, DUMMY_SAMPLER, dummy)
    elif f"{SAMPLE_V2.module}.{SAMPLE_V2.owner}" in kinds:
        _follow_v2(runner, rows, dummy)
    else:
        raise PatchError(
            f"the model runner {type(runner).__name__} is of no kind that hetero_noise knows, so "
            f"the rows of lm_head can't be told: exclude lm_head, or see {versions()}"
        )


def _follow_v2(runner: object, rows: Rows, dummy: Wrapper) -> None:
    if getattr(runner, "batch_sharder", None) is not None:
        raise PatchError("lm_head with batch-sharded sampling is not supported; exclude lm_head")

    def sample(original: Function) -> Function:
        def run(hidden_states: Tensor, input_batch: Any, grammar_output: object) -> object:
            rows.pick(input_batch.logits_indices)
            rows.hold(hidden_states)  # prompt log-probabilities follow, of slices of these
            return original(hidden_states, input_batch, grammar_output)

        return run

    follow(runner, SAMPLE_V2, sample)
    follow(runner, DUMMY_SAMPLER_V2, dummy)
