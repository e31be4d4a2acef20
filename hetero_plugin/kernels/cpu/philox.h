// Philox4x32-7, Box-Muller and stochastic rounding for sixteen lanes at a time.
//
// The definition is hetero_plugin/random/numbers.py; the integers here are its integers. GCC and Clang lower
// the vector types to whatever the target has: one AVX-512 register, two AVX2 or four NEON ones.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace hetero {

typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef float f32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

constexpr int LANES = 16, SLOTS = 8, GROUP = LANES * SLOTS, ROUNDS = 7;

static inline u32x16 splat(uint32_t v) { return v - u32x16{}; }
static inline f32x16 splatf(float v) { return v - f32x16{}; }
static inline f32x16 as_float(u32x16 v) { return (f32x16)v; }
static inline u32x16 as_bits(f32x16 v) { return (u32x16)v; }
static inline u32x16 select(i32x16 mask, u32x16 a, u32x16 b) {
  return (a & (u32x16)mask) | (b & ~(u32x16)mask);
}
static inline f32x16 select(i32x16 mask, f32x16 a, f32x16 b) {
  return as_float(select(mask, as_bits(a), as_bits(b)));
}
static inline f32x16 magnitude(f32x16 v) { return as_float(as_bits(v) & splat(0x7FFFFFFFu)); }

// High and low words of a * m. The widening multiply is the one thing that compilers do not find.
static inline void mulhilo(u32x16 a, uint32_t m, u32x16& hi, u32x16& lo) {
#if defined(__AVX512F__)
  const __m512i v = (__m512i)a, k = _mm512_set1_epi32((int)m);
  const __m512i even = _mm512_mul_epu32(v, k);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(v, 32), k);
  hi = (u32x16)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
  lo = (u32x16)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
#elif defined(__AVX2__)
  __m256i v[2], h[2], l[2];
  std::memcpy(v, &a, 64);
  const __m256i k = _mm256_set1_epi32((int)m);
  for (int i = 0; i < 2; ++i) {
    const __m256i even = _mm256_mul_epu32(v[i], k);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(v[i], 32), k);
    h[i] = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    l[i] = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  }
  std::memcpy(&hi, h, 64);
  std::memcpy(&lo, l, 64);
#else
  for (int i = 0; i < LANES; ++i) {
    const uint64_t p = (uint64_t)a[i] * m;
    hi[i] = (uint32_t)(p >> 32);
    lo[i] = (uint32_t)p;
  }
#endif
}

struct Address {  // one row of one site
  uint32_t k0, k1, row_lo, row_hi, site_lo;
  Address(int64_t clock, int64_t site, int64_t row)
      : k0((uint32_t)clock ^ (uint32_t)((uint64_t)site >> 32)),
        k1((uint32_t)((uint64_t)clock >> 32)),
        row_lo((uint32_t)row),
        row_hi((uint32_t)((uint64_t)row >> 32)),
        site_lo((uint32_t)site) {}
};

// What a call adds to the first counter word; see hetero_plugin/random/numbers.py.
template <bool UNIFORM>
constexpr uint32_t call_bits(int call) {
  return ((uint32_t)call << 30) | (UNIFORM && call < 2 ? 1u << 29 : 0u);
}

// The rounds, on CALLS calls interleaved so that their latencies overlap. Key: uint32_t where all
// lanes share a key, u32x16 where they do not.
template <int CALLS, class Key>
static inline void philox_rounds(u32x16 (&c)[CALLS][4], Key k0, Key k1) {
#pragma GCC unroll 7
  for (int r = 0; r < ROUNDS; ++r) {
#pragma GCC unroll 3
    for (int j = 0; j < CALLS; ++j) {
      u32x16 h0, l0, h1, l1;
      mulhilo(c[j][0], 0xD2511F53u, h0, l0);
      mulhilo(c[j][2], 0xCD9E8D57u, h1, l1);
      c[j][0] = h1 ^ c[j][1] ^ k0;
      c[j][1] = l1;
      c[j][2] = h0 ^ c[j][3] ^ k1;
      c[j][3] = l0;
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

#if defined(__AVX512F__)
}  // namespace hetero
#include "avx512.h"
namespace hetero {
#else
struct Row : Address {  // what the calls of a row share
  using Address::Address;
};

// The words of CALLS consecutive Philox calls of one group of columns.
template <int FIRST, int CALLS, bool UNIFORM = false>
static inline void philox(const Row& at, uint32_t group, u32x16* words) {
  const u32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  u32x16 c[CALLS][4];
  for (int j = 0; j < CALLS; ++j) {
    c[j][0] = lane + (group * LANES + call_bits<UNIFORM>(FIRST + j));
    c[j][1] = splat(at.row_lo);
    c[j][2] = splat(at.row_hi);
    c[j][3] = splat(at.site_lo);
  }
  philox_rounds<CALLS>(c, at.k0, at.k1);
  for (int j = 0; j < CALLS; ++j)
    for (int i = 0; i < 4; ++i) words[4 * j + i] = c[j][i];
}

#endif

// The four words of one call at one block of columns, for sixteen addresses.
static inline void philox_of_rows(const int64_t* clock, const int64_t* site, const int64_t* row,
                                  uint32_t block, u32x16* words) {
  u32x16 k0, k1, c[1][4];
  for (int i = 0; i < LANES; ++i) {
    const Address at(clock[i], site[i], row[i]);
    k0[i] = at.k0;
    k1[i] = at.k1;
    c[0][1][i] = at.row_lo;
    c[0][2][i] = at.row_hi;
    c[0][3][i] = at.site_lo;
  }
  c[0][0] = splat(block);
  philox_rounds<1>(c, k0, k1);
  for (int i = 0; i < 4; ++i) words[i] = c[0][i];
}

static inline f32x16 to_float(u32x16 v) { return __builtin_convertvector(v, f32x16); }

#if !defined(__AVX512F__)
static inline f32x16 root(f32x16 v) {
  f32x16 r;
  for (int i = 0; i < LANES; ++i) r[i] = __builtin_sqrtf(v[i]);
  return r;
}

// -2 ln(u) for u in (0, 1]: exponent and a mantissa in [1/sqrt 2, sqrt 2), then the series of
// ln(1 + f) fitted there (coefficients as in Cephes logf, S. Moshier).
static inline f32x16 minus_two_log(f32x16 u) {
  const u32x16 bits = as_bits(u);
  const u32x16 shifted = bits - splat(0x3F3504F3u);  // 1/sqrt 2
  const i32x16 exponent = (i32x16)shifted >> 23;
  const f32x16 m = as_float(bits - ((u32x16)exponent << 23));
  const f32x16 f = m - splatf(1.0f), e = __builtin_convertvector(exponent, f32x16);
  f32x16 p = splatf(7.0376836292e-2f);
  p = p * f + splatf(-1.1514610310e-1f);
  p = p * f + splatf(1.1676998740e-1f);
  p = p * f + splatf(-1.2420140846e-1f);
  p = p * f + splatf(1.4249322787e-1f);
  p = p * f + splatf(-1.6668057665e-1f);
  p = p * f + splatf(2.0000714765e-1f);
  p = p * f + splatf(-2.4999993993e-1f);
  p = p * f + splatf(3.3333331174e-1f);
  const f32x16 f2 = f * f;
  // e * ln 2 in two parts, so that small results near u = 1 keep their bits.
  f32x16 y = p * f2 * f + e * splatf(-2.12194440e-4f);
  y = y - splatf(0.5f) * f2 + f;
  y = y + e * splatf(0.693359375f);
  return splatf(-2.0f) * y;
}

// Two words -> two independent normals of standard deviation `scale`.
static inline void box_muller(u32x16 radius_word, u32x16 angle_word, float scale, f32x16& a, f32x16& b) {
  const f32x16 u = to_float(radius_word) * splatf(0x1p-32f) + splatf(0x1p-33f);
  // u rounds to 1 at the top, where -2 ln u is a zero that may carry a sign.
  const f32x16 radius = root(magnitude(minus_two_log(u))) * splatf(scale);
  const u32x16 quadrant = (angle_word + splat(1u << 29)) >> 30;
  const i32x16 rest = (i32x16)(angle_word - (quadrant << 30));
  const f32x16 x = __builtin_convertvector(rest, f32x16) * splatf(1.4629180792671596e-9f);  // 2 pi / 2^32
  const f32x16 x2 = x * x;
  f32x16 s = splatf(-1.9515295891e-4f);  // Cephes sinf, cosf on [-pi/4, pi/4]
  s = s * x2 + splatf(8.3321608736e-3f);
  s = s * x2 + splatf(-1.6666654611e-1f);
  s = s * x2 * x + x;
  f32x16 c = splatf(2.443315711809948e-5f);
  c = c * x2 + splatf(-1.388731625493765e-3f);
  c = c * x2 + splatf(4.166664568298827e-2f);
  c = c * x2 * x2 - splatf(0.5f) * x2 + splatf(1.0f);
  const i32x16 odd = -(i32x16)(quadrant & splat(1));
  const f32x16 first = select(odd, s, c), second = select(odd, c, s);
  a = radius * as_float(as_bits(first) ^ (((quadrant + splat(1)) & splat(2)) << 30));
  b = radius * as_float(as_bits(second) ^ ((quadrant & splat(2)) << 30));
}
#endif

// The eight normals of a group: z[slot][lane] belongs to column group * 128 + slot * 16 + lane.
static inline void normals(const u32x16* words, float scale, f32x16* z) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) box_muller(words[2 * k], words[2 * k + 1], scale, z[2 * k], z[2 * k + 1]);
}

// A product that is rounded by itself: no compiler fuses what follows into it, so that uniforms are
// equal bit for bit on all machines.
static inline f32x16 apart(f32x16 v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__FMA__)
  __m256 part[2];
  std::memcpy(part, &v, 64);
  asm("" : "+x"(part[0]), "+x"(part[1]));
  std::memcpy(&v, part, 64);
#elif defined(__ARM_FEATURE_FMA)
  typedef float f32x4 __attribute__((vector_size(16)));
  f32x4 part[4];
  std::memcpy(part, &v, 64);
  asm("" : "+w"(part[0]), "+w"(part[1]), "+w"(part[2]), "+w"(part[3]));
  std::memcpy(&v, part, 64);
#endif
  return v;
}

// What a word's lowest 23 bits are as a share of 1; its top bit is the sign.
static inline f32x16 share(u32x16 word) {
  return as_float((word & splat(0x7FFFFFu)) | splat(0x3F800000u)) - splatf(1.0f);
}
static inline f32x16 with_sign(f32x16 size, u32x16 word) {
  return as_float((as_bits(size) & splat(0x7FFFFFFFu)) | (word & splat(0x80000000u)));
}

static inline void halves(const u32x16* words, u32x16* bits) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    bits[2 * k] = words[k] & splat(0xFFFF);
    bits[2 * k + 1] = words[k] >> 16;
  }
}

}  // namespace hetero
