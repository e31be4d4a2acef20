"""A recording is made: a model's operators are run on known inputs, one after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.profile import machine, source
from hetero_plugin.profile.asked import Asked, Basis, basis, chosen, header_of
from hetero_plugin.profile.header import Header
from hetero_plugin.profile.operators import Operator, Variant, variant
from hetero_plugin.profile.recording import Recording, RecordingWriter
from hetero_plugin.profile.running import Kept, check_space, expected_bytes, output_bytes

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
        ImportError: vLLM is asked for and not installed.
    """
    how = variant(asked.variant)
    on = basis(asked)
    if asked.engine == "vllm":
        from hetero_plugin.profile.engine import record_vllm

        return record_vllm(asked, on, progress, say)
    with how.around():
        return record_hf(asked, on, how, progress, say)


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
        return model.to(device).eval()
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"--model {asked.model}: can't be loaded on {device}: {type(error).__name__}: {said}"
        ) from None


def record_hf(asked: Asked, on: Basis, how: Variant, progress: Progress, say: Say) -> Header:
    """A recording of a Hugging Face model; see `record`.

    Args:
        on: what it is made of.
        how: the machine that this one is made to be; its settings are in force already.
    """
    from hetero_plugin.profile.operators.hf import operators_of

    progress("loading the model", 0, 1)
    model = load_model(asked)
    progress("loading the model", 1, 1)
    device = next(model.parameters()).device
    dtype = str(model.dtype).removeprefix("torch.")
    header = header_of(asked, on, dtype, machine.facts(str(device)))
    found = operators_of(model, on.lengths, header.columns)
    names = chosen(asked, [*found.sites.values()])
    read: Callable[[str], Mapping[str, Tensor]]
    known: Callable[[str], Tensor | None] = lambda name: None  # noqa: E731
    if on.replay is None:
        from hetero_plugin.profile.operators.capture import captured

        say_left_out(found.left_out, say)
        inputs = captured(
            model,
            found,
            names,
            source.split(on.tokens, on.lengths),
            asked.fused,
            lambda done, of: progress("reading the text", done, of),
        )
        read = inputs.__getitem__
        operators = [found.operators[name] for name in inputs]
        size = expected_bytes(operators, inputs, asked.repeats, held=True)
    else:
        operators = replayed(on.replay, found.operators, names, found.left_out, say)
        read, known = _reader(on.replay)
        width = model.dtype.itemsize
        size = sum(output_bytes(o, len(on.tokens), asked.repeats, width) for o in operators)
    say(f"{len(operators)} operators, {len(on.tokens)} rows: {size / 1e6:,.1f} MB")
    check_space(asked.out, size)
    writer = RecordingWriter(asked.out, header)
    kept = Kept(writer, on.replay is None)
    with torch.no_grad():
        for done, operator in enumerate(operators):
            progress("recording", done, len(operators))
            name = operator.name
            if not writer.has(name):
                kept.add(operator, how.change(operator), read(name), known(name), device)
    progress("recording", len(operators), len(operators))
    writer.close()
    return writer.header


def _reader(
    replay: Recording,
) -> tuple[Callable[[str], Mapping[str, Tensor]], Callable[[str], Tensor | None]]:
    """Inputs and references of a recording, by site: those of the same weights."""
    return (lambda name: replay.site(name).inputs), (lambda name: replay.site(name).reference)


def replayed(
    replay: Recording,
    operators: Mapping[str, Operator],
    names: set[str],
    left_out: Mapping[str, str],
    say: Say,
) -> list[Operator]:
    """The operators that a recording has inputs of, in its order.

    Raises:
        ConfigError: it has inputs of none of them, or of another number of columns.
    """
    there = replay.sites()
    say_left_out({name: why for name, why in left_out.items() if name in there}, say)
    found = [operators[name] for name in there if name in names and name in operators]
    if not found:
        raise ConfigError(
            f"--replay-inputs {replay.path}: has {len(there)} sites, none of which --targets and "
            "--layers leave"
        )
    if len(found) < len(there):
        say(f"{len(found)} of the {len(there)} sites of {replay.path.name} are recorded")
    for operator in found:
        entry = replay.entry(operator.name)
        if (entry.n, entry.k) != (operator.n, operator.k):
            raise ConfigError(
                f"--replay-inputs {replay.path}: {operator.name} is {entry.k} to {entry.n} there, "
                f"and {operator.k} to {operator.n} in this model"
            )
    return found


def say_left_out(left_out: Mapping[str, str], say: Say) -> None:
    """A sentence for each reason that sites are not recorded for."""
    for why, count in Counter(left_out.values()).items():
        first = next(name for name, reason in left_out.items() if reason == why)
        others = f" and {count - 1} more" if count > 1 else ""
        say(f"not recorded: {first}{others}: {why}")
