// Philox and Box-Muller for AVX-512, included by philox.h: the same integers with fewer operations.
//
// Widening multiplies read the low halves of 64-bit lanes. So each word of sixteen calls is kept in
// two registers, its even and its odd lanes, each in the low half of a 64-bit lane with anything in
// the high half; a multiply then needs neither shift nor blend, and the halves meet at the end.
#pragma once
#include <immintrin.h>

namespace hetero {

struct Row : Address {  // what the calls of a row share: key schedule, and two multiplies of sixteen lanes
  uint32_t key0[ROUNDS], key1[ROUNDS];
  uint32_t second0, second2, third3;  // constants of rounds 1 and 2, see philox()
  Row(int64_t clock, int64_t site, int64_t row) : Address(clock, site, row) {
    for (uint32_t r = 0; r < ROUNDS; ++r) {
      key0[r] = k0 + r * 0x9E3779B9u;
      key1[r] = k1 + r * 0xBB67AE85u;
    }
    const uint64_t p1 = (uint64_t)row_hi * 0xCD9E8D57u;  // of round 0
    const uint64_t p0 = (uint64_t)((uint32_t)(p1 >> 32) ^ row_lo ^ key0[0]) * 0xD2511F53u;  // of round 1
    second0 = (uint32_t)p1 ^ key0[1];
    second2 = (uint32_t)(p0 >> 32) ^ key1[1];
    third3 = (uint32_t)p0;
  }
};

static inline __m512i upper(__m512i product) { return _mm512_srli_epi64(product, 32); }
static inline __m512i xor3(__m512i a, __m512i b, __m512i c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
static inline __m512i all(uint32_t v) { return _mm512_set1_epi32((int)v); }
static inline u32x16 together(__m512i even, __m512i odd) {
  return (u32x16)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
}

// The words of CALLS consecutive Philox calls of one group of columns. Of round 0 and 1 the multiply
// of what all columns share was done for the row.
template <int FIRST, int CALLS, bool UNIFORM = false>
static inline void philox(const Row& at, uint32_t group, u32x16* words) {
  const __m512i m0 = all(0xD2511F53u), m1 = all(0xCD9E8D57u);
  __m512i c[CALLS][2][4];
#pragma GCC unroll 3
  for (int j = 0; j < CALLS; ++j) {
    const __m512i lane = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m512i block = _mm512_add_epi32(lane, all(group * LANES + call_bits<UNIFORM>(FIRST + j) + h));
      const __m512i p0 = _mm512_mul_epu32(block, m0);                                       // round 0
      const __m512i p1 = _mm512_mul_epu32(xor3(upper(p0), all(at.site_lo), all(at.key1[0])), m1);  // round 1
      const __m512i q0 = _mm512_mul_epu32(_mm512_xor_si512(upper(p1), all(at.second0)), m0);  // round 2
      const __m512i q1 = _mm512_mul_epu32(_mm512_xor_si512(p0, all(at.second2)), m1);
      c[j][h][0] = xor3(upper(q1), p1, all(at.key0[2]));
      c[j][h][1] = q1;
      c[j][h][2] = _mm512_xor_si512(upper(q0), all(at.third3 ^ at.key1[2]));
      c[j][h][3] = q0;
    }
  }
#pragma GCC unroll 4
  for (int r = 3; r < ROUNDS; ++r) {
#pragma GCC unroll 3
    for (int j = 0; j < CALLS; ++j) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        __m512i* v = c[j][h];
        const __m512i p0 = _mm512_mul_epu32(v[0], m0), p1 = _mm512_mul_epu32(v[2], m1);
        v[0] = xor3(upper(p1), v[1], all(at.key0[r]));
        v[1] = p1;
        v[2] = xor3(upper(p0), v[3], all(at.key1[r]));
        v[3] = p0;
      }
    }
  }
#pragma GCC unroll 3
  for (int j = 0; j < CALLS; ++j)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) words[4 * j + i] = together(c[j][0][i], c[j][1][i]);
}

// Tables for sixteenths, entries by the top four bits. Logarithm: u = 2^e m with m in [0.75, 1.5),
// r = m * inverse - 1, -2 ln u = e * -2 ln 2 + offset - 2 ln(1 + r). getexp counts from m in [1, 2),
// so that the offsets of m < 1 (8 to 15) hold one -2 ln 2 more; next to u = 1 the two cancel exactly.
alignas(64) static const float INVERSE[16] = {
    1.0f, 0.914285719f, 0.864864886f, 0.820512831f, 0.780487776f, 0.744186044f, 0.711111128f, 0.680851042f,
    1.30612242f, 1.25490201f, 1.20754719f, 1.16363633f, 1.12280703f, 1.08474576f, 1.04918027f, 1.0f};
alignas(64) static const float OFFSET[16] = {
    0.0f, -0.179224312f, -0.290363967f, -0.39565146f, -0.495672405f, -0.590928435f, -0.681853116f, -0.768823445f,
    -0.852168858f, -0.932179391f, -1.009112f, -1.08319461f, -1.15463066f, -1.22360313f, -1.29027605f, -1.38629436f};
alignas(64) static const float COSINE[16] = {
    1.0f, 0.923879504f, 0.707106769f, 0.382683426f, 0.0f, -0.382683426f, -0.707106769f, -0.923879504f,
    -1.0f, -0.923879504f, -0.707106769f, -0.382683426f, 0.0f, 0.382683426f, 0.707106769f, 0.923879504f};
alignas(64) static const float SINE[16] = {
    0.0f, 0.382683426f, 0.707106769f, 0.923879504f, 1.0f, 0.923879504f, 0.707106769f, 0.382683426f,
    0.0f, -0.382683426f, -0.707106769f, -0.923879504f, -1.0f, -0.923879504f, -0.707106769f, -0.382683426f};

// Two words -> two independent normals of standard deviation `scale`. Relative error of the radius
// below 2e-6, absolute error of sine and cosine below 2e-7; on the axes the zero is exact.
static inline void box_muller(u32x16 radius_word, u32x16 angle_word, float scale, f32x16& a, f32x16& b) {
  const __m512 u = _mm512_fmadd_ps(_mm512_cvtepu32_ps((__m512i)radius_word), _mm512_set1_ps(0x1p-32f),
                                   _mm512_set1_ps(0x1p-33f));
  const __m512 e = _mm512_getexp_ps(u), m = _mm512_getmant_ps(u, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
  const __m512i part = _mm512_srli_epi32(_mm512_castps_si512(m), 19);  // permutes read four bits
  const __m512 r = _mm512_fmsub_ps(m, _mm512_permutexvar_ps(part, _mm512_load_ps(INVERSE)), _mm512_set1_ps(1.0f));
  const __m512 base = _mm512_fmadd_ps(e, _mm512_set1_ps(-1.38629436f), _mm512_permutexvar_ps(part, _mm512_load_ps(OFFSET)));
  __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(0.5f), _mm512_set1_ps(-0.666666667f));  // ln(1 + r), its series
  p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(r, p, _mm512_set1_ps(-2.0f));
  const __m512 radius = _mm512_mul_ps(_mm512_sqrt_ps(_mm512_fmadd_ps(r, p, base)), _mm512_set1_ps(scale));

  const __m512i sector = _mm512_srli_epi32(_mm512_add_epi32((__m512i)angle_word, all(1u << 27)), 28);
  const __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_slli_epi32((__m512i)angle_word, 4)),
                                 _mm512_set1_ps(9.143238e-11f));  // the rest, in [-pi/16, pi/16)
  const __m512 t2 = _mm512_mul_ps(t, t);
  __m512 s = _mm512_fmadd_ps(t2, _mm512_set1_ps(0.00832186642f), _mm512_set1_ps(-0.166666512f));  // least squares there
  s = _mm512_fmadd_ps(t2, s, _mm512_set1_ps(1.0f));
  s = _mm512_mul_ps(_mm512_mul_ps(t, radius), s);
  __m512 c = _mm512_fmadd_ps(t2, _mm512_set1_ps(0.0415917603f), _mm512_set1_ps(-0.499999098f));
  c = _mm512_fmadd_ps(t2, c, _mm512_set1_ps(1.0f));
  c = _mm512_mul_ps(c, radius);
  const __m512 cosine = _mm512_permutexvar_ps(sector, _mm512_load_ps(COSINE));
  const __m512 sine = _mm512_permutexvar_ps(sector, _mm512_load_ps(SINE));
  a = (f32x16)_mm512_fmsub_ps(cosine, c, _mm512_mul_ps(sine, s));
  b = (f32x16)_mm512_fmadd_ps(sine, c, _mm512_mul_ps(cosine, s));
}

}  // namespace hetero
