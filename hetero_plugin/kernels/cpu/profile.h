// Measured profiles: hetero_plugin/errors/profile, in the same integers and float32 operations.
//
// A row is read for its RMS, and then by groups of 128 columns. With AVX-512 all elements of a group are
// changed at once (profile_dense.h). Elsewhere, and for tables whose edges lie further apart than
// sixteen exponents: most elements keep their bits, and most of those are told without their bin. They
// are not small, and their word means no difference in any bin of such. The others are put side by
// side; of those, the ones whose own bin says that they change, again (profile_side.h).
#pragma once
#include <algorithm>
#include <cmath>
#include <string_view>
#include <type_traits>

#include "profile_dense.h"

namespace hetero {

// The words and coins of a group. FRESH: 0 nothing is drawn with the step, 1 what a coin says, 2 all.
// COIN: the scale is below 1.
template <int FRESH, bool COIN>
static inline void draw(const Row& fixed, const Row& now, uint32_t index, const Profile& p, u32x16* words, u32x16* half) {
  u32x16 coins[8];
  philox<0, 2, true>(FRESH == 2 ? now : fixed, index, words);
  if constexpr (COIN && FRESH != 1) {
    philox<2, 1>(FRESH == 2 ? now : fixed, index, coins);
    halves(coins, half);
  }
  if constexpr (FRESH == 1) {
    u32x16 anew[8], tossed[SLOTS], other[SLOTS];
    if constexpr (COIN) {
      philox<2, 2>(fixed, index, coins);
      halves(coins, half);
      halves(coins + 4, tossed);
    } else {
      philox<3, 1>(fixed, index, coins);
      halves(coins, tossed);
    }
    philox<0, 2, true>(now, index, anew);
    if constexpr (COIN) {
      philox<2, 1>(now, index, coins);
      halves(coins, other);
    }
    for (int k = 0; k < SLOTS; ++k) {
      const i32x16 is_new = (i32x16)(tossed[k] < splat(p.fresh));
      words[k] = select(is_new, anew[k], words[k]);
      if constexpr (COIN) half[k] = select(is_new, other[k], half[k]);
    }
  }
}

// Puts aside what may change of columns [begin, end) of a group, whose first column is `first` of the row.
template <class D, bool COIN>
static inline void sparse_group(const typename D::storage* x, int first, int begin, int end, const u32x16* words,
                                const u32x16* half, const Profile& p, float inverse, uint32_t below, Side& asked) {
#pragma GCC unroll 8
  for (int k = 0; k < SLOTS; ++k) {
    const u32x16 bits = raw<D>(x + k * LANES), word = words[k] >> 1;
    const f32x16 ratio = power_below<D>(D::load(x + k * LANES)) * splatf(inverse);
    i32x16 open = (i32x16)(word - splat(p.quiet_from) >= splat(p.quiet_many)) | ~(i32x16)(ratio >= splatf(p.large));
    open &= (i32x16)((bits & splat(SIGN_OF<D> - 1)) <= splat(LARGEST_OF<D>));
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
  alignas(64) T from[GROUP] = {}, to[GROUP];
  u32x16 words[8], half[SLOTS];
  Side changed;
  // f(group's columns, where they go, its first column of the row, begin and end of those that count).
  const auto groups = [&](int most, auto f) {
    for (int64_t column = 0; column < width;) {
      const int64_t global = offset + column, inside = global % GROUP;
      const int64_t n = std::min<int64_t>(GROUP - inside, width - column);
      draw<FRESH, COIN>(fixed, now, (uint32_t)(global / GROUP), p, words, half);
      if (n == GROUP) {
        f(a + column, b + column, (int)column, 0, GROUP);
      } else {
        std::memcpy(from + inside, a + column, n * sizeof(T));
        f(from, to, (int)(column - inside), (int)inside, (int)(inside + n));
        std::memcpy(b + column, to + inside, n * sizeof(T));
      }
      if (changed.n > most) settle<D>(p, changed, b);  // what it writes is not written over
      column += n;
    }
  };
#if defined(__AVX512F__)
  ByExponent row;
  if (by_exponent<D>(p, inverse, row)) {
    groups(KEPT, [&](const T* x, T* y, int first, int begin, int end) {
      dense_group<D, COIN>(x, y, first, begin, end, words, half, p, row, below, changed);
    });
    return settle<D>(p, changed, b);
  }
#endif
  Side asked;
  groups(0, [&](const T* x, T* y, int first, int begin, int end) {
    sparse_group<D, COIN>(x, first, begin, end, words, half, p, inverse, below, asked);
    if (x != y) std::memcpy(y, x, GROUP * sizeof(T));
    if (asked.n > KEPT) ask(p, asked, changed);
  });
  ask(p, asked, changed);
  settle<D>(p, changed, b);
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
