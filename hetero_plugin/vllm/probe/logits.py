"""What a worker does with the logits of prompts: keeps those of a clean pass, and compares others.

vLLM hands out log-probabilities of a whole vocabulary as objects, one a token id: 150,000 a token
of text. Here they are compared where they are computed, and a few numbers a token are handed out.

The logits are those that vLLM computes for ``prompt_logprobs``. Which rows of a pass they belong to
is told by the model runner, as it is for the noise of the LM head; which token of which window by
the rows' keys, which hold token id and position.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hetero_plugin.attestation.distributions import token_rows
from hetero_plugin.attestation.sampling import same_sample
from hetero_plugin.config import ConfigError
from hetero_plugin.random import row_keys
from hetero_plugin.vllm.rows import Rows

_POSITION = 32  # bits of a row key below the position


class Windows:
    """The windows of text that a worker is shown, and the clean logits of each.

    Args:
        model: the worker's.
        rows: of its noise, which are told what the LM head is given.
    """

    def __init__(self, model: Any, rows: Rows) -> None:
        self.model, self.rows = model, rows
        self.keys: list[Tensor] = []  # of each window, int64 [T]
        self.clean: dict[int, Tensor] = {}  # window -> logits [T - 1, V]
        self.found: dict[int, dict[str, Any]] = {}  # window -> quantity -> T - 1 numbers
        self.doing: str | None = None
        self.sampling: int | None = None
        self._compute = model.compute_logits
        model.compute_logits = self._compute_logits

    def close(self) -> None:
        """Frees the memory, and leaves the model as it was."""
        self.model.compute_logits = self._compute
        self.clean.clear()

    def _compute_logits(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        logits = self._compute(hidden_states, *args, **kwargs)
        if self.doing is not None and logits is not None:
            self._see(hidden_states, logits)
        return logits

    def arm(
        self, doing: str, windows: Sequence[Sequence[int]], sampling: int | None = None
    ) -> None:
        """From now on the logits of these windows are kept, or compared with those kept.

        Args:
            doing: ``keep`` or ``compare``.
            windows: token ids of each.
            sampling: seed of the tokens that are drawn from both; None: none are.

        Raises:
            ConfigError: they are to be compared with other windows than those that are kept.
        """
        device = self.rows.state.draw.keys.device
        keys = [row_keys(torch.tensor(ids), torch.arange(len(ids))).to(device) for ids in windows]
        if doing == "compare":
            same = len(keys) == len(self.keys) and all(map(torch.equal, keys, self.keys))
            if not same or len(self.clean) != len(keys):
                raise ConfigError(
                    f"hetero_noise_logits: {len(keys)} windows to compare, and the clean logits of "
                    f"{len(self.clean)} are kept: keep those of the same windows first"
                )
        else:
            self.clean.clear()
        self.keys, self.found, self.doing, self.sampling = keys, {}, doing, sampling

    def take(self) -> dict[str, list[list[float]]]:
        """Quantity -> numbers of each window's tokens; nothing is kept or compared from now on.

        Raises:
            RuntimeError: a window was not seen.
        """
        doing, self.doing = self.doing, None
        seen = self.clean if doing == "keep" else self.found
        missing = [i for i in range(len(self.keys)) if i not in seen]
        if missing:
            raise RuntimeError(
                f"hetero_noise_logits: {len(missing)} of {len(self.keys)} windows were not seen "
                "whole: each is one prompt of one pass, asked for with prompt_logprobs, without "
                "prefix caching"
            )
        if doing == "keep":
            return {}
        order = [self.found[i] for i in range(len(self.keys))]
        return {name: [row[name] for row in order] for name in order[0]}

    def _see(self, hidden: Tensor, logits: Tensor) -> None:
        """Takes what belongs to a window out of [n, K] and [n, V], if they are rows of a prompt."""
        keys = self.rows.keys_of_slice(hidden)
        if keys is None:
            return
        starts = ((keys >> _POSITION) == 0).nonzero()[:, 0].tolist()
        for start, end in pairwise([*starts, len(keys)]):
            self._window(keys[start:end], logits[start:end])

    def _window(self, keys: Tensor, logits: Tensor) -> None:
        """One prompt's rows from its beginning on, with or without the last."""
        seen = self.clean if self.doing == "keep" else self.found
        for index, whole in enumerate(self.keys):
            n = len(whole) - 1
            fits = index not in seen and n <= len(keys) <= n + 1
            if not fits or not torch.equal(whole[: len(keys)], keys):
                continue
            if self.doing == "keep":
                self.clean[index] = logits[:n].clone()
            else:
                targets = whole[1:] & ((1 << _POSITION) - 1)
                found = token_rows(self.clean[index], logits[:n], targets)
                if self.sampling is not None:
                    found["same_sample"] = same_sample(
                        self.clean[index], logits[:n], targets, self.sampling
                    )
                self.found[index] = {name: values.tolist() for name, values in found.items()}
            return
