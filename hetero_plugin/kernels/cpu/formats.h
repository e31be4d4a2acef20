// Number formats: hetero_plugin/errors/formats, in the same float32 operations, so the same bits.
//
// Three steps for sixteen blocks at a time: their largest numbers; from these two factors a block,
// for sixteen blocks in one vector; then each element times (or divided by) the first factor, to the
// nearest number of the grid, times the second. HiF4, whose blocks have blocks, is by itself.
//
// The build lets the compiler fuse a product into a sum. Where that would change a bit, `apart`
// keeps them apart; elsewhere a change of bits stands between the two.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <vector>

#include "dtypes.h"

namespace hetero {

// As `Rule` and `Span` in hetero_plugin/errors/formats/numbers.py, and below in the order of its fields.
enum Rule { FLOOR, CEIL, EVEN, RCEIL, SCALED, NVFP4, NVFP4_DIVIDED, HIF4 };
enum Span { BLOCK, ROW, TENSOR };

struct Format {
  int rule, span;  // span: of the largest number that is found before the blocks'
  int64_t block;   // columns, a multiple of 16; 0: the span
  int mantissa, smallest, kept;
  float low, high, divisor, floor, outer;
  bool divides() const { return rule == SCALED || rule == NVFP4_DIVIDED; }
};
constexpr int NUMBERS = 11;
constexpr int64_t LONGEST = 512;  // columns of a block

// ---- the formats by name, as the package declares them ----

static std::shared_mutex declaring;
static std::map<std::string, Format, std::less<>> declared;

static std::optional<Format> format_of(std::string_view name) {
  const std::shared_lock<std::shared_mutex> lock(declaring);
  const auto found = declared.find(name);
  if (found == declared.end()) return std::nullopt;
  return found->second;
}

void declare_format(std::string_view name, const at::Tensor& numbers) {
  TORCH_CHECK(numbers.numel() == NUMBERS && numbers.scalar_type() == at::kDouble && numbers.is_contiguous(),
              "hetero_noise::declare_format: ", NUMBERS, " float64 numbers, got ", numbers.numel());
  const double* n = numbers.const_data_ptr<double>();
  Format f;
  f.rule = (int)n[0], f.span = (int)n[1], f.block = (int64_t)n[2];
  f.mantissa = (int)n[3], f.smallest = (int)n[4], f.kept = (int)n[5];
  f.low = (float)n[6], f.high = (float)n[7], f.divisor = (float)n[8], f.floor = (float)n[9], f.outer = (float)n[10];
  TORCH_CHECK(f.rule >= FLOOR && f.rule <= HIF4 && f.span >= BLOCK && f.span <= TENSOR && f.block >= 0 &&
                  f.block <= LONGEST && f.block % LANES == 0 && (f.block > 0 || (f.span != BLOCK && f.rule == SCALED)) &&
                  (f.rule != HIF4 || f.block == 64),
              "hetero_noise::declare_format: no format of rule ", f.rule, ", span ", f.span, " and blocks of ", f.block);
  const std::unique_lock<std::shared_mutex> lock(declaring);
  declared[std::string(name)] = f;
}

// ---- sixteen numbers ----

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HETERO_MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif
#endif
#ifndef HETERO_MIX
#define HETERO_MIX(a, b, ...) __builtin_shuffle(a, b, i32x16{__VA_ARGS__})
#endif

constexpr uint32_t SIGN = 0x80000000u, INFINITE = 0x7F800000u, NAN_BITS = 0x7FC00000u;

static inline i32x16 greater(i32x16 a, i32x16 b) { return a > b ? a : b; }
static inline f32x16 at_most(f32x16 v, float most) { return v > splatf(most) ? splatf(most) : v; }      // a NaN
static inline f32x16 at_least(f32x16 v, float least) { return v < splatf(least) ? splatf(least) : v; }  // stays one

// Magnitudes as integers: they are ordered as the numbers are, and a NaN is the largest.
template <class D>
static inline i32x16 size(const typename D::storage* x) {
  return (i32x16)(as_bits(D::load(x)) & splat(~SIGN));
}

// 2^e, exactly, for e in [-127, 127].
static inline f32x16 power_of_two(i32x16 e) {
  return as_float(select(e < (i32x16)splat((uint32_t)-126), splat(0x00400000u), (u32x16)(e + 127) << 23));
}
static inline i32x16 exponent(u32x16 bits) { return (i32x16)((bits >> 23) & 0xFFu) - 127; }

static inline f32x16 to_bfloat16(f32x16 v) {
  const u32x16 bits = as_bits(v);
  return as_float((bits + splat(0x7FFFu) + ((bits >> 16) & 1u)) & splat(0xFFFF0000u));
}

struct Grid {
  u32x16 least, lift;
  float low, high;
  Grid(int mantissa, int smallest, float low_, float high_)
      : least(splat((uint32_t)(smallest + 127) << 23)), lift(splat((uint32_t)(23 - mantissa) << 23)), low(low_), high(high_) {}
  // A number whose last place is the grid's step there, added and taken away again, leaves what is
  // nearest, ties to even. `sign`: the bit that the result keeps of v.
  f32x16 nearest(f32x16 v, u32x16 sign) const {
    v = at_least(at_most(v, high), low);
    const u32x16 bits = as_bits(v);
    const i32x16 e = greater((i32x16)(bits & splat(INFINITE)), (i32x16)least);
    const f32x16 large = as_float((u32x16)e + lift);
    return as_float(as_bits((magnitude(v) + large) - large) | (bits & sign));
  }
};
static inline Grid scale_grid() { return Grid(3, -6, -448.0f, 448.0f); }  // E4M3

// ---- the largest numbers ----

// The largest lane of each of sixteen vectors, in their order.
static inline i32x16 largest_lanes(const i32x16* v) {
  i32x16 four[4];
  for (int i = 0; i < 4; ++i) {
    i32x16 two[2];
    for (int j = 0; j < 2; ++j) {
      const i32x16 a = v[4 * i + 2 * j], b = v[4 * i + 2 * j + 1];
      two[j] = greater(HETERO_MIX(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29),
                       HETERO_MIX(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31));
    }
    four[i] = greater(HETERO_MIX(two[0], two[1], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
                      HETERO_MIX(two[0], two[1], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31));
  }
  i32x16 eight[2];
  for (int i = 0; i < 2; ++i) {
    const i32x16 a = four[2 * i], b = four[2 * i + 1];
    eight[i] = greater(HETERO_MIX(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
                       HETERO_MIX(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
  }
  return greater(HETERO_MIX(eight[0], eight[1], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27),
                 HETERO_MIX(eight[0], eight[1], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31));
}

// max|x| of n numbers, NaN if one is.
template <class D>
static float largest(const typename D::storage* x, int64_t n) {
  i32x16 m[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES)
    for (int k = 0; k < 4; ++k) m[k] = greater(m[k], size<D>(x + i + k * LANES));
  for (; i + LANES <= n; i += LANES) m[0] = greater(m[0], size<D>(x + i));
  if (i < n) {
    typename D::storage rest[LANES] = {};
    std::memcpy(rest, x + i, (n - i) * sizeof(*x));
    m[1] = greater(m[1], size<D>(rest));
  }
  m[0] = greater(greater(m[0], m[1]), greater(m[2], m[3]));
  int32_t most = 0;
  for (int k = 0; k < LANES; ++k) most = std::max(most, (int32_t)m[0][k]);
  return c10::bit_cast<float>(most);
}

// ---- from the largest numbers to factors ----

// NVFP4's scale of a row or a tensor, from its largest number; the operations of the reference.
static inline float outer_scale(float largest) {
  if (largest < 0x1p-126f) largest = 0x1p-126f;
  const float g = 1.0f / largest * 2688.0f;
  return g <= 3.4028234664e38f ? g : 1.0f;
}

// What elements of sixteen blocks are multiplied with, or divided by, before and after.
static inline void factors(const Format& f, f32x16 most, float outer, f32x16& in, f32x16& out) {
  const f32x16 g = splatf(outer);
  if (f.rule == SCALED) {
    const f32x16 scale = at_least(most / splatf(f.divisor), f.floor);
    in = select((i32x16)(scale == f32x16{}), splatf(1.0f), scale);  // `out` alone makes zeros
    out = scale;
  } else if (f.rule == NVFP4) {
    const f32x16 scale = scale_grid().nearest(g * (most * splatf((float)(1.0 / 6.0))), splat(SIGN));
    const f32x16 inverse = splatf(1.0f) / (scale * (splatf(1.0f) / g));
    in = select((i32x16)(scale == f32x16{}), f32x16{}, inverse);
    out = scale / g;
  } else if (f.rule == NVFP4_DIVIDED) {
    const f32x16 scale = scale_grid().nearest(g * (most / splatf(6.0f)), splat(SIGN));
    in = out = select((i32x16)(scale == f32x16{}), splatf(0.125f), scale) / g;
  } else {
    const u32x16 bits = as_bits(most);
    const int top = (int)((c10::bit_cast<uint32_t>(f.high) >> 23) & 0xFFu) - 127;
    i32x16 e = exponent(bits) - top;
    if (f.rule == CEIL) e -= (i32x16)((bits & 0x7FFFFFu) != 0);
    if (f.rule == EVEN) e = exponent(bits + (1u << (22 - f.kept))) - top;
    if (f.rule == RCEIL) {
      const u32x16 ratio = as_bits(most / splatf(f.high));
      // Below 2**-126 a number has no exponent of its own: is -127 enough?
      const u32x16 whole = select((i32x16)(ratio < splat(0x800000u)), splat(0x400000u), splat(0u));
      e = exponent(ratio) - (i32x16)((ratio & 0x7FFFFFu) > whole);
    }
    const i32x16 lowest = (i32x16)splat((uint32_t)-127), highest = (i32x16)splat(127u);
    e = greater(e, lowest);
    e = e < highest ? e : highest;
    in = power_of_two(-e);
    out = as_float(select(bits >= splat(INFINITE), splat(NAN_BITS), as_bits(power_of_two(e))));
  }
}

// ---- elements ----

// x + s (q - x), each operation rounded; at s = 1 q itself, which that is not always.
template <class D, bool BLEND>
static inline void finish(typename D::storage* y, f32x16 v, f32x16 q, f32x16 s) {
  if constexpr (BLEND) q = v + apart(s * (apart(q) - v));
  D::nearest(y, q);
}

template <class D, bool DIVIDE, bool BLEND>
static inline void elements(const typename D::storage* x, typename D::storage* y, int64_t n, const Grid& grid,
                            float in, float out, f32x16 s) {
  const f32x16 before = splatf(in), after = splatf(out);
  // A scale of 0 makes zeros without a sign; of NVFP4's, which multiplies, with one.
  const u32x16 sign = splat(DIVIDE && out == 0.0f ? 0 : SIGN);
  for (int64_t i = 0; i < n; i += LANES) {
    const f32x16 v = D::load(x + i);
    finish<D, BLEND>(y + i, v, grid.nearest(DIVIDE ? v / before : v * before, sign) * after, s);
  }
}

// Whole blocks.
template <class D, bool DIVIDE, bool BLEND>
static void blocks(const typename D::storage* x, typename D::storage* y, int64_t count, const Format& f,
                   float outer, float scale) {
  const Grid grid(f.mantissa, f.smallest, f.low, f.high);
  const f32x16 s = splatf(scale);
  const int64_t block = f.block;
  for (int64_t first = 0; first < count; first += LANES) {
    const int64_t n = std::min<int64_t>(LANES, count - first);
    const typename D::storage* a = x + first * block;
    typename D::storage* b = y + first * block;
    i32x16 most[LANES] = {};
    for (int64_t k = 0; k < n; ++k) {
      i32x16 m = size<D>(a + k * block);
      for (int64_t i = LANES; i < block; i += LANES) m = greater(m, size<D>(a + k * block + i));
      most[k] = m;
    }
    f32x16 in, out;
    factors(f, as_float((u32x16)largest_lanes(most)), outer, in, out);
    alignas(64) float before[LANES], after[LANES];
    std::memcpy(before, &in, 64);
    std::memcpy(after, &out, 64);
    for (int64_t k = 0; k < n; ++k)
      elements<D, DIVIDE, BLEND>(a + k * block, b + k * block, block, grid, before[k], after[k], s);
  }
}

// HiF4, arXiv 2602.11287: blocks of 64 in four vectors.
template <class D, bool BLEND>
static void hif4_blocks(const typename D::storage* x, typename D::storage* y, int64_t count, float scale_) {
  const f32x16 s = splatf(scale_);
  const float seventh = c10::bit_cast<float>(0x3E120000u);  // 1/7 in bfloat16
  for (int64_t n = 0; n < count; ++n, x += 4 * LANES, y += 4 * LANES) {
    f32x16 v[4];
    i32x16 of_4[4], of_8[4];
    for (int k = 0; k < 4; ++k) {
      v[k] = D::load(x + k * LANES);
      i32x16 m = (i32x16)(as_bits(v[k]) & splat(~SIGN));
      m = greater(m, HETERO_MIX(m, m, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
      m = greater(m, HETERO_MIX(m, m, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
      of_4[k] = m;
      of_8[k] = greater(m, HETERO_MIX(m, m, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    }
    i32x16 m = greater(greater(of_8[0], of_8[1]), greater(of_8[2], of_8[3]));
    m = greater(m, HETERO_MIX(m, m, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    const f32x16 whole = as_float((u32x16)m);
    const f32x16 factor = at_most(at_least(to_bfloat16(whole * splatf(seventh)), 0x1p-48f), 49152.0f);
    f32x16 scale = Grid(2, -60, -65536.0f, 65536.0f).nearest(factor, splat(SIGN));
    const f32x16 inverse = to_bfloat16(splatf(1.0f) / scale);
    scale = select(m >= (i32x16)splat(INFINITE), as_float(splat(NAN_BITS)), scale);
    for (int k = 0; k < 4; ++k) {
      // Scales of 8 and of 4, added to exponents; halving what is compared is doubling the bound.
      const f32x16 on_8 = as_float((u32x16)of_8[k]) * inverse, on_4 = as_float((u32x16)of_4[k]) * inverse;
      const u32x16 one = splat(1u << 23), none = {};
      const u32x16 up_8 = on_8 >= splatf(4.0f) ? one : none;
      const u32x16 up = up_8 + (on_4 >= as_float(splat(0x40000000u) + up_8) ? one : none);
      const f32x16 ratio = magnitude(v[k]) * inverse * as_float(splat(0x40800000u) - up) + splatf(0.5f);
      const f32x16 bounded = at_most(ratio, 7.5f);
      const f32x16 quarters = __builtin_convertvector(__builtin_convertvector(bounded, i32x16), f32x16);
      const f32x16 q = scale * as_float(splat(0x3E800000u) + up) * quarters;
      finish<D, BLEND>(y + k * LANES, v[k], as_float(as_bits(q) | (as_bits(v[k]) & splat(SIGN))), s);
    }
  }
}

// ---- rows ----

// n columns of a row, those of one segment. most: max|x| of the format's span.
template <class D, bool BLEND>
static void format_row(const typename D::storage* x, typename D::storage* y, int64_t n, const Format& f, float most,
                       float scale) {
  using T = typename D::storage;
  const auto whole = [&](const T* a, T* b, int64_t count, float outer) {
    if (f.rule == HIF4) hif4_blocks<D, BLEND>(a, b, count, scale);
    else if (f.divides()) blocks<D, true, BLEND>(a, b, count, f, outer, scale);
    else blocks<D, false, BLEND>(a, b, count, f, outer, scale);
  };
  alignas(64) T from[LONGEST], to[LONGEST];
  if (f.block == 0) {
    const Grid grid(f.mantissa, f.smallest, f.low, f.high);
    f32x16 in, out;
    factors(f, splatf(most), 0.0f, in, out);
    const int64_t even = n / LANES * LANES, rest = n - even;
    elements<D, true, BLEND>(x, y, even, grid, in[0], out[0], splatf(scale));
    if (rest == 0) return;
    std::fill_n(from, LANES, T(0));
    std::memcpy(from, x + even, rest * sizeof(T));
    elements<D, true, BLEND>(from, to, LANES, grid, in[0], out[0], splatf(scale));
    std::memcpy(y + even, to, rest * sizeof(T));
    return;
  }
  const float outer = f.span == BLOCK ? f.outer : outer_scale(most);
  const int64_t count = n / f.block, even = count * f.block, rest = n - even;
  whole(x, y, count, outer);
  if (rest == 0) return;
  std::fill_n(from, f.block, T(0));  // which change no maximum
  std::memcpy(from, x + even, rest * sizeof(T));
  whole(from, to, 1, outer);
  std::memcpy(y + even, to, rest * sizeof(T));
}

template <class D>
static void format_rows(const at::Tensor& x, at::Tensor& y, const float* scales, const int64_t* segments,
                        int64_t count, const Format& f) {
  using T = typename D::storage;
  const int64_t N = x.size(-1), R = N ? x.numel() / N : 0;
  const T* in = static_cast<const T*>(x.const_data_ptr());
  T* out = static_cast<T*>(y.mutable_data_ptr());
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(N, 1));
  std::vector<float> of_tensor(count, 0.0f);
  if (f.span == TENSOR) {
    std::mutex one;
    at::parallel_for(0, R, grain, [&](int64_t begin, int64_t end) {
      const Subnormals kept;
      for (int64_t r = begin; r < end; ++r) {
        const T* a = in + r * N;
        for (int64_t g = 0; g < count; a += segments[4 * g++]) {
          if (scales[segments[4 * g + 3]] == 0.0f) continue;
          const float most = largest<D>(a, segments[4 * g]);
          const std::lock_guard<std::mutex> lock(one);
          if (!(most <= of_tensor[g])) of_tensor[g] = of_tensor[g] == of_tensor[g] ? most : of_tensor[g];
        }
      }
    });
  }
  at::parallel_for(0, R, grain, [&](int64_t begin, int64_t end) {
    const Subnormals kept;
    for (int64_t r = begin; r < end; ++r) {
      const T* a = in + r * N;
      T* b = out + r * N;
      for (int64_t g = 0; g < count; ++g) {
        const int64_t width = segments[4 * g];
        const float scale = scales[segments[4 * g + 3]];
        if (scale == 0.0f) {
          if (a != b) std::memcpy(b, a, width * sizeof(T));
        } else {
          const float most = f.span == ROW ? largest<D>(a, width) : of_tensor[g];
          if (scale == 1.0f) format_row<D, false>(a, b, width, f, most, scale);
          else format_row<D, true>(a, b, width, f, most, scale);
        }
        a += width;
        b += width;
      }
    }
  });
}

static void format_into(const at::Tensor& x, at::Tensor& y, const float* scales, const int64_t* segments, int64_t count,
                        const Format& f) {
  switch (x.scalar_type()) {
    case at::kBFloat16: return format_rows<BF16>(x, y, scales, segments, count, f);
    case at::kHalf: return format_rows<F16>(x, y, scales, segments, count, f);
    case at::kFloat: return format_rows<F32>(x, y, scales, segments, count, f);
    default:
      TORCH_CHECK_TYPE(false, "hetero_noise::perturb takes bfloat16, float16 or float32, got ", x.scalar_type());
  }
}

}  // namespace hetero
