"""What one machine can be made to be: other settings, or another way to compute an operator.

Pairs of these on one machine show what a profile of two machines looks like, and two of them have
an answer that is known beforehand: ``accumulate:…`` and ``gaussian:…``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.config import ConfigError
from hetero_plugin.errors.accumulate import HARDWARE
from hetero_plugin.profile.operators.base import Inputs, Operator

__all__ = ["VARIANTS", "Variant", "variant"]

VARIANTS = {
    "plain": "as it is",
    "fp32-gemm": "linear layers with float32 operands and sums, rounded to the dtype",
    "no-onednn": "without oneDNN",
    "threads:N": "with N threads",
    "compiled": "each operator through torch.compile",
    "rows:N": "N rows at a time; attention as it is",
    "accumulate:HARDWARE": "linear layers as another matrix unit adds them up",
    "gaussian:S": "relative Gaussian error of scale S on every output, a control",
}
"""Word of ``--as`` -> what it does; N a whole number, S a number."""
LINEAR = ("linear", "lm_head")


@dataclass(frozen=True)
class Variant:
    """A machine that this one can be made to be.

    Args:
        name: as the user wrote it.
        around: makes the settings of the process under which everything is computed.
        change: operator -> the operator that is run in its place; columns that it does not keep
            may be computed as before.
    """

    name: str
    around: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    change: Callable[[Operator], Operator] = lambda operator: operator


def variant(word: str) -> Variant:
    """The variant of a word of ``--as``.

    Raises:
        ConfigError: there is none, or its number is none.
    """
    name, colon, value = word.partition(":")
    made = {
        "plain": lambda: Variant(word),
        "fp32-gemm": lambda: Variant(word, _float32, _wide),
        "no-onednn": lambda: Variant(word, _without_onednn),
        "compiled": lambda: Variant(word, change=_compiled),
        "threads": lambda: _threads(word, _count(word, value)),
        "rows": lambda: _rows(word, _count(word, value)),
        "accumulate": lambda: _accumulate(word, value),
        "gaussian": lambda: _gaussian(word, value),
    }
    takes_value = any(one.startswith(f"{name}:") for one in VARIANTS)
    if name not in made or bool(colon) != takes_value:
        raise ConfigError(
            f"--as {word!r}: should be one of {', '.join(VARIANTS)}, with a number or a name after "
            "the colon"
        )
    return made[name]()


def _count(word: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= 4096:
        raise ConfigError(f"--as {word!r}: what follows the colon should be a number, 1 to 4096")
    return int(value)


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _wide(operator: Operator) -> Operator:
    if operator.kind not in LINEAR:
        return operator
    weight, bias = _matrix(operator)

    def run(inputs: Inputs) -> Tensor:
        y = inputs["x"].float() @ weight.float().T
        return (y if bias is None else y + bias.float()).to(weight.dtype)

    return replace(operator, run=run)


def _matrix(operator: Operator) -> tuple[Tensor, Tensor | None]:
    if operator.weight is None:
        raise ConfigError(f"{operator.name}: this engine does not give its matrix to a variant")
    return operator.weight, operator.bias


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def _threads(word: str, count: int) -> Variant:
    @contextlib.contextmanager
    def around() -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    return Variant(word, around)


def _compiled(operator: Operator) -> Operator:
    made: list[Callable[[Inputs], Tensor]] = []

    def run(inputs: Inputs) -> Tensor:
        if not made:
            # Of all operators that were compiled before, none is run again; the compiler would
            # count them against this one, and stop compiling after eight.
            torch._dynamo.reset()
            made.append(torch.compile(operator.run, fullgraph=True, dynamic=False))
        return made[0](inputs)

    return replace(operator, run=run)


def _rows(word: str, count: int) -> Variant:
    def change(operator: Operator) -> Operator:
        if operator.kind == "attention":
            return operator  # each sequence is a call of its own already

        def run(inputs: Inputs) -> Tensor:
            names = list(inputs)
            parts = zip(*(inputs[name].split(count) for name in names), strict=True)
            return torch.cat([operator.run(dict(zip(names, part, strict=True))) for part in parts])

        return replace(operator, run=run)

    return Variant(word, change=change)


def _accumulate(word: str, hardware: str) -> Variant:
    if hardware not in HARDWARE:
        raise ConfigError(f"--as {word!r}: the hardware should be one of {', '.join(HARDWARE)}")
    how = json.dumps({"hardware": hardware})

    def change(operator: Operator) -> Operator:
        if operator.kind not in LINEAR:
            return operator
        from hetero_plugin.kernels.product import product

        weight, bias = _matrix(operator)
        kept = operator.columns.to(weight.device)

        def run(inputs: Inputs) -> Tensor:
            y = operator.run(inputs).clone()
            try:
                value = product(inputs["x"], weight[kept], how)
            except ValueError as error:
                raise ConfigError(f"--as {word!r}: {operator.name}: {error}") from None
            if bias is not None:
                value = value + bias[kept].float()
            y[:, kept] = value.to(y.dtype)
            return y

        return replace(operator, run=run)

    return Variant(word, change=change)


def _gaussian(word: str, value: str) -> Variant:
    try:
        scale = float(value)
    except ValueError:
        scale = -1.0
    if not 0 < scale <= 10:
        raise ConfigError(f"--as {word!r}: what follows the colon should be a number over 0, to 10")

    def change(operator: Operator) -> Operator:
        key = random.site_key(operator.name, "recording gaussian")

        def run(inputs: Inputs) -> Tensor:
            import hetero_plugin.kernels  # noqa: F401  (defines the operator)

            y = operator.run(inputs).contiguous()
            rows = torch.arange(len(y), device=y.device)
            noisy: Tensor = torch.ops.hetero_noise.perturb(
                y,
                random.row_keys(rows, rows),
                torch.zeros(1, dtype=torch.int64, device=y.device),
                torch.tensor([scale], device=y.device),
                torch.tensor([[y.shape[-1], key, 0, 0]]),
                "relative_gaussian",
                True,
            )
            return noisy

        return replace(operator, run=run)

    return Variant(word, change=change)
