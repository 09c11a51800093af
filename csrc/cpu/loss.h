// What every loss does around its loops: room for value and gradients, weights and scale, threads, reduction.
#pragma once

#include <array>

#include "../common/loss.h"
#include "tensor.h"

namespace fastadv {

// Samples of `size` elements each in K inputs; a gradient that is not wanted is null.
template <class T, class A, size_t K>
struct Batch {
  std::array<const T*, K> x;
  std::array<A*, K> grad;
  A* value;
  int64_t size;
  PerSample<A> weight;
  A scale;

  FASTADV_INLINE A factor(int64_t sample) const { return scale * weight[sample]; }
};

// The loss and, for each input, its gradient where wanted, as a tuple. `samples(batch, begin, end)` leaves the weighted
// and scaled values and gradients of those samples; `cost` is the number of elements that one counts as.
template <size_t K, class F>
auto evaluate(const std::array<const Tensor*, K>& inputs, const Reduction& how, const std::array<bool, K>& wanted,
              int64_t cost, const F& samples) {
  const Tensor& first = *inputs[0];
  const Samples shape(first);
  for (const Tensor* x : inputs) require_alike(first, *x);
  const Results<K> results(first, how.reduce, wanted);
  with_type(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    A* const result = mutable_data<A>(results.loss);
    std::vector<A> summands(how.reduce ? shape.samples : 0);
    Batch<T, A, K> batch{{},
                         {},
                         how.reduce ? summands.data() : result,
                         shape.size,
                         PerSample<A>(1.0, how.weight, shape.samples),
                         static_cast<A>(how.scale)};
    for (size_t k = 0; k < K; ++k) {
      batch.x[k] = data<T>(*inputs[k]);
      batch.grad[k] = results.template grad<A>(k);
    }
    parallel(shape.samples, cost, [&](int64_t begin, int64_t end) { samples(batch, begin, end); });
    if (how.reduce) {
      // In order, so that the sum does not depend on the threads. The mean of nothing, whose scale is NaN, is NaN.
      double total = 0 * how.scale;
      for (const A summand : summands) total += summand;
      *result = static_cast<A>(total);
    }
  });
  return results.as_tuple();
}

}  // namespace fastadv
