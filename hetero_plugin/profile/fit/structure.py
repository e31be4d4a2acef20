"""Explanations to the bit: where a norm rounds, and how a product of matrices is added up.

Each candidate computes what a machine should have given; one that is equal to all held-out elements
of a machine explains it, and no distribution is needed. T rows, K inputs, C columns that were kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from hetero_plugin.errors.accumulate import HARDWARE
from hetero_plugin.profile.recording import SiteRecord

__all__ = ["Tried", "Weights", "best", "explain", "norm_candidates", "product_candidates"]

ROWS, COLUMNS = 64, 16
"""Of a product's outputs that candidates are computed for: about 20 ns a product and candidate."""


DIFFER = 20
"""Elements that must differ between the machines for a matrix unit to be told from another: where
both gave the same, nearly all candidates give it too."""


@dataclass(frozen=True)
class Tried:
    """Candidates for one site.

    Args:
        shares: machine -> candidate -> share of elements that it equals.
        elements: of each.
        differ: of these, where the machines differ.
        rare: candidates are told apart only where machines differ.
    """

    shares: dict[str, dict[str, float]]
    elements: int
    differ: int
    rare: bool


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
) -> Tried | None:
    """The share of held-out elements that each candidate equals, on each machine.

    Of a product, of the rows and columns with most elements that differ between the machines.

    Args:
        record: of the site: columns, norm's weight and eps.
        inputs: its inputs.
        others: machine -> output [T, C].
        rows: int64: those held out.
        weights: reads a linear layer's parameters; None: linear layers are not tried.

    Returns:
        None: nothing to try with what there is.
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

        return _shares(candidates(), {k: y[rows] for k, y in others.items()}, rare=False)
    if kind in ("linear", "lm_head") and weights is not None:
        found = weights(record.entry.name)
        if "weight" not in found:
            return None
        one, two = others.values()
        differ = one[rows] != two[rows]
        kept = differ.sum(0).argsort(descending=True, stable=True)[:COLUMNS]
        rows = rows[differ[:, kept].sum(1).argsort(descending=True, stable=True)[:ROWS]]
        at = columns[kept]
        bias = found["bias"][at] if "bias" in found else None
        made = product_candidates(x[rows], found["weight"][at], bias)
        return _shares(made, {k: y[rows][:, kept] for k, y in others.items()}, rare=True)
    return None


def _shares(
    candidates: Iterator[tuple[str, Tensor]], others: Mapping[str, Tensor], rare: bool
) -> Tried:
    found: dict[str, dict[str, float]] = {machine: {} for machine in others}
    for name, y in candidates:
        for machine, output in others.items():
            found[machine][name] = float((y.to(output.dtype) == output).double().mean())
    one, two = others.values()
    return Tried(found, one.numel(), int((one != two).sum()), rare)


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


def best(tried: Sequence[Tried]) -> dict[str, dict[str, Any]]:
    """Of several sites: machine -> the ``candidate`` with the largest mean ``share``, all that are
    ``exact`` in all of them, of how many ``elements``, and at how many the machines ``differ``.

    A candidate that says where a bias or a sum is rounded is, at a site that has none, the one that
    does not say it.
    """
    found: dict[str, dict[str, Any]] = {}
    elements, differ = sum(one.elements for one in tried), sum(one.differ for one in tried)
    told = differ >= DIFFER or not any(one.rare for one in tried)
    for machine in tried[0].shares:
        of = [one.shares[machine] for one in tried]
        means = {}
        for name in dict.fromkeys(name for one in of for name in one):
            shares = [one.get(name, one.get(_stem(name))) for one in of]
            known = [share for share in shares if share is not None]
            if len(known) == len(of):
                means[name] = sum(known) / len(of)
        if means:
            name = max(means, key=lambda name: means[name])
            exact = [name for name, share in means.items() if share == 1.0] if told else []
            found[machine] = {
                "candidate": name,
                "share": means[name],
                "exact": exact,
                "elements": elements,
                "differ": differ,
            }
    return found


def _stem(name: str) -> str:
    """A candidate's name without what it says of a bias or of a sum."""
    return name.split(", bias ")[0].split(", sum ")[0]
