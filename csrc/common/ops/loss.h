// scale_grad, the backward pass of every loss: arguments, checks and output. A backend brings `scale_samples`.
#pragma once

#include "../tensor.h"

namespace fastadv {

// A stored gradient times the incoming one, rounded to T.
template <class T, class A>
struct Scaling {
  const A* grad;    // [N, D]
  const A* factor;  // [N] or []
  bool per_sample;  // whether it is [N]
  T* out;           // [N, D]
  int64_t samples;  // N
  int64_t size;     // D
};

namespace {

template <class T, class A>
void scale_samples(const Scaling<T, A>& scaling, const Tensor& like);

}  // namespace

inline Tensor scale_grad(const Tensor& grad, const Tensor& grad_output, ScalarType dtype) {
  const Samples shape(grad);
  const ScalarType stored = grad.scalar_type();
  require(stored == accumulated(stored), "expected a stored gradient in the accumulation precision");
  require_beside(grad, grad_output, "grad_output");
  require(grad_output.scalar_type() == stored && grad_output.is_contiguous(),
          "expected an incoming gradient of the stored gradient's dtype");
  const bool per_sample = grad_output.dim() == 1;
  require(per_sample ? grad_output.size(0) == shape.samples : grad_output.dim() == 0,
          "expected an incoming gradient [N] or []");
  Tensor out = empty_as(grad, dtype);
  const auto scale_as = [&]<class A>(A) {
    with_dtype(dtype, [&]<class T, class>() {
      const Scaling<T, A> scaling{data<A>(grad),        data<A>(grad_output), per_sample,
                                  mutable_data<T>(out), shape.samples,        shape.size};
      if (shape.samples * shape.size > 0) scale_samples(scaling, grad);
    });
  };
  stored == ScalarType::Double ? scale_as(double{}) : scale_as(float{});
  return out;
}

}  // namespace fastadv
