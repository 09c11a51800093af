// scale_grad, the backward pass of every loss: the stored gradient times the incoming one, rounded to the dtype of the
// input.
//
// A thread multiplies 16 bytes of the stored gradient. One incoming gradient for the whole batch makes it a single row.
#include "memory.h"

namespace fastadv {
namespace {

constexpr int kThreads = 256;

template <int kWidth, class T, class A>
KERNEL scale_rows(const A* grad, const A* factor, T* out, int64_t size, int64_t total) {
  const int64_t first = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kWidth;
  if (first >= total) return;
  const A f = factor[size == total ? 0 : first / size];
  A g[kWidth];
  load(grad + first, g);
#pragma unroll
  for (int e = 0; e < kWidth; ++e) g[e] *= f;
  store(out + first, g);
}

Tensor scale_grad(const Tensor& grad, const Tensor& grad_output, ScalarType dtype) {
  const Samples shape(grad);
  require(grad_output.scalar_type() == grad.scalar_type() && grad_output.is_contiguous(),
          "expected an incoming gradient of the stored gradient's dtype");
  const int64_t total = grad.numel();
  const bool per_sample = grad_output.dim() == 1;
  require(per_sample ? grad_output.size(0) == shape.samples : grad_output.dim() == 0,
          "expected an incoming gradient [N] or []");
  const Device device(grad);
  Tensor out = empty_as(grad, dtype);
  if (total == 0) return out;
  const int64_t size = per_sample ? shape.size : total;
  with_type(grad.scalar_type(), [&](auto zero) {
    using A = decltype(zero);
    if constexpr (std::is_same_v<A, float> || std::is_same_v<A, double>) {
      with_type(dtype, [&](auto rounded) {
        using T = decltype(rounded);
        const A *g = data<A>(grad), *factor = data<A>(grad_output);
        T* o = mutable_data<T>(out);
        with_width<A>(size % kVector<A> == 0 && aligned<kVector<A>>(g, o), [&](auto width) {
          constexpr int kWidth = decltype(width)::value;
          LAUNCH((scale_rows<kWidth, T, A>), divide_up(total, kWidth * kThreads), kThreads, device, g, factor, o, size,
                 total);
        });
      });
    } else {
      throw std::invalid_argument("expected a stored gradient in the accumulation precision");
    }
  });
  return out;
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("scale_grad", TORCH_BOX(&fastadv::scale_grad)); }
