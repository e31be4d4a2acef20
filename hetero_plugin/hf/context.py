"""Who the rows are: carries the row keys of a forward pass to every layer of it.

The decoder's forward computes the keys from input_ids and position_ids and hands them to its layers
as a keyword argument. Activation checkpointing keeps a layer's keyword arguments for the
recomputation, so that a layer recomputed after another micro-batch's forward still finds its own.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hetero_plugin import random
from hetero_plugin.hf.copies import OfAModel
from hetero_plugin.state import NoiseState

log = logging.getLogger("hetero_noise")
KEYWORD = "hetero_noise_rows"
_POSITION_ONLY = 0xFFFFFFFF  # stands for the token id where only embeddings are known
_UPDATES = 16  # more than one RL step usually takes; a loop that sets the step has set it by then


class Pass:
    """One forward pass as its noise sees it: who the rows are, and what was set when it began.

    Copies, because its recomputation and its backward pass must see the same, whatever has been set
    by then: the step, the phase, `disabled`, AQN's offsets. A plain class, because FSDP casts the
    tensors inside keyword arguments that it knows how to open.
    """

    __slots__ = ("clock", "keys", "live", "offsets", "scales")

    def __init__(
        self,
        keys: Tensor,
        clock: Tensor,
        scales: Tensor,
        live: tuple[bool, ...],
        offsets: Tensor | None,
    ) -> None:
        self.keys = keys
        """int64: [B, T] of a model's forward pass, flat [T] of a layer's rows."""
        self.clock = clock
        """int64 [1]"""
        self.scales = scales
        """float32 [slots]"""
        self.live = live
        """Which slots are not 0."""
        self.offsets = offsets
        """AQN's, float32, all norms; None: the norms compute as they do without AQN."""

    def __getitem__(self, index: int) -> Tensor:
        return (self.keys, self.clock)[index]

    def of(self, keys: Tensor) -> Pass:
        """The same with other rows."""
        return Pass(keys, self.clock, self.scales, self.live, self.offsets)


class MissingRows(RuntimeError):
    """A noisy layer ran, and nobody had said which tokens its rows are."""


class ForwardContext(OfAModel):
    """The rows of the forward pass that is running; shared by a model's noisy layers."""

    def __init__(self, state: NoiseState) -> None:
        self.state = state
        self.attachment: Any = None
        """What wrap left on the model (`hf.wrap.Attachment`)."""
        self.rows: Pass | None = None
        """Of the pass that runs, or ran last."""
        self.running = False
        self.keep: int | Tensor = 0
        self.heads: tuple[int, ...] = ()
        """Entries of the scale table of the LM head's error."""
        self.head_ran = False
        self.hook: RemovableHandle | None = None
        """The decoder's hook, without which `rows` are those of some earlier pass."""
        self._told: set[str] = set()
        self._version: int | None = None
        self._updates = 0

    # ---- hooks: on the decoder, on each of its layers, on the language model ----

    def enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of the decoder: computes the rows, passes them on to its layers."""
        if not torch.compiler.is_compiling():  # compiled code: the operator checks
            self.state.check_phase()
            self._watch_updates(module)
        input_ids = kwargs.get("input_ids", args[0] if args else None)
        embeds = kwargs.get("inputs_embeds")
        source = input_ids if input_ids is not None else embeds
        if source is None:
            return None  # the model itself says what is missing
        if source.device != self.state.device:
            self.state.to(source.device)
        batch, length = source.shape[0], source.shape[1]
        positions = kwargs.get("position_ids", args[2] if len(args) > 2 else None)
        if positions is None:
            cache = kwargs.get("past_key_values", args[3] if len(args) > 3 else None)
            past = cache.get_seq_length() if cache is not None else 0
            positions = torch.arange(length, device=source.device) + past
        elif positions.dim() == 3:
            positions = positions[0]  # multimodal rotary positions: the first is the text's
        if input_ids is None:
            self._tell_once(
                "embeds",
                "inputs_embeds without input_ids: tokens can't be told apart, so rows are keyed "
                "by position alone and equal positions of a batch get equal error",
            )
            ids = torch.full((batch, length), _POSITION_ONLY, device=source.device)
        else:
            ids = input_ids
        self.state.next_call()
        self.rows = Pass(
            random.row_keys(ids, positions.expand(batch, length)),
            self.state.clock.clone(),
            self.state.scales.clone(),
            # Compiled code never leaves a chain out, and must not guard on these.
            () if torch.compiler.is_compiling() else self.state.live,
            self._offsets(),
        )
        self.running = True
        kwargs = dict(kwargs)
        kwargs[KEYWORD] = self.rows
        return args, kwargs

    def _offsets(self) -> Tensor | None:
        aqn = self.state.aqn
        if aqn is None:
            return None
        # With AQN's formula the gradient of a bfloat16 weight is summed in float32, so that offsets
        # of 0 would not be the clean model to the bit.
        if not torch.compiler.is_compiling() and not aqn.any():
            return None
        return aqn.offsets.clone()

    def enter_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of a decoder layer: takes the rows it was given."""
        if KEYWORD not in kwargs:
            return None
        kwargs = dict(kwargs)
        self.rows = kwargs.pop(KEYWORD)
        self.running = True  # also where a layer is recomputed, long after its pass
        return args, kwargs

    def enter_head(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the language model: which rows its head will see."""
        self.keep = kwargs.get("logits_to_keep", 0)
        self.head_ran = False

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the outermost of them: what runs later must not take these rows.

        Raises:
            MissingRows: the LM head has error, and something else multiplied by its weight.
        """
        self.running = False
        if torch.compiler.is_compiling() or output is None or self.head_ran or self.rows is None:
            return
        live = self.rows.live or self.state.live  # none where only the decoder is compiled
        if any(live[slot] for slot in self.heads):
            raise MissingRows(
                "the spec puts error on lm_head, and this forward pass of "
                f"{type(module).__name__} did not run it: something fused it into the loss (TRL, "
                "Liger), where it would be clean. Switch that off, exclude lm_head, or use "
                "hetero_plugin.trl for TRL"
            )

    # ---- what layers ask ----

    def rows_of(self, x: Tensor, site: str, *, heads: int = 1, head: bool = False) -> Pass:
        """The pass, with the keys flat [T], for the rows of a layer's tensor x [..., N].

        Args:
            x: what the layer got.
            site: its name, for the error.
            heads: rows of x that belong to one token.
            head: it is the LM head, which may see some of the rows only.

        Raises:
            MissingRows: no forward pass of the model is running, or its rows are not x's.
        """
        if self.rows is None or not self.running:
            raise MissingRows(
                f"{site} ran outside its model's forward pass, so nobody knows which tokens its "
                "rows are. Call the model, not its layers; or unwrap(model) first."
            )
        if not torch.compiler.is_compiling() and not self._hooked():
            raise MissingRows(
                f"{site}: the hook that tells which tokens a forward pass has is gone from the "
                "decoder; something removed its forward pre-hooks, and the rows of an earlier "
                "pass would be taken for these. unwrap(model) and wrap it again after that."
            )
        keys = self.rows.keys
        if head:
            self.head_ran = True
        if head and keys.dim() == 2:
            keep = self.keep
            keys = keys[:, -keep:] if isinstance(keep, int) else keys[:, keep]
        keys = keys.reshape(-1).contiguous()
        rows = x.numel() // x.shape[-1]
        if rows != keys.numel() * heads:
            raise MissingRows(
                f"{site} got {rows} rows, but its model's forward pass has {keys.numel()} tokens"
                f"{'' if heads == 1 else f' of {heads} heads'}: their identity is unknown, and "
                "noise must not be keyed wrongly."
            )
        return self.rows.of(keys)

    def keys_for(self, x: Tensor, site: str, *, head: bool = False) -> tuple[Tensor, Tensor]:
        """Row keys, flat [T], and clock; see `rows_of`."""
        rows = self.rows_of(x, site, head=head)
        return rows.keys, rows.clock

    def _hooked(self) -> bool:
        if self.hook is None:
            return True  # installed by hand, as tests of a single layer do
        hooks = self.hook.hooks_dict_ref()
        return hooks is not None and self.hook.id in hooks

    def _watch_updates(self, module: nn.Module) -> None:
        """Warns, once, of training whose noise step stands still: every update has one draw."""
        state = self.state
        if state.stepped or state.config.resample != "step" or not torch.is_grad_enabled():
            return
        weight = next((p for p in module.parameters() if p.requires_grad), None)
        version = None if weight is None else weight._version
        self._updates += self._version is not None and version != self._version
        self._version = version
        if self._updates >= _UPDATES:
            self._tell_once(
                "step",
                f"the weights were updated {self._updates} times and the noise step is still "
                f"{state.step}: nobody calls set_step(model, step), so every step has the same "
                "draw. Call it, or say resample: never",
            )

    def _tell_once(self, topic: str, text: str) -> None:
        if topic not in self._told:
            self._told.add(topic)
            log.warning("hetero_noise: %s", text)
