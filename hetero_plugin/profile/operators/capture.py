"""What a Hugging Face model's operators read in a clean pass over sequences of tokens.

Each sequence is read by itself, so that none is padded; the rows of all are put one below the
other. T rows, K inputs of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hetero_plugin.config import ConfigError
from hetero_plugin.hf.norms import heads_come_first
from hetero_plugin.profile.operators.hf import HFOperators
from hetero_plugin.sites import Site

__all__ = ["captured"]

Progress = Callable[[int, int], None]


class _Pass:
    """What one pass over one sequence has read so far."""

    def __init__(self, fused: bool) -> None:
        self.fused = fused
        self.found: dict[str, dict[str, Tensor]] = {}
        self._linear: Tensor | None = None  # what the last linear layer gave
        self._stream: Tensor | None = None  # what the last norm of whole rows read
        self._act: tuple[str, Tensor] | None = None

    def linear(self, name: str, x: Tensor) -> None:
        self._find_up(x)
        self._add(name, x=x)

    def linear_done(self, y: Tensor) -> None:
        self._linear = y

    def norm(self, site: Site, module: nn.Module, x: Tensor) -> None:
        name = site.name
        if site.heads > 1:
            tokens = x.numel() // site.features
            if heads_come_first(module, x, tokens, site):
                x = x.transpose(1, 2)
            self._add(name, x=x.reshape(tokens, -1))
            return
        before, added, self._stream = self._stream, self._linear, x
        # Not by the layer's name but by what it read: to the bit the sum of these two.
        if self.fused and before is not None and added is not None and _is_sum(before, added, x):
            self._add(name, x=added, residual=before)
        else:
            self._add(name, x=x)

    def activation(self, name: str, x: Tensor) -> None:
        self._add(name, x=x)

    def activation_done(self, name: str, y: Tensor) -> None:
        self._act = (name, y)

    def attention(self, name: str, query: Tensor, key: Tensor, value: Tensor) -> None:
        parts = zip("qkv", (query, key, value), strict=True)
        self._add(name, **{one: t[0].transpose(0, 1).flatten(1) for one, t in parts})

    def _find_up(self, x: Tensor) -> None:
        """The factor of the last activation, if x is its product with what was computed last."""
        if not self.fused or self._act is None or self._linear is None:
            return
        name, y = self._act
        if x.shape == y.shape == self._linear.shape and torch.equal(y * self._linear, x):
            self.found[name]["up"] = _rows(self._linear)
            self._act = None

    def _add(self, name: str, **inputs: Tensor) -> None:
        self.found[name] = {one: _rows(t) for one, t in inputs.items()}


def _rows(x: Tensor) -> Tensor:
    return x.detach().reshape(-1, x.shape[-1]).cpu().clone()


def _is_sum(a: Tensor, b: Tensor, x: Tensor) -> bool:
    return a.shape == b.shape == x.shape and torch.equal(a + b, x)


@contextmanager
def _watched(
    model: Any, operators: HFOperators, names: Collection[str], now: Callable[[], _Pass]
) -> Iterator[None]:
    """Inside, what the operators read goes to `now`."""
    handles: list[Any] = []
    blocks: dict[int, str] = {}
    for name, operator in operators.operators.items():
        module = operators.modules[name]
        kind, wanted = operator.kind, name in names
        if kind == "attention":
            if wanted:
                blocks[id(module)] = name
            continue

        # Those that nobody asked for are watched too: they tell what was added and multiplied.
        def before(module: Any, args: Any, name: str = name, kind: str = kind) -> None:
            if kind == "norm":
                now().norm(operators.sites[name], module, args[0])
            elif kind == "activation":
                now().activation(name, args[0])
            else:
                now().linear(name, args[0])

        def after(_: Any, args: Any, y: Any, name: str = name, kind: str = kind) -> None:
            if kind == "activation":
                now().activation_done(name, y)
            elif kind == "linear":
                now().linear_done(y)

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))
    try:
        with _attention(blocks, now):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _attention(blocks: dict[int, str], now: Callable[[], _Pass]) -> Iterator[None]:
    """Inside, what transformers' sdpa attention reads in these blocks goes to `now`."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def watch(
        module: Any, query: Tensor, key: Tensor, value: Tensor, *more: Any, **how: Any
    ) -> Any:
        if id(module) in blocks:
            now().attention(blocks[id(module)], query, key, value)
        return sdpa_attention_forward(module, query, key, value, *more, **how)

    if not blocks:
        yield
        return
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS["sdpa"] = watch
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = before


@torch.no_grad()
def captured(
    model: Any,
    operators: HFOperators,
    names: Collection[str],
    sequences: Sequence[Sequence[int]],
    fused: bool = False,
    progress: Progress = lambda done, of: None,
) -> dict[str, dict[str, Tensor]]:
    """The inputs of operators, in the order of the forward pass.

    Args:
        model: the one that the operators are of.
        operators: from `operators_of`.
        names: sites whose inputs are wanted.
        sequences: token ids of each.
        fused: of a norm that reads a sum, the two addends (`x`, `residual`), and of an activation
            that is multiplied, its factor too (`up`): what engines with fused kernels read.
        progress: called with the number of sequences read and of all.

    Returns:
        Name -> input -> [T, K], on the CPU.

    Raises:
        ConfigError: an operator was not run, or not in every sequence with the same inputs.
    """
    device = next(model.parameters()).device
    passes: list[_Pass] = []
    with _watched(model, operators, names, lambda: passes[-1]):
        for done, ids in enumerate(sequences):
            progress(done, len(sequences))
            passes.append(_Pass(fused))
            model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False)
    progress(len(sequences), len(sequences))
    first = passes[0].found
    missing = [name for name in names if name not in first]
    if missing:
        raise ConfigError(
            f"{len(missing)} operators did not run in the model's forward pass: "
            f"{', '.join(missing[:4])}; leave them out with --targets"
        )
    found: dict[str, dict[str, Tensor]] = {}
    for name in first:
        if name not in names:
            continue
        if any(one.found[name].keys() != first[name].keys() for one in passes):
            raise ConfigError(f"{name}: reads other tensors in some sequences than in others")
        found[name] = {
            key: torch.cat([one.found[name][key] for one in passes]) for key in first[name]
        }
    return found
