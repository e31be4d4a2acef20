// The root mean square of a row: `row_rms` in hetero_plugin/errors/profile/bins.py, to the bit.
//
// A row is read for its largest number, which says what the first of twelve bits is worth, and then for
// the sum of squares of those twelve. Integers throughout, so that no order of the sum matters.
#pragma once
#include <algorithm>
#include <cmath>

#include "formats.h"

namespace hetero {

constexpr int LEAST_TOP = -80, RMS_BITS = 12;  // as LOWEST and BITS in hetero_plugin/errors/profile/bins.py

template <class D>
constexpr uint32_t SIGN_OF = sizeof(typename D::storage) == 2 ? 0x8000u : 0x80000000u;
template <class D>
using BitsOf = std::conditional_t<sizeof(typename D::storage) == 2, uint16_t, uint32_t>;
template <class D>
constexpr uint32_t LARGEST_OF = std::is_same_v<D, BF16> ? 0x7F7Fu : std::is_same_v<D, F16> ? 0x7BFFu : 0x7F7FFFFFu;

// f(vector, which of four) for all of n numbers, the last filled up with zeros.
template <class D, class F>
static inline void each(const typename D::storage* x, int64_t n, F f) {
  int64_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) f(D::load(x + i + k * LANES), k);
  }
  for (; i + LANES <= n; i += LANES) f(D::load(x + i), 0);
  if (i == n) return;
  typename D::storage rest[LANES] = {};
  std::memcpy(rest, x + i, (n - i) * sizeof(*x));
  f(D::load(rest), 1);
}

static inline f32x16 finite(f32x16 v) {
  const u32x16 bits = as_bits(v) & splat(~SIGN);
  return as_float(bits & (u32x16)(bits < splat(INFINITE)));
}

// The largest magnitude as bits; they are ordered as the numbers are, with infinities and NaNs above.
template <class D>
static uint32_t largest_bits(const typename D::storage* x, int64_t n) {
  using T = std::conditional_t<sizeof(*x) == 2, int16_t, int32_t>;
  constexpr int MANY = 64 / sizeof(T);
  typedef T Vector __attribute__((vector_size(64)));
  constexpr T SIZE = (T)(SIGN_OF<D> - 1);
  Vector most[4] = {};
  const auto take = [&](const typename D::storage* p, Vector& to) {
    Vector v;
    std::memcpy(&v, p, 64);
    v &= SIZE;
    to = v > to ? v : to;
  };
  int64_t i = 0;
  for (; i + 4 * MANY <= n; i += 4 * MANY) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) take(x + i + k * MANY, most[k]);
  }
  for (; i + MANY <= n; i += MANY) take(x + i, most[0]);
  if (i < n) {
    typename D::storage rest[MANY] = {};
    std::memcpy(rest, x + i, (n - i) * sizeof(*x));
    take(rest, most[1]);
  }
  for (int k = 1; k < 4; ++k) most[0] = most[k] > most[0] ? most[k] : most[0];
  T top = 0;
  for (int k = 0; k < MANY; ++k) top = std::max(top, (T)most[0][k]);
  return (uint32_t)top;
}

// sum + q * q; q below 2^15.
static inline i32x16 plus_square(i32x16 sum, i32x16 q) {
#if defined(__AVX512VNNI__)
  return (i32x16)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)q, (__m512i)q);  // the upper halves are 0
#elif defined(__AVX512BW__)
  return sum + (i32x16)_mm512_madd_epi16((__m512i)q, (__m512i)q);
#else
  return sum + q * q;
#endif
}

constexpr int64_t SUMMED = 4 * 63 * LANES;  // of which a lane has at most 64 + 1

// 1 / RMS, 0 of a row of zeros.
template <class D>
static float inverse_rms(const typename D::storage* x, int64_t n) {
  const uint32_t largest = largest_bits<D>(x, n);
  const bool all_finite = largest <= LARGEST_OF<D>;
  int32_t top = 0;
  if (all_finite) {
    typename D::storage one[LANES] = {c10::bit_cast<typename D::storage>((BitsOf<D>)largest)};
    top = (int32_t)as_bits(D::load(one))[0];
  } else {
    i32x16 four[4] = {};
    each<D>(x, n, [&](f32x16 v, int k) { four[k] = greater(four[k], (i32x16)as_bits(finite(v))); });
    const i32x16 most = greater(greater(four[0], four[1]), greater(four[2], four[3]));
    for (int i = 0; i < LANES; ++i) top = std::max(top, (int32_t)most[i]);
  }
  const int e = std::max((top >> 23) - 127, LEAST_TOP);
  const f32x16 factor = splatf(c10::bit_cast<float>((uint32_t)(RMS_BITS - 1 - e + 127) << 23));
  int64_t total = 0;
  for (int64_t start = 0; start < n; start += SUMMED) {
    i32x16 sums[4] = {};
    const int64_t many = std::min(SUMMED, n - start);
    const auto add = [&](f32x16 v, int k) {
      sums[k] = plus_square(sums[k], __builtin_convertvector(v * factor + splatf(0.5f), i32x16));  // at most 2^24
    };
    if (all_finite) each<D>(x + start, many, [&](f32x16 v, int k) { add(magnitude(v), k); });
    else each<D>(x + start, many, [&](f32x16 v, int k) { add(finite(v), k); });
    for (int k = 0; k < 4; ++k)
      for (int i = 0; i < LANES; ++i) total += (uint32_t)sums[k][i];
  }
  const float rms = std::sqrt((float)total / (float)n) * c10::bit_cast<float>((uint32_t)(e - (RMS_BITS - 1) + 127) << 23);
  return rms > 0.0f ? 1.0f / rms : 0.0f;
}

}  // namespace hetero
