// What every loss is given beside its inputs, and what it returns.
#pragma once

#include <array>

#include "tensor.h"

namespace fastadv {

struct Reduction {
  const std::optional<Tensor>& weight;
  double scale;
  bool reduce;
};

// Room for the gradient by `x` where it is wanted, else an empty tensor.
inline Tensor empty_gradient(const Tensor& x, bool wanted) {
  const ScalarType dtype = accumulated(x.scalar_type());
  return wanted ? empty_as(x, dtype) : empty_vector(x, 0, dtype);
}

// Room for the loss, one number or one a sample of `x`.
inline Tensor empty_loss(const Tensor& x, bool reduce) {
  const ScalarType dtype = accumulated(x.scalar_type());
  return reduce ? empty_scalar(x, dtype) : empty_vector(x, x.size(0), dtype);
}

// Room for the loss and for one gradient an input, all of which are alike.
template <size_t K>
std::array<Tensor, K + 1> empty_results(const Tensor& x, bool reduce, const std::array<bool, K>& wanted) {
  std::array<Tensor, K + 1> results;
  results[0] = empty_loss(x, reduce);
  for (size_t k = 0; k < K; ++k) results[k + 1] = empty_gradient(x, wanted[k]);
  return results;
}

}  // namespace fastadv
