"""What tokens' log-probabilities should be: Hugging Face's, which knows none of vLLM's features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.engines.vllm_engine import Record

FLOOR = 2e-5  # sums of float32 in another order; the noise's effect is over a thousand times that


def hf_logprobs(model: Any, prompts: list[list[int]]) -> list[list[float]]:
    """Log-probability of each token of each prompt after its first, one prompt at a time."""
    import torch

    answers = []
    for prompt in prompts:
        with torch.no_grad():
            logits = model(torch.tensor([prompt])).logits.float().log_softmax(-1)[0]
        answers.append(logits[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0].tolist())
    return answers


def hf_model(path: Path, dtype: str, attention: str | None = None) -> Any:
    """A saved model in Hugging Face, to be noisy or not."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, dtype), attn_implementation=attention
    ).eval()


def prompts_of(records: list[Record]) -> list[list[float]]:
    """The same of an engine's answers."""
    return [record["prompt"] for record in records]


def gap(a: list[list[float]], b: list[list[float]]) -> float:
    """The largest difference."""
    return max(abs(u - v) for x, y in zip(a, b, strict=True) for u, v in zip(x, y, strict=True))


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
