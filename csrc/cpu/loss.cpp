// scale_grad, the backward pass of every loss: the stored gradient times the incoming one, in the input's dtype.
#include "tensor.h"

namespace fastadv {
namespace {

template <class T, class A>
FASTADV_CLONES void scale_rows(const A* grad, const A* factor, int64_t factor_stride, T* out, int64_t size,
                               int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const A f = factor[n * factor_stride];
    const A* g = grad + n * size;
    T* o = out + n * size;
    for (int64_t i = 0; i < size; ++i) o[i] = static_cast<T>(g[i] * f);
  }
}

Tensor scale_grad(const Tensor& grad, const Tensor& grad_output, ScalarType dtype) {
  const Samples shape(grad);
  require(grad_output.scalar_type() == grad.scalar_type() && grad_output.is_contiguous(),
          "expected an incoming gradient of the stored gradient's dtype");
  const bool per_sample = grad_output.dim() == 1;
  require(per_sample ? grad_output.size(0) == shape.samples : grad_output.dim() == 0,
          "expected an incoming gradient [N] or []");
  Tensor out = empty_as(grad, dtype);
  with_type(grad.scalar_type(), [&](auto zero) {
    using A = decltype(zero);
    if constexpr (std::is_same_v<A, float> || std::is_same_v<A, double>) {
      with_type(dtype, [&](auto rounded) {
        using T = decltype(rounded);
        const A *g = data<A>(grad), *factor = data<A>(grad_output);
        T* o = mutable_data<T>(out);
        parallel(shape.samples, shape.size, [&](int64_t begin, int64_t end) {
          scale_rows<T, A>(g, factor, per_sample, o, shape.size, begin, end);
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

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) { m.impl("scale_grad", TORCH_BOX(&fastadv::scale_grad)); }
