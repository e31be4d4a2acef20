"""Attention scores: error on Q·Kᵀ and on the softmax, the kind ``attention_scores``.

Only transformers' eager attention has them in memory. A noisy attention layer runs it through the
attention interface: under the name INTERFACE it finds the same operators in the same order, with
error between them. Without error the family's own function runs.

A row is a pair of tokens, keyed by the query's row key and by how far back the key is; the columns
are the heads. So a pair has its error in any batch, with any padding, with or without a cache.

B batch, H heads, Q queries, K keys, D features of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

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
    while_noisy,
)
from hetero_plugin.sites import Site

__all__ = ["KIND", "scores_noise", "scores_sites"]

KIND = "attention_scores"
INTERFACE = "hetero_noise_eager"

Between = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class ScoresNoise(OfAModel):
    """What a noisy attention layer knows: the noise of its scores and of its softmax."""

    context: ForwardContext
    scores: LayerNoise
    softmax: LayerNoise
    view: Any
    """The layer's configuration, as it sees it while it is noisy."""

    @property
    def site(self) -> Site:
        return self.scores.site

    @property
    def marks(self) -> tuple[int, ...]:
        return self.scores.marks + self.softmax.marks

    def needed(self, now: Pass) -> bool:
        """Whether anything has to happen between the operators."""
        return any(
            now.needs(chain)
            for noise in (self.scores, self.softmax)
            for chain in (noise.output, noise.grad_input)
        )


def scores_noise(
    attention: nn.Module, sites: Sequence[Site], context: ForwardContext
) -> ScoresNoise:
    """The noise of an attention layer's scores.

    Raises:
        ConfigError: it does not run eager attention, or computes it in a way of its own.
    """
    _check(attention, sites[0].name)
    scores, softmax = (layer_noise(site, context, attention) for site in sites)
    return ScoresNoise(context, scores, softmax, _View(attention.config, sites[0].name))


def scores_sites(name: str, attention: nn.Module, layer: int | None, features: int) -> list[Site]:
    """The sites of an attention layer's scores; none where the heads can't be told.

    Args:
        name: the attention layer's.
        attention: the module.
        layer: number of the decoder layer.
        features: of softmax·V, all heads together.
    """
    head = getattr(attention, "head_dim", None)
    if not isinstance(head, int) or features % head:
        return []
    return [Site(f"{name}.{leaf}", KIND, layer, features // head, None) for leaf in _LEAVES]


_LEAVES = ("scores", "softmax")


def _plain(x: Tensor) -> Tensor:
    return x


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    on_scores: Between = _plain,
    on_softmax: Between = _plain,
) -> tuple[Tensor, Tensor]:
    """Eager attention as in transformers: query [B, H, Q, D] and the rest -> [B, Q, H, D]."""
    groups = module.num_key_value_groups
    if groups > 1:
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    scaling = module.head_dim**-0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = on_scores(scores)
    if attention_mask is not None:
        scores = scores + attention_mask
    share = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    share = F.dropout(on_softmax(share), p=dropout, training=module.training)
    out = torch.matmul(share, value)
    return out.transpose(1, 2).contiguous(), share


def _pairs(now: Pass, batch: int, queries: int, keys: int) -> Pass:
    """The pass for rows that are pairs, [B · Q · K]; now's are the queries."""
    of_queries = now.draw.keys
    slot = torch.arange(keys - queries, keys, device=of_queries.device)
    back = slot[:, None] - torch.arange(keys, device=of_queries.device)
    return now.of(random.expert_keys(of_queries.view(batch, queries, 1), back).reshape(-1))


def _noisy(noise: LayerNoise, x_BHQK: Tensor, blocked: Tensor | None, now: Pass) -> Tensor:
    """Error where the mask lets a query see the key; elsewhere neither it nor its gradient has any:
    what is added there would come from tokens that the query must not know."""
    seen = x_BHQK if blocked is None else torch.where(blocked, x_BHQK.detach(), x_BHQK)
    x_BQKH = seen.permute(0, 2, 3, 1).contiguous()
    x_BQKH = noisy_input(noise, noisy_output(noise, x_BQKH, now), now)
    y_BHQK = x_BQKH.permute(0, 3, 1, 2)
    return y_BHQK if blocked is None else torch.where(blocked, x_BHQK, y_BHQK)


def _forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """What transformers' attention layers call under the name INTERFACE."""
    noise: ScoresNoise = getattr(module, ATTRIBUTE)
    batch, _, queries, _ = query.shape
    now = noise.context.rows_of(query[:, 0], noise)
    more = {} if softcap is None else {"softcap": softcap}
    if not noise.needed(now):
        clean = _own(type(module).hetero_clean_class)
        return clean(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **more
        )
    pairs = _pairs(now, batch, queries, key.shape[2])
    blocked = None
    if attention_mask is not None:
        blocked = attention_mask <= torch.finfo(attention_mask.dtype).min / 2
    return _attend(
        module,
        query,
        key,
        value,
        attention_mask,
        scaling,
        dropout,
        softcap,
        lambda scores: _noisy(noise.scores, scores, blocked, pairs),
        lambda share: _noisy(noise.softmax, share, blocked, pairs),
    )


def _own(cls: type) -> Callable[..., tuple[Tensor, Tensor]]:
    """The eager attention of a class's family."""
    return sys.modules[cls.__module__].eager_attention_forward


class _View:
    """A model's configuration, as its noisy attention layers see it: with our implementation."""

    def __init__(self, config: Any, site: str) -> None:
        self._config = config
        self._site = site

    def __getattr__(self, name: str) -> Any:
        if name in ("_config", "_site") or name.startswith("__"):
            raise AttributeError(name)  # a copy that is being made has not got them yet
        return getattr(self._config, name)

    @property
    def _attn_implementation(self) -> str:
        _check_eager(self._config, self._site)
        return INTERFACE


def _check_eager(config: Any, site: str) -> None:
    name = getattr(config, "_attn_implementation", None)
    if name != "eager":
        raise ConfigError(
            f"{site} has error on the attention scores, and this model's attention runs as "
            f"{name!r}, which never holds them in memory. Load the model with "
            "attn_implementation='eager' (or call model.set_attn_implementation('eager')), or "
            "target the kind attention, whose error is on softmax·V under every implementation"
        )


class _NoisyScores:
    @property
    def config(self) -> Any:
        noise: ScoresNoise = getattr(self, ATTRIBUTE)
        return noise.view

    @config.setter
    def config(self, value: Any) -> None:
        noise: ScoresNoise = getattr(self, ATTRIBUTE)
        self.__dict__["config"] = value
        noise.view = _View(value, noise.scores.site.name)

    @while_noisy
    def forward(self, noise: ScoresNoise, *args: Any, **kwargs: Any) -> Any:
        for one in (*args, *kwargs.values()):
            if getattr(one, "is_compileable", False) is True:
                raise ConfigError(
                    f"{noise.scores.site.name}: a {type(one).__name__} has places for tokens that "
                    "are not there yet, so nobody knows how far back its keys are; use a "
                    "DynamicCache (cache_implementation='dynamic')"
                )
        return super().forward(*args, **kwargs)  # type: ignore[misc]


def _check(attention: nn.Module, site: str) -> None:
    """Raises ConfigError unless a layer runs eager attention, computed as `_attend` does it."""
    module: Any = attention
    _check_eager(getattr(module, "config", None), site)
    own: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    groups: Any = getattr(module, "num_key_value_groups", None)
    same = own is not None and isinstance(groups, int)
    softcap = getattr(module, "attn_logit_softcapping", None)
    more = {} if softcap is None else {"softcap": softcap}
    for dtype in (torch.float32, torch.bfloat16) if same else ():
        generator = torch.Generator().manual_seed(0)

        def draw(heads: int, dtype: torch.dtype = dtype, g: Any = generator) -> Tensor:
            return torch.randn(2, heads, 5, module.head_dim, generator=g).to(dtype)

        blocked = torch.ones(5, 5).triu(1).bool()
        mask = torch.zeros(2, 1, 5, 5, dtype=dtype).masked_fill(blocked, torch.finfo(dtype).min)
        given = (module, draw(2 * groups), draw(2), draw(2), mask)
        try:
            wanted = own(*given, scaling=0.3, dropout=0.0, **more)
        except (AttributeError, TypeError, ValueError, RuntimeError):
            same = False
            break
        found = _attend(*given, scaling=0.3, **more)
        same &= all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    if not same:
        raise ConfigError(
            f"{site} ({type(module).__name__}) does not compute eager attention as Llama does, so "
            "its scores can't have error; exclude it, or add its formula to hf/scores.py"
        )


AttentionInterface.register(INTERFACE, _forward)
MIXINS["scores"] = _NoisyScores
