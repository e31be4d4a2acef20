"""Who the rows of a forward pass are: token ids and positions, and the pass that carries them.

B batch, T tokens of a sequence, P tokens in the cache before them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.operator import Chain, Product
from hetero_plugin.state import Draw

_POSITION_ONLY = 0xFFFFFFFF  # stands for the token id where only embeddings are known
Tell = Callable[[str, str], None]
"""Says a text once a topic."""


class Pass:
    """One forward pass as its noise sees it: who the rows are, and what was set when it began.

    Copies, because its recomputation and its backward pass must see the same, whatever has been set
    by then: the step, the phase, `disabled`, AQN's offsets. A plain class, because FSDP casts the
    tensors inside keyword arguments that it knows how to open.
    """

    __slots__ = ("_flat", "draw", "in_force", "nonzero_at_start", "offsets", "ran", "weight_clock")

    def __init__(
        self,
        draw: Draw,
        nonzero_at_start: tuple[bool, ...],
        offsets: Tensor | None,
        ran: list[bool] | None = None,
        weight_clock: Tensor | None = None,
        in_force: tuple[float, ...] = (),
    ) -> None:
        self.draw = draw
        """Its keys are [B, T] for a model's forward pass, flat [T] for a layer's rows."""
        self.nonzero_at_start = nonzero_at_start
        """Which scales were not 0; empty where the pass is compiled, and they may change later."""
        self.offsets = offsets
        """AQN's, float32, all norms; None: the norms compute as they do without AQN."""
        self.ran: list[bool] = [] if ran is None else ran
        """By mark (`LayerNoise.marks`): which sites have run. Shared by all copies of the pass."""
        self.weight_clock = weight_clock
        """int64 [1]: the clock of the gradients of weights, for these rows; None: not computed."""
        self.in_force = in_force
        """The scale table as Python numbers; empty as `nonzero_at_start` is."""
        keys = draw.keys
        self._flat = self.of(keys.reshape(-1).contiguous()) if keys.dim() > 1 else None

    @property
    def flat(self) -> Pass:
        """The same with flat keys, for the layers: made once a pass and not once a layer."""
        return self if self._flat is None else self._flat

    def of(self, keys: Tensor) -> Pass:
        """The same with other rows."""
        return Pass(
            self.draw.of(keys),
            self.nonzero_at_start,
            self.offsets,
            self.ran,
            in_force=self.in_force,
        )

    def on(self, device: torch.device) -> Pass:
        """The same on another device, for models that are spread over several."""
        offsets = None if self.offsets is None else self.offsets.to(device)
        weights = None if self.weight_clock is None else self.weight_clock.to(device)
        return Pass(
            self.draw.to(device),
            self.nonzero_at_start,
            offsets,
            self.ran,
            weights,
            self.in_force,
        )

    def needs(self, chain: Chain | Product) -> bool:
        """Whether leaving a chain or a product out would be noticed; see `Chain.needed`."""
        return chain.needed(self.draw, self.nonzero_at_start)

    def of_weights(self, rows: Tensor) -> Draw:
        """The draw of the gradient of a weight, whose rows have the keys ``rows``.

        The tokens of the micro-batch take part in its clock, so that micro-batches and
        data-parallel ranks draw independently, and a recomputation draws again the same.
        """
        clock = self.weight_clock
        if clock is None:
            clock = self.clock_of_weights()
        return Draw(rows, clock, self.draw.scales)

    def clock_of_weights(self) -> Tensor:
        """int64 [1]; some fifty small kernels."""
        return random.mix64_tensor(self.draw.clock ^ random.batch_key(self.draw.keys))


class Frame:
    """One call that is running, of the decoder or of something around it, and its rows."""

    __slots__ = ("given", "keep", "over", "own", "owner", "parent", "passes", "rows", "thread")

    def __init__(
        self,
        owner: object,
        parent: Frame | None,
        rows: Pass | None = None,
        keep: int | Tensor = 0,
    ) -> None:
        self.owner = owner
        """What ends it; the text "layer": a layer alone, which is being recomputed."""
        self.parent = parent
        self.rows = rows
        """Of the decoder's pass: while it runs, and after it for the heads on top of it."""
        self.keep = keep
        """The model's `logits_to_keep`."""
        self.passes = 0
        """How often the decoder has run inside."""
        self.given: object = None
        """Noise of an attention's output that PEFT's layer around o_proj has put there already."""
        self.own: object = None
        """The module whose own forward is running inside its noisy one."""
        self.over = False
        """The call has ended, whoever still has this frame."""
        self.thread = 0
        """That runs the call; 0: a call entered by compiled code, which can't ask."""

    @staticmethod
    def running(frame: Frame | None) -> Frame | None:
        """The innermost call, from this one outwards, that has not ended."""
        while frame is not None and frame.over:
            frame = frame.parent
        return frame


class MissingRows(RuntimeError):
    """A noisy layer ran, and nobody had said which tokens its rows are; or it did not run."""


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], name: str, place: int) -> Any:
    """An argument of a decoder, whose first four have the same places in every family."""
    return kwargs.get(name, args[place] if len(args) > place else None)


def source_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """input_ids [B, T], or inputs_embeds [B, T, N] where there are none."""
    ids = _argument(args, kwargs, "input_ids", 0)
    return ids if ids is not None else _argument(args, kwargs, "inputs_embeds", 4)


def _from_mask(
    mask: Tensor, length: int, past: int | Tensor, device: torch.device
) -> Tensor | None:
    """Positions [B, T] of the last T tokens under a mask [B, P + T]; None: it is not so long."""
    if isinstance(past, int) and mask.shape[1] < past + length:
        return None
    # What is masked before the first token has no place; its rows are read by nobody.
    places = ((mask != 0).to(torch.int64).cumsum(-1) - 1).clamp(min=0)
    return places.to(device).index_select(1, torch.arange(length, device=device) + past)


def identity_of(
    args: tuple[Any, ...], kwargs: dict[str, Any], source: Tensor, tell: Tell
) -> tuple[Tensor, Tensor]:
    """Token ids and positions, both integer [B, T], of a decoder's forward pass.

    A position is what `position_ids` say; where there are none, what the attention mask says: the
    number of tokens before this one, so that padding on either side changes nothing. Without a mask
    it is the place in the tensor, counted on from the cache.

    Args:
        args, kwargs: of the call.
        source: what `source_of` gave.
        tell: called where identity is less than token and position.
    """
    batch, length, device = source.shape[0], source.shape[1], source.device
    positions = _argument(args, kwargs, "position_ids", 2)
    if positions is None:
        cache = _argument(args, kwargs, "past_key_values", 3)
        past = cache.get_seq_length() if cache is not None else 0
        mask = _argument(args, kwargs, "attention_mask", 1)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            positions = _from_mask(mask, length, past, device)
        if positions is None:
            if mask is not None:
                shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
                tell(
                    "mask",
                    f"an attention mask {shape} does not say which position a token has (one of "
                    f"[batch, cached + {length}] does), and there are no position_ids: rows are "
                    "keyed by their place in the tensor, so with padding or packing the same token "
                    "has another error than alone. Pass position_ids",
                )
            positions = torch.arange(length, device=device) + past
    elif positions.dim() == 3:
        positions = positions[0]  # multimodal rotary positions: the first is the text's
    if source.is_floating_point():
        tell(
            "embeds",
            "inputs_embeds without input_ids: tokens can't be told apart, so rows are keyed "
            "by position alone and equal positions of a batch get equal error",
        )
        ids = torch.full((batch, length), _POSITION_ONLY, device=device)
    else:
        ids = source
    return ids, positions.to(device).expand(batch, length)
