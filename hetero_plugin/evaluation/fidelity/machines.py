"""A model of Hugging Face as it is, as another machine, and with a profile, end to end."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.errors.profile import load_profile
from hetero_plugin.evaluation import checkpoints
from hetero_plugin.evaluation.fidelity.batch import Progress, next_logits
from hetero_plugin.evaluation.fidelity.panel import LEAST_WINDOWS, Rows, token_rows
from hetero_plugin.evaluation.fidelity.text import batches, read_windows
from hetero_plugin.evaluation.fidelity.three import side_by_side
from hetero_plugin.profile.operators.base import Operator
from hetero_plugin.profile.operators.hf import operators_of
from hetero_plugin.profile.operators.variants import Variant, variant

__all__ = ["as_machine", "check_profile", "checked_kinds", "compared"]

BATCH = 4
_ONE_INPUT = ("linear", "lm_head", "norm", "activation")


@contextmanager
def as_machine(
    model: nn.Module, machine: Variant, kinds: Sequence[str] = _ONE_INPUT
) -> Iterator[None]:
    """Within, the model's operators of these kinds are computed as another machine computes them.

    Attention stays as it is: a variant that changes it can't be checked so.

    Raises:
        ConfigError: no operator of these kinds.
    """
    # A twin with the same parameters: what an operator runs must not be what is replaced.
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    found = operators_of(twin, (1,), 1 << 30)
    chosen = {
        name: one
        for name, one in found.operators.items()
        if one.kind in kinds and one.kind in _ONE_INPUT
    }
    if not chosen:
        raise ConfigError(f"{', '.join(kinds)}: the model has no such operators to be changed")
    paths = {id(module): path for path, module in twin.named_modules()}
    before: dict[str, Any] = {}
    try:
        for name, operator in chosen.items():
            path = paths[id(found.modules[name])]
            module = model.get_submodule(path)
            before[path] = module.__dict__.get("forward")
            module.forward = _forward(machine.change(operator))
        with machine.around():
            yield
    finally:
        for path, forward in before.items():
            module = model.get_submodule(path)
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _forward(operator: Operator) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        y = operator.run({"x": x.reshape(-1, operator.k)})
        return (
            y.reshape(*x.shape[:-1], y.shape[-1]) if y.numel() != x.numel() else y.reshape(x.shape)
        )

    return forward


def compared(
    model: nn.Module,
    windows: Sequence[Tensor],
    machine: Variant,
    noise: NoiseConfig,
    kinds: Sequence[str] = _ONE_INPUT,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`side_by_side` of a model as it is, as another machine, and with an error.

    Args:
        model: of Hugging Face, not wrapped, in evaluation mode; it is left as it was.
        windows: token ids, int64 [T], T >= 2; at least 8.
        machine: what B does.
        noise: the profile's rule, or any other.
        kinds: of operators that B computes in its way.
        progress: called with what is being done, and how far.
    """
    from hetero_plugin.hf import unwrap, wrap

    groups = batches(windows, BATCH)
    found: list[dict[str, Rows]] = []
    plain: list[Tensor] = []
    other: list[Tensor] = []
    with torch.no_grad():
        for batch in groups:
            plain.append(next_logits(model, batch))
        with as_machine(model, machine, kinds):
            for done, batch in enumerate(groups):
                _tell(progress, "machine B", done, len(groups))
                other.append(next_logits(model, batch))
        wrap(model, noise)
        try:
            for done, batch in enumerate(groups):
                _tell(progress, "A with the profile", done, len(groups))
                noisy = next_logits(model, batch)
                for i in range(len(batch)):
                    a, b, p, targets = plain[done][i], other[done][i], noisy[i], batch[i, 1:]
                    found.append(
                        {
                            "a_b": token_rows(a, b, targets),
                            "a_profile": token_rows(a, p, targets),
                            "profile_b": token_rows(p, b, targets),
                        }
                    )
        finally:
            unwrap(model)
    return side_by_side(found)


def checked_kinds(profile: str) -> list[str]:
    """The kinds that a profile is checked at unless others are named: those that it has a table of,
    but for the head and attention.

    Raises:
        ConfigError: no such profile, or it has none of them.
    """
    found = load_profile(profile)
    kinds = {table.kind for table in found.tables}
    chosen = [kind for kind in _ONE_INPUT if kind in kinds and kind != "lm_head"]
    if not chosen:
        raise ConfigError(
            f"{profile}: has {found.contents or 'no table'}, and nothing of linear, norm or "
            "activation, which are checked by default; name what to check with --targets"
        )
    return chosen


def check_profile(
    model_path: Path,
    text: Path,
    profile: str,
    word: str,
    *,
    kinds: Sequence[str],
    tokens: int = 1024,
    context: int = 64,
    seed: int = 0,
    dtype: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The end-to-end check of a profile, against the machine that this one can be made to be.

    Args:
        model_path: folder of a clean checkpoint.
        text: a UTF-8 file; best one that the profile was not recorded on.
        profile: its file, or the name of one that is shipped.
        word: of ``profile record --as``: what machine B does.
        kinds: of the operators that B computes in its way, and that the profile is drawn at.
        tokens, context: of the text, and of a window.
        seed: of the draws.
        dtype: as for ``from_pretrained``.
        progress: called with what is being done, and how far.

    Raises:
        ConfigError: a bad checkpoint, text, profile or word.
    """
    from transformers import AutoModelForCausalLM

    machine = variant(word)
    noise = NoiseConfig(
        seed=seed,
        rules=[
            {
                "targets": list(kinds),
                "exclude": [] if "lm_head" in kinds else ["lm_head"],
                "error": "profile",
                "path": profile,
                "direction": "forward",
                "scale": 1,
            }
        ],
    )
    checkpoints.check_clean(model_path, noise)
    read = read_windows(model_path, text, tokens=tokens, context=context, least=LEAST_WINDOWS)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype).eval()
    found = compared(model, read.windows, machine, noise, kinds, progress)
    return {
        "model": str(model_path),
        "model_sha256": checkpoints.weights_digest(model_path),
        "text": str(text),
        "text_sha256": read.sha256,
        "context": context,
        "machine": word,
        "kinds": list(kinds),
        "spec": json.loads(noise.canonical),
        "fingerprint": noise.fingerprint,
        **found,
    }


def _tell(progress: Progress | None, what: str, done: int, of: int) -> None:
    if progress is not None:
        progress(what, done, of)
