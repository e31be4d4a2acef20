"""Explanations to the bit: where a norm rounds, and how a product of matrices is added up.

Each candidate computes what a machine should have given; one that is equal to all held-out elements
of a machine explains it, and no distribution is needed. T rows, K inputs, C columns that were kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hetero_plugin.errors.accumulate import HARDWARE
from hetero_plugin.profile.recording import SiteRecord

__all__ = ["Weights", "explain", "norm_candidates", "product_candidates"]

ROWS, COLUMNS = 64, 16
"""Of a product's outputs that candidates are computed for: about 20 ns a product and candidate."""


class Weights(Protocol):
    """Reads the parameters of a site."""

    def __call__(self, site: str) -> Mapping[str, Tensor]:
        """``weight`` [N, K] and, where there is one, ``bias`` [N]; empty: not there."""


def norm_candidates(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None
) -> Iterator[tuple[str, Tensor]]:
    """An RMS norm with its casts in different places.

    Args:
        x: [T, K], in the dtype of the output.
        weight: [K].
        eps: added to the mean square.
        residual: [T, K], added to x first.

    Yields:
        Name and output [T, K].
    """
    sums = {"": x}
    if residual is not None:
        sums = {
            ", sum rounded": x + residual,
            ", sum not rounded": x.float() + residual.float(),
        }
    for said, total in sums.items():
        wide = total.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        yield f"cast before the weight{said}", weight * scaled.to(x.dtype)
        yield f"cast after the weight{said}", (weight.float() * scaled).to(x.dtype)
        divided = wide / torch.sqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        yield f"cast after the weight, divided{said}", (weight.float() * divided).to(x.dtype)
        narrow = total.to(x.dtype)
        low = narrow * torch.rsqrt(narrow.pow(2).mean(-1, keepdim=True) + eps)
        yield f"no cast to float32{said}", weight * low


def product_candidates(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    """A product of matrices as known machines add it up, rounded to x's dtype.

    Args:
        x: [T, K].
        weight: [C, K].
        bias: [C].

    Yields:
        Name and output [T, C]. With a bias each comes twice: added before and after rounding.
    """
    for name, total in _sums(x, weight):
        if bias is None:
            yield name, total.to(x.dtype)
        else:
            yield f"{name}, bias before rounding", (total + bias.float()).to(x.dtype)
            yield f"{name}, bias after rounding", total.to(x.dtype) + bias


def _sums(x: Tensor, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    from hetero_plugin.kernels.product import product

    dtype = str(x.dtype).removeprefix("torch.")
    yield "exact", (x.double() @ weight.double().T).float()
    if dtype in ("bfloat16", "float16"):
        for hardware, types in HARDWARE.items():
            if dtype in types:
                yield hardware, product(x, weight, json.dumps({"hardware": hardware}))
        yield "float32, in order", product(x, weight, "{}")


def explain(
    record: SiteRecord,
    inputs: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
    rows: Tensor,
    weights: Weights | None,
) -> dict[str, dict[str, float]] | None:
    """The share of held-out elements that each candidate equals, on each machine.

    Args:
        record: of the site: columns, norm's weight and eps.
        inputs: its inputs.
        others: machine -> output [T, C].
        rows: int64: those held out.
        weights: reads a linear layer's parameters; None: linear layers are not tried.

    Returns:
        Machine -> candidate -> share; None: nothing to try with what there is.
    """
    candidates: Callable[[], Iterator[tuple[str, Tensor]]]
    kind, columns, x = record.entry.kind, record.columns, inputs.get("x")
    if x is None or not len(rows):
        return None
    if kind == "norm" and record.weight is not None and "eps" in record.entry.extra:
        residual = inputs.get("residual")
        eps, weight = record.entry.extra["eps"], record.weight

        def candidates() -> Iterator[tuple[str, Tensor]]:
            other = None if residual is None else residual[rows]
            for name, y in norm_candidates(x[rows], weight, eps, other):
                yield name, y[:, columns]

        return _shares(candidates(), {k: y[rows] for k, y in others.items()})
    if kind in ("linear", "lm_head") and weights is not None:
        found = weights(record.entry.name)
        if "weight" not in found:
            return None
        rows, kept = rows[:ROWS], torch.arange(len(columns))[:COLUMNS]
        at = columns[kept]
        bias = found["bias"][at] if "bias" in found else None
        made = product_candidates(x[rows], found["weight"][at], bias)
        return _shares(made, {k: y[rows][:, kept] for k, y in others.items()})
    return None


def _shares(
    candidates: Iterator[tuple[str, Tensor]], others: Mapping[str, Tensor]
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {machine: {} for machine in others}
    for name, y in candidates:
        for machine, output in others.items():
            found[machine][name] = float((y.to(output.dtype) == output).double().mean())
    return found


def checkpoint_weights(folder: Path) -> Weights:
    """Reads parameters from a checkpoint's safetensors files.

    Raises:
        ConfigError: there are none.
    """
    from safetensors import safe_open

    from hetero_plugin.config import ConfigError

    where: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            where |= {name: file for name in opened.keys()}  # noqa: SIM118
    if not where:
        raise ConfigError(f"--model {folder}: it should be a folder with .safetensors files")

    def read(site: str) -> Mapping[str, Tensor]:
        found = {}
        for part in ("weight", "bias"):
            name = f"{site}.{part}"
            if name not in where and site == "lm_head" and part == "weight":
                name = "model.embed_tokens.weight"  # tied
            if name in where:
                with safe_open(where[name], framework="pt") as opened:
                    found[part] = opened.get_tensor(name)
        return found

    return read


def best(shares: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Of several sites: machine -> the candidate with the largest mean share, which is 1 only if
    it explains each of them to the bit."""
    found: dict[str, dict[str, Any]] = {}
    for machine in shares[0]:
        names = set.intersection(*(set(one[machine]) for one in shares))
        means = {n: sum(one[machine][n] for one in shares) / len(shares) for n in sorted(names)}
        if means:
            name = max(means, key=lambda n: means[n])
            exact = [n for n, share in means.items() if share == 1.0]
            found[machine] = {"candidate": name, "share": means[name], "exact": exact}
    return found
