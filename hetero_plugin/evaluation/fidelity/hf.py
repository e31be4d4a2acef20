"""The fidelity panel of a checkpoint in Hugging Face, in eager mode, at several scales."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hetero_plugin import attestation
from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation import checkpoints, files
from hetero_plugin.evaluation.fidelity.panel import Rows, summarise, token_rows
from hetero_plugin.evaluation.fidelity.text import batches, read_windows
from hetero_plugin.evaluation.vllm_eval import evaluation_spec

FORMAT = 1
BATCH = 4  # windows of a forward pass; the floor compares it with one window at a time
Progress = Callable[[str, int, int], None]


def measure_checkpoint(
    model_path: Path,
    text: Path,
    *,
    levels: Sequence[float],
    spec: Any = None,
    seed: int | None = None,
    step: int = 0,
    dtype: str = "auto",
    tokens: int = 4096,
    context: int = 256,
    out: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures a checkpoint's fidelity under noise on a text; attested before.

    Args:
        model_path: folder of a clean checkpoint.
        text: a UTF-8 file; its first ``tokens`` tokens are used.
        levels: noise scales over 0; every rule of the spec is set to each in turn.
        spec: as for ``evaluate``.
        seed: of the noise; None: the spec's.
        step: the noise step.
        dtype: as for ``from_pretrained``.
        tokens: bounds the cost; two passes of each window for the clean model, one a level.
        context: tokens of a window; each is read by itself.
        out: where to write the result as JSON, if anywhere.
        progress: called with what is being done, and how far.

    Returns:
        ``levels``: of each ``level``, the panel and ``kl_by_window`` (sums over the tokens of each,
        ``tokens_by_window``); ``floor``: the panel of the clean model against
        itself, one window at a time against several; what was measured; the attestation.

    Raises:
        Refused: the noise can't be attested in this model.
        ConfigError: a bad level, spec, checkpoint, or a text that can't be used.
        FileError: ``out`` can't be written.
    """
    wanted = sorted({float(level) for level in levels})
    if not wanted or not all(0 < level < float("inf") for level in wanted):
        raise ConfigError(f"levels are {list(levels)}; each must be a finite number over 0")
    config = evaluation_spec(spec, seed, max(wanted))
    checkpoints.check_clean(model_path, config)
    if out is not None:
        files.check_target(out)
    read = read_windows(model_path, text, tokens=tokens, context=context)

    from transformers import AutoModelForCausalLM

    from hetero_plugin.hf.probe import HFProbe

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype).eval()
    record = attestation.attest(
        HFProbe.wrapping(model, config),
        progress=lambda done, of: _tell(progress, "attesting", done, of),
    )
    attestation.require(record, config.fingerprint)
    found = measure(model, read.windows, wanted, step=step, progress=progress)
    document = {
        "format": FORMAT,
        "engine": "hf-eager",
        "model": str(model_path),
        "model_sha256": checkpoints.weights_digest(model_path),
        "text": str(text),
        "text_sha256": read.sha256,
        "context": context,
        "spec": json.loads(config.canonical),
        "fingerprint": config.fingerprint,
        "seed": config.seed,
        "step": step,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "attestation": record,
        "versions": attestation.versions(),
        **found,
    }
    if out is not None:
        files.write_json(out, document)
    return document


def measure(
    model: nn.Module,
    windows: Sequence[Tensor],
    levels: Sequence[float],
    *,
    step: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The panels of a wrapped model, whose scales and step are put back afterwards.

    Args:
        model: wrapped, in eager mode.
        windows: token ids, int64 [T], T >= 2.
        levels: scales over 0.
        step: the noise step.
        progress: see ``measure_checkpoint``.

    Returns:
        ``levels`` and ``floor``, as ``measure_checkpoint``.
    """
    from hetero_plugin.hf import disabled, state_of

    state = state_of(model)
    was_step, was_training = state.step, model.training
    of_level: dict[float, list[Rows]] = {level: [] for level in levels}
    floor: list[Rows] = []
    model.eval()
    try:
        state.set_step(step)
        done = 0
        for batch in batches(windows, BATCH):
            targets = batch[:, 1:]
            with torch.no_grad():
                with disabled(model):
                    clean = next_logits(model, batch)
                    alone = torch.cat([next_logits(model, row[None]) for row in batch])
                floor += _rows(clean, alone, targets)
                for level in levels:
                    state.set_scale(level)
                    of_level[level] += _rows(clean, next_logits(model, batch), targets)
            done += len(batch)
            _tell(progress, "measuring fidelity", done, len(windows))
    finally:
        state.reset_scales()
        state.set_step(was_step)
        model.train(was_training)
    _tell(progress, "bootstrap", 0, 1)
    return {
        "levels": [
            {
                "level": level,
                **summarise(rows),
                "kl_by_window": [float(row["kl"].sum()) for row in rows],
            }
            for level, rows in of_level.items()
        ],
        "tokens_by_window": [len(row["kl"]) for row in floor],
        "floor": summarise(floor),
    }


def next_logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits [B, T - 1, V] of the next tokens of ids [B, T], the last one left out."""
    logits = model(input_ids=ids.to(next(model.parameters()).device), use_cache=False).logits
    return logits[:, :-1]


def _rows(clean: Tensor, noisy: Tensor, targets: Tensor) -> list[Rows]:
    targets = targets.to(clean.device)
    return [token_rows(p, q, t) for p, q, t in zip(clean, noisy, targets, strict=True)]


def _tell(progress: Progress | None, what: str, done: int, of: int) -> None:
    if progress is not None:
        progress(what, done, of)
