// The CPU implementation of torch.ops.hetero_noise.perturb and of the addressed random numbers.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "dtypes.h"
#include "formats.h"
#include "philox.h"
#include "profile.h"

namespace hetero {

enum class Model { relative_gaussian, absolute_gaussian, bias, relative_bias, truncation, relative_uniform };

// ---- one group of 128 columns ----

template <Model M, class D, bool SR>
static inline void group(const typename D::storage* x, typename D::storage* y, const Row& at,
                         uint32_t index, float scale) {
  constexpr bool random = M == Model::relative_gaussian || M == Model::absolute_gaussian;
  constexpr bool uniform = M == Model::relative_uniform;
  constexpr bool rounds = SR && M != Model::truncation;
  u32x16 words[12], bits[SLOTS];
  f32x16 z[SLOTS];
  if constexpr ((random || uniform) && rounds) {
    philox<0, 3, uniform>(at, index, words);
  } else if constexpr (random || uniform) {
    philox<0, 2, uniform>(at, index, words);
  } else if constexpr (rounds) {
    philox<2, 1>(at, index, words + 8);
  }
  if constexpr (random) normals(words, scale, z);
  if constexpr (rounds) halves(words + 8, bits);
  const f32x16 s = splatf(scale), s_root3 = splatf(scale * 1.7320508075688772f);
#pragma GCC unroll 8
  for (int k = 0; k < SLOTS; ++k) {
    const f32x16 v = D::load(x + k * LANES);
    f32x16 error;
    if constexpr (M == Model::relative_gaussian) error = z[k] * magnitude(v);
    if constexpr (M == Model::absolute_gaussian) error = z[k];
    if constexpr (M == Model::relative_bias) error = v * s;
    if constexpr (uniform) error = apart(share(words[k]) * s_root3 * with_sign(v, words[k]));
    if constexpr (M == Model::bias) {
      const u32x16 signed_scale = as_bits(s) | (as_bits(v) & 0x80000000u);
      error = as_float(select((i32x16)(v == f32x16{}), splat(0), signed_scale));
      error = select((i32x16)(v != v), v, error);
    }
    if constexpr (M == Model::truncation) {
      f32x16 cut = v / s;
      for (int i = 0; i < LANES; ++i) cut[i] = __builtin_floorf(cut[i]);
      cut = cut * s;
      D::nearest(y + k * LANES, select(BF16::special(as_bits(cut)), v, cut));
    } else {
      const f32x16 sum = v + error;
      if constexpr (rounds) {
        D::stochastic(y + k * LANES, sum, bits[k], v, error);
      } else {
        D::nearest(y + k * LANES, sum);
      }
    }
  }
}

template <Model M, class D, bool SR>
static void rows(const at::Tensor& x, at::Tensor& y, const int64_t* keys, int64_t clock,
                 const float* scales, const int64_t* segments, int64_t count) {
  using T = typename D::storage;
  const int64_t N = x.size(-1), R = N ? x.numel() / N : 0;
  const T* in = static_cast<const T*>(x.const_data_ptr());
  T* out = static_cast<T*>(y.mutable_data_ptr());
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(N, 1));
  at::parallel_for(0, R, grain, [&](int64_t begin, int64_t end) {
    alignas(64) T from[GROUP] = {}, to[GROUP];
    for (int64_t r = begin; r < end; ++r) {
      const T* a = in + r * N;
      T* b = out + r * N;
      for (int64_t g = 0; g < count; ++g) {
        const int64_t* segment = segments + 4 * g;
        const int64_t width = segment[0], offset = segment[2];
        const float scale = scales[segment[3]];
        if (scale == 0.0f) {
          if (a != b) std::memcpy(b, a, width * sizeof(T));
        } else {
          const Row at(clock, segment[1], keys[r]);
          int64_t column = 0;
          while (column < width) {
            const int64_t global = offset + column, inside = global % GROUP;
            const int64_t n = std::min<int64_t>(GROUP - inside, width - column);
            const uint32_t index = (uint32_t)(global / GROUP);
            if (n == GROUP) {
              group<M, D, SR>(a + column, b + column, at, index, scale);
            } else {
              std::memcpy(from + inside, a + column, n * sizeof(T));
              group<M, D, SR>(from, to, at, index, scale);
              std::memcpy(b + column, to + inside, n * sizeof(T));
            }
            column += n;
          }
        }
        a += width;
        b += width;
      }
    }
  });
}

template <Model M>
static void by_dtype(bool sr, const at::Tensor& x, at::Tensor& y, const int64_t* keys,
                     int64_t clock, const float* scales, const int64_t* segments, int64_t count) {
#define HETERO_CASE(TYPE, D)                                                              \
  case at::TYPE:                                                                          \
    return sr ? rows<M, D, true>(x, y, keys, clock, scales, segments, count)              \
              : rows<M, D, false>(x, y, keys, clock, scales, segments, count)
  switch (x.scalar_type()) {
    HETERO_CASE(kBFloat16, BF16);
    HETERO_CASE(kHalf, F16);
    HETERO_CASE(kFloat, F32);
    default:
      TORCH_CHECK_TYPE(false, "hetero_noise::perturb takes bfloat16, float16 or float32, got ", x.scalar_type());
  }
#undef HETERO_CASE
}

// Whether a scale that these segments read is not 0.
static bool is_on(const at::Tensor& scales, const at::Tensor& segments) {
  for (int64_t g = 0; g < segments.size(0); ++g) {
    const int64_t slot = segments.const_data_ptr<int64_t>()[4 * g + 3];
    TORCH_CHECK(slot >= 0 && slot < scales.numel(),
                "hetero_noise::perturb: slot ", slot, " is outside the scale table of ", scales.numel());
    if (scales.const_data_ptr<float>()[slot] != 0.0f) return true;
  }
  return false;
}

// Error on x, into y; they may be one tensor. Both [..., N], contiguous.
static void perturb_into(const at::Tensor& x, at::Tensor& y, const at::Tensor& row_keys, const at::Tensor& clock,
                         const at::Tensor& scales, const at::Tensor& segments, std::string_view error,
                         bool stochastic) {
  const int64_t N = x.dim() ? x.size(-1) : 0, count = segments.size(0);
  const int64_t* segment = segments.const_data_ptr<int64_t>();
  int64_t width = 0;
  for (int64_t g = 0; g < count; ++g) {
    width += segment[4 * g];
    TORCH_CHECK(segment[4 * g + 3] >= 0 && segment[4 * g + 3] < scales.numel(),
                "hetero_noise::perturb: slot ", segment[4 * g + 3], " is outside the scale table of ", scales.numel());
  }
  for (int64_t g = 0; g < count; ++g) {
    TORCH_CHECK(!std::isnan(scales.const_data_ptr<float>()[segment[4 * g + 3]]),
                "hetero_noise: a rule that applies in one phase only (rollout or train) ran with no "
                "phase set; run the model inside `with phase(model, ...)`");
  }
  TORCH_CHECK(width == N, "hetero_noise::perturb: the segments cover ", width, " columns, the tensor has ", N);
  const int64_t R = N ? x.numel() / N : 0;
  TORCH_CHECK(row_keys.numel() >= R, "hetero_noise::perturb: ", R, " rows but ", row_keys.numel(), " row keys");
  TORCH_CHECK(row_keys.is_contiguous() && scales.is_contiguous() && segments.is_contiguous(),
              "hetero_noise::perturb: keys, scales and segments must be contiguous");
  if (y.is_same(x) && !is_on(scales, segments)) return;
  const auto go = [&](auto run) {
    run(stochastic, x, y, row_keys.const_data_ptr<int64_t>(), *clock.const_data_ptr<int64_t>(),
        scales.const_data_ptr<float>(), segment, count);
  };
  if (error == "relative_gaussian") go(by_dtype<Model::relative_gaussian>);
  else if (error == "absolute_gaussian") go(by_dtype<Model::absolute_gaussian>);
  else if (error == "systematic_bias") go(by_dtype<Model::bias>);
  else if (error == "systematic_bias_relative") go(by_dtype<Model::relative_bias>);
  else if (error == "relative_uniform") go(by_dtype<Model::relative_uniform>);
  else if (error == "truncation") go(by_dtype<Model::truncation>);
  else if (const auto format = format_of(error))
    format_into(x, y, scales.const_data_ptr<float>(), segment, count, *format);
  else if (profile_into(x, y, row_keys.const_data_ptr<int64_t>(), *clock.const_data_ptr<int64_t>(),
                        scales.const_data_ptr<float>(), segment, count, error))
    return;
  else TORCH_CHECK_VALUE(false, "hetero_noise::perturb has no native error model '", error, "'");
}

at::Tensor perturb(const at::Tensor& x_any, const at::Tensor& row_keys, const at::Tensor& clock,
                   const at::Tensor& scales, const at::Tensor& segments, std::string_view error,
                   bool stochastic) {
  const at::Tensor x = x_any.contiguous();
  at::Tensor y = at::empty_like(x);
  perturb_into(x, y, row_keys, clock, scales, segments, error, stochastic);
  return y;
}

// In place: nothing is written, or even read, where every scale is 0.
void perturb_(const at::Tensor& x, const at::Tensor& row_keys, const at::Tensor& clock, const at::Tensor& scales,
              const at::Tensor& segments, std::string_view error, bool stochastic) {
  at::Tensor y = x.contiguous();
  perturb_into(y, y, row_keys, clock, scales, segments, error, stochastic);
  if (!y.is_same(x)) x.copy_(y);
}

// One column of many rows: sixteen rows at a time instead of a whole group of columns for each.
static void stream_of_rows(const int64_t* clock, const int64_t* site, const int64_t* row, int64_t count,
                           int64_t column, int64_t kind, uint32_t* out) {
  const bool rounding = kind == 1;
  const uint32_t inside = column % GROUP, slot = inside / LANES;
  const uint32_t block = (uint32_t)(column / GROUP) * LANES + inside % LANES;
  const int call = rounding ? 2 : slot / 4;
  const uint32_t counter = kind == 3 ? call_bits<true>(call) : call_bits<false>(call);
  at::parallel_for(0, (count + LANES - 1) / LANES, 512, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin * LANES; r < std::min(end * LANES, count); r += LANES) {
      const int64_t n = std::min<int64_t>(LANES, count - r);
      u32x16 words[4], values[SLOTS];
      int64_t address[3][LANES] = {};
      for (int k = 0; k < 3; ++k) std::memcpy(address[k], (k == 0 ? clock : k == 1 ? site : row) + r, n * 8);
      philox_of_rows(address[0], address[1], address[2], block + counter, words);
      if (rounding) halves(words, values);
      std::memcpy(out + r, rounding ? values + slot : words + slot % 4, n * 4);
    }
  });
}

// kind 0: the 32-bit words of the normals; 1: the 16-bit words of rounding (int32 both);
// 2: the normals (float32); 3: the 32-bit words of the uniforms; 4: the uniforms in +-1 (float32).
// clock, site, row: int64 [T]. Result: [T, columns].
at::Tensor stream(const at::Tensor& clock, const at::Tensor& site, const at::Tensor& row,
                  int64_t start, int64_t columns, int64_t kind) {
  const int64_t R = row.numel();
  TORCH_CHECK(clock.numel() == R && site.numel() == R, "hetero_noise::stream: one clock and site a row");
  at::Tensor out = at::empty({R, columns}, row.options().dtype(kind == 2 || kind == 4 ? at::kFloat : at::kInt));
  uint32_t* base = static_cast<uint32_t*>(out.mutable_data_ptr());
  const int64_t *c = clock.const_data_ptr<int64_t>(), *s = site.const_data_ptr<int64_t>(), *k = row.const_data_ptr<int64_t>();
  if (columns == 1 && kind != 2 && kind != 4) {
    stream_of_rows(c, s, k, R, start, kind, base);
    return out;
  }
  at::parallel_for(0, R, std::max<int64_t>(1, 8192 / std::max<int64_t>(columns, 1)), [&](int64_t begin, int64_t end) {
    u32x16 words[8];
    u32x16 values[SLOTS];
    f32x16 z[SLOTS];
    for (int64_t r = begin; r < end; ++r) {
      const Row at(c[r], s[r], k[r]);
      int64_t column = 0;
      while (column < columns) {
        const int64_t global = start + column, inside = global % GROUP;
        const int64_t n = std::min<int64_t>(GROUP - inside, columns - column);
        const uint32_t index = (uint32_t)(global / GROUP);
        const void* source = values;
        if (kind == 1) {
          philox<2, 1>(at, index, words);
          halves(words, values);
        } else if (kind >= 3) {
          philox<0, 2, true>(at, index, words);
          source = words;
          if (kind == 4) {
            for (int i = 0; i < SLOTS; ++i) z[i] = with_sign(share(words[i]), words[i]);
            source = z;
          }
        } else {
          philox<0, 2>(at, index, words);
          source = words;
          if (kind == 2) {
            normals(words, 1.0f, z);
            source = z;
          }
        }
        std::memcpy(base + r * columns + column, (const uint32_t*)source + inside, n * 4);
        column += n;
      }
    }
  });
  return out;
}

}  // namespace hetero

#include "accumulate.h"
#include "fused.h"

TORCH_LIBRARY_IMPL(hetero_noise, CPU, m) {
  m.impl("perturb", hetero::perturb);
  m.impl("perturb_", hetero::perturb_);
  m.impl("stream", hetero::stream);
  m.impl("gated_", hetero::gated_);
  m.impl("weighed_", hetero::weighed_);
  m.impl("accumulate", hetero::accumulate);
  m.impl("declare_format", hetero::declare_format);
  m.impl("declare_profile", hetero::declare_profile);
}
