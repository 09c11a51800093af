// What every loss is given beside its inputs, and what it returns.
#pragma once

#include <array>
#include <tuple>

#include "tensor.h"

namespace fastadv {

struct Reduction {
  double scale;
  bool reduce;
  const std::optional<Tensor>& weight;
};

// None where it is not wanted.
using Gradient = std::optional<Tensor>;

// Room for the gradient by `x`.
inline Gradient empty_gradient(const Tensor& x, bool wanted) {
  if (!wanted) return std::nullopt;
  return empty_as(x, accumulated(x.scalar_type()));
}

// Room for the loss, one number or one a sample of `x`.
inline Tensor empty_loss(const Tensor& x, bool reduce) {
  const ScalarType dtype = accumulated(x.scalar_type());
  return reduce ? empty_scalar(x, dtype) : empty_vector(x, x.size(0), dtype);
}

// The loss, and one gradient an input where it is wanted.
template <size_t K>
struct Results {
  Tensor loss;
  std::array<Gradient, K> grads;

  // Room for them; all inputs are like `x`.
  Results(const Tensor& x, bool reduce, const std::array<bool, K>& wanted) : loss(empty_loss(x, reduce)) {
    for (size_t k = 0; k < K; ++k) grads[k] = empty_gradient(x, wanted[k]);
  }

  // Null where the gradient is not wanted.
  template <class A>
  A* grad(size_t k) const {
    return grads[k] ? mutable_data<A>(*grads[k]) : nullptr;
  }

  // As the schema has them.
  auto as_tuple() const {
    return std::apply([this](const auto&... grad) { return std::tuple(loss, grad...); }, grads);
  }
};

}  // namespace fastadv
