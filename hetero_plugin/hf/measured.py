"""What an attestation can see of the error itself, in a Hugging Face model in eager mode.

A knock-in shows that a site reaches the output. It doesn't show that the error has its size, that
it is there once, that rows differ, or that layers differ: a run with one key for all rows passes
it. Those are looked at here, in one pass at the configured scales over the fixed prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.attestation.expected import probe_prompts
from hetero_plugin.attestation.formats import Checks, FormatLook, format_word
from hetero_plugin.attestation.profiles import ProfileLook, profile_rule
from hetero_plugin.attestation.sums import Realised
from hetero_plugin.errors.resolution import half_ulp
from hetero_plugin.hf.experts import weights_of
from hetero_plugin.hf.names import decoder_of, layers_of
from hetero_plugin.hf.rows import Pass
from hetero_plugin.hf.wrap import attachment_of
from hetero_plugin.operator import record
from hetero_plugin.state import NoiseState
from hetero_plugin.state.profiles import profile_word

_COLUMNS = 512  # of a site that are compared with other rows' and sites'
_ALIKE = 0.5  # correlation of two draws; independent ones have about 1/sqrt(columns)
_LOW, _HIGH = 0.8, 1.25  # realised size over asked: three thousand elements settle it within 5 %


class _Seen:
    """What one site added in the pass."""

    def __init__(self) -> None:
        self.sums = Realised()
        self.calls = 0
        self.z: Tensor | None = None


def measure(model: Any, state: NoiseState, *, forward: Any = None) -> tuple[dict[str, Any], Checks]:
    """Realised error by kind, and what is wrong with it.

    Args:
        model: wrapped, in eager mode, its phase set.
        state: the model's.
        forward: what to call instead of the model, such as what shards it.

    Returns:
        (kind -> ``asked``, ``rms_relative``, ``changed``, ``sites``; checks (name, passed,
        detail)). Sizes are compared where one Gaussian rule alone has the site.
    """
    ids = torch.tensor(probe_prompts(int(model.config.vocab_size)), device=state.device)
    rules = {
        chosen.site.name: [rule for _, rule in chosen.rules if rule.phase in ("both", state.phase)]
        for chosen in state.selected
    }
    kinds = {chosen.site.name: chosen.site.kind for chosen in state.selected}
    seen: dict[str, _Seen] = {}
    formats = {
        (chosen.site.name, stream): found
        for chosen in state.selected
        for stream in ("input", "output", "weight")
        if (found := format_word(rules[chosen.site.name], stream, chosen.site)) is not None
    }
    attachment = attachment_of(model)
    assert attachment is not None
    # An adapter that is switched off does not run, and needs not.
    optional = {one.site.name for one in attachment.found if one.optional}
    look = FormatLook({f"{name} ({stream})" for name, stream in formats if name not in optional})
    profiles = {
        chosen.site.name: (
            profile_word(index, rule, chosen.site, state.config.seed),
            rule.scale,
        )
        for chosen in state.selected
        if (rule := profile_rule(rules[chosen.site.name])) is not None
        for index, one in chosen.rules
        if one is rule
    }
    measured = ProfileLook({name for name in profiles if name not in optional})

    def note(names: tuple[str, ...], stream: str, before: Tensor, after: Tensor) -> None:
        format = formats.get((names[0], stream)) if len(names) == 1 else None
        if format is not None:
            look.add(f"{names[0]} ({stream})", *format, before, after)
        if stream == "output" and len(names) == 1 and names[0] in profiles:
            measured.add(names[0], *profiles[names[0]], before, after)
        if stream not in ("input", "output") or len(names) != 1:
            return
        one = seen.setdefault(names[0], _Seen())
        one.calls += 1
        one.sums.add(before, after)
        if one.z is None and len(rules.get(names[0], ())) == 1:
            width = min(before.shape[-1], _COLUMNS)
            x = before.detach()[..., :width].reshape(-1, width).double()
            y = after.detach()[..., :width].reshape(-1, width).double()
            one.z = torch.where(x != 0, (y - x) / x.abs(), 0.0)  # the error is z·|x|·s

    training = model.training
    model.eval()
    run = model if forward is None else forward
    try:
        with record(note), _keys_seen(model) as plain, torch.no_grad():
            run(input_ids=ids, use_cache=False)
        padded, mask = _left_padded(ids)
        with _keys_seen(model) as left, torch.no_grad():
            run(input_ids=padded, attention_mask=mask, use_cache=False)
    finally:
        model.train(training)
    checks: Checks = [
        _rows_are_the_tokens("rows are known by token and position", plain, ids),
        _rows_are_the_tokens("rows are known under left padding", left, padded, mask),
    ]
    relative = {
        name: rules[name][0].scale
        for name in seen
        if name in rules
        and len(rules[name]) == 1
        and rules[name][0].error in ("relative_gaussian", "relative_uniform")
        and rules[name][0].scale > 0
    }
    if relative:
        checks += _check_sizes(relative, seen, next(model.parameters()).dtype)
        checks += _check_independence({name: seen[name].z for name in relative})
    return _by_kind(seen, kinds, rules), checks + look.checks() + measured.checks()


def weights_are_present(model: Any, state: NoiseState) -> Checks:
    """Whether weights that were computed once are of the weights there now; nothing without any.

    Args:
        model: wrapped, its phase set.
        state: the model's.
    """
    attachment = attachment_of(model)
    assert attachment is not None
    now = Pass(state.draw, state.nonzero, None, in_force=state.in_force)
    held, stale = 0, []
    for module in attachment.modules:
        for noise, weight in weights_of(module):
            if now.needs(noise.weight):
                held += noise.held.nbytes > 0
                if not noise.held.is_current(noise.weight, weight, now, noise.sharing):
                    stale.append(noise.site.name)
    if not held and not stale:
        return []
    name = "weights with error are of the present weights"
    return [(name, not stale, "; ".join(stale[:8]) or f"{held} layers")]


@contextmanager
def _keys_seen(model: Any) -> Iterator[list[Tensor]]:
    """The keys that the decoder's first layer has, in the passes inside."""
    seen: list[Tensor] = []
    attachment = attachment_of(model)
    assert attachment is not None
    context = attachment.context

    def look(*_: Any) -> None:
        if context.rows is not None:
            seen.append(context.rows.draw.keys.clone())

    handle = layers_of(decoder_of(model)[1])[0].register_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def _left_padded(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Two prompts of unequal length as one batch, and its attention mask; both [2, T]."""
    batch = ids[:1].repeat(2, 1)
    mask = torch.ones_like(batch)
    half = ids.shape[1] // 2
    mask[1, :half] = 0
    batch[1, half:] = ids[0, : ids.shape[1] - half]
    return batch, mask


def _rows_are_the_tokens(
    name: str, seen: list[Tensor], ids: Tensor, mask: Tensor | None = None
) -> tuple[str, bool, str]:
    """Whether the keys that the layers read are those of the prompts' tokens and positions."""
    if not seen:
        return name, False, "no layer was told which tokens its rows are"
    keys, mask = seen[0], torch.ones_like(ids) if mask is None else mask
    real = mask.bool()
    expected = random.row_keys(ids, mask.cumsum(-1) - 1)
    right = keys.shape == expected.shape and bool((keys == expected)[real].all())
    return name, right, f"{int(torch.unique(keys).numel())} different keys of {ids.numel()} rows"


def _check_sizes(asked: dict[str, float], seen: dict[str, _Seen], dtype: torch.dtype) -> Checks:
    twice = [name for name in asked if seen[name].calls > 1]
    wrong = []
    for name, scale in asked.items():
        rms = seen[name].sums.summary()["rms_relative"]
        # Rounding adds its own error; under the dtype's resolution it is larger than the scale.
        bound = _HIGH * scale + 2 * half_ulp(dtype)
        if rms is None or not _LOW * scale <= rms <= bound:
            wrong.append(f"{name} has {0.0 if rms is None else rms:.3g} and was asked {scale:g}")
    return [
        ("error once a site", not twice, f"twice: {', '.join(twice[:8])}" if twice else "all"),
        ("realised error is what was asked", not wrong, "; ".join(wrong[:8]) or "all sites"),
    ]


def _check_independence(draws: dict[str, Tensor | None]) -> Checks:
    alike_rows: list[str] = []
    by_width: dict[torch.Size, list[tuple[str, Tensor]]] = {}
    for name, z in draws.items():
        if z is None or z.shape[0] < 2:
            continue
        if _correlation(z[1:], z[:-1]) > _ALIKE:
            alike_rows.append(name)
        by_width.setdefault(z.shape, []).append((name, z))
    alike_sites = [
        f"{one} and {two}"
        for group in by_width.values()
        for (one, a), (two, b) in pairwise(group)
        if _correlation(a, b) > _ALIKE
    ]
    return [
        ("rows differ", not alike_rows, _alike(alike_rows)),
        ("sites differ", not alike_sites, _alike(alike_sites)),
    ]


def _alike(names: list[str]) -> str:
    return f"the same error in: {', '.join(names[:8])}" if names else "independent"


def _correlation(a: Tensor, b: Tensor) -> float:
    """|cosine| of two draws of mean zero."""
    norm = float((a * a).sum().sqrt() * (b * b).sum().sqrt())
    return abs(float((a * b).sum())) / norm if norm > 0 else 0.0


def _by_kind(
    seen: dict[str, _Seen], kinds: dict[str, str], rules: dict[str, Any]
) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    sums: dict[str, Realised] = {}
    for name, one in seen.items():
        kind = kinds.get(name, "unknown")
        row = rows.setdefault(kind, {"sites": 0, "asked": 0.0})
        row["sites"] += 1
        row["asked"] = max([row["asked"], *(rule.scale for rule in rules.get(name, ()))])
        sums.setdefault(kind, Realised()).merge(one.sums)
    for kind, row in rows.items():
        found = sums[kind].summary()
        for key in ("rms_relative", "changed"):
            value = found[key]
            row[key] = None if value is None or not math.isfinite(value) else value  # NaN: no JSON
    return rows
