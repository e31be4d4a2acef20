// Measured profiles with AVX-512: all elements of a group at once, whether they change or not.
//
// The size of an element is a power of two, so that within a row its exponent alone says its bin. Sixteen
// exponents span the edges of a usual table, fourteen octaves, and what a table says of them fits in one register: a
// permutation looks it up. The difference is counted, step by step, as far as the table's reach. What
// lies beyond it, and numbers next to 0 or to the largest, are put aside and looked up one by one.
#pragma once
#include "profile_side.h"

#if defined(__AVX512F__)
namespace hetero {

// A row's table by exponent: that of exponent e, as it lies in an element, in lane e modulo 16.
struct ByExponent {
  uint32_t lowest, highest;  // magnitudes; those outside are in the bin of the nearer one
  alignas(64) uint32_t bins[LANES];
  __m512i step[MOST_STEPS];
};

constexpr int FEW = 40;  // of a group, that are put aside one by one
template <class D>
constexpr int MANTISSA = std::is_same_v<D, BF16> ? 7 : std::is_same_v<D, F16> ? 10 : 23;

// The lowest four bits of each are those of an element's exponent.
template <class D>
static inline __m512i exponents(const ByExponent& row, __m512i bits) {
  const __m512i size = _mm512_and_si512(bits, all(SIGN_OF<D> - 1));
  return _mm512_srli_epi32(_mm512_min_epu32(_mm512_max_epu32(size, all(row.lowest)), all(row.highest)), MANTISSA<D>);
}

template <class D>
static inline f32x16 power_of(i32x16 exponent) {
  if constexpr (std::is_same_v<D, F16>) exponent = greater(exponent, (i32x16)splat(1)) + 112;  // float16 begins at 2^-14
  return as_float((u32x16)exponent << 23);
}

// Whether sixteen exponents are enough for the row.
template <class D>
static bool by_exponent(const Profile& p, float inverse, ByExponent& row) {
  constexpr int MANY = std::is_same_v<D, F16> ? 32 : 256;
  const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  // At or one below the first limit's own exponent the first bin ends.
  const int limit = (int)(c10::bit_cast<uint32_t>(p.limits[0] / inverse) >> 23) - (MANY == 32 ? 112 : 0);
  for (int back = 0; back < 2; ++back) {
    const int first = std::clamp(limit - back, 0, MANY - LANES);
    const i32x16 exponent = first + ((lane - first) & (LANES - 1));
    // An infinite ratio, which no element of the row has, would be beyond the last bin.
    const i32x16 last = (i32x16)splat((uint32_t)p.edges), found = (i32x16)bins_of(p, power_of<D>(exponent) * splatf(inverse));
    const i32x16 bins = found < last ? found : last;
    const bool low = first == 0 || bins[first % LANES] == 0;
    const bool high = first + LANES == MANY || bins[(first + LANES - 1) % LANES] == p.edges;
    if (inverse != 0 && !(low && high)) continue;  // of a row of zeros all are in the first bin
    row.lowest = (uint32_t)first << MANTISSA<D>, row.highest = ((uint32_t)(first + LANES) << MANTISSA<D>) - 1;
    std::memcpy(row.bins, &bins, 64);
    for (int k = 0; k < p.steps; ++k) row.step[k] = (__m512i)of_bins(p.step[k], (u32x16)bins);
    return true;
  }
  return false;
}

// Columns [begin, end) of a group, whose first column is `first` of the row, from x into y.
template <class D, bool COIN>
static inline void dense_group(const typename D::storage* x, typename D::storage* y, int first, int begin, int end,
                               const u32x16* words, const u32x16* half, const Profile& p, const ByExponent& row,
                               uint32_t below, Side& changed) {
  const __m512i reach = all((uint32_t)p.reach), near = all((uint32_t)p.reach + 1), one = all(1);
  const __m512i far = all(LARGEST_OF<D> - 2 * (uint32_t)p.reach - 1);
  uint16_t aside[SLOTS];
#pragma GCC unroll 2
  for (int part = 0; part < SLOTS; part += 4) {
    __m512i bits[4], exponent[4], word[4], by[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      bits[k] = (__m512i)raw<D>(x + (part + k) * LANES);
      word[k] = _mm512_srli_epi32((__m512i)words[part + k], 1);
      exponent[k] = exponents<D>(row, bits[k]);
      by[k] = all((uint32_t)p.least);
    }
    for (int s = 0; s < p.steps; ++s) {
      const __m512i step = row.step[s];
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const __mmask16 reached = _mm512_cmpge_epu32_mask(word[k], _mm512_permutexvar_epi32(exponent[k], step));
        by[k] = _mm512_mask_add_epi32(by[k], reached, by[k], one);
      }
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const __m512i size = _mm512_and_si512(bits[k], all(SIGN_OF<D> - 1));
      __mmask16 open = 0xFFFF;
      if constexpr (COIN) open = _mm512_cmplt_epu32_mask((__m512i)half[part + k], all(below));
      // Neither across 0 nor beyond the largest: the sum of the bits is the number.
      const __mmask16 plain = _mm512_cmple_epu32_mask(_mm512_sub_epi32(size, near), far);
      const __mmask16 beyond = _mm512_cmpgt_epi32_mask(_mm512_abs_epi32(by[k]), reach);
      put<D>(y + (part + k) * LANES, (u32x16)_mm512_mask_add_epi32(bits[k], open & plain & ~beyond, bits[k], by[k]));
      aside[part + k] = open & beyond;
      if (plain != 0xFFFF) [[unlikely]]
        aside[part + k] = open & (beyond | (~plain & _mm512_test_epi32_mask(by[k], by[k]))) &
                          _mm512_cmple_epu32_mask(size, all(LARGEST_OF<D>));
    }
  }
  uint64_t columns[2];
  std::memcpy(columns, aside, sizeof(columns));
  if ((columns[0] | columns[1]) == 0) return;
  if (end - begin != GROUP) {
    const auto under = [](int column) { return column >= 64 ? ~0ull : column <= 0 ? 0ull : (1ull << column) - 1; };
    for (int i = 0; i < 2; ++i) columns[i] &= under(end - 64 * i) & ~under(begin - 64 * i);
    std::memcpy(aside, columns, sizeof(columns));
  }
  // What is put aside has its old bits in y. A few are taken one by one: one guess of the processor for
  // each group goes wrong then, and not one for each sixteen columns.
  if (__builtin_popcountll(columns[0]) + __builtin_popcountll(columns[1]) <= FEW) {
    for (int i = 0; i < 2; ++i)
      for (uint64_t rest = columns[i]; rest; rest &= rest - 1) {
        const int column = 64 * i + __builtin_ctzll(rest);
        const uint32_t bits = c10::bit_cast<BitsOf<D>>(y[column]);
        const uint32_t size = std::clamp(bits & (SIGN_OF<D> - 1), row.lowest, row.highest);
        changed.add(first + column, bits, ((const uint32_t*)words)[column] >> 1, row.bins[(size >> MANTISSA<D>) % LANES]);
      }
    return;
  }
#pragma GCC unroll 8
  for (int k = 0; k < SLOTS; ++k) {
    const u32x16 bits = raw<D>(y + k * LANES);
    changed.add(aside[k], first + k * LANES, bits, words[k] >> 1,
                (u32x16)_mm512_permutexvar_epi32(exponents<D>(row, (__m512i)bits), _mm512_load_si512(row.bins)));
  }
}

}  // namespace hetero
#endif
