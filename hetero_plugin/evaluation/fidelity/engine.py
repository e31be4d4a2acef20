"""Texts in a running vLLM engine: their next tokens' distributions, clean and under noise.

The engine's workers keep the logits of a clean pass and compare those of the others with them, over
the full vocabulary; what comes out of the engine is a few numbers a token. A window is a prompt of
its own. There is no prefix cache, whose keys and values would belong to other scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from hetero_plugin import attestation
from hetero_plugin.config import NoiseConfig
from hetero_plugin.evaluation import engines
from hetero_plugin.evaluation.fidelity.batch import MEASURES, Sums, stacked, summed
from hetero_plugin.evaluation.fidelity.panel import Rows
from hetero_plugin.evaluation.fidelity.table import EngineTable, Table
from hetero_plugin.sites import select

if TYPE_CHECKING:
    from vllm import LLM

    from hetero_plugin.evaluation.fidelity.batch import Progress

BATCH = 16  # windows that are given to the engine at once; the floor is of one at a time


class Texts:
    """An attested engine that reads windows of text.

    Args:
        model: folder of a clean checkpoint.
        config: the spec.
        dtype: the engine's.
        context: tokens of the longest window.
        progress: called with what is being done, and how far.
        sampling: seed of the tokens that are drawn from clean and noisy; None: none are.

    Attributes:
        table: its scales.
        record: its attestation.

    Raises:
        Refused: the noise can't be attested; the engine is gone then.
        ImportError: vLLM is not installed.
    """

    def __init__(
        self,
        model: Path,
        hf_config: Mapping[str, Any],
        config: NoiseConfig,
        *,
        dtype: str,
        context: int,
        progress: Progress | None = None,
        sampling: int | None = None,
    ) -> None:
        from hetero_plugin.vllm.probe import VLLMProbe

        self._sampling = sampling
        if progress is not None:
            progress("starting the engine", 0, 1)
        self._llm: LLM = engines.start(
            config,
            {
                "model": str(model),
                "dtype": dtype,
                "enable_prefix_caching": False,
                **engines.cpu_arguments(hf_config, context + 2, BATCH),
                # A window is seen whole, in one pass, and a batch of them in one too.
                "max_model_len": max(context + 2, 32),
                "max_num_seqs": BATCH,
                "max_num_batched_tokens": max(4096, BATCH * context),
            },
        )
        try:
            probe = VLLMProbe(self._llm, config)
            self.name, self.dtype = probe.engine, probe.dtype
            self.record = attestation.attest(
                probe,
                progress=lambda done, of: progress("attesting", done, of) if progress else None,
            )
            attestation.require(self.record, config.fingerprint)
            self.table: Table = EngineTable(
                self._llm, [chosen.site for chosen in select(config, probe.sites)]
            )
        except BaseException:
            self.close()
            raise

    def keep(self, windows: Sequence[Tensor]) -> list[Rows]:
        """Keeps the clean logits of these windows, in place of any others.

        Returns:
            The floor: clean against clean, in another order and one window at a time.
        """
        self.table.clean(True)
        try:
            self._read("keep", windows, BATCH)
            return self._read("compare", windows, 1)
        finally:
            self.table.clean(False)

    def compare(self, windows: Sequence[Tensor]) -> list[Rows]:
        """The rows of each window as the noise is set now, against clean."""
        return self._read("compare", windows, BATCH)

    def _read(self, do: str, windows: Sequence[Tensor], size: int) -> list[Rows]:
        from vllm import SamplingParams

        from hetero_plugin.vllm.client import sync

        texts = [window.tolist() for window in windows]
        sync.ranks(self._llm, "hetero_noise_logits", do=do, windows=texts, sampling=self._sampling)
        one = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        requests: list[Any] = [{"prompt_token_ids": text} for text in texts]
        if size == 1:
            requests.reverse()
        for start in range(0, len(requests), size):
            self._llm.generate(requests[start : start + size], one, use_tqdm=False)
        answers = sync.ranks(self._llm, "hetero_noise_logits", do="take")
        found: dict[str, Any] = next((answer for answer in answers if answer), {})
        return [
            {name: np.array(values[i], dtype=float) for name, values in found.items()}
            for i in range(len(texts))
        ]

    def close(self) -> None:
        """Ends the engine; no process is left."""
        engines.stop(self._llm)


class EngineBatch:
    """Windows of a text under many settings of one engine; see `batch.FixedBatch`.

    Args:
        texts: the engine.
        windows: token ids, int64 [T], T >= 2.
    """

    def __init__(self, texts: Texts, windows: Sequence[Tensor]) -> None:
        self._texts, self._windows = texts, list(windows)
        self.tokens = np.array([len(window) - 1.0 for window in windows])
        self.floor = stacked([summed(rows) for rows in texts.keep(self._windows)])

    def measure(self) -> Sums:
        """The sums of the model as it is set now, against clean.

        Raises:
            ValueError: a distribution holds values that are no finite numbers.
        """
        sums = stacked([summed(rows) for rows in self._texts.compare(self._windows)])
        if not all(np.isfinite(sums[name]).all() for name in MEASURES):
            raise ValueError("a distribution holds values that are no finite numbers")
        return sums
