"""The registry of error models: what is known of each, but for its arithmetic.

All parts of the package read this one table: rules and their schema, the operator, the kernels. It
is here, above them all and without torch, since specifications are checked in processes that
compute nothing. The arithmetic is in the folder `errors`, under the same name; see
docs/error_models.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["BLENDS", "ERROR_MODELS", "FORMATS", "KEYS", "REGISTRY", "ErrorTraits"]


@dataclass(frozen=True, kw_only=True)
class ErrorTraits:
    """What is known of an error model without its arithmetic.

    Attributes:
        name: the word used in a rule's ``error``.
        formula: for people. x is the clean value, s the scale, z a standard normal, u uniform in
            ±√3, Q(x) the value that a number format holds, P(x, W) a product of matrices.
        additive: the arithmetic gives the error to add, and the sum is rounded stochastically by
            default; of a model that is not (truncation, a number format) it gives the new value,
            which rounds by itself and is rounded to nearest.
        draws: what z is: ``normal``, ``uniform``, ``rounding`` (16 random bits, of a format that
            rounds stochastically) or None, for an error that is not random.
        kernel: its number in the native kernels, C++ and Triton; None: it runs as tensor
            operations, or is a number format, which the kernels know by its numbers
            (errors/formats/numbers.py).
        whole_row: the error of an element depends on the others of its row, so that a rank with a
            share of the columns can't compute it. On other rows it may never depend: a row's error
            is its own, in any batch.
        block: the error of an element depends on so many columns from a multiple of them on; 0: it
            does not. A rank's share must begin and end at such a multiple.
        block_rows: the same of rows, of a weight's tiles; 1: rows don't matter to one another.
        whole_tensor: the error of an element depends on the others of its tensor: for weights alone
            (a token's would depend on its batch), and not where ranks have shares of one.
        absolute: the scale is in the units of what the error is added to. Gradients are far smaller
            than activations, so such an error is forward alone unless a rule says otherwise.
        blend: the scale goes from 0, the clean value, to 1, the error itself, which it is where a
            rule leaves it out; forward alone unless a rule says otherwise.
        number_format: the model is what a number format does to a tensor: a blend, and forward in
            any case.
        of_product: the error is that of a product of matrices and needs its operands, not its
            result (`hetero_plugin.operator.Product`).
        measured: drawn from a table of a file (`hetero_plugin.config.profile`): a blend, of outputs
            and forward in any case.
        keys: keys of a rule, beyond those that every model reads, that this one reads.
        relative_of: not a word of rules: the model of this name with ``relative: true``.
    """

    name: str
    formula: str
    additive: bool
    draws: Literal["normal", "uniform", "rounding"] | None = None
    kernel: int | None = None
    whole_row: bool = False
    block: int = 0
    block_rows: int = 1
    whole_tensor: bool = False
    absolute: bool = False
    blend: bool = False
    number_format: bool = False
    of_product: bool = False
    measured: bool = False
    keys: tuple[str, ...] = ()
    relative_of: str | None = None

    @property
    def native(self) -> bool:
        """Whether the native kernels know it."""
        return self.kernel is not None


def _format(name: str, what: str, block: int, *, options: bool = True, **more: Any) -> ErrorTraits:
    """A number format; ``block``: columns that share a scale, 0: the whole row."""
    return ErrorTraits(
        name=name,
        formula=f"s·(Q(x) − x): {what}",
        additive=False,
        whole_row=block == 0,
        block=block,
        blend=True,
        number_format=True,
        keys=(*("options",) * options, "ste", "gradient_rounding"),
        **more,
    )


_TABLE = (
    ErrorTraits(
        name="relative_gaussian", formula="z·|x|·s", additive=True, draws="normal", kernel=0
    ),
    ErrorTraits(
        name="absolute_gaussian",
        formula="z·s",
        additive=True,
        draws="normal",
        kernel=1,
        absolute=True,
    ),
    ErrorTraits(
        name="relative_uniform", formula="u·|x|·s", additive=True, draws="uniform", kernel=5
    ),
    ErrorTraits(
        name="systematic_bias",
        formula="sign(x)·s, or sign(x)·|x|·s with relative: true",
        additive=True,
        kernel=2,
        absolute=True,
        keys=("relative",),
    ),
    ErrorTraits(
        name="systematic_bias_relative",
        formula="sign(x)·|x|·s",
        additive=True,
        kernel=3,
        relative_of="systematic_bias",
    ),
    ErrorTraits(
        name="truncation", formula="floor(x/s)·s − x", additive=False, kernel=4, absolute=True
    ),
    ErrorTraits(
        name="deadzone",
        formula="−x where |x| < s·max|x|, else 0",
        additive=False,
        whole_row=True,
    ),
    # As they are without options, which give others (errors/number_formats.py).
    _format("nvfp4", "E2M1 in blocks of 16", 0, whole_tensor=True),
    _format("mxfp4", "E2M1 in blocks of 32", 32),
    _format("mxfp6_e2m3", "E2M3 in blocks of 32", 32),
    _format("mxfp6_e3m2", "E3M2 in blocks of 32", 32),
    _format("mxfp8_e4m3", "E4M3 in blocks of 32", 32),
    _format("mxfp8_e5m2", "E5M2 in blocks of 32", 32),
    _format("hif4", "HiF4 in blocks of 64", 64, options=False),
    _format("int4", "4-bit integers in groups of 128", 128),
    _format("fp8_e4m3", "E4M3 with a scale a row", 0),
    _format("fp8_e5m2", "E5M2 with a scale a row", 0),
    _format("int8", "8-bit integers with a scale a row", 0),
    ErrorTraits(
        name="accumulate",
        formula="s·(P(x, W) − x·Wᵀ): the product added up as options say",
        additive=False,
        blend=True,
        of_product=True,
        keys=("options",),
    ),
    ErrorTraits(
        name="profile",
        formula="with probability s a difference in ulps that was measured, drawn by ulp(x) / RMS",
        additive=False,
        whole_row=True,
        blend=True,
        measured=True,
        keys=("path", "digest"),
    ),
)

REGISTRY: dict[str, ErrorTraits] = {traits.name: traits for traits in _TABLE}
"""Every error model by its name."""

ERROR_MODELS: dict[str, str] = {
    name: traits.formula for name, traits in REGISTRY.items() if traits.relative_of is None
}
"""The words that a rule's ``error`` may be, with their formulas."""

FORMATS = tuple(name for name, traits in REGISTRY.items() if traits.number_format)
"""Number formats. Their scale is 1 where it is not given: the format itself, x + 1·(Q(x) − x)."""

BLENDS = tuple(name for name, traits in REGISTRY.items() if traits.blend)
"""Errors whose scale is from 0, the clean value, to 1, the error itself; 1 where none is given."""

KEYS: dict[str, tuple[str, ...]] = {
    key: tuple(name for name, traits in REGISTRY.items() if key in traits.keys)
    for key in sorted({key for traits in REGISTRY.values() for key in traits.keys})
}
"""Keys of a rule that not every error model reads, such as ``relative``, with those that do."""
