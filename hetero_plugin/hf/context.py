"""The forward pass that is running: whose rows a layer's are, and which sites have run in it.

Hooks follow every call of the decoder and of what is around it. The decoder's computes the row keys
and hands them to its layers as a keyword argument: activation checkpointing keeps a layer's keyword
arguments for the recomputation, so that a layer recomputed after another micro-batch's forward
still finds its own. Rows are a matter of the thread that runs the pass, and end with it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hetero_plugin import random
from hetero_plugin.config import ConfigError
from hetero_plugin.hf.copies import OfAModel
from hetero_plugin.hf.missing import describe
from hetero_plugin.hf.rows import Frame, MissingRows, Pass, identity_of, source_of
from hetero_plugin.operator import is_capturing
from hetero_plugin.sites import Site
from hetero_plugin.state import SETTING, Draw, NoiseState

__all__ = ["KEYWORD", "ForwardContext", "MissingRows", "Pass", "Scope"]

log = logging.getLogger("hetero_noise")
KEYWORD = "hetero_noise_rows"
_UPDATES = 16  # more than one RL step usually takes; a loop that sets the step has set it by then


class Marked(Protocol):
    """What a layer shows of its noise when it asks for its rows."""

    @property
    def site(self) -> Site: ...
    @property
    def marks(self) -> Sequence[int]: ...


class _Local(threading.local):
    frame: Frame | None = None


_THREADS = Frame("threads", None)
"""What compiled code reads where several threads are inside a pass."""
_THREADS.thread = -1  # nobody's


class ForwardContext(OfAModel):
    """The forward passes that are running; shared by a model's noisy layers."""

    def __init__(self, state: NoiseState) -> None:
        self.state = state
        self.attachment: Any = None
        """What wrap left on the model (`hf.attachment.Attachment`)."""
        self.places: list[tuple[Site, nn.Module]] = []
        """By mark: a site that can be noisy, and the module that carries it."""
        self.inside: tuple[int, ...] = ()
        """Marks of the sites that every pass of the decoder must run."""
        self.hooks: tuple[RemovableHandle, ...] = ()
        """The decoder's, without which rows would be those of some other pass."""
        self.forgiving = False
        """An attestation is running, which finds by itself which sites are dead, and names all."""
        self._told: set[str] = set()
        self._version: int | None = None
        self._updates = 0
        self._start()

    def _start(self) -> None:
        self._local = _Local()
        self._lock = threading.Lock()
        self._shared: Frame | None = None  # the frame as compiled code can read it
        self._threads: dict[int, Frame] = {}  # that are inside a pass

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no pass running."""
        gone = ("_local", "_lock", "_shared", "_threads")
        return {name: value for name, value in self.__dict__.items() if name not in gone}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def mark(self, site: Site, module: nn.Module) -> int:
        """A new mark for a site."""
        self.places.append((site, module))
        return len(self.places) - 1

    @property
    def heads(self) -> tuple[int, ...]:
        """Entries of the scale table of the heads' error."""
        return tuple(slot.index for slot in self.state.slots if slot.site.kind == "lm_head")

    # ---- frames ----

    # A pass may be entered by compiled code and left by code that is not, or the other way round:
    # dynamo gives a frame of Python up when it has compiled it too often, and hooks are frames of
    # their own wherever the module's call is not compiled in one piece.

    @property
    def frame(self) -> Frame | None:
        # Dynamo does not follow thread-local attributes. `is_compiling` is a flag of the process,
        # true for other threads too while one of them compiles.
        if torch.compiler.is_dynamo_compiling():
            return self._shared
        frame = Frame.running(self._local.frame)
        if frame is not None:
            return frame
        frame, me = Frame.running(self._shared), threading.get_ident()
        # Entered by compiled code: the first thread that goes on with it is the one that runs it.
        if frame is not None and frame.thread == 0:
            frame.thread = me
        return frame if frame is not None and frame.thread == me else None

    @frame.setter
    def frame(self, frame: Frame | None) -> None:
        if torch.compiler.is_dynamo_compiling():
            self._shared = frame
            return
        self._local.frame = frame
        me = threading.get_ident()
        with self._lock:
            if frame is None:
                self._threads.pop(me, None)
            else:
                frame.thread = me
                self._threads[me] = frame
            # A compiled part of a model reads what its pass left here. Where two threads are
            # inside, it reads a frame without rows, and says so.
            inside = [f for f in map(Frame.running, self._threads.values()) if f is not None]
            self._shared = _THREADS if len(inside) > 1 else next(iter(inside), None)

    @property
    def rows(self) -> Pass | None:
        """Of the pass that runs in this thread."""
        frame = self.frame
        return None if frame is None else frame.rows

    # ---- hooks ----

    def enter_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of the decoder: computes the rows, passes them on to its layers."""
        source = source_of(args, kwargs)
        compiling = torch.compiler.is_compiling()
        if not compiling:  # compiled code: the operator checks
            _refuse_transforms(module, source)
            self.state.check_phase()
            self._watch_updates(module)
        frame = Frame(self, self.frame)
        self.frame = frame
        if source is None:
            return None  # the model itself says what is missing
        if source.device != self.state.device:
            self.state.to(source.device)
        keys = random.row_keys(*identity_of(args, kwargs, source, self._tell_once))
        # Counting and copying are one step, or two threads would have one draw; and so is what
        # says the scales, or a pass would hold weights of one under the name of another.
        with nullcontext() if torch.compiler.is_dynamo_compiling() else SETTING:
            self.state.next_call()
            set_now = self.state.draw
            fixed = compiling or is_capturing(self.state.device)
            now = Pass(
                Draw(keys, set_now.clock.clone(), set_now.scales.clone()),
                # Code that is compiled or captured never leaves a chain out, and must not guard
                # on these.
                () if fixed else self.state.nonzero,
                self._offsets(),
                [False] * len(self.places),
                in_force=() if fixed else self.state.in_force,
            )
        if self._weights_need_a_clock(now.nonzero_at_start):
            now.weight_clock = now.flat.weight_clock = now.clock_of_weights()
        frame.rows = now
        frame.passes = 1
        kwargs = dict(kwargs)
        kwargs[KEYWORD] = frame.rows
        return args, kwargs

    def leave_model(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the decoder: every site of it has run, or it is an error."""
        rows = self.rows
        self.leave(self)
        if output is not None and rows is not None:
            self._check(module, rows, self.inside)

    def enter_layer(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of a decoder layer: takes the rows it was given."""
        if KEYWORD not in kwargs:
            return None
        kwargs = dict(kwargs)
        given = kwargs.pop(KEYWORD)
        frame = self.frame
        if frame is None or frame.rows is not given:  # recomputed, long after its pass
            self.frame = Frame("layer", frame, given)
        return args, kwargs

    def leave_layer(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of a decoder layer: a recomputed layer's rows end with it."""
        frame = self.frame
        if frame is not None and frame.owner == "layer":
            frame.over = True
            self.frame = frame.parent

    def leave(self, owner: object) -> None:
        """Ends a call; what is around it has its rows, and nobody else."""
        frame = self.frame
        while frame is not None:
            frame.over = True
            parent = frame.parent
            # A decoder inside which the model runs again goes on with rows of its own.
            if parent is not None and isinstance(parent.owner, Scope):
                parent.rows = frame.rows
                parent.passes += frame.passes
            if frame.owner is owner:
                break
            frame = parent
        self.frame = None if frame is None else frame.parent

    def _weights_need_a_clock(self, nonzero: Sequence[bool]) -> bool:
        """Whether gradients of weights may have error: the clock costs some fifty small kernels."""
        if not torch.is_grad_enabled():
            return False
        slots = (s.index for s in self.state.slots if s.stream == "grad_weight")
        return any(not nonzero or nonzero[index] for index in slots)

    def _offsets(self) -> Tensor | None:
        aqn = self.state.aqn
        if aqn is None:
            return None
        # With AQN's formula the gradient of a bfloat16 weight is summed in float32, so that offsets
        # of 0 would not be the clean model to the bit.
        if not torch.compiler.is_compiling() and not aqn.any():
            return None
        return aqn.offsets.clone()

    def _check(self, module: nn.Module, rows: Pass, marks: Sequence[int]) -> None:
        """Raises MissingRows if one of the sites has not run and would have had error."""
        ran = rows.ran
        missing = [mark for mark in marks if not ran[mark]]
        if not missing or self.forgiving:
            return
        # An early exit (assisted decoding) runs the first layers alone.
        depth = getattr(getattr(module, "config", None), "num_hidden_layers", None)
        nonzero = rows.nonzero_at_start  # none where the pass is compiled: scales may change later
        noisy = {s.site.name for s in self.state.slots if not nonzero or nonzero[s.index]}
        if rows.offsets is not None and self.state.aqn is not None:
            noisy |= {site.name for site in self.state.aqn.sites}
        dead = []
        for mark in missing:
            site, carrier = self.places[mark]
            skipped = depth is not None and site.layer is not None and site.layer >= depth
            if site.name in noisy and not skipped:
                dead.append((site, carrier))
        if dead:
            raise MissingRows(describe(module, dead))

    # ---- what layers ask ----

    def rows_of(self, x: Tensor, noise: Marked, *, heads: int = 1) -> Pass:
        """The pass, with the keys flat [T], for the rows of a layer's tensor x [..., N].

        Args:
            x: what the layer got.
            noise: the layer's; its sites are marked as having run.
            heads: rows of x that belong to one token.

        Raises:
            MissingRows: no forward pass of the model is running, or its rows are not x's.
        """
        frame = self.frame
        rows = None if frame is None else frame.rows
        site = noise.site
        if frame is None or rows is None:
            raise MissingRows(_outside(site.name, frame))
        if not torch.compiler.is_compiling() and not self._hooked():
            raise MissingRows(
                f"{site.name}: the hooks that tell which tokens a forward pass has are gone from "
                "the decoder; something removed its forward hooks, and the rows of an earlier "
                "pass would be taken for these. unwrap(model) and wrap it again after that."
            )
        if site.kind == "lm_head" and frame.passes > 1:
            raise MissingRows(
                f"{site.name}: the decoder ran {frame.passes} times before it in one forward "
                "pass, so nobody knows whose rows these are. Call the whole model once for "
                "each batch, or exclude this head"
            )
        for mark in noise.marks:
            rows.ran[mark] = True
        now, keep = rows.flat, frame.keep
        some = not isinstance(keep, int) or keep > 0  # of a sequence's rows are given to the head
        keys = rows.draw.keys
        if site.kind == "lm_head" and keys.dim() == 2 and some:
            kept = keys[:, -keep:] if isinstance(keep, int) else keys[:, keep]
            now = rows.of(kept.reshape(-1).contiguous())
        keys = now.draw.keys
        count = x.numel() // x.shape[-1]
        if count != keys.numel() * heads:
            raise MissingRows(
                f"{site.name} got {count} rows, but its model's forward pass has {keys.numel()} "
                f"tokens{'' if heads == 1 else f' of {heads} heads'}: their identity is unknown, "
                "and noise must not be keyed wrongly. A layer that runs on other rows than the "
                "decoder's (pooled, gathered, of images) has to be excluded."
            )
        return now if keys.device == x.device else now.on(x.device)

    def _hooked(self) -> bool:
        for hook in self.hooks:
            there = hook.hooks_dict_ref()
            if there is None or hook.id not in there:
                return False
        return True

    def _watch_updates(self, module: nn.Module) -> None:
        """Warns, once, of training whose noise step stands still: every update has one draw."""
        state = self.state
        if state.stepped or state.config.resample != "step" or not torch.is_grad_enabled():
            return
        weight = next((p for p in module.parameters() if p.requires_grad), None)
        # Tensors made under inference_mode count no versions.
        version = None if weight is None or weight.is_inference() else weight._version
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


class Scope:
    """Hooks of a module around the decoder: what runs inside it may see the rows of its pass."""

    def __init__(self, context: ForwardContext, heads: Sequence[int]) -> None:
        self.context = context
        self.heads = tuple(heads)
        """Marks of the heads that a call of this module must run."""

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook."""
        context = self.context
        context.frame = Frame(self, context.frame, keep=kwargs.get("logits_to_keep", 0))

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook, called after an exception too."""
        rows = self.context.rows
        self.context.leave(self)
        if output is not None and rows is not None and self.heads:
            self.context._check(module, rows, self.heads)


def _outside(site: str, frame: Frame | None) -> str:
    if frame is not None and frame is _THREADS:
        return (
            f"{site}: several threads run this model at once and a part of it is compiled, "
            "where their rows can't be told apart. Compile the whole model, or run one thread "
            "at a time"
        )
    return (
        f"{site} ran outside its model's forward pass, so nobody knows which tokens its "
        "rows are. Call the model, not its layers; or unwrap(model) first."
    )


def _refuse_transforms(module: nn.Module, source: Tensor | None) -> None:
    """Raises ConfigError inside what would freeze or mix up the noise."""
    if torch.jit.is_tracing():
        raise ConfigError(
            f"torch.jit.trace of a noisy {type(module).__name__}: the trace would keep this step, "
            "these scales and this switch for ever. Use torch.export or torch.compile, which read "
            "them at each call, or trace inside `with disabled(model)` after unwrap(model)"
        )
    if source is not None and torch._C._functorch.is_batchedtensor(source):
        raise ConfigError(
            f"torch.vmap over a noisy {type(module).__name__}: rows of a batch that vmap hides "
            "can't be told apart. Give the model the batch itself: model(input_ids [B, T])"
        )
