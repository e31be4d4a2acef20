"""Addressed random numbers: keys in, bits, uniforms, normals out; nothing is stateful."""

from hetero_plugin.random.keys import (
    batch_key,
    clock_key,
    expert_keys,
    mix64,
    mix64_tensor,
    row_keys,
    seed_base,
    signed,
    site_key,
)
from hetero_plugin.random.numbers import (
    GROUP,
    ROUNDS,
    UNIFORM,
    coin_bits,
    normal,
    normal_bits,
    philox,
    rounding_bits,
    uniform,
    uniform_bits,
)

__all__ = [
    "GROUP",
    "ROUNDS",
    "UNIFORM",
    "batch_key",
    "clock_key",
    "coin_bits",
    "expert_keys",
    "mix64",
    "mix64_tensor",
    "normal",
    "normal_bits",
    "philox",
    "rounding_bits",
    "row_keys",
    "seed_base",
    "signed",
    "site_key",
    "uniform",
    "uniform_bits",
]
