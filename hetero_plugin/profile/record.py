"""A recording is made with a Hugging Face model: its operators are run on known inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.profile import machine, source
from hetero_plugin.profile.asked import Asked, basis, chosen, header_of
from hetero_plugin.profile.header import Header
from hetero_plugin.profile.operators import Variant, variant
from hetero_plugin.profile.recording import RecordingWriter
from hetero_plugin.profile.running import check_space, expected_bytes, written

__all__ = ["Asked", "record"]

Progress = Callable[[str, int, int], None]
Say = Callable[[str], None]


def record(
    asked: Asked, progress: Progress = lambda what, done, of: None, say: Say = lambda line: None
) -> Header:
    """Makes a recording, or goes on with one that was killed.

    Args:
        asked: what is asked for.
        progress: called with what is being done, and how far.
        say: given sentences: the size before it begins, and what is left out.

    Returns:
        The header of the finished file.

    Raises:
        ConfigError: what was asked for can't be.
        OSError: the file can't be written.
    """
    if asked.engine == "vllm":
        from hetero_plugin.profile.vllm import record_vllm

        return record_vllm(asked, progress, say)
    how = variant(asked.variant)
    with how.around():
        return _record_hf(asked, how, progress, say)


def load_model(asked: Asked) -> Any:
    """The checkpoint as transformers loads it, in evaluation mode, on the device.

    Raises:
        ConfigError: it can't be loaded.
    """
    from transformers import AutoModelForCausalLM

    dtype = "auto" if asked.dtype == "auto" else getattr(torch, asked.dtype)
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(asked.model, dtype=dtype)
    except (ValueError, OSError, KeyError) as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"--model {asked.model}: can't be loaded: {said}") from None
    return model.to(device).eval()


def _record_hf(asked: Asked, how: Variant, progress: Progress, say: Say) -> Header:
    from hetero_plugin.profile.operators.capture import captured
    from hetero_plugin.profile.operators.hf import operators_of

    on = basis(asked)
    progress("loading the model", 0, 1)
    model = load_model(asked)
    device = next(model.parameters()).device
    dtype = str(model.dtype).removeprefix("torch.")
    header = header_of(asked, on, dtype, machine.facts(str(device)))
    found = operators_of(model, on.lengths, header.columns)
    for name, why in found.left_out.items():
        say(f"{name} is not recorded: {why}")
    names = chosen(asked, list(found.sites.values()))
    replay = on.replay
    if replay is None:
        inputs = captured(
            model,
            found,
            names,
            source.split(on.tokens, on.lengths),
            asked.fused,
            lambda done, of: progress("reading the text", done, of),
        )
        read: Callable[[str], Mapping[str, Tensor]] = inputs.__getitem__
        operators = [found.operators[name] for name in inputs]
        size = expected_bytes(operators, inputs, asked.repeats, held=True)
    else:
        there = replay.sites()
        for name in names - set(there):
            say(f"{name} is not recorded: {asked.replay} has no inputs of it")
        operators = [found.operators[name] for name in there if name in names]
        read = lambda name: replay.site(name).inputs  # noqa: E731
        size = sum(len(op.columns) * len(on.tokens) * (2 * asked.repeats + 8) for op in operators)
    say(f"{len(operators)} operators, {len(on.tokens)} rows: {size / 1e6:,.1f} MB")
    check_space(asked.out, size)
    writer = RecordingWriter(asked.out, header)
    return written(
        writer,
        operators,
        read,
        how,
        held=replay is None,
        device=device,
        progress=lambda done, of: progress("recording", done, of),
    )
