"""The CUDA kernel, in Triton: one pass over the tensor, integers as in `hetero_plugin.random`.

A program takes one row and BLOCK generator blocks of one segment. A block is three Philox calls for
eight columns, sixteen apart; sixteen neighbouring threads load sixteen neighbouring columns. Keys
and scales are read from device tensors and segments are scalars of the launch, so nothing waits for
the host and a captured graph follows later settings.

Logarithm, sine and cosine are the CPU kernel's polynomials: device intrinsics lose the logarithm
near 1. Launched with fused multiply-add off, for TwoSum's sake; the polynomials ask for it.

`TRITON_INTERPRET=1` runs this on a CPU, which is how its arithmetic is tested without a GPU.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, unused-ignore"
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

MODELS = {
    "relative_gaussian": 0,
    "absolute_gaussian": 1,
    "systematic_bias": 2,
    "systematic_bias_relative": 3,
    "truncation": 4,
}
BLOCK = 128
SEGMENTS = 4
"""Segments of one launch; a tensor of more takes more launches."""


@triton.jit
def _philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-7 on uint32."""
    for _ in tl.static_range(7):
        h0 = tl.umulhi(c0, 0xD2511F53)
        l0 = c0 * 0xD2511F53
        h1 = tl.umulhi(c2, 0xCD9E8D57)
        l1 = c2 * 0xCD9E8D57
        c0 = h1 ^ c1 ^ k0
        c1 = l1
        c2 = h0 ^ c3 ^ k1
        c3 = l0
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _minus_two_log(u):
    """-2 ln(u), u in (0, 1] (coefficients as in Cephes logf, S. Moshier)."""
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    e = exponent.to(tl.float32)
    p = tl.fma(f, 7.0376836292e-2, -1.1514610310e-1)
    p = tl.fma(p, f, 1.1676998740e-1)
    p = tl.fma(p, f, -1.2420140846e-1)
    p = tl.fma(p, f, 1.4249322787e-1)
    p = tl.fma(p, f, -1.6668057665e-1)
    p = tl.fma(p, f, 2.0000714765e-1)
    p = tl.fma(p, f, -2.4999993993e-1)
    p = tl.fma(p, f, 3.3333331174e-1)
    f2 = f * f
    # e * ln 2 in two parts, so that small results near u = 1 keep their bits.
    y = tl.fma(p, f2 * f, e * -2.12194440e-4)
    y = y - 0.5 * f2 + f
    return -2.0 * tl.fma(e, 0.693359375, y)


@triton.jit
def _box_muller(radius_word, angle_word):
    """Two uint32 words -> two independent standard normals."""
    u = tl.fma(radius_word.to(tl.float32), 2.3283064365386963e-10, 1.1641532182693481e-10)
    radius = tl.sqrt_rn(tl.abs(_minus_two_log(u)))
    quadrant = (angle_word + 0x20000000) >> 30
    rest = (angle_word - (quadrant << 30)).to(tl.int32, bitcast=True)
    x = rest.to(tl.float32) * 1.4629180792671596e-9  # 2 pi / 2^32
    x2 = x * x
    s = tl.fma(x2, -1.9515295891e-4, 8.3321608736e-3)  # Cephes sinf, cosf on [-pi/4, pi/4]
    s = tl.fma(s, x2, -1.6666654611e-1)
    s = tl.fma(s * x2, x, x)
    c = tl.fma(x2, 2.443315711809948e-5, -1.388731625493765e-3)
    c = tl.fma(c, x2, 4.166664568298827e-2)
    c = tl.fma(c * x2, x2, -0.5 * x2) + 1.0
    odd = (quadrant & 1) != 0
    a = tl.where(odd, s, c)
    b = tl.where(odd, c, s)
    a = tl.where(((quadrant + 1) & 2) != 0, -a, a)
    b = tl.where((quadrant & 2) != 0, -b, b)
    return radius * a, radius * b


@triton.jit
def _special(bits):
    """Whether float32 bits (uint32) are infinite or not a number."""
    return (bits & 0x7F800000) == 0x7F800000


@triton.jit
def _to_bf16(value, r, STOCHASTIC: tl.constexpr):
    """The uint16 of value in bfloat16; r: 16 random bits."""
    bits = value.to(tl.uint32, bitcast=True)
    kept = tl.where(value != value, bits | 0x00400000, bits)  # a NaN's payload could round away
    up = r if STOCHASTIC else 0x7FFF + ((bits >> 16) & 1)
    return (tl.where(_special(bits), kept, bits + up) >> 16).to(tl.uint16)


@triton.jit
def _to_f16(value, r, STOCHASTIC: tl.constexpr):
    if STOCHASTIC:
        bits = value.to(tl.uint32, bitcast=True)
        normal = ((bits + (r >> 3)) & 0xFFFFE000).to(tl.float32, bitcast=True)
        # Below 2^-14 float16 is a fixed-point format with step 2^-24.
        tiny = tl.abs(value) < 6.103515625e-05
        whole = tl.floor(tl.abs(value) * 16777216.0 + r.to(tl.float32) * 1.52587890625e-05)
        fixed = whole * 5.960464477539063e-08
        fixed = (fixed.to(tl.uint32, bitcast=True) | (bits & 0x80000000)).to(
            tl.float32, bitcast=True
        )
        value = tl.where(_special(bits), value, tl.where(tiny, fixed, normal))
    return value.to(tl.float16)


@triton.jit
def _to_f32(value, clean, error, r, STOCHASTIC: tl.constexpr):
    if STOCHASTIC:
        virtual = value - clean  # TwoSum (Knuth): value + lost == clean + error
        lost = (clean - (value - virtual)) + (error - virtual)
        bits = value.to(tl.uint32, bitcast=True)
        away = (lost > 0.0) == (value > 0.0)
        neighbour = tl.where(away, bits + 1, bits - 1).to(tl.float32, bitcast=True)
        gap = tl.abs(neighbour - value)
        move = tl.abs(lost) * 65536.0 > r.to(tl.float32) * gap
        move = move & (lost != 0.0) & (value != 0.0) & (_special(bits) == 0)
        value = tl.where(move, neighbour, value)
    return value


@triton.jit
def _float(raw, DTYPE: tl.constexpr):
    """float32 of a stored element; bfloat16 is stored as int16."""
    if DTYPE == 0:
        x = (raw.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        x = raw.to(tl.float32)
    return x


@triton.jit
def _nearest(value, DTYPE: tl.constexpr):
    """A stored element of float32, rounded to nearest."""
    if DTYPE == 0:
        y = _to_bf16(value, value, False).to(tl.int16, bitcast=True)
    elif DTYPE == 1:
        y = value.to(tl.float16)
    else:
        y = value
    return y


@triton.jit
def _with_error(
    raw, z, r, scale, MODEL: tl.constexpr, DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr
):
    """A stored element with its error; at scale 0 itself."""
    x = _float(raw, DTYPE)
    if MODEL == 0:
        error = z * scale * tl.abs(x)
    elif MODEL == 1:
        error = z * scale
    elif MODEL == 2:
        error = tl.where(x > 0.0, scale, tl.where(x < 0.0, -scale, x))
    elif MODEL == 3:
        error = x * scale
    else:
        error = x
    if MODEL == 4:
        cut = tl.floor(tl.div_rn(x, scale)) * scale
        value = tl.where(_special(cut.to(tl.uint32, bitcast=True)), x, cut)
    else:
        value = x + error
    # A phase-bound rule whose phase nobody set: the host can't be told from here, so the result is
    # one that nobody can overlook.
    value = tl.where(scale != scale, scale, value)
    ROUND: tl.constexpr = STOCHASTIC and MODEL != 4
    if DTYPE == 0:
        y = _to_bf16(value, r, ROUND).to(tl.int16, bitcast=True)
    elif DTYPE == 1:
        y = _to_f16(value, r, ROUND)
    else:
        y = _to_f32(value, x, error, r, ROUND)
    return tl.where(scale == 0.0, raw, y)


@triton.jit
def _draw(block, call: tl.constexpr, c1, c2, c3, key0, key1, scale, MODEL: tl.constexpr):
    """Four standard normals of each block; where the model draws none, anything."""
    za, zb, zc, zd = scale, scale, scale, scale
    if MODEL < 2:
        r0, r1, r2, r3 = _philox(block + (call << 30), c1, c2, c3, key0, key1)
        za, zb = _box_muller(r0, r1)
        zc, zd = _box_muller(r2, r3)
    return za, zb, zc, zd


@triton.jit
def _perturb(
    x_ptr, y_ptr, keys_ptr, clock_ptr, scales_ptr, N: tl.int64, first: tl.int64,
    w0: tl.int64, k0: tl.int64, o0: tl.int64, s0: tl.int64, e0: tl.int64,
    w1: tl.int64, k1: tl.int64, o1: tl.int64, s1: tl.int64, e1: tl.int64,
    w2: tl.int64, k2: tl.int64, o2: tl.int64, s2: tl.int64, e2: tl.int64,
    w3: tl.int64, k3: tl.int64, o3: tl.int64, s3: tl.int64, e3: tl.int64,
    MODEL: tl.constexpr, DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Segment i: width wi, site key ki, global first column oi, slot si, programs end at ei."""
    row = tl.program_id(0).to(tl.int64)
    program = tl.program_id(1).to(tl.int64)
    # Which segment this program works on, and where that starts in the row.
    width, site, offset, slot, begin, at = w0, k0, o0, s0, e0 * 0, first
    if program >= e0:
        width, site, offset, slot, begin, at = w1, k1, o1, s1, e0, first + w0
    if program >= e1:
        width, site, offset, slot, begin, at = w2, k2, o2, s2, e1, first + w0 + w1
    if program >= e2:
        width, site, offset, slot, begin, at = w3, k3, o3, s3, e2, first + w0 + w1 + w2
    scale = tl.load(scales_ptr + slot)
    clock = tl.load(clock_ptr)
    key = tl.load(keys_ptr + row)
    index = (program - begin) * BLOCK + (offset // 128) * 16 + tl.arange(0, BLOCK)
    column = (index // 16) * 128 + index % 16 - offset  # of slot 0, within the segment
    base = row * N + at + column
    block = index.to(tl.uint32)
    key0 = (clock ^ (site >> 32)).to(tl.uint32)
    key1 = (clock >> 32).to(tl.uint32)
    c1 = tl.zeros([BLOCK], tl.uint32) + key.to(tl.uint32)
    c2 = tl.zeros([BLOCK], tl.uint32) + (key >> 32).to(tl.uint32)
    c3 = tl.zeros([BLOCK], tl.uint32) + site.to(tl.uint32)
    b0, b1, b2, b3 = block, block, block, block
    if STOCHASTIC and MODEL != 4:
        b0, b1, b2, b3 = _philox(block + 0x80000000, c1, c2, c3, key0, key1)
    for call in tl.static_range(2):
        za, zb, zc, zd = _draw(block, call, c1, c2, c3, key0, key1, scale, MODEL)
        ra = b0 if call == 0 else b2
        rb = b1 if call == 0 else b3
        for pair in tl.static_range(2):
            word = ra if pair == 0 else rb
            for half in tl.static_range(2):
                z = (za if half == 0 else zb) if pair == 0 else (zc if half == 0 else zd)
                r = (word & 0xFFFF) if half == 0 else (word >> 16)
                step = (call * 4 + pair * 2 + half) * 16
                mask = (column + step >= 0) & (column + step < width)
                raw = tl.load(x_ptr + base + step, mask=mask, other=0)
                y = _with_error(raw, z, r, scale, MODEL, DTYPE, STOCHASTIC)
                tl.store(y_ptr + base + step, y, mask=mask)


_DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}


def perturb(
    x: Tensor,
    row_keys: Tensor,
    clock: Tensor,
    scales: Tensor,
    segments: Tensor,
    error: str,
    stochastic: bool,
    *,
    in_place: bool = False,
) -> Tensor:
    """See `hetero_plugin.perturb.perturb`, which this implements; ``in_place`` writes to x.

    Raises:
        TypeError: a dtype other than bfloat16, float16 and float32.
        ValueError: no such error model here, too few row keys, or tables with gaps.
    """
    if x.dtype not in _DTYPES:
        raise TypeError(f"hetero_noise::perturb takes bfloat16, float16 or float32, got {x.dtype}")
    if error not in MODELS:
        raise ValueError(f"hetero_noise::perturb has no CUDA error model {error!r}")
    given, x = x, x.contiguous()
    y = x if in_place else torch.empty_like(x)
    columns = x.shape[-1] if x.dim() else 0
    rows = x.numel() // columns if columns else 0
    table: list[list[int]] = segments.tolist()  # host memory: nothing waits for the device
    if sum(row[0] for row in table) != columns:
        raise ValueError(
            f"hetero_noise::perturb: the segments cover {sum(row[0] for row in table)} columns, "
            f"the tensor has {columns}"
        )
    if row_keys.numel() < rows:
        raise ValueError(f"hetero_noise::perturb: {rows} rows but {row_keys.numel()} row keys")
    if not (row_keys.is_contiguous() and scales.is_contiguous()):
        raise ValueError("hetero_noise::perturb: keys and scales must be contiguous")
    if any(not 0 <= row[3] < scales.numel() for row in table):
        raise ValueError(
            f"hetero_noise::perturb: a slot is outside the scale table of {scales.numel()}"
        )
    if rows == 0:
        return y
    bits = (x, y) if x.dtype != torch.bfloat16 else (x.view(torch.int16), y.view(torch.int16))
    first = 0
    for start in range(0, len(table), SEGMENTS):
        part = table[start : start + SEGMENTS]
        arguments: list[int] = []
        end = 0
        for width, key, offset, slot in part:
            groups = -(-(offset + width) // 128) - offset // 128
            end += -(-groups * 16 // BLOCK)
            arguments += [width, key, offset, slot, end]
        arguments += [0, 0, 0, 0, end] * (SEGMENTS - len(part))
        # Triton launches on the current device, which need not be the tensor's.
        with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
            _perturb[(rows, end)](
                *bits,
                row_keys,
                clock,
                scales,
                columns,
                first,
                *arguments,
                MODEL=MODELS[error],
                DTYPE=_DTYPES[x.dtype],
                STOCHASTIC=stochastic,
                BLOCK=BLOCK,
                num_warps=4,
                enable_fp_fusion=False,
            )
        first += sum(row[0] for row in part)
    if in_place and y is not given:
        given.copy_(y)
    return y
