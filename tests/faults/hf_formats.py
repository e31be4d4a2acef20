"""Faults of number formats: the operator computes something that is no format, or another one.

A knock-in passes all of them, since each changes the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hetero_plugin import NoiseConfig
from hetero_plugin.errors.formats.grid import E2M1, E4M3, exponent, power_of_two
from hetero_plugin.errors.formats.micro import mx, nvfp4
from hetero_plugin.errors.formats.scaled import fp8
from hetero_plugin.evaluation.faults import _chains, _noises
from hetero_plugin.hf.probe import HFProbe
from hetero_plugin.kernels import reference
from tests.faults.models import attested, tiny
from tests.faults.registry import fault

SITES = {"targets": ["*.1.mlp.*_proj"]}
BITS, AGAIN = "values are the reference's", "rounding again changes nothing"


def operator_of(function: Callable[[Tensor], Tensor], *words: str, **rule: Any) -> str:
    """The words of an attestation where the operator computes ``function`` as its format."""
    probe = HFProbe.wrapping(tiny(), NoiseConfig(**SITES, **rule))
    for _, noise in _noises(probe.model):
        for chain in _chains(noise):
            for stage in chain.stages:
                stage.native = False  # the reference stands for whatever kernel there is
    right = reference.error_model

    def wrong(name: str) -> Any:
        model = right(name)

        def blended(x: Tensor, scale: Tensor, z: Tensor | None) -> Tensor:
            return x + scale * (function(x) - x)

        return replace(model, function=blended) if model.number_format else model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "error_model", wrong)
        return attested(probe, *words)


@fault(
    "the format: blocks along the axis that the product does not sum over",
    "MXFP4 on transposed weights",
    "refused: no block's values are of one grid, and a second rounding changes them",
    by="attestation",
    engine="hf",
)
def format_along_the_wrong_axis() -> str:
    return operator_of(
        lambda x: mx(x.T.contiguous(), E2M1).T.contiguous(),
        *("different values in a block, of a grid of 15", AGAIN, BITS),
        **{"error": "mxfp4", "point": "weight"},
    )


@fault(
    "NVFP4's scale: that of another tensor",
    "weights rounded under a scale of the tensor that is 1.3 times theirs",
    "refused: values are not the reference's",
    by="attestation",
    engine="hf",
)
def scale_of_another_tensor() -> str:
    return operator_of(
        lambda x: nvfp4(x, float(2688.0 / (1.3 * x.abs().max()))),
        *(BITS, "model.layers.1.mlp.down_proj (weight)"),
        **{"error": "nvfp4", "point": "weight"},
    )


@fault(
    "FP8's scale: that of a rank's share of the row",
    "each half of a row has a scale of its own, as two ranks would give it",
    "refused: values are not the reference's",
    by="attestation",
    engine="hf",
)
def scale_of_a_share_of_the_row() -> str:
    return operator_of(
        lambda x: fp8(x, E4M3, x.shape[-1] // 2),
        *(BITS, "up_proj (input)"),
        **{"error": "fp8_e4m3", "point": "input"},
    )


@fault(
    "the format: blocks that begin a column late",
    "MXFP4 in blocks from column 1 on",
    "refused: a block holds values of two grids",
    by="attestation",
    engine="hf",
)
def block_edge_off_by_one() -> str:
    return operator_of(
        lambda x: mx(x.roll(-1, dims=-1), E2M1).roll(1, dims=-1),
        *(BITS, AGAIN),
        **{"error": "mxfp4", "point": "weight"},
    )


def _unsaturated(x: Tensor, amax: float) -> Tensor:
    scale = amax / E4M3.largest
    steps = power_of_two(exponent(x / scale).clamp(min=E4M3.smallest) - E4M3.mantissa)
    return torch.round(x / scale / steps) * steps * scale


@fault(
    "FP8's saturation: values beyond the calibrated largest come out larger than the format's",
    "FP8 with a calibrated maximum of 0.05, rounded without saturation",
    "refused: signal to noise is better than the format can have",
    by="attestation",
    engine="hf",
)
def saturation_off() -> str:
    options = {"granularity": "tensor", "amax": 0.05}
    return operator_of(
        lambda x: _unsaturated(x, 0.05),
        *(BITS, "signal to noise is the reference's", "expected"),
        **{"error": "fp8_e4m3", "point": "weight", "options": options},
    )


@fault(
    "determinism: the same input has another error each time",
    "the operator adds 1 % of noise to what the format gives",
    "refused: not the same twice, and not the reference's",
    by="attestation",
    engine="hf",
)
def a_format_with_noise_in_it() -> str:
    return operator_of(
        lambda x: mx(x, E2M1) * (1 + 0.01 * torch.randn_like(x)),
        *("the same input has the same error", "different values in a block"),
        **{"error": "mxfp4", "point": "input"},  # a weight is rounded once, and twice the same
    )


@fault(
    "a weight's format: computed, and never looked at",
    "a layer's weight is multiplied past its operator",
    "refused, with the site and the point",
    by="attestation",
    engine="hf",
)
def a_format_that_never_ran() -> str:
    probe = HFProbe.wrapping(tiny(), NoiseConfig(**SITES, error="mxfp4", point="weight"))
    layer = probe.model.model.layers[1].mlp.up_proj
    next(n for m, n in _noises(probe.model) if m is layer).weight.stages.clear()
    return attested(probe, "each was looked at: did not run: model.layers.1.mlp.up_proj (weight)")
