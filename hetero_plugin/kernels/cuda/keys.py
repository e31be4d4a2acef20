"""The CUDA kernel of `hetero_plugin.kernels.keys`, in Triton."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, unused-ignore"
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=["ids_ptr", "places_ptr"])
def _row_keys(out_ptr, ids_ptr, places_ptr, n, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = row < n
    ids = tl.load(ids_ptr + row, mask=there, other=0).to(tl.int64)
    places = tl.load(places_ptr + row, mask=there, other=0).to(tl.int64)
    folded = (ids ^ (ids >> 32)) & 0xFFFFFFFF
    tl.store(out_ptr + row, folded | (places << 32), mask=there)


def row_keys_(out: Tensor, token_ids: Tensor, positions: Tensor) -> None:
    """See `hetero_plugin.kernels.keys.row_keys_`."""
    n = out.numel()
    if n == 0:
        return
    if {token_ids.device, positions.device} != {out.device}:
        raise ValueError(
            f"hetero_noise: token ids on {token_ids.device}, positions on {positions.device}, and "
            f"their keys on {out.device}"
        )
    token_ids, positions = token_ids.contiguous(), positions.contiguous()
    # Triton launches on the current device, which need not be the tensor's.
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        _row_keys[(triton.cdiv(n, BLOCK),)](out, token_ids, positions, n, BLOCK=BLOCK)
