"""What answers questions: a noisy, attested model, in vLLM or in Hugging Face."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hetero_plugin.attestation import Probe
from hetero_plugin.config import NoiseConfig
from hetero_plugin.evaluation import engines
from hetero_plugin.evaluation.answers.settings import Case, Settings

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

Told = Callable[[int], None]  # how many answers there are
_SEEDS = 1_000_003  # apart: of a sample's random numbers, which are those of its question
Scales = dict[int, dict[str, float]]
"""Rule -> smallest (``min``) and largest (``max``) scale over its sites, as the engine has them."""


@dataclass
class Answers:
    """One answer a question."""

    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)  # 1: ended at the limit of tokens
    logprobs: list[float] = field(default_factory=list)
    """Of all tokens of all answers; empty from Hugging Face, which would have to keep the logits of
    every step."""


class Answerer(Protocol):
    """A noisy model that answers prompts."""

    def probe(self) -> Probe:
        """What attests it."""

    def set(self, level: float, rules: Sequence[int], draw: int) -> None:
        """The error of these rules at a level, all others clean, in a draw."""

    def scales(self) -> Scales:
        """What is in force."""

    def answer(
        self, prompts: Sequence[Sequence[int]], sample: int, told: Told, *, control: bool = False
    ) -> Answers:
        """One answer a prompt, in their order. ``control``: in other batches, back to front."""

    def close(self) -> None:
        """Ends it."""


class EngineAnswerer:
    """vLLM, compiled.

    Args:
        config: the specification.
        model: folder of the checkpoint.
        hf_config: its config.json.
        settings: of the evaluation.
        longest: tokens of a prompt and its answer.
        max_tokens: of an answer.
        n: questions.
    """

    def __init__(
        self,
        config: NoiseConfig,
        model: Path,
        hf_config: Mapping[str, Any],
        settings: Settings,
        *,
        longest: int,
        max_tokens: int,
        n: int,
    ) -> None:
        self.config, self.settings, self._max_tokens = config, settings, max_tokens
        arguments = {
            "model": str(model),
            "dtype": settings.dtype,
            "max_model_len": max(longest, 32),
            **engines.cpu_arguments(hf_config, longest, n),
            **settings.engine,
        }
        self._llm: LLM = engines.start(config, arguments)

    def probe(self) -> Probe:
        from hetero_plugin.vllm.probe import VLLMProbe

        return VLLMProbe(self._llm, self.config)

    def set(self, level: float, rules: Sequence[int], draw: int) -> None:
        from hetero_plugin.vllm import client

        client.step(self._llm, self.settings.step + draw)
        if len(rules) == len(self.config.rules):
            client.set_noise(self._llm, scale=level)
        else:
            client.set_noise(self._llm, scale=0.0)
            for rule in rules:
                client.set_noise(self._llm, scale=level, rule=rule)
        self._llm.reset_prefix_cache()

    def scales(self) -> Scales:
        from hetero_plugin.vllm import client

        found: dict[int, list[float]] = {}
        for site in client.sites(self._llm):
            for rule, scale in zip(site["rules"], site["scales"], strict=True):
                found.setdefault(rule, []).append(scale)
        return _spans(found)

    def answer(
        self, prompts: Sequence[Sequence[int]], sample: int, told: Told, *, control: bool = False
    ) -> Answers:
        parameters = [self._parameters(sample, i) for i in range(len(prompts))]
        order = list(range(len(prompts)))
        # In portions, so that progress shows; each is large enough to keep the engine full.
        portion = max(256, len(prompts) // 8)
        if control:
            order.reverse()
            together = self._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
            portion = max(1, min(together, len(prompts)) // 4)
        by_question: dict[int, RequestOutput] = {}
        for first in range(0, len(order), portion):
            which = order[first : first + portion]
            requests: Any = [{"prompt_token_ids": list(prompts[i])} for i in which]
            answers = self._llm.generate(requests, [parameters[i] for i in which], use_tqdm=False)
            by_question |= dict(zip(which, answers, strict=True))
            told(len(by_question))
        found = Answers()
        for i in range(len(prompts)):
            output = by_question[i].outputs[0]
            found.texts.append(output.text)
            found.tokens.append(len(output.token_ids))
            found.cut.append(int(output.finish_reason == "length"))
            rows = zip(output.token_ids, output.logprobs or [], strict=True)
            found.logprobs += [row[token].logprob for token, row in rows if row is not None]
        return found

    def _parameters(self, sample: int, question: int) -> SamplingParams:
        from vllm import SamplingParams

        own = self.settings.temperature
        return SamplingParams(
            temperature=own,
            seed=_SEEDS * sample + question if own else None,
            max_tokens=self._max_tokens,
            logprobs=0,
        )

    def close(self) -> None:
        engines.stop(self._llm)


class HFAnswerer:
    """Hugging Face, in eager mode; see `EngineAnswerer`."""

    BATCH = 16

    def __init__(
        self,
        config: NoiseConfig,
        model: Path,
        tokenizer: Any,
        settings: Settings,
        *,
        max_tokens: int,
    ) -> None:
        from transformers import AutoModelForCausalLM

        from hetero_plugin.hf.probe import HFProbe

        self.settings, self._tokenizer, self._max_tokens = settings, tokenizer, max_tokens
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=settings.dtype).eval()
        self._probe = HFProbe.wrapping(self._model, config)
        own = self._model.generation_config.eos_token_id
        ends = own if own is not None else tokenizer.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends]) - {None}

    def probe(self) -> Probe:
        return self._probe

    def set(self, level: float, rules: Sequence[int], draw: int) -> None:
        from hetero_plugin.hf import state_of

        state = state_of(self._model)
        state.set_step(self.settings.step + draw)
        state.set_scale(0.0)
        for rule in rules:
            state.set_scale(level, rule=rule)

    def scales(self) -> Scales:
        from hetero_plugin.hf import state_of

        state = state_of(self._model)
        table = state.scales.tolist()
        found: dict[int, list[float]] = {}
        for slot in state.slots:
            found.setdefault(slot.rule_index, []).append(table[slot.index])
        return _spans(found)

    def answer(
        self, prompts: Sequence[Sequence[int]], sample: int, told: Told, *, control: bool = False
    ) -> Answers:
        import torch

        # Prompts of like length together: less padding.
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        size = self.BATCH
        if control:
            order.reverse()
            size = max(1, size // 4)
        rows: dict[int, list[int]] = {}
        for first in range(0, len(order), size):
            which = order[first : first + size]
            torch.manual_seed(_SEEDS * sample + first)
            rows |= dict(zip(which, self._generated([prompts[i] for i in which]), strict=True))
            told(len(rows))
        found = Answers()
        for i in range(len(prompts)):
            ids = rows[i]
            found.texts.append(self._tokenizer.decode(ids, skip_special_tokens=True))
            found.tokens.append(len(ids))
            found.cut.append(int(len(ids) == self._max_tokens and ids[-1] not in self._ends))
        return found

    def _generated(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Tokens of each answer, its end included."""
        import torch

        longest = max(map(len, prompts))
        pad = next(iter(self._ends), 0)
        ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        device = next(self._model.parameters()).device
        hot = self.settings.temperature
        how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None}
        if hot:
            how = {"do_sample": True, "temperature": hot, "top_p": 1.0}
        with torch.no_grad():
            out = self._model.generate(
                ids.to(device), attention_mask=mask.to(device), max_new_tokens=self._max_tokens,
                eos_token_id=sorted(self._ends) or None, pad_token_id=pad, top_k=0 if hot else None,
                repetition_penalty=1.0, **how,
            )  # fmt: skip
        answers = []
        for new in out[:, longest:].tolist():
            end = next((k + 1 for k, token in enumerate(new) if token in self._ends), len(new))
            answers.append(new[:end])
        return answers

    def close(self) -> None:
        del self._model, self._probe


def _spans(found: Mapping[int, Sequence[float]]) -> Scales:
    if not found:
        raise RuntimeError("the engine names no noisy site, so no level could be set")
    return {rule: {"min": min(values), "max": max(values)} for rule, values in found.items()}


def require_level(scales: Scales, case: Case, level: float) -> dict[str, float]:
    """The scales of a case's rules, which are at a level while all others are clean.

    Raises:
        RuntimeError: they are not.
    """
    from hetero_plugin.evaluation.results import is_level

    for rule, span in sorted(scales.items()):
        wanted = level if rule in case.rules else 0.0
        if not is_level(span, wanted):
            raise RuntimeError(
                f"level {wanted:g} was set for rule {rule}, and the engine holds scales "
                f"{span['min']:g} to {span['max']:g}: its answers would not be at that level"
            )
    own = [scales[rule] for rule in case.rules]
    return {"min": min(one["min"] for one in own), "max": max(one["max"] for one in own)}
