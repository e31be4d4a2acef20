"""The LM head, given the rows that the engine selected. T: rows, K: input features, N: words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from hetero_plugin.operator import Chain, Product
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm import ops
from hetero_plugin.vllm.columns import check_rows
from hetero_plugin.vllm.held import HeldWeight, Piece
from hetero_plugin.vllm.linear import check_attached, packing, weight_of

if TYPE_CHECKING:
    from hetero_plugin.vllm.rows import Rows


@dataclass
class HeadNoise:
    """What is added at the LM head."""

    state: NoiseState
    output: Chain
    input: Chain
    weight: Chain
    weight_rows: Tensor
    """int64 [columns]: which words this rank has."""
    rows: Rows
    product: Product
    """How the product adds up."""
    held: HeldWeight | None = None
    """The weight with its error, where that is fixed; `weight` is then empty."""
    entries: Tensor = field(init=False)
    """int64: those of the scale table that decide whether the noisy weight is in use."""

    def __post_init__(self) -> None:
        first = int(self.weight_rows[0]) if self.columns else 0
        check_rows(self.state, self.weight, self.columns, first)
        self.entries = ops.entries_of(self.state, self.weight)

    def hold(self, name: str, layer: nn.Module) -> None:
        """Has the weight computed once, if its error is fixed."""
        if self.weight and self.weight.fixed:
            pieces = [Piece(0, self.weight_rows, self.weight)]
            keep = bool(self.product)
            self.held = HeldWeight(name, layer, pieces, self.state, packing(), keep)
            self.weight = Chain("weight", self.weight.parts)

    def __bool__(self) -> bool:
        held = self.held is not None
        return held or bool(self.output or self.input or self.weight or self.product)

    @property
    def columns(self) -> int:
        """Columns of this rank that are words; padding follows them."""
        return self.weight_rows.numel()


class NoisyHeadMethod(UnquantizedEmbeddingMethod):
    """vLLM's LM head method, with error on the rows that the engine selected."""

    supports_pre_processed_weights = False

    def __init__(self) -> None:
        super().__init__()
        self.noise: HeadNoise | None = None
        self.attached = False

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Runs after the first load and after every weight sync."""
        if self.noise is not None and self.noise.held is not None:
            self.noise.held.outdate()
        else:
            super().process_weights_after_loading(layer)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        noise = self.noise
        if noise is None:
            check_attached(self.attached)
            return super().apply(layer, x, bias)
        draw = noise.state.draw
        picked = draw.of(noise.rows.keys_of(x))
        words = noise.columns
        x_TK = noise.input(x, picked) if noise.input else x
        multiplied = layer if noise.held is None else noise.held
        y_TN = super().apply(multiplied, x_TK, bias)
        if not (noise.output or noise.weight or noise.product):
            return y_TN
        y_TW = y_TN[..., :words].contiguous()
        weight = weight_of(multiplied)[:words]
        word_bias = None if bias is None else bias[:words]
        if noise.weight:
            weight = noise.weight(weight, draw.of(noise.weight_rows))
            noisy_TW = F.linear(x_TK, weight, word_bias)
            y_TW = ops.choose(y_TW, [noisy_TW], draw, noise.entries)
        if noise.product:
            y_TW = noise.product(x_TK, weight, word_bias, y_TW, draw)
        if noise.output:
            y_TW = noise.output(y_TW, picked, in_place=True)
        if y_TW.shape == y_TN.shape:
            return y_TW
        y_TN[..., :words].copy_(y_TW)
        return y_TN
