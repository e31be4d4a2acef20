"""What number formats would do to a checkpoint's activations on a text: the size of the error.

The clean model reads the text; each operator's tensor is rounded beside it, and goes on unrounded.
A linear layer's is its input, which a product in 4 bits would read; of a norm, an activation and
attention it is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hetero_plugin.config import FORMATS as RULES
from hetero_plugin.config import NoiseConfig
from hetero_plugin.errors import error_model
from hetero_plugin.errors.formats import FORMATS, Format
from hetero_plugin.evaluation.formats import Measured, measure, summary

__all__ = ["INPUTS", "activation_format", "measure_activations", "measure_text"]

INPUTS = ("linear", "lm_head", "router")
"""Kinds whose input is measured; of others it is the result."""
Progress = Callable[[int, int], None]


def activation_format(name: str) -> Format:
    """A format as a rule has it at activations: NVFP4 with a scale a row, and so on.

    Args:
        name: as in `hetero_plugin.errors.formats.FORMATS`.
    """
    form = FORMATS[name]
    if name not in RULES:  # bfloat16 and float16 are no rule's
        return form
    model = error_model(NoiseConfig(error=name, point="input").rules[0].word)
    return replace(form, apply=lambda x: model.function(x, torch.tensor(1.0), None))


class _Sums:
    """What has been measured, by site and format."""

    def __init__(self, formats: Sequence[str]) -> None:
        self.formats = [activation_format(name) for name in formats]
        self.found: dict[tuple[str, str], Measured] = {}
        self._last: tuple[Tensor | None, list[Measured]] = (None, [])

    def add(self, site: str, kind: str, x: Tensor) -> None:
        if self._last[0] is not x:  # q, k and v read the same tensor
            wide = x.detach().reshape(-1, x.shape[-1])
            self._last = (x, [measure(site, kind, wide, form) for form in self.formats])
        for one in self._last[1]:
            made = replace(one, site=site, kind=kind)
            key = (site, one.format)
            before = self.found.get(key)
            self.found[key] = made if before is None else _joined(before, made)


def _joined(one: Measured, two: Measured) -> Measured:
    return replace(summary([one, two], one.site), kind=one.kind)


@contextmanager
def _watched(model: nn.Module, layers: Sequence[int], sums: _Sums) -> Iterator[None]:
    """Inside, what the model computes is measured."""
    from hetero_plugin.hf.discover import discover

    handles: list[Any] = []
    for one in discover(model):
        name, kind = one.site.name, one.site.kind
        if (layers and one.site.layer not in layers) or kind == "attention_scores":
            continue

        def before(module: Any, args: Any, name: str = name, kind: str = kind) -> None:
            sums.add(name, kind, args[0])

        def after(module: Any, args: Any, y: Any, name: str = name, kind: str = kind) -> None:
            sums.add(name, kind, y)

        plain = isinstance(one.module, nn.Linear)
        if kind in INPUTS or kind == "attention":
            if not plain:  # the operators of experts are no modules
                continue
            handles.append(one.module.register_forward_pre_hook(before))
        else:
            handles.append(one.module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def measure_activations(
    model: Any,
    windows: Sequence[Tensor],
    formats: Sequence[str],
    layers: Sequence[int] = (),
    progress: Progress = lambda done, of: None,
) -> list[Measured]:
    """Each operator's activations in each format, over all windows.

    Args:
        model: a clean causal language model.
        windows: token ids, int64 [T]; each is read by itself.
        formats: names in `hetero_plugin.errors.formats.FORMATS`.
        layers: only these; none: all, and what is outside them.
        progress: called with the number of windows read and of all.

    Returns:
        One of each site and format, in the order of the pass.
    """
    sums = _Sums(formats)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with _watched(model, layers, sums):
            for done, window in enumerate(windows):
                progress(done, len(windows))
                model(input_ids=window[None].to(device), use_cache=False)
            progress(len(windows), len(windows))
    finally:
        model.train(training)
    return list(sums.found.values())


def measure_text(
    folder: Path,
    text: Path,
    formats: Sequence[str],
    *,
    tokens: int,
    context: int,
    layers: Sequence[int] = (),
    progress: Progress = lambda done, of: None,
) -> tuple[list[Measured], int]:
    """A checkpoint's activations on the beginning of a text.

    Args:
        folder: of the checkpoint, with its tokenizer.
        text: a UTF-8 file.
        tokens: of its beginning: bounds the cost.
        context: of a window; each is read by itself.

    Returns:
        As `measure_activations`; and how many tokens were read.

    Raises:
        ConfigError: the text, the tokenizer or the settings can't be used.
    """
    from transformers import AutoModelForCausalLM

    from hetero_plugin.evaluation.fidelity.text import read_windows

    read = read_windows(folder, text, tokens=tokens, context=context)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    found = measure_activations(model, read.windows, formats, layers, progress)
    return found, sum(len(window) for window in read.windows)
