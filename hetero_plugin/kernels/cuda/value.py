"""Pairs of neighbouring elements, their error and their rounding, for the Triton kernels.

A pair is one integer of twice the element's size, so that one instruction loads or stores it
wherever neighbours lie at an even address (PAIRED); elsewhere its halves are loaded one by one.
Inside the pair the first element is the low half. DTYPE: 0 bfloat16, 1 float16, 2 float32. KEPT is
how elements lie in memory: as DTYPE, or in float32 before a rounding to DTYPE (see
kernels/unrounded.py).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, unused-ignore"
import torch
import triton
import triton.language as tl
from torch import Tensor

from hetero_plugin.config.error_models import REGISTRY

# The number of a model is what the kernels are compiled for (MODEL).
MODELS = {name: one.kernel for name, one in REGISTRY.items() if one.kernel is not None}
DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
# What a model draws: draw.GAUSSIAN, UNIFORM or NOTHING.
_DRAWN = {"normal": 0, "uniform": 1, None: 2}
DRAWS = {number: _DRAWN[REGISTRY[name].draws] for name, number in MODELS.items()}


def stored(x: Tensor, paired: bool) -> Tensor:
    """x as the kernels take it: integers, of one element or of a pair; shares its memory."""
    if x.element_size() == 2:
        return x.view(torch.int32 if paired else torch.int16)
    return x.view(torch.int64 if paired else torch.int32)


def pairs_lie_together(*tensors: Tensor) -> bool:
    """Whether pairs can be loaded as one: also every width and offset must be even."""
    return all(t.data_ptr() % (2 * t.element_size()) == 0 for t in tensors)


@triton.jit
def pointers(ptr, base, column, PAIRED: tl.constexpr):
    """Where pairs that begin at ``column`` lie; ptr + base is column 0.

    base: int64, column: int32, in elements; ptr: as `stored` gives it.
    """
    return ptr + (base >> 1) + (column >> 1) if PAIRED else ptr + base + column


@triton.jit
def load(at, column, width, STEP: tl.constexpr, PAIRED: tl.constexpr, DTYPE: tl.constexpr):
    """Pairs that begin STEP columns after ``column``, whose pointers are ``at``.

    Outside of 0 to ``width``: anything.
    """
    # One comparison for both ends: a negative number is a large unsigned one.
    column = (column + STEP).to(tl.uint32, bitcast=True)
    if PAIRED:
        pair = tl.load(at + STEP // 2, mask=column < width)
    else:
        low = tl.load(at + STEP, mask=column < width, other=0)
        high = tl.load(at + STEP + 1, mask=column + 1 < width, other=0)
        if DTYPE == 2:
            pair = low.to(tl.uint32, bitcast=True).to(tl.int64) | (high.to(tl.int64) << 32)
        else:
            pair = low.to(tl.uint16, bitcast=True).to(tl.int32) | (high.to(tl.int32) << 16)
    return pair


@triton.jit
def store(at, column, width, pair, STEP: tl.constexpr, PAIRED: tl.constexpr, DTYPE: tl.constexpr):
    """Writes pairs, as `load` reads them."""
    column = (column + STEP).to(tl.uint32, bitcast=True)
    if PAIRED:
        tl.store(at + STEP // 2, pair, mask=column < width)
    else:
        if DTYPE == 2:
            low, high = pair.to(tl.int32), (pair >> 32).to(tl.int32)
        else:
            low, high = pair.to(tl.int16), (pair >> 16).to(tl.int16)
        tl.store(at + STEP, low, mask=column < width)
        tl.store(at + STEP + 1, high, mask=column + 1 < width)


@triton.jit
def split(pair, DTYPE: tl.constexpr):
    """The two elements of a pair in float32."""
    if DTYPE == 0:
        bits = pair.to(tl.uint32, bitcast=True)
        a = (bits << 16).to(tl.float32, bitcast=True)
        b = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    elif DTYPE == 1:
        a = pair.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        b = (pair >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        a = pair.to(tl.int32).to(tl.float32, bitcast=True)
        b = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return a, b


@triton.jit
def join(a, b, DTYPE: tl.constexpr):
    """A pair of two elements as `rounded` gives them."""
    if DTYPE == 0:
        pair = ((a >> 16) | (b & 0xFFFF0000)).to(tl.int32, bitcast=True)
    elif DTYPE == 1:
        low, high = a.to(tl.uint16, bitcast=True), b.to(tl.uint16, bitcast=True)
        pair = (low.to(tl.uint32) | (high.to(tl.uint32) << 16)).to(tl.int32, bitcast=True)
    else:
        low, high = a.to(tl.uint32, bitcast=True), b.to(tl.uint32, bitcast=True)
        pair = (low.to(tl.uint64) | (high.to(tl.uint64) << 32)).to(tl.int64, bitcast=True)
    return pair


@triton.jit
def _plus(value, up):
    """float32 bits plus less than 2^17, as uint32; a NaN stays one.

    The sum of anything else is the greater of the two as a signed number too. A NaN of all ones,
    which is the GPU's, would become -0.
    """
    bits = value.to(tl.int32, bitcast=True)
    return tl.maximum(bits + up.to(tl.int32, bitcast=True), bits).to(tl.uint32, bitcast=True)


@triton.jit
def _stochastic_f16(value, r):
    normal = (_plus(value, r >> 3) & 0xFFFFE000).to(tl.float32, bitcast=True)
    # Below 2^-14 float16 is a fixed-point format with step 2^-24.
    tiny = tl.abs(value) < 6.103515625e-05
    whole = tl.floor(tl.abs(value) * 16777216.0 + r.to(tl.float32) * 1.52587890625e-05)
    fixed = (whole * 5.960464477539063e-08).to(tl.uint32, bitcast=True)
    sign = value.to(tl.uint32, bitcast=True) & 0x80000000
    return tl.where(tiny, (fixed | sign).to(tl.float32, bitcast=True), normal)


@triton.jit
def _stochastic_f32(value, clean, error, r):
    virtual = value - clean  # TwoSum (Knuth): value + lost == clean + error
    lost = (clean - (value - virtual)) + (error - virtual)
    bits = value.to(tl.uint32, bitcast=True)
    away = (lost > 0.0) == (value > 0.0)
    neighbour = tl.where(away, bits + 1, bits - 1).to(tl.float32, bitcast=True)
    gap = tl.abs(neighbour - value)
    move = tl.abs(lost) * 65536.0 > r.to(tl.float32) * gap
    # Of an infinity or a NaN nothing is lost, or what is lost is no number.
    finite = (bits & 0x7F800000) != 0x7F800000
    return tl.where(move & (lost != 0.0) & (value != 0.0) & finite, neighbour, value)


@triton.jit
def rounded(value, clean, error, r, DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr):
    """value in DTYPE: bfloat16 as the upper half of a uint32 (below: anything), else its type.

    r: 16 random bits, uint32. clean + error is value, for float32.
    """
    if DTYPE == 0:
        bits = value.to(tl.uint32, bitcast=True)
        y = _plus(value, r if STOCHASTIC else 0x7FFF + ((bits >> 16) & 1))
    elif DTYPE == 1:
        y = (_stochastic_f16(value, r) if STOCHASTIC else value).to(tl.float16)
    else:
        y = _stochastic_f32(value, clean, error, r) if STOCHASTIC else value
    return y


@triton.jit
def widened(y, DTYPE: tl.constexpr):
    """float32 of what `rounded` gave."""
    return (y & 0xFFFF0000).to(tl.float32, bitcast=True) if DTYPE == 0 else y.to(tl.float32)


@triton.jit
def nearest(value, DTYPE: tl.constexpr):
    """float32 of value rounded to DTYPE."""
    return widened(rounded(value, value, value, value, DTYPE, False), DTYPE)


@triton.jit
def _floor_of_quotient(x, scale, inverse):
    """floor(x / scale): the quotient correctly rounded, as of a division, from 1 / scale.

    (Markstein: one correction by the exact remainder, if the inverse is correctly rounded.)
    """
    q = x * inverse
    return tl.floor(tl.fma(tl.fma(-q, scale, x), inverse, q))


@triton.jit
def with_error(
    x, z, r, scale, aid, MODEL: tl.constexpr, DTYPE: tl.constexpr, STOCHASTIC: tl.constexpr
):
    """x, float32, with its error, as `rounded` gives it.

    z: what `draw.draw` gave for it; aid: see `aid_of`.
    """
    value = x
    error = x
    if MODEL == 0:
        error = z * tl.abs(x)
        value = x + error if DTYPE == 2 else tl.fma(z, tl.abs(x), x)
    elif MODEL == 1:
        error = z
        value = x + error
    elif MODEL == 2:
        sign = x.to(tl.uint32, bitcast=True) & 0x80000000
        signed = (scale.to(tl.uint32, bitcast=True) | sign).to(tl.float32, bitcast=True)
        error = tl.where(x == 0.0, x, signed)
        value = x + error
    elif MODEL == 3:
        error = x * scale
        value = x + error
    elif MODEL == 4:
        cut = _floor_of_quotient(x, scale, aid) * scale
        value = tl.where(tl.abs(cut) < float("inf"), cut, x)
    else:
        # The word's sign and lowest 23 bits are a uniform; see hetero_plugin.random.
        share = ((z & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True) - 1.0
        size = x.to(tl.uint32, bitcast=True) & 0x7FFFFFFF
        error = share * aid * (size | (z & 0x80000000)).to(tl.float32, bitcast=True)
        value = x + error
    if MODEL == 2 or MODEL == 4:
        # A phase-bound rule whose phase nobody set: the host can't be told from here, so the
        # result is one that nobody can overlook. Of the other models it is by itself.
        value = tl.where(scale != scale, scale, value)
    return rounded(value, x, error, r, DTYPE, STOCHASTIC and MODEL != 4)


@triton.jit
def aid_of(scale, MODEL: tl.constexpr):
    """What `with_error` needs of the scale beside it, once a program."""
    aid = scale
    if MODEL == 4:
        aid = tl.div_rn(1.0, scale)
    elif MODEL == 5:
        aid = scale * 1.7320508075688772
    return aid
