"""Realised error: what was in fact added to real activations, after rounding, beside the asked.

Measured in Hugging Face, in eager mode: every noisy site hands over its tensor before and after.
The same specification gives the same error in vLLM (that is tested), so the figures hold there.
Where rounding swallows an error, this is where it shows: the share of elements changed falls, and
the realised size with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hetero_plugin.attestation.sums import Realised
from hetero_plugin.config import NoiseConfig
from hetero_plugin.operator import record

if TYPE_CHECKING:
    from hetero_plugin.evaluation.tasks import Task
    from hetero_plugin.sites import Selected

PROMPTS = 64
TOKENS = 4096  # at most so many of these prompts, all of a prompt or none: it bounds the cost


def measure(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    step: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Realised error of each noisy site of a wrapped model in forward passes.

    Args:
        model: wrapped, in eager mode.
        batches: token ids, int64 [B, T], without padding.
        step: the noise step, put back afterwards.
        progress: called with the number of sequences done, after each batch.

    Returns:
        Site name -> ``kind``, ``asked`` (the largest scale of its rules) and ``summary()``.

    Raises:
        RuntimeError: a selected site never ran, so nothing is known of it.
    """
    from hetero_plugin.hf import state_of

    state = state_of(model)
    sums: dict[str, Realised] = {}

    def note(names: tuple[str, ...], stream: str, before: Tensor, after: Tensor) -> None:
        if stream in ("input", "output", "weight"):
            sums.setdefault("+".join(names), Realised()).add(before, after)

    was = state.step
    training = model.training
    model.eval()
    state.set_step(step)
    try:
        with record(note), torch.no_grad():
            done = 0
            for ids in batches:
                model(input_ids=ids, use_cache=False)
                done += len(ids)
                if progress is not None:
                    progress(done)
    finally:
        state.set_step(was)
        model.train(training)
    return _rows(state.selected, sums)


def _rows(selected: Iterable[Selected], sums: dict[str, Realised]) -> dict[str, dict[str, Any]]:
    """What `measure` returns, of the sums of those sites that ran."""
    rows: dict[str, dict[str, Any]] = {}
    silent = []
    for chosen in selected:
        name = chosen.site.name
        if name not in sums:
            if any(rule.direction != "backward" for _, rule in chosen.rules):
                silent.append(name)
            continue
        asked = max(rule.scale for _, rule in chosen.rules)
        rows[name] = {"kind": chosen.site.kind, "asked": asked, **sums[name].summary()}
        rows[name]["sums"] = sums[name]
    if silent:
        raise RuntimeError(
            f"{len(silent)} selected sites never ran, so their realised error is unknown: "
            f"{', '.join(silent[:5])}"
        )
    return rows


def by_kind(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """``measure``'s rows, summed over the sites of each kind."""
    kinds: dict[str, dict[str, Any]] = {}
    for row in rows.values():
        kind = kinds.setdefault(row["kind"], {"sites": 0, "asked": 0.0, "sums": Realised()})
        kind["sites"] += 1
        kind["asked"] = max(kind["asked"], row["asked"])
        kind["sums"].merge(row["sums"])
    return [
        {
            "kind": name,
            "sites": kind["sites"],
            "asked": kind["asked"],
            **kind["sums"].summary(),
        }
        for name, kind in kinds.items()
    ]


def measure_checkpoint(
    model_path: Path,
    config: NoiseConfig,
    task: Task,
    *,
    scale: float,
    step: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Realised error of a checkpoint on the prompts of a task, by kind and by site.

    Args:
        model_path: a clean Hugging Face checkpoint.
        config: the specification; its rules are set to ``scale``.
        task: where the prompts come from; with a worked solution, or else the reference answer,
            appended as the model would see it while answering.
        scale: of every rule.
        step: the noise step.
        progress: called with the number of questions done, and of how many.

    Raises:
        ImportError: transformers is not installed.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as exc:  # pragma: no cover - depends on the installation
        raise ImportError(
            "measuring realised error needs transformers; "
            "install it with: pip install 'hetero-plugin[hf]'"
        ) from exc
    from hetero_plugin.hf import wrap

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype="auto")
    spec = config.replace(rules=tuple(rule.replace(scale=scale) for rule in config.rules))
    wrap(model, spec, quiet=True)
    sequences = _sequences(tokenizer, task)
    rows = measure(
        model,
        _batches(sequences),
        step=step,
        progress=None if progress is None else lambda done: progress(done, len(sequences)),
    )
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    kinds = by_kind(rows)
    for row in rows.values():
        del row["sums"]
    return {
        "note": (
            f"Measured at scale {scale:g} on the first {len(sequences)} questions with their "
            f"answers ({sum(map(len, sequences)):,} tokens), in {dtype}, eager Hugging Face. RMS "
            "relative error is of e/x over nonzero x; bias is mean e over RMS x."
        ),
        "scale": scale,
        "dtype": dtype,
        "by_kind": kinds,
        "sites": rows,
    }


def _sequences(tokenizer: Any, task: Task) -> list[list[int]]:
    """Questions with their answers, as the model sees them while it answers; at most `TOKENS`."""
    from hetero_plugin.evaluation.tasks import prompt_ids

    sequences: list[list[int]] = []
    for question in task.questions[:PROMPTS]:
        answer = question.solution or question.reference
        tail = tokenizer.encode(answer, add_special_tokens=False)
        ids = prompt_ids(tokenizer, question) + [int(token) for token in tail]
        if sequences and sum(map(len, sequences)) + len(ids) > TOKENS:
            break
        sequences.append(ids)
    return sequences


def _batches(sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    """Sequences of equal length together, so that no padding is counted."""
    groups: dict[int, list[Sequence[int]]] = {}
    for sequence in sequences:
        groups.setdefault(len(sequence), []).append(sequence)
    return [torch.tensor(group) for _, group in sorted(groups.items())]
