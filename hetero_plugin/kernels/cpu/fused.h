// The operator together with the pointwise step before it: see hetero_plugin/kernels/fused.py.
//
// The steps themselves are PyTorch's, so that they round as in the Hugging Face model; what is saved
// is the Python of one operator a step, and the copies between them. Error is added in place.
#pragma once
#include <ATen/ops/gelu.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/silu.h>

namespace hetero {

void gated_(const at::Tensor& clean, const at::Tensor& gate_up, const at::Tensor& row_keys, const at::Tensor& clock,
            const at::Tensor& scales, const at::Tensor& segments, std::string_view error, bool stochastic,
            std::string_view activation) {
  if (!is_on(scales, segments)) return;
  const int64_t N = gate_up.size(-1) / 2;
  const at::Tensor gate = gate_up.narrow(-1, 0, N), up = gate_up.narrow(-1, N, N);
  at::Tensor y;
  if (activation == "silu") y = at::silu(gate);
  else if (activation == "gelu") y = at::gelu(gate, "none");
  else if (activation == "gelu_tanh") y = at::gelu(gate, "tanh");
  else TORCH_CHECK_VALUE(false, "hetero_noise::gated_ has no activation '", activation, "'");
  y = y.contiguous();
  perturb_into(y, y, row_keys, clock, scales, segments, error, stochastic);
  at::Tensor out = clean;
  at::mul_out(out, y, up);
}

void weighed_(const at::Tensor& clean, const at::Tensor& unit, const at::Tensor& weight, const at::Tensor& offset,
              double shift, bool in_dtype, const at::Tensor& row_keys, const at::Tensor& clock,
              const at::Tensor& scales, const at::Tensor& segments, std::string_view error, bool stochastic) {
  TORCH_CHECK(offset.is_contiguous() && offset.scalar_type() == at::kFloat,
              "hetero_noise::weighed_: offset must be contiguous and float32");
  const float* moved = offset.const_data_ptr<float>();
  if (std::any_of(moved, moved + offset.numel(), [](float v) { return v != 0.0f; })) {
    at::Tensor whole = in_dtype ? weight.add(offset.to(weight.scalar_type())).to(at::kFloat)
                                : weight.to(at::kFloat).add(offset);
    if (shift != 0.0) whole = whole.add(shift);
    clean.copy_(unit.to(at::kFloat).mul(whole));
  }
  if (!is_on(scales, segments)) return;
  int64_t width = 0;  // of a norm of each head: those of all heads are one row
  for (int64_t g = 0; g < segments.size(0); ++g) width += segments.const_data_ptr<int64_t>()[4 * g];
  TORCH_CHECK(width && clean.numel() % width == 0, "hetero_noise::weighed_: the segments cover ", width,
              " columns, the tensor has ", clean.numel(), " elements");
  perturb_(clean.view({-1, width}), row_keys, clock, scales, segments, error, stochastic);
}

}  // namespace hetero
