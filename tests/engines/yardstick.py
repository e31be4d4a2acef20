"""What tokens' log-probabilities should be: Hugging Face's, which knows none of vLLM's features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FLOOR = 2e-5  # sums of float32 in another order; the noise's effect is over a thousand times that


class Yardstick:
    """The Hugging Face model under a specification, in float32."""

    def __init__(self, model: Path, spec: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from hetero_plugin.hf import disabled, wrap

        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        wrap(self.model, spec)
        probe = list(range(3, 15))
        noisy = self.rows(probe)
        with disabled(self.model):
            apart = float((noisy - self.rows(probe)).abs().max())
        assert apart > 100 * FLOOR, "a clean engine would measure up to a yardstick without noise"

    def rows(self, tokens: list[int]) -> Any:
        """Log-probabilities of every word after each token: float32 [len(tokens), words]."""
        import torch

        with torch.no_grad():
            return self.model(torch.tensor([tokens])).logits.log_softmax(-1)[0]

    def of(self, prompt: list[int], answer: list[int]) -> list[float]:
        """Log-probabilities of an answer's tokens."""
        rows = self.rows(prompt + answer)[len(prompt) - 1 : -1]
        return [float(row[token]) for row, token in zip(rows, answer, strict=True)]

    def gap(self, prompt: list[int], tokens: list[int], logprobs: list[float]) -> float:
        """How far an engine's log-probabilities of an answer are from these."""
        expected = self.of(prompt, tokens)
        return max(abs(a - b) for a, b in zip(logprobs, expected, strict=True))
