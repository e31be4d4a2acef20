"""Mixture of experts: the GEMMs inside transformers' fused experts, and the router.

transformers 5 holds a layer's experts as two three-dimensional parameters and has several
implementations of their forward. Error has to enter between their GEMMs, so each implementation is
written again here with the same operators in the same order: with no error it gives the same bits
(tests/hf/test_experts.py compares them).

A row of an expert's operator is a token at an expert, keyed by both
(`hetero_plugin.random.expert_keys`): the same error whichever implementation runs, in any batch.

T tokens, K experts of a token, S = T · K rows, N hidden size, I width of an expert, E experts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetero_plugin import random
from hetero_plugin.config import ConfigError
from hetero_plugin.hf.context import ForwardContext, Pass
from hetero_plugin.hf.copies import OfAModel
from hetero_plugin.hf.layers import (
    ATTRIBUTE,
    MIXINS,
    LayerNoise,
    layer_noise,
    noisy_input,
    noisy_output,
    noisy_weight,
    while_noisy,
)
from hetero_plugin.operator import grouped
from hetero_plugin.sites import Site

Gemm = Callable[[Tensor, Tensor], Tensor]


@dataclass(eq=False)
class ExpertsNoise(OfAModel):
    """What a noisy module of experts knows: the noise of its three operators."""

    context: ForwardContext
    gate_up: LayerNoise
    act: LayerNoise
    down: LayerNoise
    plain_gate: bool
    """The gate is act(gate) · up, so that the activation alone can have error."""

    @property
    def site(self) -> Site:
        return self.gate_up.site

    @property
    def marks(self) -> tuple[int, ...]:
        return self.gate_up.marks + self.act.marks + self.down.marks


def experts_noise(
    module: nn.Module, sites: Sequence[Site], context: ForwardContext
) -> ExpertsNoise:
    """The noise of a module of experts.

    Raises:
        ConfigError: the activation is selected, and its gate is not act(gate) · up.
    """
    from transformers.integrations.moe import _default_apply_gate

    gate_up, act, down = (layer_noise(site, context, module) for site in sites)
    plain = getattr(type(module), "_apply_gate", None) is _default_apply_gate
    if not plain and (act.output or act.input or act.grad_input):
        raise ConfigError(
            f"{act.site.name} ({type(module).__name__}) has a gate of its own, so its activation "
            "alone can't have error; exclude it"
        )
    return ExpertsNoise(context, gate_up, act, down, plain)


@dataclass
class _Call:
    """One forward pass of a module of experts."""

    module: Any
    noise: ExpertsNoise
    now: Pass
    """Its rows are the tokens, [T]."""

    def rows(self, tokens: Tensor, experts: Tensor) -> Pass:
        """The pass for rows that are tokens, given by number, at experts; both int64 [S]."""
        return self.now.of(random.expert_keys(self.now.draw.keys[tokens], experts))

    def weight(self, noise: LayerNoise, weight: Tensor) -> Tensor:
        noisy = noisy_weight(noise, weight, self.now)
        return weight if noisy is None else noisy

    def gemm(self, noise: LayerNoise, x: Tensor, rows: Pass, weight: Tensor, gemm: Gemm) -> Tensor:
        """x [rows, in] times a weight, with error on what goes in and out."""
        return noisy_output(noise, gemm(noisy_input(noise, x, rows), weight), rows)

    def gate(self, gate_up: Tensor, rows: Pass) -> Tensor:
        """[rows, 2 I] -> [rows, I]."""
        act = self.noise.act
        if not self.noise.plain_gate:
            return self.module._apply_gate(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return noisy_output(act, self.module.act_fn(noisy_input(act, gate, rows)), rows) * up


def _eager(call: _Call, x_TN: Tensor, index_TK: Tensor, weight_TK: Tensor) -> Tensor:
    """One expert after the other, as the experts' own forward."""
    module, noise = call.module, call.noise
    up_EON = call.weight(noise.gate_up, module.gate_up_proj)
    down_ENI = call.weight(noise.down, module.down_proj)
    out_TN = torch.zeros_like(x_TN)
    with torch.no_grad():
        mask = F.one_hot(index_TK, num_classes=module.num_experts + 1).permute(2, 1, 0)
        hit = torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero()
    for expert in hit:
        expert = expert[0]
        if expert == module.num_experts:
            continue
        place, token = torch.where(mask[expert])
        rows = call.rows(token, expert.expand(token.numel()))
        h = call.gemm(noise.gate_up, x_TN[token], rows, up_EON[expert], F.linear)
        h = call.gemm(noise.down, call.gate(h, rows), rows, down_ENI[expert], F.linear)
        h = h * weight_TK[token, place, None]
        out_TN.index_add_(0, token, h.to(out_TN.dtype))
    return out_TN


def _grouped_mm(call: _Call, x_TN: Tensor, index_TK: Tensor, weight_TK: Tensor) -> Tensor:
    """Rows sorted by expert, one grouped GEMM for all."""
    from transformers.integrations.moe import _grouped_linear

    module, noise = call.module, call.noise
    by = grouped(index_TK, module.num_experts, call.now.draw.keys)
    rows = call.now.of(by.keys)

    def gemm(x: Tensor, weight: Tensor) -> Tensor:
        return _grouped_linear(x, weight, by.ends, is_transposed=False)

    up = call.weight(noise.gate_up, module.gate_up_proj)
    h = call.gemm(noise.gate_up, x_TN[by.tokens], rows, up, gemm)
    down = call.weight(noise.down, module.down_proj)
    h = call.gemm(noise.down, call.gate(h, rows), rows, down, gemm)
    h = h * weight_TK.reshape(-1)[by.order].unsqueeze(-1)
    h = by.ungrouped(h).view(*index_TK.shape, x_TN.size(-1))
    return h.sum(dim=1).to(x_TN.dtype)


def _batched_mm(call: _Call, x_TN: Tensor, index_TK: Tensor, weight_TK: Tensor) -> Tensor:
    """A matrix for each row, one batched GEMM."""
    from transformers.integrations.moe import _batched_linear

    module, noise = call.module, call.noise
    k = index_TK.size(-1)
    expert_S = index_TK.reshape(-1)
    rows = call.rows(torch.arange(expert_S.numel(), device=expert_S.device) // k, expert_S)

    def gemm(x: Tensor, weight: Tensor) -> Tensor:
        return _batched_linear(x, weight, is_transposed=False)

    up = call.weight(noise.gate_up, module.gate_up_proj)[expert_S]
    h = call.gemm(noise.gate_up, x_TN.repeat_interleave(k, dim=0), rows, up, gemm)
    down = call.weight(noise.down, module.down_proj)[expert_S]
    h = call.gemm(noise.down, call.gate(h, rows), rows, down, gemm)
    h = h * weight_TK.reshape(-1).unsqueeze(-1)
    return h.view(x_TN.size(0), k, x_TN.size(-1)).sum(dim=1).to(x_TN.dtype)


IMPLEMENTATIONS = {"eager": _eager, "grouped_mm": _grouped_mm, "batched_mm": _batched_mm}


class _NoisyExperts:
    @while_noisy
    def forward(
        self,
        noise: ExpertsNoise,
        hidden_states: Tensor,
        top_k_index: Tensor,
        top_k_weights: Tensor,
    ) -> Tensor:
        module: Any = self
        name = module.config._experts_implementation
        run = IMPLEMENTATIONS.get(name)
        if run is None or module._is_expert_parallel:
            raise ConfigError(
                f"{noise.gate_up.site.name} runs as {name!r}"
                f"{' with expert parallelism' if module._is_expert_parallel else ''}, inside which "
                "hetero_noise can't put error; it can in: "
                f"{', '.join(IMPLEMENTATIONS)} (from_pretrained(..., experts_implementation=...))"
            )
        now = noise.context.rows_of(hidden_states, noise)
        return run(_Call(self, noise, now), hidden_states, top_k_index, top_k_weights)


def _route(module: Any, x: Tensor, linear: Gemm) -> tuple[Tensor, Tensor, Tensor]:
    """Qwen-MoE's router: the K largest of the softmax of a GEMM."""
    logits = linear(x.reshape(-1, module.hidden_dim), module.weight)
    probabilities = F.softmax(logits, dtype=torch.float, dim=-1)
    top, index = torch.topk(probabilities, module.top_k, dim=-1)
    if module.norm_topk_prob:
        top /= top.sum(dim=-1, keepdim=True)
    return logits, top.to(logits.dtype), index


class _NoisyRouter:
    @while_noisy
    def forward(self, noise: LayerNoise, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        now = noise.context.rows_of(hidden_states, noise)

        def linear(x: Tensor, weight: Tensor) -> Tensor:
            noisy = noisy_weight(noise, weight, now)
            y = F.linear(noisy_input(noise, x, now), weight if noisy is None else noisy)
            return noisy_output(noise, y, now)

        return _route(self, hidden_states, linear)


def weights_of(module: nn.Module) -> list[tuple[LayerNoise, Tensor]]:
    """The weights of a noisy module that can have error, with their noise."""
    noise, has = module.__dict__[ATTRIBUTE], module._parameters
    pairs = [(noise, has.get("weight"))] if isinstance(noise, LayerNoise) else []
    if isinstance(noise, ExpertsNoise):
        pairs = [(noise.gate_up, has["gate_up_proj"]), (noise.down, has["down_proj"])]
    return [(one, weight) for one, weight in pairs if weight is not None and one.weight]


def check_router(router: nn.Module, site: str) -> None:
    """Raises ConfigError unless the router computes as `_route` does, to the bit."""
    probe: Any = copy.deepcopy(router).to_empty(device="cpu")
    same = True
    for dtype in (torch.float32, torch.bfloat16):
        probe = probe.to(dtype)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            probe.weight.copy_(torch.randn(probe.weight.shape, generator=generator))
            x = torch.randn(8, probe.weight.shape[1], generator=generator).to(dtype)
            try:
                pairs = zip(probe(x), _route(probe, x, F.linear), strict=True)
                same &= all(torch.equal(a, b) for a, b in pairs)
            except (AttributeError, TypeError, ValueError):
                same = False
    if not same:
        raise ConfigError(
            f"{site} ({type(router).__name__}) does not route as Qwen-MoE does, so its GEMM can't "
            "have error; exclude it, or add its formula to hf/experts.py"
        )


MIXINS["experts"] = _NoisyExperts
MIXINS["router"] = _NoisyRouter
