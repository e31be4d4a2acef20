"""The generator: known answers, one set of bits in every implementation, normality, independence.

Statistical tests run on fixed seeds, so they can't flicker; "false alarm" is the probability that a
perfect generator would have failed on a seed drawn at random.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from hetero_plugin import random
from hetero_plugin.evaluation import streams
from hetero_plugin.evaluation.streams import ORDERS, stream_bytes
from hetero_plugin.kernels import KERNEL, reference

CLOCK = random.clock_key(11, 3)
SITE = random.site_key("model.layers.0.self_attn.q_proj", "output")


def draw(
    rows: torch.Tensor,
    columns: int,
    kind: int,
    *,
    clock: int = CLOCK,
    site: int = SITE,
    start: int = 0,
) -> torch.Tensor:
    like = torch.full_like(rows, clock), torch.full_like(rows, site)
    return torch.ops.hetero_noise.stream(*like, rows, start, columns, kind)


def test_philox_known_answers() -> None:
    """Vectors of the authors' Random123 distribution, ten rounds."""
    full = torch.full((1,), 0xFFFFFFFF)
    zero = torch.zeros(1, dtype=torch.int64)

    def words(counter: torch.Tensor, key: torch.Tensor) -> list[int]:
        return [int(w) for w in random.philox((counter,) * 4, (key,) * 2, rounds=10)]

    assert words(zero, zero) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert words(full, full) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_mix64_of_tensors_is_mix64() -> None:
    values = [0, 1, -1, 2**63 - 1, -(2**63), 123456789, CLOCK]
    expected = [random.signed(random.mix64(v)) for v in values]
    assert random.mix64_tensor(torch.tensor(values)).tolist() == expected


@pytest.mark.parametrize(
    "start,columns", [(0, 128), (0, 1000), (77, 300), (448, 64), (5, 1), (125, 1), (1 << 31, 40)]
)
@pytest.mark.parametrize("kind", [0, 1, 3, 4])
def test_the_kernel_draws_the_reference_bits(start: int, columns: int, kind: int) -> None:
    if KERNEL == "reference":
        pytest.skip("no native kernel on this machine: no compiler")
    rows = random.row_keys(torch.arange(37) * 1_000_003, torch.arange(37))
    clocks, sites = torch.full_like(rows, CLOCK) + torch.arange(37), torch.full_like(rows, SITE)
    args = clocks, sites, rows, start, columns, kind
    assert torch.equal(torch.ops.hetero_noise.stream(*args), reference.stream(*args))


def test_any_window_of_columns_is_the_same_columns() -> None:
    rows = torch.arange(3)
    whole = draw(rows, 1024, 0)
    for start, n in [(0, 16), (100, 200), (512, 512), (1023, 1)]:
        assert torch.equal(draw(rows, n, 0, start=start), whole[:, start : start + n])


def test_normals_against_float64() -> None:
    """2.5e-4 is the spacing of sqrt(-2 ln u) at u = 1 - 2**-24, the worst case by far."""
    rows = torch.arange(1000)
    z = draw(rows, 1000, 2).double()
    exact = random.normal(torch.tensor([CLOCK]), torch.tensor([SITE]), rows, 0, 1000, torch.float64)
    error = (z - exact).abs()
    assert error.max() < 2.5e-4
    assert error.square().mean().sqrt() < 2e-6


@pytest.mark.slow
def test_normals_are_normal() -> None:
    """10**8 normals: moments, Kolmogorov-Smirnov, tails. False alarm about 1e-5 altogether."""
    n_rows, columns = 10_000, 10_000
    n = n_rows * columns
    z = draw(torch.arange(n_rows), columns, 2).reshape(-1)
    mean, variance = z.mean(dtype=torch.float64).item(), z.double().square().mean().item()
    fourth = sum(float(part.double().pow(4).sum()) for part in z.split(1 << 24)) / n
    assert abs(mean) < 5 / math.sqrt(n)
    assert abs(variance - 1) < 5 * math.sqrt(2 / n)
    assert abs(fourth - 3) < 5 * math.sqrt(96 / n)
    for sigma in (3.0, 4.0, 5.0):
        expected = n * 2 * stats.norm.sf(sigma)
        seen = int((z.abs() > sigma).sum())
        assert abs(seen - expected) < 5 * math.sqrt(expected) + 1, f"beyond {sigma} sigma"
    assert float(z.abs().max()) > 5.3
    array = z.numpy()
    array.sort()
    worst = 0.0
    for first in range(0, n, 1 << 24):
        part = array[first : first + (1 << 24)]
        rank = (np.arange(first, first + len(part)) + 0.5) / n
        cdf = torch.special.ndtr(torch.from_numpy(part).double()).numpy()
        worst = max(worst, float(np.abs(cdf - rank).max()))
    assert stats.kstwobign.sf(worst * math.sqrt(n)) > 1e-6


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Correlation of two samples of normals, in standard deviations of it."""
    return float((a.double() * b.double()).mean() * math.sqrt(a.numel()))


def test_neighbours_are_independent() -> None:
    """Neighbouring keys of every sort, z and z**2: 28 checks at 5.5 sigma, false alarm 1e-6."""
    rows, columns = torch.arange(1000) << 32, 1024
    base = draw(rows, columns, 2)
    others = {
        "next column": base.roll(-1, 1),
        "paired column (j + 16)": base.roll(-16, 1),
        "next slot pair (j + 32)": base.roll(-32, 1),
        "next group (j + 128)": base.roll(-128, 1),
        "next position": draw(rows + (1 << 32), columns, 2),
        "next token": draw(rows + 1, columns, 2),
        "same token, far position": draw(rows + (4096 << 32), columns, 2),
        "next step": draw(rows, columns, 2, clock=random.clock_key(11, 4)),
        "never": draw(rows, columns, 2, clock=random.clock_key(11, None)),
        "next seed": draw(rows, columns, 2, clock=random.clock_key(12, 3)),
        "next layer": draw(
            rows, columns, 2, site=random.site_key("model.layers.1.self_attn.q_proj", "output")
        ),
        "sibling": draw(
            rows, columns, 2, site=random.site_key("model.layers.0.self_attn.k_proj", "output")
        ),
        "direction": draw(
            rows, columns, 2, site=random.site_key("model.layers.0.self_attn.q_proj", "grad_input")
        ),
        "rule": draw(
            rows, columns, 2, site=random.site_key("model.layers.0.self_attn.q_proj", "output", 1)
        ),
    }
    for name, other in others.items():
        assert abs(_correlation(base, other)) < 5.5, name
        squares = _correlation(base.square() - 1, other.square() - 1) / 2
        assert abs(squares) < 5.5, f"{name}, squares"
        assert not torch.equal(base, other), name


def test_rounding_bits_are_uniform_and_apart_from_the_normals() -> None:
    """Chi-square over 256 bins at 1e-6; correlation with the normal of the element at 5.5 sigma."""
    rows = torch.arange(1000)
    bits = draw(rows, 1024, 1)
    for shift in (0, 8):
        counts = torch.bincount(((bits >> shift) & 255).reshape(-1), minlength=256)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-6
    centred = (bits.double() - 32767.5) / 18918.0
    assert abs(_correlation(centred, draw(rows, 1024, 2))) < 5.5


@pytest.mark.slow
def test_uniforms_are_uniform() -> None:
    """4·10**7 uniforms: moments at 5 standard errors, Kolmogorov-Smirnov at 1e-6, every bit of the
    word at 5.5 sigma. False alarm about 2e-6 altogether."""
    n_rows, columns = 4000, 10_000
    n = n_rows * columns
    u = draw(torch.arange(n_rows), columns, 4).reshape(-1).double()
    assert u.abs().max() < 1
    assert abs(u.mean()) < 5 / math.sqrt(3 * n)
    assert abs(u.square().mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / n)
    assert abs(u.pow(3).mean()) < 5 / math.sqrt(7 * n)
    assert abs(u.pow(4).mean() - 1 / 5) < 5 * math.sqrt((1 / 9 - 1 / 25) / n)
    ranked, _ = u.sort()
    rank = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    worst = float(((ranked + 1) / 2 - rank).abs().max())
    assert stats.kstwobign.sf(worst * math.sqrt(n)) > 1e-6
    words = draw(torch.arange(n_rows), columns, 3).reshape(-1)
    for bit in range(32):
        ones = int(((words >> bit) & 1).sum())
        assert abs(ones - n / 2) < 5.5 * math.sqrt(n) / 2, bit


def test_uniforms_are_exact_in_float32() -> None:
    rows = torch.arange(100)
    at = torch.tensor([CLOCK]), torch.tensor([SITE]), rows, 3, 500
    exact = random.uniform(*at, torch.float64)
    assert torch.equal(random.uniform(*at).double(), exact)
    assert torch.equal(draw(rows, 500, 4, start=3).double(), exact)
    assert torch.equal(exact * 2**23, torch.round(exact * 2**23))


def test_no_word_serves_two_purposes() -> None:
    """Normals, uniforms and rounding of one address: other words, and none related to another
    (correlations at 5.5 sigma, six checks)."""
    rows, columns = torch.arange(1000), 1024
    at = torch.tensor([CLOCK]), torch.tensor([SITE]), rows[:50], 0, columns
    normal, uniform = random.normal_bits(*at), random.uniform_bits(*at)
    both = torch.cat([normal.reshape(-1), uniform.reshape(-1)])
    assert both.unique().numel() >= both.numel() - 5  # chance: 1.2 pairs of 10**5 words
    u = draw(rows, columns, 4).double() * math.sqrt(3)
    z = draw(rows, columns, 2).double()
    bits = (draw(rows, columns, 1).double() - 32767.5) / 18918.0
    for name, other in {"normals": z, "rounding": bits, "next column": u.roll(-1, 1)}.items():
        assert abs(_correlation(u, other)) < 5.5, name
        squares = (u.square() - 1) / math.sqrt(0.8), other.square() - other.square().mean()
        assert abs(_correlation(squares[0], squares[1] / squares[1].std())) < 5.5, name


@pytest.mark.slow
def test_collisions_are_as_expected() -> None:
    """64-bit words of 2**24 different keys, in four orders: no two equal (expected 8e-6 each)."""
    n = 1 << 24
    zero = torch.zeros(n, dtype=torch.int64)
    i = torch.arange(n)
    orders = {
        "positions": (zero + CLOCK, zero + SITE, i << 32),
        "tokens": (zero + CLOCK, zero + SITE, i),
        "steps": (streams.clock_of_step(3, i), zero + SITE, zero + 7),
        "seeds": (streams.clock_of_seed(i, 3), zero + SITE, zero + 7),
    }
    for name, keys in orders.items():
        words = torch.ops.hetero_noise.stream(*keys, 0, 32, 0)[:, ::16].to(torch.int64)
        joined = (words[:, 0] << 32) | (words[:, 1] & 0xFFFFFFFF)
        assert joined.unique().numel() == n, name
    # 32-bit words do collide, as often as chance has it.
    first = draw(torch.arange(1 << 17), 1, 0).reshape(-1)
    expected = (1 << 17) ** 2 / 2 / 2**32
    assert abs((1 << 17) - first.unique().numel() - expected) < 5 * math.sqrt(expected) + 3


def test_keys_of_real_models_are_distinct() -> None:
    """Sites, streams, rules, steps of a large model: 64-bit clocks and site keys do not clash."""
    leaves = ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "input_layernorm", "self_attn"]
    names = [f"model.layers.{n}.{leaf}" for n in range(128) for leaf in leaves]
    kinds = ["output", "input", "weight", "grad_input", "grad_weight"]
    sites = {random.site_key(*key) for key in itertools.product(names, kinds, range(3))}
    assert len(sites) == len(names) * len(kinds) * 3
    clocks = {random.clock_key(seed, step) for seed in range(40) for step in [None, *range(2000)]}
    assert len(clocks) == 40 * 2001


def test_row_keys_tell_tokens_and_positions_apart() -> None:
    ids = torch.tensor([5, 7, 6, 2**31 + 5, 2**32 - 1])
    keys = random.row_keys(ids[:, None], torch.arange(4)[None, :] * 100_000)
    assert keys.unique().numel() == keys.numel()
    assert random.row_keys(torch.tensor([3]), torch.tensor([9])).item() == 3 + (9 << 32)


def test_batch_key_ignores_order_and_sees_content() -> None:
    keys = random.row_keys(torch.arange(100), torch.arange(100))
    assert random.batch_key(keys) == random.batch_key(keys.flip(0))
    other = keys.clone()
    other[5] += 1
    assert random.batch_key(keys) != random.batch_key(other)


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_every_order_streams_the_same_bytes_twice_and_others_for_another_seed(order: str) -> None:
    def read(seed: int) -> bytes:
        return b"".join(stream_bytes(order, seed, 100_001))

    assert len(read(1)) == 100_001
    assert read(1) == read(1) != read(2)
    ones = np.unpackbits(np.frombuffer(read(1), dtype=np.uint8)).mean()
    assert abs(ones - 0.5) < 5.5 * 0.5 / math.sqrt(800_000)
