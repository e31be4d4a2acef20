"""The attestation probe of a Hugging Face model, in eager mode or compiled."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from hetero_plugin.attestation import ProbedSite
from hetero_plugin.attestation.expected import (
    comparable_sites,
    expected_sites,
    is_deterministic,
    probe_prompts,
)
from hetero_plugin.config import NoiseConfig
from hetero_plugin.hf import disabled, phase, state_of, wrap
from hetero_plugin.hf.attachment import attachment_of
from hetero_plugin.hf.measured import Checks, measure, weights_are_present
from hetero_plugin.sites import aqn_sites, sites_from_config
from hetero_plugin.state import Phase


class HFProbe:
    """Runs fixed prompts through a wrapped model.

    Args:
        model: a wrapped causal language model.
        reference: output of the model before it was wrapped (``clean_output``); without it,
            "clean" means ``disabled(model)``.
        phase: which rules apply.
        forward: what to call instead of the model, such as ``torch.compile(model)``.
        engine: what the record calls it; "hf", or with ``forward`` "hf-compiled".
        rank: this process's, where the model is sharded; every rank runs the same passes.
        dtype: that the passes compute in; None: that of the parameters.

    Outputs are float64: the log-probabilities of the prompts' tokens and, where the spec has
    rules that act on gradients only, sums over each parameter's gradient.
    """

    def __init__(
        self,
        model: Any,
        *,
        reference: np.ndarray | None = None,
        phase: Phase = "train",
        forward: Any = None,
        engine: str | None = None,
        rank: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.state = state_of(model)
        self.phase = phase
        self.forward = model if forward is None else forward
        self.reference = reference
        self.engine = engine or ("hf" if forward is None else "hf-compiled")
        self.rank = rank
        self.dtype = dtype
        self.gradients = needs_gradients(self.state.config)
        aqn = self.state.aqn
        self._aqn = None if aqn is None else aqn.saved()
        self._weights: Checks = []

    @classmethod
    def wrapping(
        cls, model: Any, config: Any, *, phase: Phase = "train", compiled: bool = False
    ) -> HFProbe:
        """Wraps a clean model, having run the prompts through it before.

        With rules on gradients, "clean" is ``disabled`` all the same: autograd adds up the
        branches of a wrapped model in another order, so gradients differ in their last bit.
        So it is compiled: a compiler fuses the clean model's arithmetic in another way.
        """
        reference = clean_output(model)
        wrap(model, config)
        forward = torch.compile(model) if compiled else None
        if compiled or needs_gradients(state_of(model).config):
            return cls(model, phase=phase, forward=forward)
        return cls(model, reference=reference, phase=phase)

    def expected(self) -> Sequence[ProbedSite]:
        directions = ("forward", "both", "backward") if self.gradients else ("forward", "both")
        hf_config = self.model.config.to_dict()
        return expected_sites(self.state.config, hf_config, self.phase, directions)

    def describe(self) -> dict[str, Any]:
        status = self.state.status()
        with phase(self.model, self.phase):  # before scales are set, which makes weights anew
            self._weights = weights_are_present(self.model, self.state)
        parameter = next(self.model.parameters())
        return {
            "fingerprint": self.state.config.fingerprint,
            "phase": self.phase,
            "clean_is": "noise disabled" if self.reference is None else "the model before wrap",
            "dtype": str(self.dtype or parameter.dtype).removeprefix("torch."),
            "device": str(parameter.device),
            "kernel": status["kernel"],
            "processes": [
                {"pid": os.getpid(), "rank": self.rank, "fingerprint": status["fingerprint"]}
            ],
            "sites": comparable_sites(
                [chosen.site.name for chosen in self.state.selected],
                self.expected(),
                self.state.config,
                self.model.config.to_dict(),
            ),
        }

    def aqn_expected(self) -> Sequence[str]:
        sites = sites_from_config(self.model.config.to_dict())
        return [site.name for site in aqn_sites(self.state.config, sites)]

    def off(self) -> None:
        if self.state.slots:
            self.state.set_scale(0.0)
        if self.state.aqn is not None:
            self.state.aqn.write(None)

    def only(self, sites: Sequence[str], scale: float) -> None:
        self.off()
        for site in sites:
            self.state.set_scale(scale, site=site)

    def only_aqn(self, norms: Sequence[str], sigma: float) -> None:
        self.off()
        assert self.state.aqn is not None
        self.state.aqn.only(norms, sigma)

    def configured(self) -> None:
        self.state.reset_scales()
        if self.state.aqn is not None and self._aqn is not None:
            self.state.aqn.restore(self._aqn)

    def measured(self) -> tuple[dict[str, Any], list[tuple[str, bool, str]]]:
        if self.engine == "hf-compiled":
            return {}, []  # compiled code hands nothing over
        with phase(self.model, self.phase), forgiving(self.model):
            by_kind, checks = measure(self.model, self.state, forward=self.forward)
            weights = self._weights, weights_are_present(self.model, self.state)
            return by_kind, checks + next((w for w in weights if w and not w[0][1]), weights[1])

    def deterministic(self) -> bool:
        return is_deterministic(self.state.config)

    def clean(self) -> np.ndarray:
        if self.reference is not None:
            return self.reference
        with disabled(self.model):
            return self._run()

    def output(self) -> np.ndarray:
        return self._run()

    def gated(self) -> np.ndarray:
        with disabled(self.model):
            return self._run()

    def _run(self) -> np.ndarray:
        with phase(self.model, self.phase), forgiving(self.model):
            return clean_output(self.model, forward=self.forward, gradients=self.gradients)


@contextmanager
def forgiving(model: Any) -> Iterator[None]:
    """Inside, a site that did not run is no error: the knock-ins find which ones are dead."""
    attachment = attachment_of(model)
    assert attachment is not None
    context = attachment.context
    was, context.forgiving = context.forgiving, True
    try:
        yield
    finally:
        context.forgiving = was


def needs_gradients(config: NoiseConfig) -> bool:
    """Whether some rule acts on gradients alone, which no forward pass can show."""
    return any(rule.direction == "backward" for rule in config.rules)


def clean_output(model: Any, *, forward: Any = None, gradients: bool = False) -> np.ndarray:
    """Log-probabilities of the fixed prompts' tokens under a model as it stands, float64 [k]."""
    call = model if forward is None else forward
    vocab = int(model.config.vocab_size)
    device = next(model.parameters()).device
    ids = torch.tensor(probe_prompts(vocab), device=device)
    training = model.training
    model.eval()  # dropout would be noise of another kind
    saved = [parameter.grad for parameter in model.parameters()]
    try:
        with torch.set_grad_enabled(gradients):
            logits = call(input_ids=ids, use_cache=False).logits
            scores = torch.log_softmax(logits[:, :-1].float(), dim=-1)
            chosen = scores.gather(-1, ids[:, 1:, None]).squeeze(-1)  # [prompts, length - 1]
        values = [chosen.detach().double().flatten()]
        if gradients:
            for parameter in model.parameters():
                parameter.grad = None
            chosen.sum().backward()
            values.append(_gradient_sums(model))
    finally:
        for parameter, grad in zip(model.parameters(), saved, strict=True):
            parameter.grad = grad
        model.train(training)
    return torch.cat(values).cpu().numpy()


def _gradient_sums(model: nn.Module) -> torch.Tensor:
    """Two sums a parameter, plain and weighted by position, so that any change is likely seen."""
    sums = []
    for parameter in model.parameters():
        if parameter.grad is None:
            continue
        grad = parameter.grad.detach()
        if isinstance(grad, DTensor):  # a shard: of FSDP2, one on every rank
            grad = grad.full_tensor()
        flat = grad.double().flatten()
        weights = torch.arange(flat.numel(), device=flat.device, dtype=torch.float64)
        sums += [flat.sum(), (flat * torch.cos(weights)).sum()]
    return torch.stack(sums) if sums else torch.zeros(0, dtype=torch.float64)
