"""Addresses to words, and words to normals, for the Triton kernels: as `hetero_plugin.random`.

Two ways from words to normals. Accurate: the CPU kernel's kind of polynomials, within 1e-6 of
float64 but where the logarithm's argument is itself rounded. Fast: the special-function unit's
logarithm, square root, sine and cosine, one instruction each. By NVIDIA's documentation of their
PTX (lg2.approx 2^-22, sin.approx and cos.approx 2^-20.9, absolute) a normal is then within 2e-6 but
for radii under 0.1, and nowhere more than 6e-4 off, which only one in 10^7 radii is small enough
for; rounding to bfloat16 or float16 is 10^3 times as coarse, and float32 takes the accurate way.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, unused-ignore"
import os

import triton
import triton.language as tl

GAUSSIAN, UNIFORM, NOTHING = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
# The interpreter has no machine instructions; there the library's functions stand for them.
_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")


@triton.jit
def _times(word, factor):
    """High and low 32 bits of a product."""
    product = word.to(tl.uint64) * factor
    return (product >> 32).to(tl.uint32), product.to(tl.uint32)


@triton.jit
def row_of(clock, site, key):
    """What all columns of a row share: Philox's key and three words of its counter."""
    key0 = (clock ^ (site >> 32)).to(tl.uint32)
    key1 = (clock >> 32).to(tl.uint32)
    return key0, key1, key.to(tl.uint32), (key >> 32).to(tl.uint32), site.to(tl.uint32)


@triton.jit
def philox(c0, at):
    """Philox4x32-7 of a tensor of first counter words.

    The other words are scalars of the row, and for two rounds so is half of the state: those
    multiplies are made once a row.
    """
    k0, k1, c1, c2, c3 = at
    for _ in tl.static_range(7):
        h0, l0 = _times(c0, 0xD2511F53)
        h1, l1 = _times(c2, 0xCD9E8D57)
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
def _sine_cosine(angle_word):
    """Of angle_word / 2^32 turns, a uint32."""
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
    return b, a


@triton.jit
def _approximate(x, NAME: tl.constexpr):
    """One instruction of the special-function unit; numbers too small for it flush to zero."""
    if NAME == "lg2":
        if _INTERPRETED:
            y = tl.log2(x)
        else:
            y = tl.inline_asm_elementwise(
                "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1
            )
    elif NAME == "sin":
        if _INTERPRETED:
            y = tl.sin(x)
        else:
            y = tl.inline_asm_elementwise(
                "sin.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1
            )
    elif NAME == "cos":
        if _INTERPRETED:
            y = tl.cos(x)
        else:
            y = tl.inline_asm_elementwise(
                "cos.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1
            )
    else:
        if _INTERPRETED:
            y = tl.sqrt(x)
        else:
            y = tl.inline_asm_elementwise(
                "sqrt.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1
            )
    return y


@triton.jit
def box_muller(radius_word, angle_word, scale, FAST: tl.constexpr):
    """Two uint32 words -> two independent normals of standard deviation ``scale``."""
    u = tl.fma(radius_word.to(tl.float32), 2.3283064365386963e-10, 1.1641532182693481e-10)
    if FAST:
        # Next to u = 1 an approximate logarithm may have the wrong sign.
        two_log = tl.abs(_approximate(u, "lg2") * -1.3862943611198906)
        angle = angle_word.to(tl.int32, bitcast=True).to(tl.float32) * 1.4629180792671596e-9
        sine, cosine = _approximate(angle, "sin"), _approximate(angle, "cos")
    else:
        two_log = tl.abs(_minus_two_log(u))
        sine, cosine = _sine_cosine(angle_word)
    # Not sqrt_rn: it has a slow path that is called. This is within an ulp.
    radius = _approximate(two_log, "sqrt") * scale
    return radius * cosine, radius * sine


@triton.jit
def draw(block, CALL: tl.constexpr, at, scale, DRAW: tl.constexpr, FAST: tl.constexpr):
    """For each block four normals times ``scale``, or four words of uniforms; else anything."""
    if DRAW == GAUSSIAN:
        r0, r1, r2, r3 = philox(block + (CALL << 30), at)
        za, zb = box_muller(r0, r1, scale, FAST)
        zc, zd = box_muller(r2, r3, scale, FAST)
    elif DRAW == UNIFORM:
        za, zb, zc, zd = philox(block + ((CALL << 30) | (1 << 29)), at)
    else:
        za, zb, zc, zd = block, block, block, block
    return za, zb, zc, zd
