// Sixteen elements of a dtype, to and from float32.
#pragma once
#include <c10/util/Half.h>

#include "philox.h"

namespace hetero {

// The processor may have been told to take subnormal numbers for 0; here they count.
struct Subnormals {
#if defined(__SSE2__)
  unsigned before = _mm_getcsr();
  Subnormals() { _mm_setcsr(0x1F80); }
  ~Subnormals() { _mm_setcsr(before); }
#endif
};

struct BF16 {
  using storage = uint16_t;
  // GCC takes five instructions to widen where there is one.
  static f32x16 load(const storage* p) {
    u16x16 v;
    std::memcpy(&v, p, 32);
#if defined(__AVX512F__)
    return as_float((u32x16)_mm512_cvtepu16_epi32((__m256i)v) << 16);
#else
    return as_float(__builtin_convertvector(v, u32x16) << 16);
#endif
  }
  static void keep(storage* p, u32x16 bits) {
    const u16x16 v = __builtin_convertvector(bits >> 16, u16x16);
    std::memcpy(p, &v, 32);
  }
  static i32x16 special(u32x16 bits) { return (i32x16)((bits & 0x7F800000u) == splat(0x7F800000u)); }
  // Infinities and NaNs need no care: the low half of theirs is zero (a NaN is the processor's own
  // or comes from a bfloat16), and nothing below 0x10000 added to it reaches the upper half.
  static void nearest(storage* p, f32x16 v) {
    const u32x16 bits = as_bits(v);
    keep(p, bits + (splat(0x7FFFu) + ((bits >> 16) & 1u)));
  }
  static void stochastic(storage* p, f32x16 v, u32x16 r, f32x16, f32x16) { keep(p, as_bits(v) + r); }
};

struct F16 {
  using storage = uint16_t;
  static f32x16 load(const storage* p) {
#if defined(__AVX512F__)
    __m256i v;
    std::memcpy(&v, p, 32);
    return (f32x16)_mm512_cvtph_ps(v);
#else
    f32x16 r;
    for (int i = 0; i < LANES; ++i) r[i] = (float)c10::Half(p[i], c10::Half::from_bits());
    return r;
#endif
  }
  static void nearest(storage* p, f32x16 v) {
#if defined(__AVX512F__)
    const __m256i h = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    std::memcpy(p, &h, 32);
#else
    for (int i = 0; i < LANES; ++i) p[i] = c10::Half(v[i]).x;
#endif
  }
  static void stochastic(storage* p, f32x16 v, u32x16 r, f32x16, f32x16) {
    const u32x16 bits = as_bits(v);
    const f32x16 normal = as_float((bits + (r >> 3)) & splat(~0x1FFFu));
    // Below 2^-14 float16 is a fixed-point format with step 2^-24.
    const f32x16 scaled = magnitude(v) * splatf(0x1p24f) + to_float(r) * splatf(0x1p-16f);
    const i32x16 subnormal = (i32x16)(magnitude(v) < splatf(0x1p-14f));
    const i32x16 whole = __builtin_convertvector(select(subnormal, scaled, f32x16{}), i32x16);
    const f32x16 fixed = __builtin_convertvector(whole, f32x16) * splatf(0x1p-24f);
    const f32x16 small = as_float(as_bits(fixed) | (bits & 0x80000000u));
    const f32x16 rounded = select(subnormal, small, normal);
    nearest(p, select(BF16::special(bits), v, rounded));
  }
};

struct F32 {
  using storage = float;
  static f32x16 load(const storage* p) {
    f32x16 v;
    std::memcpy(&v, p, 64);
    return v;
  }
  static void nearest(storage* p, f32x16 v) { std::memcpy(p, &v, 64); }
  static void stochastic(storage* p, f32x16 v, u32x16 r, f32x16 clean, f32x16 error) {
    const f32x16 virt = v - clean;  // TwoSum (Knuth): v + lost == clean + error
    const f32x16 lost = (clean - (v - virt)) + (error - virt);
    const u32x16 bits = as_bits(v);
    const i32x16 away = (i32x16)((lost > f32x16{}) == (v > f32x16{}));
    const f32x16 neighbour = as_float(select(away, bits + splat(1), bits - splat(1)));
    const f32x16 gap = magnitude(neighbour - v);
    const i32x16 move = (i32x16)(magnitude(lost) * splatf(65536.0f) > to_float(r) * gap) &
                        (i32x16)(lost != f32x16{}) & (i32x16)(v != f32x16{}) & ~BF16::special(bits);
    const f32x16 out = select(move, neighbour, v);
    std::memcpy(p, &out, 64);
  }
};

}  // namespace hetero
