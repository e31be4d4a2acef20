"""A linear layer's products of matrices, added up as another machine would.

T: rows (tokens), K: input features, N: output features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hetero_plugin.config import Accumulate, ConfigError
from hetero_plugin.kernels.checks import check_dtype, check_transforms
from hetero_plugin.kernels.copies import own
from hetero_plugin.operator.chain import Part, is_capturing
from hetero_plugin.state import Draw, NoiseState

__all__ = ["Product", "linear"]


@dataclass
class Unit:
    """What one rule does: how each part's product is added up."""

    segments: Tensor
    """int64 [parts, 2] in host memory: columns, entry of the scale table; 0: no rule."""
    how: list[str]

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__.update(own(attributes))


@dataclass
class Product:
    """The rules `accumulate` at one product of one layer; false where there is none.

    Like a `Chain` it holds no tensor but its segments.
    """

    stream: str
    parts: tuple[Part, ...]
    units: list[Unit] = field(default_factory=list)
    slots: tuple[int, ...] = ()
    """Entries of the scale table that the units read."""

    @classmethod
    def of(cls, state: NoiseState, stream: str, parts: Sequence[Part]) -> Product:
        """The product of a layer.

        Args:
            state: the model's state, which knows the rules and the entries of their scales.
            stream: ``product``, ``product_grad_input`` or ``product_grad_weight``.
            parts: as for `Chain.of`.

        Raises:
            ConfigError: two rules would be in force at once.
        """
        made = cls(stream, tuple(parts))
        taken: dict[str, list[tuple[int, str]]] = {}
        for index, rule in enumerate(state.config.rules):
            rows = []
            for name, columns, _ in parts:
                slot = state.slot(name, index, stream)
                rows.append([columns, slot or 0])
                if slot is None:
                    continue
                for other, phase in taken.get(name, []):
                    if "both" in (phase, rule.phase) or phase == rule.phase:
                        raise ConfigError(
                            f"rules[{other}] and rules[{index}] both say how {name} adds up; one "
                            "machine computes a product. Give them different phases or targets"
                        )
                taken.setdefault(name, []).append((index, rule.phase))
            slots = tuple(row[1] for row in rows if row[1])
            if slots and isinstance(rule.options, Accumulate):
                made.slots += slots
                with torch.inference_mode(False):
                    segments = torch.tensor(rows, dtype=torch.int64, device="cpu")
                made.units.append(Unit(segments, [rule.options.words] * len(rows)))
        return made

    def __bool__(self) -> bool:
        return len(self.units) > 0

    def needed(self, draw: Draw, nonzero: Sequence[bool]) -> bool:
        """Whether leaving it out would be noticed; see `Chain.needed`."""
        if not self.units:
            return False
        if torch.compiler.is_compiling():
            return True
        needed = not nonzero or any(nonzero[slot] for slot in self.slots)
        needed = needed or is_capturing(draw.clock.device)
        if needed:
            check_transforms("grad")
        return needed

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        clean: Tensor,
        draw: Draw,
    ) -> Tensor:
        """The product, blended with the clean one by the rule's scale; without a gradient.

        Args:
            x: [..., K], bfloat16, float16 or float32.
            weight: [N, K].
            bias: [N], added in float32 before the only rounding.
            clean: [..., N], the layer's own result: what a scale of 0 gives, bit for bit.
            draw: for its scales; nothing here is random.

        Raises:
            UnsupportedTensor: x has another dtype.
        """
        check_dtype(x.dtype, f"{', '.join(part[0] for part in self.parts)} ({self.stream})")
        for unit in self.units:
            clean = torch.ops.hetero_noise.product(
                x, weight, bias, clean, draw.scales, unit.segments, unit.how
            )
        return clean


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        products: tuple[Product, Product, Product],
        keys: Tensor,
        clock: Tensor,
        scales: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, keys, clock, scales)
        ctx.products = products
        y = F.linear(x, weight, bias)
        return products[0](x, weight, bias, y, Draw(keys, clock, scales)) if products[0] else y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *drawn = ctx.saved_tensors
        draw = Draw(*drawn)
        _, of_input, of_weight = ctx.products
        g_TN = grads[0].reshape(-1, weight.shape[0])
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = g_TN @ weight
            if of_input:
                dx = of_input(g_TN, weight.T.contiguous(), None, dx, draw)
            dx = dx.reshape(x.shape)
        if ctx.needs_input_grad[1]:
            x_TK = x.reshape(-1, x.shape[-1])
            dw = g_TN.T @ x_TK
            if of_weight:
                dw = of_weight(g_TN.T.contiguous(), x_TK.T.contiguous(), None, dw, draw)
        if ctx.needs_input_grad[2]:
            db = g_TN.sum(dim=0)
        return dx, dw, db, None, None, None, None


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    products: tuple[Product, Product, Product],
    draw: Draw,
) -> Tensor:
    """`F.linear` whose three products of matrices are added up as the rules say.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N] or None.
        products: of the streams ``product``, ``product_grad_input`` and ``product_grad_weight``;
            the sum of a weight's gradient runs over the tokens of the batch.
        draw: kept for the backward pass, and not to be overwritten before it.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return _Linear.apply(x, weight, bias, products, *draw)
