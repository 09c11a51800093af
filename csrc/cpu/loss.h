// The samples of a loss on PyTorch's threads, and the sum over them.
#pragma once

#include <vector>

#include "../common/loss.h"
#include "tensor.h"

namespace fastadv {

// Calls `f(batch, begin, end)` on the threads, which leaves the weighted and scaled losses of those samples in
// batch.loss, and their gradients; a sample counts as `cost` elements of work.
template <int K, class T, class A, class F>
void each_sample(Batch<K, T, A> batch, int64_t cost, const F& f) {
  A* const result = batch.loss;
  std::vector<A> summands(batch.reduce ? batch.samples : 0);
  if (batch.reduce) batch.loss = summands.data();
  parallel(batch.samples, cost, [&](int64_t begin, int64_t end) { f(batch, begin, end); });
  if (!batch.reduce) return;
  // In order, so that the sum does not depend on the threads. The mean of nothing, whose scale is NaN, is NaN.
  double total = 0 * static_cast<double>(batch.scale);
  for (const A summand : summands) total += summand;
  *result = static_cast<A>(total);
}

}  // namespace fastadv
