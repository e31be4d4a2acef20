// Elements of a row that are looked up one by one: put side by side, so that vectors are full.
//
// A change is looked up in a guide: words that mean one, without those between that mean none, by their
// leading byte; and by bisection where that byte leaves several.
#pragma once
#include "profile_table.h"

namespace hetero {

// ---- elements as they lie in memory ----

template <class D>
static inline u32x16 raw(const typename D::storage* p) {
  if constexpr (sizeof(*p) == 2) {
    u16x16 v;
    std::memcpy(&v, p, 32);
#if defined(__AVX512F__)
    return (u32x16)_mm512_cvtepu16_epi32((__m256i)v);
#else
    return __builtin_convertvector(v, u32x16);
#endif
  } else {
    u32x16 v;
    std::memcpy(&v, p, 64);
    return v;
  }
}

template <class D>
static inline void put(typename D::storage* p, u32x16 bits) {
  if constexpr (sizeof(*p) == 2) {
    const u16x16 v = __builtin_convertvector(bits, u16x16);
    std::memcpy(p, &v, 32);
  } else {
    std::memcpy(p, &bits, 64);
  }
}

// The power of two at or below |v|, at least the dtype's smallest normal number. Of bfloat16 and float32
// that is 2^-126, and what 0 stands in its place for is in the first bin like it.
template <class D>
static inline f32x16 power_below(f32x16 v) {
  const u32x16 power = as_bits(v) & splat(INFINITE);
  if constexpr (std::is_same_v<D, F16>) return as_float((u32x16)greater((i32x16)power, (i32x16)splat(0x38800000u)));
  return as_float(power);
}

// ---- tables, by bins ----

static inline uint32_t mask_of(i32x16 lanes) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)lanes);
#else
#if defined(__AVX2__)
  __m256 half[2];
  std::memcpy(half, &lanes, 64);
  return (uint32_t)_mm256_movemask_ps(half[0]) | (uint32_t)_mm256_movemask_ps(half[1]) << 8;
#else
  uint32_t mask = 0;
  for (int i = 0; i < LANES; ++i) mask |= (uint32_t)(lanes[i] < 0) << i;
  return mask;
#endif
#endif
}

// What a table says of bins.
static inline u32x16 of_bins(const uint32_t* table, u32x16 bin) {
#if defined(__AVX512F__)
  return (u32x16)_mm512_permutex2var_epi32(_mm512_load_si512(table), (__m512i)bin, _mm512_load_si512(table + LANES));
#else
  u32x16 v;
  for (int i = 0; i < LANES; ++i) v[i] = table[bin[i]];
  return v;
#endif
}

// How many limits are at or below each ratio.
static inline u32x16 bins_of(const Profile& p, f32x16 ratio) {
#if defined(__AVX512F__)
  const __m512 low = _mm512_load_ps(p.limits), high = _mm512_load_ps(p.limits + LANES);
  __m512i at = _mm512_setzero_si512();
#pragma GCC unroll 5
  for (int step = 16; step; step /= 2) {
    const __m512 limit = _mm512_permutex2var_ps(low, _mm512_add_epi32(at, all(step - 1)), high);
    at = _mm512_mask_add_epi32(at, _mm512_cmp_ps_mask((__m512)ratio, limit, _CMP_GE_OQ), at, all(step));
  }
  return (u32x16)at;
#else
  u32x16 at{};
  for (int i = 0; i < p.edges; ++i) at -= (u32x16)(ratio >= splatf(p.limits[i]));
  return at;
#endif
}

// Bits of numbers a difference further from zero, at most the largest finite one.
static inline u32x16 moved(u32x16 bits, i32x16 by, uint32_t sign, uint32_t largest) {
  const u32x16 size = bits & splat(sign - 1);
  const i32x16 most = (i32x16)splat(largest), none{};
  const i32x16 room = most - greater(by, none);
  i32x16 to = ((i32x16)size < room ? (i32x16)size : room) + by;
  to = greater(to, -most);
  const i32x16 across = to < none;
  const u32x16 magnitude = (u32x16)(across ? -to : to);
  u32x16 signs = (bits & (u32x16)(size != splat(0))) & splat(sign);  // of 0 it is +
  signs = (signs ^ ((u32x16)across & splat(sign))) & (u32x16)(to != none);
  return select(by == none, bits, magnitude | signs);
}

static inline u32x16 at(const uint32_t* p) {
  u32x16 v;
  std::memcpy(&v, p, 64);
  return v;
}

constexpr int KEPT = 512;

// Elements put side by side; each list has room for another group, and a vector beyond that.
struct Side {
  int n = 0;
  uint32_t column[KEPT + GROUP + LANES], bits[KEPT + GROUP + LANES], word[KEPT + GROUP + LANES], more[KEPT + GROUP + LANES];
  void add(uint32_t mask, u32x16 columns, u32x16 bits_, u32x16 words, u32x16 others) {
#if defined(__AVX512F__)
    const auto keep = [&](uint32_t* to, u32x16 v) { _mm512_storeu_si512(to + n, _mm512_maskz_compress_epi32(mask, (__m512i)v)); };
    keep(column, columns), keep(bits, bits_), keep(word, words), keep(more, others);
    n += __builtin_popcount(mask);
#else
    for (; mask; mask &= mask - 1, ++n) {
      const int lane = __builtin_ctz(mask);
      column[n] = columns[lane], bits[n] = bits_[lane], word[n] = words[lane], more[n] = others[lane];
    }
#endif
  }
  void add(uint32_t column_, uint32_t bits_, uint32_t word_, uint32_t more_) {
    column[n] = column_, bits[n] = bits_, word[n] = word_, more[n] = more_;
    ++n;
  }
  void add(uint32_t mask, int first, u32x16 bits_, u32x16 words, u32x16 others) {
    const u32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    add(mask, lane + splat(first), bits_, words, others);
  }
};

// The guide's entries of the first n lanes.
static inline u32x16 looked_up(const Profile& p, u32x16 index, int n) {
#if defined(__AVX512F__)
  return (u32x16)_mm512_mask_i32gather_epi32(_mm512_setzero_si512(), (1u << n) - 1, (__m512i)index, p.guide.data(), 4);
#else
  u32x16 v{};
  for (int i = 0; i < n; ++i) v[i] = (uint32_t)p.guide[index[i]];
  return v;
#endif
}

// Of what was put aside, the elements whose own bin says that they change.
static void ask(const Profile& p, Side& asked, Side& changed) {
  for (int i = 0; i < asked.n; i += LANES) {
    const u32x16 word = at(asked.word + i);
    // Beyond the last element lies anything.
    const u32x16 bin = bins_of(p, as_float(at(asked.more + i)));
    const u32x16 from = of_bins(p.clean_from, bin), many = of_bins(p.clean_many, bin);
    const uint32_t there = asked.n - i >= LANES ? 0xFFFFu : (1u << (asked.n - i)) - 1;
    changed.add(mask_of((i32x16)(word - from >= many)) & there, at(asked.column + i), at(asked.bits + i), word, bin);
  }
  asked.n = 0;
}

// What they change to, into a row y.
template <class D>
static void settle(const Profile& p, Side& changed, typename D::storage* y) {
  for (int i = 0; i < changed.n; i += LANES) {
    const int n = std::min(LANES, changed.n - i);
    const u32x16 word = at(changed.word + i), bin = at(changed.more + i) & splat(MOST_BINS - 1);
    const u32x16 from = of_bins(p.clean_from, bin), rest = word < from ? word : word - of_bins(p.clean_many, bin);
    i32x16 by = (i32x16)looked_up(p, (bin << GUIDE_BITS) | (rest >> of_bins(p.shifts, bin)), n);
    uint32_t unsettled = mask_of((by & (i32x16)splat(1)) == i32x16{}) & ((1u << n) - 1);
    by >>= 1;
    if (unsettled) {
      alignas(64) int32_t each[LANES];
      std::memcpy(each, &by, 64);
      for (; unsettled; unsettled &= unsettled - 1) {
        const int lane = __builtin_ctz(unsettled);
        each[lane] = p.difference(changed.more[i + lane], changed.word[i + lane]);
      }
      std::memcpy(&by, each, 64);
    }
    alignas(64) uint32_t made[LANES];
    const u32x16 to = moved(at(changed.bits + i), by, SIGN_OF<D>, p.largest);
    std::memcpy(made, &to, 64);
    for (int lane = 0; lane < n; ++lane) y[changed.column[i + lane]] = c10::bit_cast<typename D::storage>((BitsOf<D>)made[lane]);
  }
  changed.n = 0;
}

}  // namespace hetero
