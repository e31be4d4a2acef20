"""The fidelity panel of a checkpoint at several scales, in either engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hetero_plugin import attestation
from hetero_plugin.attestation.sampling import same_sample
from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation import checkpoints, files
from hetero_plugin.evaluation.fidelity import sampled
from hetero_plugin.evaluation.fidelity.batch import Progress, next_logits
from hetero_plugin.evaluation.fidelity.panel import Rows, summarise, token_rows
from hetero_plugin.evaluation.fidelity.session import check_engine
from hetero_plugin.evaluation.fidelity.table import HFTable, Table
from hetero_plugin.evaluation.fidelity.text import batches, read_windows
from hetero_plugin.evaluation.specs import evaluation_spec

FORMAT = 1
BATCH = 4  # windows that are measured at a time; the floor compares it with one window at a time


class Reader(Protocol):
    """A noisy model that reads windows of text.

    Attributes:
        table: its scales.
    """

    table: Table

    def keep(self, windows: Sequence[Tensor]) -> list[Rows]:
        """Keeps the clean logits of windows of one length; the floor of each."""

    def compare(self, windows: Sequence[Tensor]) -> list[Rows]:
        """The rows of the same windows as the noise is set now, against clean."""


class HFReader:
    """A wrapped model of Hugging Face, in eager mode.

    Args:
        model: the model.
        sampling: seed of the tokens that are drawn from clean and noisy; None: none are.
    """

    def __init__(self, model: nn.Module, sampling: int | None = None) -> None:
        self.model, self.sampling = model, sampling
        self.table: Table = HFTable(model)
        self._clean = torch.empty(0)

    def keep(self, windows: Sequence[Tensor]) -> list[Rows]:
        batch = torch.stack(list(windows))
        self.table.clean(True)
        try:
            with torch.no_grad():
                self._clean = next_logits(self.model, batch)
                alone = torch.cat([next_logits(self.model, row[None]) for row in batch])
        finally:
            self.table.clean(False)
        return self._rows(alone, batch)

    def compare(self, windows: Sequence[Tensor]) -> list[Rows]:
        batch = torch.stack(list(windows))
        with torch.no_grad():
            return self._rows(next_logits(self.model, batch), batch)

    def _rows(self, noisy: Tensor, batch: Tensor) -> list[Rows]:
        targets = batch[:, 1:].to(noisy.device)
        found = []
        for p, q, t in zip(self._clean, noisy, targets, strict=True):
            rows = token_rows(p, q, t)
            if self.sampling is not None:
                rows[sampled.SAME] = same_sample(p, q, t, self.sampling)
            found.append(rows)
        return found


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
    engine: str = "hf",
    sampling: int | None = 0,
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
        dtype: as for ``from_pretrained``, or vLLM's.
        tokens: bounds the cost; two passes of each window for the clean model, one a level.
        context: tokens of a window; each is read by itself.
        engine: ``hf`` (eager) or ``vllm`` (compiled).
        sampling: seed of the tokens that clean and noisy draw with the same numbers; None: none.
        out: where to write the result as JSON, if anywhere.
        progress: called with what is being done, and how far.

    Returns:
        ``levels``: of each ``level``, the panel, ``sampled`` (`sampled.summarise`) and
        ``kl_by_window`` (sums over the tokens of each,
        ``tokens_by_window``); ``floor``: the panel of the clean model against
        itself, one window at a time against several; what was measured; the attestation.

    Raises:
        Refused: the noise can't be attested in this model.
        ConfigError: a bad level, spec, engine, checkpoint, or a text that can't be used.
        FileError: ``out`` can't be written.
    """
    wanted = sorted({float(level) for level in levels})
    if not wanted or not all(0 < level < float("inf") for level in wanted):
        raise ConfigError(f"levels are {list(levels)}; each must be a finite number over 0")
    check_engine(engine)
    config = evaluation_spec(spec, seed, max(wanted))
    hf_config = checkpoints.check_clean(model_path, config)
    if out is not None:
        files.check_target(out)
    read = read_windows(model_path, text, tokens=tokens, context=context)
    if engine == "vllm":
        from hetero_plugin.evaluation.fidelity.engine import Texts

        texts = Texts(
            model_path, hf_config, config,
            dtype=dtype, context=context, progress=progress, sampling=sampling,
        )  # fmt: skip
        try:
            found = measure(texts, read.windows, wanted, step=step, progress=progress)
        finally:
            texts.close()
        record, name, dtype = texts.record, texts.name, texts.dtype
    else:
        model, record = _wrapped(model_path, config, dtype, progress)
        found = measure(
            HFReader(model, sampling), read.windows, wanted, step=step, progress=progress
        )
        name, dtype = "hf-eager", str(next(model.parameters()).dtype).removeprefix("torch.")
    document = {
        "format": FORMAT,
        "engine": name,
        "model": str(model_path),
        "model_sha256": checkpoints.weights_digest(model_path),
        "text": str(text),
        "text_sha256": read.sha256,
        "context": context,
        "spec": json.loads(config.canonical),
        "fingerprint": config.fingerprint,
        "seed": config.seed,
        "step": step,
        "sampling": None if sampling is None else {"seed": sampling, "temperature": 1.0},
        "dtype": dtype,
        "attestation": record,
        "versions": attestation.versions(),
        **found,
    }
    if out is not None:
        files.write_json(out, document)
    return document


def _wrapped(
    model_path: Path, config: Any, dtype: str, progress: Progress | None
) -> tuple[nn.Module, dict[str, Any]]:
    """A wrapped model and its attestation."""
    from transformers import AutoModelForCausalLM

    from hetero_plugin.hf.probe import HFProbe

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype).eval()
    record = attestation.attest(
        HFProbe.wrapping(model, config),
        progress=lambda done, of: _tell(progress, "attesting", done, of),
    )
    attestation.require(record, config.fingerprint)
    return model, record


def measure(
    reader: Reader,
    windows: Sequence[Tensor],
    levels: Sequence[float],
    *,
    step: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The panels of a noisy model, whose scales and step are put back afterwards.

    Args:
        reader: the model, in evaluation mode.
        windows: token ids, int64 [T], T >= 2.
        levels: scales over 0.
        step: the noise step.
        progress: see ``measure_checkpoint``.

    Returns:
        ``levels`` and ``floor``, as ``measure_checkpoint``.
    """
    table = reader.table
    of_level: dict[float, list[Rows]] = {level: [] for level in levels}
    floor: list[Rows] = []
    try:
        table.draw(step)
        done = 0
        for batch in batches(windows, BATCH):
            rows = list(batch)
            floor += reader.keep(rows)
            for level in levels:
                table.scale(level)
                of_level[level] += reader.compare(rows)
            done += len(batch)
            _tell(progress, "measuring fidelity", done, len(windows))
    finally:
        table.restore()
    _tell(progress, "bootstrap", 0, 1)
    drawn = sampled.SAME in floor[0]
    return {
        "levels": [
            {
                "level": level,
                **summarise(rows),
                "sampled": sampled.summarise(rows, floor) if drawn else None,
                "kl_by_window": [float(row["kl"].sum()) for row in rows],
            }
            for level, rows in of_level.items()
        ],
        "tokens_by_window": [len(row["kl"]) for row in floor],
        "floor": {**summarise(floor), "sampled": sampled.agreement(floor) if drawn else None},
    }


def _tell(progress: Progress | None, what: str, done: int, of: int) -> None:
    if progress is not None:
        progress(what, done, of)
