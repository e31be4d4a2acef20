"""Supervised warm-up: trains the miniature on generated additions until it answers about half.

Matrices are updated by Muon, everything else by AdamW: that leaves the plateau at which digits are
not yet aligned in fewer steps than AdamW alone.
The model stops at a wanted greedy exact-match on the development questions, never on the test's.

Shapes: B questions, T tokens of a whole row (prompt + answer + end), A tokens of the answer part.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from hetero_plugin.miniature.task import Question

IGNORED = -100
Report = Callable[[float, str], None]


class WarmupError(RuntimeError):
    """The warm-up did not reach the wanted accuracy."""


class WarmupSettings(BaseModel):
    """How the warm-up trains and when it stops."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stop_at: float = Field(default=0.45, gt=0, lt=1)
    """Greedy exact-match on the development questions at which training stops."""
    highest: float = Field(default=0.60, gt=0, le=1)
    """Above this the warm-up has overshot (RL would have little left to learn): it goes back to
    the last check and on from there with smaller steps."""
    max_steps: int = Field(default=1200, ge=1)
    batch: int = Field(default=128, ge=1)
    muon_lr: float = Field(default=0.02, gt=0)
    adamw_lr: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    ramp_steps: int = Field(default=20, ge=1)
    check_every: int = Field(default=25, ge=1)
    """Steps between checks while nothing is right yet; a fifth of it afterwards."""


class WarmupResult(BaseModel):
    """What the warm-up did. `curve` holds (step, loss, development accuracy)."""

    model_config = ConfigDict(frozen=True)

    steps: int
    accuracy: float
    n_dev: int
    seconds: float
    parameters: int
    curve: tuple[tuple[int, float, float], ...]
    went_back: int = 0


class Encoder:
    """Questions to token rows, through the tokenizer's own chat template.

    All prompts of the task have one length; answers are padded on the right.

    Raises:
        WarmupError: prompts of different lengths (the task and the tokenizer don't fit).
    """

    def __init__(self, tokenizer: Any, sample: Question, longest_answer: int) -> None:
        self._tokenizer = tokenizer
        self.prompt_length = len(self.prompt(sample))
        self.row_length = self.prompt_length + longest_answer + 1

    def prompt(self, question: Question) -> list[int]:
        ids = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": question.prompt}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        return [int(i) for i in ids]

    def rows(self, questions: Sequence[Question]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids int64 [B, T] and answer labels int64 [B, A] (padding is `IGNORED`)."""
        # One call for the whole batch: a call a question would cost as much as the training step.
        texts = self._tokenizer.apply_chat_template(
            [[{"role": "user", "content": q.prompt}] for q in questions],
            add_generation_prompt=True,
            tokenize=False,
        )
        prompts = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        answers = self._tokenizer([q.answer for q in questions], add_special_tokens=False)
        end, pad = self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        ids, labels = [], []
        for question, prompt, answer in zip(questions, prompts, answers["input_ids"], strict=True):
            if len(prompt) != self.prompt_length:
                raise WarmupError(
                    f"the prompt {question.prompt!r} has {len(prompt)} tokens where others have "
                    f"{self.prompt_length}; warm-up needs one length (a byte-level tokenizer)"
                )
            target = [*answer, end]
            gap = self.row_length - len(prompt) - len(target)
            ids.append([*prompt, *target, *[pad] * gap])
            labels.append([*target, *[IGNORED] * gap])
        return torch.tensor(ids), torch.tensor(labels)

    def answer_logits(self, model: Any, ids: torch.Tensor) -> torch.Tensor:
        """Logits float [B, A, vocabulary] of the answer positions only.

        Padding stands on the right and attention is causal, so it needs no mask.
        """
        keep = slice(self.prompt_length - 1, None)
        return model(input_ids=ids[:, :-1], logits_to_keep=keep, use_cache=False).logits


@torch.no_grad()
def exact_match(
    model: Any, encoder: Encoder, questions: Sequence[Question], batch: int = 500
) -> float:
    """Share of questions that greedy decoding answers exactly.

    Computed by teacher forcing, in one forward pass: decoding greedily reproduces the reference
    if and only if every reference token is the most likely one after the reference before it.
    """
    was_training = model.training
    model.eval()
    right = 0
    try:
        for start in range(0, len(questions), batch):
            ids, labels = encoder.rows(questions[start : start + batch])
            best = encoder.answer_logits(model, ids).argmax(-1)
            right += int(((best == labels) | (labels == IGNORED)).all(dim=1).sum())
    finally:
        model.train(was_training)
    return right / len(questions)


def _optimizers(model: Any, settings: WarmupSettings) -> list[torch.optim.Optimizer]:
    hidden: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
        (hidden if is_hidden else rest).append(parameter)
    muon = torch.optim.Muon(hidden, lr=settings.muon_lr, weight_decay=settings.weight_decay)
    adamw = torch.optim.AdamW(rest, lr=settings.adamw_lr, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["full_lr"] = group["lr"]
    return [muon, adamw]


def warm_up(
    model: Any,
    encoder: Encoder,
    questions: Iterator[Question],
    dev: Sequence[Question],
    settings: WarmupSettings,
    report: Report = lambda fraction, message: None,
) -> WarmupResult:
    """Train `model` in place until it answers `stop_at` of the development questions.

    Raises:
        WarmupError: `max_steps` passed first, or the loss was not finite.
    """
    began = time.monotonic()
    optimizers = _optimizers(model, settings)
    kept = _snapshot(model, optimizers)
    curve: list[tuple[int, float, float]] = []
    accuracy, every, factor, last_loss, went_back = 0.0, settings.check_every, 1.0, math.inf, 0
    model.train()
    for step in range(1, settings.max_steps + 1):
        share = factor * min(1.0, step / settings.ramp_steps)
        last_loss = _train_step(model, encoder, questions, optimizers, settings.batch, share)
        if not math.isfinite(last_loss):
            raise WarmupError(f"the loss is {last_loss} at warm-up step {step}; lower muon_lr")
        if step % every:
            continue
        accuracy = exact_match(model, encoder, dev)
        curve.append((step, last_loss, accuracy))
        report(
            min(0.99, accuracy / settings.stop_at),
            f"step {step}, loss {last_loss:.2f}, {accuracy:.1%} of {len(dev)} right",
        )
        if settings.stop_at <= accuracy <= settings.highest:
            break
        if accuracy > settings.highest:
            _restore(model, optimizers, kept)
            factor, every, went_back = factor * 0.3, 1, went_back + 1
            continue
        kept = _snapshot(model, optimizers)
        if accuracy > 0.02:  # the climb takes a few dozen steps only, so look more often
            every = min(every, max(1, settings.check_every // 5))
    else:
        raise WarmupError(
            f"after {settings.max_steps} steps the model answers {accuracy:.1%} of {len(dev)} "
            f"development questions, short of stop_at = {settings.stop_at:.0%} (last loss "
            f"{last_loss:.3f}, went back {went_back} times from over {settings.highest:.0%}); try "
            "another seed, or more max_steps"
        )
    model.eval()
    return WarmupResult(
        steps=step,
        accuracy=accuracy,
        n_dev=len(dev),
        seconds=time.monotonic() - began,
        parameters=sum(p.numel() for p in model.parameters()),
        curve=tuple(curve),
        went_back=went_back,
    )


def _train_step(
    model: Any,
    encoder: Encoder,
    questions: Iterator[Question],
    optimizers: Sequence[torch.optim.Optimizer],
    batch: int,
    share: float,
) -> float:
    """One update at `share` of the full learning rates; the loss before it."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * share
    ids, labels = encoder.rows(list(itertools.islice(questions, batch)))
    logits = encoder.answer_logits(model, ids)
    loss = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED
    )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _snapshot(model: Any, optimizers: Sequence[torch.optim.Optimizer]) -> tuple[Any, list[Any]]:
    """Copies of weights and optimizer states."""
    return copy.deepcopy(model.state_dict()), [copy.deepcopy(o.state_dict()) for o in optimizers]


def _restore(
    model: Any, optimizers: Sequence[torch.optim.Optimizer], kept: tuple[Any, list[Any]]
) -> None:
    """Back to a snapshot, which stays as it is."""
    weights, states = copy.deepcopy(kept)
    model.load_state_dict(weights)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
