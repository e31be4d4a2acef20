"""How many compiled variants of the Triton kernels a model makes.

Triton compiles a kernel anew for each combination of what it specialises on: dtypes, and of every
argument whether it is 1 or a multiple of 16. The key of that is computed here by Triton's own
binder, without a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from hetero_plugin import random
from hetero_plugin.kernels.cuda import fused as cuda_fused
from hetero_plugin.kernels.cuda import perturb as cuda

KV, WIDTHS = 256, {"q_proj": 1536, "k_proj": 256, "v_proj": 256, "gate_proj": 8960, "norm": 1536}


class Launches:
    """Stands for a kernel: what it would be launched with becomes Triton's key of the variant."""

    def __init__(self, kernel: Any) -> None:
        backend = make_backend(GPUTarget("cuda", 90, 32))
        self.bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        self.keys: set[str] = set()
        self.launches = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **kwargs: Any) -> None:
            _, specialization, options = self.bind(*args, **kwargs)
            self.keys.add(f"{specialization} {options}")
            self.launches += 1

        return launch


@contextmanager
def counted() -> Iterator[tuple[Launches, Launches]]:
    plain, fused = Launches(cuda._perturb), Launches(cuda_fused._fused)
    before = cuda._perturb, cuda_fused._fused
    cuda._perturb, cuda_fused._fused = plain, fused
    try:
        yield plain, fused
    finally:
        cuda._perturb, cuda_fused._fused = before


def _keys(rows: int, start: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    keys = random.row_keys(torch.arange(rows + start), torch.arange(rows + start))[start:]
    return keys, torch.tensor([random.clock_key(0, 1)]), torch.full((400,), 0.05)


def _segments(layer: int, names: list[str], slot: int, offset: int = 0) -> torch.Tensor:
    rows = [
        [WIDTHS[n], random.site_key(f"model.layers.{layer}.{n}", "output"), offset, slot + i]
        for i, n in enumerate(names)
    ]
    return torch.tensor(rows)


def _model(starts: tuple[int, ...], rows: tuple[int, ...], layers: int = 28) -> None:
    """Every site of a model of 28 layers, as vLLM calls them, for some batches."""
    slot = 1
    for layer in range(layers):
        for start in starts:
            for count in rows:
                keys = _keys(count, start)
                for names in (["q_proj", "k_proj", "v_proj"], ["gate_proj", "gate_proj"], ["norm"]):
                    parts = _segments(layer, names, slot, 0 if layer % 2 else 8960)
                    x = torch.empty(count, int(parts[:, 0].sum()), dtype=torch.bfloat16)
                    cuda.perturb(x, *keys, parts, "relative_gaussian", True, in_place=True)
                act = torch.empty(count, 8960, dtype=torch.bfloat16)
                gate = torch.empty(count, 2 * 8960, dtype=torch.bfloat16)
                rest = *keys, _segments(layer, ["gate_proj"], slot), "relative_gaussian", True
                cuda_fused.gated_(act, gate, *rest, "silu")
                clean, unit = (torch.empty(count, 1536, dtype=torch.bfloat16) for _ in range(2))
                weight, offset = torch.empty(1536, dtype=torch.bfloat16), torch.empty(1536)
                rest = *keys, _segments(layer, ["norm"], slot), "relative_gaussian", True
                cuda_fused.weighed_(clean, unit, weight, offset, 0.0, False, *rest)
        slot += 7


def test_a_model_makes_one_variant_a_kernel_and_serving_none() -> None:
    """At most 3 were asked for; two fused steps are two forms of one kernel."""
    with counted() as (plain, fused):
        _model(starts=(0,), rows=(1, 16))
        assert plain.launches > 100 and fused.launches > 100
        assert len(plain.keys) == 1 and len(fused.keys) == 2
        warm = plain.keys | fused.keys
        # Odd lengths, and keys that begin at an odd row: their address is no multiple of 16.
        _model(starts=(0, 1, 7), rows=(1, 2, 7, 16, 257), layers=3)
        assert plain.keys | fused.keys == warm


def test_an_odd_width_is_the_second_variant_and_any_other_odd_one_the_same() -> None:
    keys = _keys(4)
    with counted() as (plain, _):
        for width in (1536, 1537, 33, 101, 896):
            parts = torch.tensor([[width, 5, 0, 1]])
            x = torch.empty(4, width, dtype=torch.bfloat16)
            cuda.perturb(x, *keys, parts, "relative_gaussian", True)
        assert len(plain.keys) == 2


def test_the_count_sees_what_it_is_for() -> None:
    """The same kernel without the list of what not to specialise on makes many."""
    import triton

    eager = triton.jit(cuda._perturb.fn)
    plain = Launches(eager)
    before, cuda._perturb = cuda._perturb, plain
    try:
        for slot in (1, 2, 16):
            for start in (0, 1):
                parts = torch.tensor([[256, 16 * slot, 0, slot]])
                x = torch.empty(4, 256, dtype=torch.bfloat16)
                cuda.perturb(x, *_keys(4, start), parts, "relative_gaussian", True)
    finally:
        cuda._perturb = before
    assert len(plain.keys) >= 4


@pytest.mark.gpu
def test_on_a_device_the_caches_hold_one_variant_each() -> None:
    def caches() -> int:
        return sum(
            len(entry[0])
            for kernel in (cuda._perturb, cuda_fused._fused)
            for entry in kernel.device_caches.values()
        )

    def run(rows: int, start: int, slot: int) -> None:
        keys = [t.cuda() for t in _keys(rows, start)]
        for names in (["q_proj", "k_proj", "v_proj"], ["gate_proj"], ["norm"]):
            parts = _segments(slot, names, slot)
            x = torch.zeros(rows, int(parts[:, 0].sum()), dtype=torch.bfloat16, device="cuda")
            cuda.perturb(x, *keys, parts, "relative_gaussian", False, in_place=True)

    run(16, 0, 1)
    warm = caches()
    for rows in (1, 7, 16, 33):
        for start in (0, 1, 5):
            whole = _keys(rows + start)[0].cuda()[start:]
            assert whole.data_ptr() % 16 == (8 * start) % 16
            run(rows, start, 3 + start)
            x = torch.zeros(rows, 1536, dtype=torch.bfloat16, device="cuda")
            clock, scales = (t.cuda() for t in _keys(1)[1:])
            parts = _segments(2, ["norm"], 1)
            cuda.perturb(x, whole, clock, scales, parts, "relative_gaussian", False, in_place=True)
    assert caches() == warm
