"""Command-line arguments: ``--hetero-noise-scale``, ``-config`` and ``-attest``."""

from __future__ import annotations

import argparse
import copy
import math
from typing import Any

from hetero_plugin.config import METHOD, ConfigError, NoiseConfig
from hetero_plugin.vllm.serve import self_attest
from hetero_plugin.vllm.spec import ARGUMENT

SCALE, CONFIG = "--hetero-noise-scale", "--hetero-noise-config"


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"got {text!r}; it must be a finite number >= 0")
    return value


def _config(text: str) -> NoiseConfig:
    """The specification, which is not parsed again in this process, nor where the arguments go."""
    try:
        return NoiseConfig.parse(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments; a parser that has them already is left alone."""
    if SCALE in parser._option_string_actions:
        return
    group = parser.add_argument_group(
        title="hetero_noise",
        description=f"Numerical error of other hardware. {SCALE} or {CONFIG} alone selects "
        f"--quantization {METHOD}.",
    )
    group.add_argument(
        SCALE,
        type=_scale,
        default=None,
        metavar="S",
        help="Relative error of every linear layer but lm_head, with this scale (5e-2 is 5 %%).",
    )
    group.add_argument(
        CONFIG,
        type=_config,
        default=None,
        metavar="SPEC",
        help="A specification: path of a .json or .yaml file, JSON text, or the name of a preset.",
    )

    group.add_argument(
        self_attest.ARGUMENT,
        action="store_true",
        default=False,
        help="A server proves that each site is noisy before it takes requests, and does not start "
        "if it can't; GET /v1/hetero_noise shows the proof.",
    )


def merge(args: argparse.Namespace) -> argparse.Namespace:
    """Turns the arguments into ``quantization`` and ``additional_config``; the input is kept.

    Raises:
        ConfigError: both are given, or another quantization is.
    """
    scale = getattr(args, "hetero_noise_scale", None)
    config = getattr(args, "hetero_noise_config", None)
    attest = getattr(args, "hetero_noise_attest", False)
    if scale is None and config is None and not attest:
        return args
    if scale is not None and config is not None:
        raise ConfigError(
            f"{SCALE} {scale:g} and {CONFIG} are both given; put the scale into the specification"
        )
    given: Any = getattr(args, "additional_config", None) or {}
    if not isinstance(given, dict):
        raise ConfigError(f"--additional-config is {given!r}; it must be a JSON object")
    merged = copy.copy(args)
    if attest:
        given = merged.additional_config = {**given, self_attest.KEY: True}
    if scale is None and config is None:
        return merged
    chosen = getattr(args, "quantization", None)
    if chosen not in (None, METHOD):
        raise ConfigError(
            f"{SCALE if config is None else CONFIG} needs --quantization {METHOD}, and "
            f"--quantization {chosen} is given; leave that out"
        )
    merged.quantization = METHOD
    merged.additional_config = {
        **given,
        ARGUMENT: {"scale": scale} if config is None else config,
    }
    return merged
