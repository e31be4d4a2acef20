// Products of matrices that add as a machine's matrix unit does: hetero_plugin/errors/accumulate.
//
// A panel of 32 columns of the result at a time, whose part of b is unpacked once and read from the
// cache by every row. Two ways through a chunk: in float32 and int32 lanes where all that counts is
// in their range, in float64 lanes otherwise (infinities, NaN, exponents near the ends). Both are
// exact but for what the machine itself cuts off, so that they agree.
#pragma once
#include <limits>
#include <vector>

namespace hetero {

constexpr int PANEL = 32, CHUNK = 64;
constexpr int16_t NOTHING = -4000, SPECIAL = 10000;  // exponents of 0 and of infinities and NaN
constexpr int LOWEST = -60, HIGHEST = 100;           // largest exponents for which float32 will do

typedef int16_t i16x32 __attribute__((vector_size(64)));
typedef int32_t i32x32 __attribute__((vector_size(128)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef int64_t i64x8 __attribute__((vector_size(64)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef double f64x8 __attribute__((vector_size(64)));

// In the order of `Arithmetic.numbers`.
struct Unit {
  int64_t kind, chunk, fraction, zero, smallest, mantissa, nearest, promote, split, halves, reversed;
};
enum Kind { ALIGNED, FLOORED, PAIRS, CHAIN };

static inline float canonical(float v) { return v == v ? v + 0.0f : c10::bit_cast<float>(0x7FFFFFFFu); }

// The exponent of a number that is not normalised: `smallest` for subnormal ones.
static inline int16_t exponent_of(float v, int smallest) {
  const uint32_t bits = c10::bit_cast<uint32_t>(v);
  const int field = (bits >> 23) & 0xFF;
  const int e = std::max(field - 127, smallest), any = field == 0xFF ? SPECIAL : e;
  return (int16_t)((bits & 0x7FFFFFFFu) == 0 ? NOTHING : any);
}

static inline double power(int64_t e) {  // 2^e for e within ±1022
  return c10::bit_cast<double>((uint64_t)(1023 + e) << 52);
}

// v, exact, rounded toward zero to `mantissa` bits of a float with float32's exponents.
static inline float toward_zero(double v, int mantissa) {
  if (!(std::fabs(v) < std::numeric_limits<double>::infinity())) return (float)v;
  if (std::fabs(v) >= 0x1p-126) {
    const uint64_t kept = c10::bit_cast<uint64_t>(v) & ~((1ull << (52 - mantissa)) - 1);
    const double cut = c10::bit_cast<double>(kept);
    return std::fabs(cut) >= 0x1p128 ? (float)(cut * 0x1p128) : (float)cut;
  }
  return (float)(std::trunc(v * power(126 + mantissa)) * power(-126 - mantissa));
}

// The largest exponent of each column's products, and of 32 numbers that it begins with.
static inline i16x32 largest(const int16_t* be, const int16_t* ae, int64_t L, i16x32 top) {
  for (int k = 0; k < L; ++k) {
    i16x32 e;
    std::memcpy(&e, be + k * PANEL, 64);
    e += ae[k];
    const i16x32 more = (i16x32)(e > top);
    top = (e & more) | (top & ~more);
  }
  return top;
}

// One chunk for 32 columns in float64, kind ALIGNED; top: the largest exponents, c's among them.
static void chunk_wide(const float* b, const float* a, i16x32 largest, float* c, const Unit& u) {
  int16_t top[PANEL];
  double scale[PANEL], sum[PANEL] = {};
  std::memcpy(top, &largest, 64);
  for (int j = 0; j < PANEL; ++j) {
    // With an infinity or a NaN nothing that is finite counts.
    if (top[j] > 1000) top[j] = 300;
    scale[j] = power((int)u.fraction - top[j]);
  }
  for (int k = 0; k < u.chunk; ++k)
    for (int j = 0; j < PANEL; ++j) sum[j] += std::trunc((double)a[k] * (double)b[k * PANEL + j] * scale[j]);
  for (int j = 0; j < PANEL; ++j) {
    const double v = (sum[j] + std::trunc((double)c[j] * scale[j])) * power(top[j] - (int)u.fraction);
    c[j] = canonical(u.nearest ? (float)v : toward_zero(v, (int)u.mantissa));
  }
}

// One chunk for 32 columns: kind FLOORED. Without branches, so that the loops become vectors.
static void chunk_floored(const float* b, const int16_t* be, const float* a, const int16_t* ae, float* c,
                          const Unit& u) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const int F = (int)u.fraction;
  int16_t top[PANEL];
  double scale[PANEL], sum[PANEL] = {};
  const i16x32 found = largest(be, ae, u.chunk, NOTHING - i16x32{});
  std::memcpy(top, &found, 64);
  int64_t dot[PANEL];
  for (int j = 0; j < PANEL; ++j) {
    const int64_t e = top[j];
    dot[j] = e > 1000 ? 300 : std::max<int64_t>(e, -400);
    scale[j] = power(F - dot[j]);
  }
  for (int k = 0; k < u.chunk; ++k)
    for (int j = 0; j < PANEL; ++j) {
      const double p = (double)a[k] * (double)b[k * PANEL + j];
      sum[j] += std::trunc((std::fabs(p) >= 0x1p128 ? p * infinity : p) * scale[j]);
    }
  for (int j = 0; j < PANEL; ++j) {
    const int64_t own_c = (int64_t)((c10::bit_cast<uint32_t>(c[j]) >> 23) & 0xFF) - 127;
    const int64_t e = std::max(std::max<int64_t>(own_c, -126), dot[j]);
    const double s = std::floor(sum[j] * power(dot[j] - e + 32 - F)) * 0x1p-32 +
                     std::floor((double)c[j] * power(F - e)) * power(-F);
    const double v = s * power(e);
    const int64_t field = (int64_t)((c10::bit_cast<uint64_t>(v) >> 52) & 0x7FF) - 1023;
    const int64_t own = std::min<int64_t>(std::max<int64_t>(field, -126), 400);
    const double cut = std::floor(v * power(31 - own)) * power(own - 31);
    const float y = (float)(std::fabs(v) < infinity ? cut : v);
    c[j] = y == y ? y : c10::bit_cast<float>(0x7FFFFFFFu);
  }
}

static inline f32x8 finish(f64x8 sum, i32x8 top, const Unit& u) {
  if (!u.nearest) {
    const int64_t lost = (1ll << (52 - u.mantissa)) - 1;
    sum = (f64x8)((i64x8)sum & ~(lost - i64x8{}));
  }
  const i32x8 bits = (top - (int)u.fraction + 127) << 23;
  return __builtin_convertvector(sum, f32x8) * (f32x8)bits;
}

// One chunk for 32 columns: kind ALIGNED. LENGTH: of a chunk, where the compiler shall know it.
template <int LENGTH>
static inline void chunk_aligned(const float* b, const int16_t* be, const float* a, const int16_t* ae,
                                 float* c, const Unit& u) {
  const int L = LENGTH ? LENGTH : (int)u.chunk, F = (int)u.fraction;
  f32x16 held[2];
  std::memcpy(held, c, 128);
  int32_t first[PANEL];
  for (int h = 0; h < 2; ++h) {
    const i32x16 bits = (i32x16)as_bits(held[h]), field = (bits >> 23) & 0xFF;
    const i32x16 zero = (i32x16)((bits & 0x7FFFFFFF) == 0), low = (i32x16)(field == 0);
    i32x16 e = field - 127;
    e = (e & ~low) | (low & (-126 - i32x16{}));
    e = (e & ~zero) | (zero & ((int)u.zero - i32x16{}));
    std::memcpy(first + h * 16, &e, 64);
  }
  i32x32 wide;
  std::memcpy(&wide, first, 128);
  i16x32 top = __builtin_convertvector(wide, i16x32);
  top = largest(be, ae, L, top);
  const i16x32 out = (i16x32)(top > HIGHEST) | (i16x32)(top < LOWEST);
  i64x8 any;
  std::memcpy(&any, &out, 64);
  int64_t some = 0;
  for (int i = 0; i < 8; ++i) some |= any[i];
  if (some) return chunk_wide(b, a, top, c, u);
  wide = __builtin_convertvector(top, i32x32);
  i32x16 tops[2];
  std::memcpy(tops, &wide, 128);
  for (int h = 0; h < 2; ++h) {
    const f32x16 scale = (f32x16)((F + 127 - tops[h]) << 23);
    // At most eight terms below 2^(F+2) go into an int32.
    i32x16 part[CHUNK / 8 + 1];
    int parts = 0;
    part[parts++] = __builtin_convertvector(held[h] * scale, i32x16);
    for (int start = 0; start < L; start += 8) {
      i32x16 sum{};
      for (int k = start; k < std::min(start + 8, L); ++k) {
        f32x16 v;
        std::memcpy(&v, b + k * PANEL + h * 16, 64);
        sum += __builtin_convertvector(v * a[k] * scale, i32x16);
      }
      part[parts++] = sum;
    }
    for (int q = 0; q < 2; ++q) {
      f64x8 sum{};
      for (int i = 0; i < parts; ++i) {
        i32x8 half;
        std::memcpy(&half, (const char*)&part[i] + 32 * q, 32);
        sum += __builtin_convertvector(half, f64x8);
      }
      i32x8 e;
      std::memcpy(&e, (const char*)&tops[h] + 32 * q, 32);
      const f32x8 y = finish(sum, e, u);
      std::memcpy(c + h * 16 + q * 8, &y, 32);
    }
  }
}

static inline float flushed(float v) { return std::fabs(v) < 0x1p-126f ? v * 0.0f : v; }

// Four products in pairs, and the sum of the pairs to c; whatever is subnormal is 0.
static inline void chunk_pairs(const float* b, const float* a, float* c) {
  for (int j = 0; j < PANEL; ++j) {
    const float p0 = flushed(a[0] * b[j]), p1 = flushed(a[1] * b[PANEL + j]);
    const float p2 = flushed(a[2] * b[2 * PANEL + j]), p3 = flushed(a[3] * b[3 * PANEL + j]);
    c[j] = flushed(c[j] + flushed(flushed(p0 + p1) + flushed(p2 + p3)));
  }
}

static inline void chunk_chain(const float* b, const float* a, float* c, int64_t n) {
  for (int64_t k = 0; k < n; ++k)
    for (int j = 0; j < PANEL; ++j) c[j] = __builtin_fmaf(a[k], b[k * PANEL + j], c[j]);
}

// Reads WIDTH rows in the order of the addition, with zeros where a chunk is not full, to
// [chunks, L, WIDTH]; those of a chunk follow those of the one before by `step`. rows: how many there are.
template <int WIDTH>
static inline void unpack(const float* from, int64_t K, int64_t rows, const std::vector<int64_t>& order,
                          const Unit& u, float* v, int16_t* e, int64_t step) {
  const int64_t L = u.chunk, length = (int64_t)order.size();
  const float least = u.kind == PAIRS ? (float)power(u.smallest) : 0.0f;
  const int smallest = (int)u.smallest;
  for (int64_t i = 0; i < length; ++i) {
    float x[WIDTH] = {};
    if (order[i] >= 0)
      for (int64_t j = 0; j < rows; ++j) x[j] = from[j * K + order[i]];
    const int64_t at = i / L * step + i % L * WIDTH;
    for (int j = 0; j < WIDTH; ++j) {
      const float y = std::fabs(x[j]) < least ? 0.0f : x[j];
      v[at + j] = y;
      e[at + j] = exponent_of(y, smallest);
    }
  }
}

static inline float to_half(float v) { return (float)c10::BFloat16(v); }

// a [M, K] times b [N, K] transposed, float32 all; see hetero_plugin/kernels/product.py.
at::Tensor accumulate(const at::Tensor& a_MK, const at::Tensor& b_NK, at::IntArrayRef numbers) {
  TORCH_CHECK(numbers.size() == 11, "hetero_noise::accumulate takes 11 numbers");
  TORCH_CHECK(a_MK.scalar_type() == at::kFloat && b_NK.scalar_type() == at::kFloat,
              "hetero_noise::accumulate takes float32, with the values of the operands' dtype");
  TORCH_CHECK(a_MK.dim() == 2 && b_NK.dim() == 2 && a_MK.size(1) == b_NK.size(1),
              "hetero_noise::accumulate takes [M, K] and [N, K]");
  Unit u;
  std::memcpy(&u, numbers.data(), sizeof u);
  const int64_t M = a_MK.size(0), N = b_NK.size(0), K = a_MK.size(1), L = u.chunk;
  TORCH_CHECK(L >= 1 && L <= CHUNK, "hetero_noise::accumulate: chunk is ", L, ", not 1 to 64");
  const at::Tensor a = a_MK.contiguous(), b = b_NK.contiguous();
  at::Tensor out = at::empty({M, N}, a.options());
  // Pieces of K, each of whole chunks, in the order of the addition.
  const int64_t piece = std::max<int64_t>(1, ((K + u.split - 1) / u.split + L - 1) / L) * L;
  std::vector<int64_t> order, ends;
  for (int64_t start = 0; start < std::max<int64_t>(K, 1); start += piece) {
    for (int64_t i = start; i < std::min(start + piece, K); ++i) order.push_back(u.reversed ? K - 1 - i : i);
    while (order.size() % L) order.push_back(-1);
    ends.push_back((int64_t)order.size() / L);
  }
  const int64_t chunks = (int64_t)order.size() / L, every = u.promote ? u.promote / L : 0;
  std::vector<float> av(chunks * M * L);
  std::vector<int16_t> ae(chunks * M * L);
  const float *ap = a.const_data_ptr<float>(), *bp = b.const_data_ptr<float>();
  float* yp = out.mutable_data_ptr<float>();
  at::parallel_for(0, M, 16, [&](int64_t begin, int64_t end) {
    Subnormals on;
    for (int64_t m = begin; m < end; ++m)
      unpack<1>(ap + m * K, K, 1, order, u, av.data() + m * L, ae.data() + m * L, M * L);
  });
  const auto aligned = L == 4    ? chunk_aligned<4>
                       : L == 8  ? chunk_aligned<8>
                       : L == 16 ? chunk_aligned<16>
                       : L == 32 ? chunk_aligned<32>
                                 : chunk_aligned<0>;
  constexpr int64_t ROWS = 128;
  at::parallel_for(0, (N + PANEL - 1) / PANEL, 1, [&](int64_t begin, int64_t end) {
    Subnormals on;
    std::vector<float> bv(chunks * L * PANEL), c(ROWS * PANEL), run(ROWS * PANEL), total(ROWS * PANEL);
    std::vector<int16_t> be(chunks * L * PANEL);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t width = std::min<int64_t>(PANEL, N - p * PANEL);
      unpack<PANEL>(bp + p * PANEL * K, K, width, order, u, bv.data(), be.data(), L * PANEL);
      for (int64_t m0 = 0; m0 < M; m0 += ROWS) {
        const int64_t rows = std::min(ROWS, M - m0), cells = rows * PANEL;
        std::fill_n(total.begin(), cells, 0.0f);
        int64_t q = 0;
        for (size_t s = 0; s < ends.size(); ++s) {
          std::fill_n(c.begin(), cells, 0.0f);
          std::fill_n(run.begin(), cells, 0.0f);
          for (int64_t since = 1; q < ends[s]; ++q, ++since) {
            const float* bq = bv.data() + q * L * PANEL;
            const int16_t* eq = be.data() + q * L * PANEL;
            for (int64_t m = 0; m < rows; ++m) {
              const int64_t at = (q * M + m0 + m) * L;
              float* cell = c.data() + m * PANEL;
              if (u.kind == ALIGNED) aligned(bq, eq, av.data() + at, ae.data() + at, cell, u);
              else if (u.kind == FLOORED) chunk_floored(bq, eq, av.data() + at, ae.data() + at, cell, u);
              else if (u.kind == PAIRS) chunk_pairs(bq, av.data() + at, cell);
              else chunk_chain(bq, av.data() + at, cell, L);
            }
            if (every && since % every == 0) {
              for (int64_t i = 0; i < cells; ++i) run[i] += c[i], c[i] = 0.0f;
            }
          }
          if (every)
            for (int64_t i = 0; i < cells; ++i) c[i] = run[i] + c[i];
          if (ends.size() == 1) std::copy_n(c.begin(), cells, total.begin());
          else
            for (int64_t i = 0; i < cells; ++i) total[i] += u.halves ? to_half(c[i]) : c[i];
        }
        for (int64_t m = 0; m < rows; ++m)
          std::memcpy(yp + (m0 + m) * N + p * PANEL, total.data() + m * PANEL, width * 4);
      }
    }
  });
  return out;
}

}  // namespace hetero
