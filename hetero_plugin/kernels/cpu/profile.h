// Measured profiles: hetero_plugin/errors/profile, in the same integers and float32 operations.
//
// A row is read for its largest number, then for the sum of squares that its RMS is of, and then by
// groups of 128 columns. Most elements keep their bits, and most of those are told without their bin:
// they are not small, and their word means no difference in any bin of such. The others are put side
// by side; of those, the ones whose own bin says that they change, again. A change is looked up in a
// guide: words that mean one, without those between that mean none, by their leading byte; and by
// bisection where that byte leaves several.
#pragma once
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <string_view>

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

// ---- the RMS of a row ----

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

static inline i32x16 square(i32x16 q) {
#if defined(__AVX512BW__)
  return (i32x16)_mm512_madd_epi16((__m512i)q, (__m512i)q);  // below 2^15, the upper half 0
#else
  return q * q;
#endif
}

constexpr int64_t SUMMED = 4 * 63 * LANES;  // of which a lane has at most 64 + 1

// 1 / RMS, 0 of a row of zeros.
template <class D>
static float inverse_rms(const typename D::storage* x, int64_t n) {
  i32x16 four[4] = {};
  each<D>(x, n, [&](f32x16 v, int k) { four[k] = greater(four[k], (i32x16)as_bits(finite(v))); });
  const i32x16 most = greater(greater(four[0], four[1]), greater(four[2], four[3]));
  int32_t top = 0;
  for (int i = 0; i < LANES; ++i) top = std::max(top, (int32_t)most[i]);
  const int e = std::max((top >> 23) - 127, LEAST_TOP);
  const f32x16 factor = splatf(c10::bit_cast<float>((uint32_t)(RMS_BITS - 1 - e + 127) << 23));
  int64_t total = 0;
  for (int64_t start = 0; start < n; start += SUMMED) {
    i32x16 sums[4] = {};
    each<D>(x + start, std::min(SUMMED, n - start), [&](f32x16 v, int k) {
      sums[k] += square(__builtin_convertvector(finite(v) * factor + splatf(0.5f), i32x16));  // at most 2^24
    });
    for (int k = 0; k < 4; ++k)
      for (int i = 0; i < LANES; ++i) total += (uint32_t)sums[k][i];
  }
  const float rms = std::sqrt((float)total / (float)n) * c10::bit_cast<float>((uint32_t)(e - (RMS_BITS - 1) + 127) << 23);
  return rms > 0.0f ? 1.0f / rms : 0.0f;
}

// ---- one group of 128 columns ----

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

// Of what was put aside, the elements that change, into a row y.
template <class D>
static void settle(const Profile& p, Side& asked, Side& changed, typename D::storage* y) {
  using Bits = std::conditional_t<sizeof(*y) == 2, uint16_t, uint32_t>;
  constexpr uint32_t SIGN_BIT = sizeof(*y) == 2 ? 0x8000u : 0x80000000u;
  for (int i = 0; i < asked.n; i += LANES) {
    const u32x16 word = at(asked.word + i);
    // Beyond the last element lies anything.
    const u32x16 bin = bins_of(p, as_float(at(asked.more + i)));
    const u32x16 from = of_bins(p.clean_from, bin), many = of_bins(p.clean_many, bin);
    const uint32_t there = asked.n - i >= LANES ? 0xFFFFu : (1u << (asked.n - i)) - 1;
    changed.add(mask_of((i32x16)(word - from >= many)) & there, at(asked.column + i), at(asked.bits + i), word, bin);
  }
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
    const u32x16 to = moved(at(changed.bits + i), by, SIGN_BIT, p.largest);
    std::memcpy(made, &to, 64);
    for (int lane = 0; lane < n; ++lane) y[changed.column[i + lane]] = c10::bit_cast<typename D::storage>((Bits)made[lane]);
  }
  asked.n = changed.n = 0;
}

// Puts aside what may change of columns [begin, end) of a group, whose first column is `first` of the row.
// FRESH: 0 nothing is drawn with the step, 1 what a coin says, 2 all. COIN: the scale is below 1.
template <class D, int FRESH, bool COIN>
static inline void profile_group(const typename D::storage* x, int first, int begin, int end, const Row& fixed,
                                 const Row& now, uint32_t index, const Profile& p, float inverse, uint32_t below,
                                 Side& asked) {
  constexpr uint32_t SIGN_BIT = sizeof(*x) == 2 ? 0x8000u : 0x80000000u;
  u32x16 words[8], coins[4], half[SLOTS], anew[FRESH == 1 ? 8 : 1], tossed[SLOTS];
  philox<0, 2, true>(FRESH == 2 ? now : fixed, index, words);
  if constexpr (COIN) {
    philox<2, 1>(FRESH == 2 ? now : fixed, index, coins);
    halves(coins, half);
  }
  if constexpr (FRESH == 1) {
    philox<3, 1>(fixed, index, coins);
    halves(coins, tossed);
    philox<0, 2, true>(now, index, anew);
    for (int k = 0; k < SLOTS; ++k) {
      tossed[k] = (u32x16)(tossed[k] < splat(p.fresh));
      words[k] = select((i32x16)tossed[k], anew[k], words[k]);
    }
    if constexpr (COIN) {
      u32x16 other[SLOTS];
      philox<2, 1>(now, index, coins);
      halves(coins, other);
      for (int k = 0; k < SLOTS; ++k) half[k] = select((i32x16)tossed[k], other[k], half[k]);
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < SLOTS; ++k) {
    const u32x16 bits = raw<D>(x + k * LANES), word = words[k] >> 1;
    const f32x16 ratio = power_below<D>(D::load(x + k * LANES)) * splatf(inverse);
    i32x16 open = (i32x16)(word - splat(p.quiet_from) >= splat(p.quiet_many)) | ~(i32x16)(ratio >= splatf(p.large));
    open &= (i32x16)((bits & splat(SIGN_BIT - 1)) <= splat(p.largest));
    if constexpr (COIN) open &= (i32x16)(half[k] < splat(below));
    uint32_t mask = mask_of(open);
    if (end - begin != GROUP) {
      const auto under = [&](int column) { return (1u << std::clamp(column - k * LANES, 0, LANES)) - 1; };
      mask &= under(end) & ~under(begin);
    }
    asked.add(mask, first + k * LANES, bits, word, as_bits(ratio));
  }
}

template <class D, int FRESH, bool COIN>
static void profile_row(const typename D::storage* a, typename D::storage* b, int64_t width, int64_t offset,
                        const Row& fixed, const Row& now, const Profile& p, float scale) {
  using T = typename D::storage;
  const float inverse = inverse_rms<D>(a, width);
  const uint32_t below = (uint32_t)std::ceil(std::min(scale, 1.0f) * 65536.0f);
  alignas(64) T part[GROUP] = {};
  Side asked, changed;
  if (a != b) std::memcpy(b, a, width * sizeof(T));
  for (int64_t column = 0; column < width;) {
    const int64_t global = offset + column, inside = global % GROUP;
    const int64_t n = std::min<int64_t>(GROUP - inside, width - column);
    if (n != GROUP) std::memcpy(part + inside, a + column, n * sizeof(T));
    profile_group<D, FRESH, COIN>(n == GROUP ? a + column : part, (int)(column - inside), (int)inside, (int)(inside + n),
                                  fixed, now, (uint32_t)(global / GROUP), p, inverse, below, asked);
    if (asked.n > KEPT) settle<D>(p, asked, changed, b);
    column += n;
  }
  settle<D>(p, asked, changed, b);
}

template <class D>
static void profile_rows(const at::Tensor& x, at::Tensor& y, const int64_t* keys, int64_t clock, const float* scales,
                         const int64_t* segments, int64_t count, const Profile& p) {
  using T = typename D::storage;
  const int64_t N = x.size(-1), R = N ? x.numel() / N : 0;
  const T* in = static_cast<const T*>(x.const_data_ptr());
  T* out = static_cast<T*>(y.mutable_data_ptr());
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(N, 1));
  const int fresh = p.fresh == 0 ? 0 : p.fresh < 65536 ? 1 : 2;
  at::parallel_for(0, R, grain, [&](int64_t begin, int64_t end) {
    const Subnormals kept;
    for (int64_t r = begin; r < end; ++r) {
      const T* a = in + r * N;
      T* b = out + r * N;
      for (int64_t g = 0; g < count; ++g) {
        const int64_t *segment = segments + 4 * g, width = segment[0];
        const float scale = scales[segment[3]];
        if (scale == 0.0f) {
          if (a != b) std::memcpy(b, a, width * sizeof(T));
        } else {
          const Row fixed(p.clock, segment[1], keys[r]), now(clock, segment[1], keys[r]);
          const auto go = [&](auto run) { run(a, b, width, segment[2], fixed, now, p, scale); };
          const bool coin = scale < 1.0f;
          if (fresh == 0) coin ? go(profile_row<D, 0, true>) : go(profile_row<D, 0, false>);
          else if (fresh == 1) coin ? go(profile_row<D, 1, true>) : go(profile_row<D, 1, false>);
          else coin ? go(profile_row<D, 2, true>) : go(profile_row<D, 2, false>);
        }
        a += width;
        b += width;
      }
    }
  });
}

// The same for a word that is declared, else false.
static bool profile_into(const at::Tensor& x, at::Tensor& y, const int64_t* keys, int64_t clock, const float* scales,
                         const int64_t* segments, int64_t count, std::string_view error) {
  if (!error.starts_with("profile|")) return false;
  const Profiles known = profiles_of(error);
  const int dtype = x.scalar_type() == at::kBFloat16 ? 0 : x.scalar_type() == at::kHalf ? 1 : x.scalar_type() == at::kFloat ? 2 : 3;
  TORCH_CHECK_TYPE(dtype < 3, "hetero_noise::perturb takes bfloat16, float16 or float32, got ", x.scalar_type());
  TORCH_CHECK_VALUE(known[dtype], "hetero_noise: error: profile in ", x.scalar_type(),
                    ", which the profile has no table for, of this kind and size: '", error,
                    "'. Load the model in a dtype that was measured, or leave the site out");
  const auto go = [&](auto run) { run(x, y, keys, clock, scales, segments, count, *known[dtype]); };
  if (dtype == 0) go(profile_rows<BF16>);
  else if (dtype == 1) go(profile_rows<F16>);
  else go(profile_rows<F32>);
  return true;
}

}  // namespace hetero
