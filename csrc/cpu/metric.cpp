// triplet_margin_loss in C++; its front: ../common/ops/metric.h.
#include "../common/ops/metric.h"

#include "loss.h"

namespace fastadv {
namespace {

template <class A, class Metric, class Difference>
FASTADV_INLINE FeatureNorm<A> norm_of(const Metric& metric, int64_t count, const Difference& difference) {
  if constexpr (Metric::kLargest) {
    constexpr A kInfinity = std::numeric_limits<A>::infinity();
    A length = maximum<A>(count, [&](int64_t i) FASTADV_LAMBDA {
      const A size = absolute<A>(difference(i));
      return size == size ? size : kInfinity;
    });
    // Only a sum tells infinity from NaN.
    if (length == kInfinity) {
      length = sum<A>(count, [&](int64_t i) FASTADV_LAMBDA { return absolute<A>(difference(i)); });
    }
    const A largest = sum<A>(count, [&](int64_t i) FASTADV_LAMBDA {
      return absolute<A>(difference(i)) < length ? A(0) : A(1);
    });
    return {length, 1 / largest};
  } else {
    return metric.root(sum<A>(count, [&](int64_t i) FASTADV_LAMBDA { return metric.term(difference(i)); }));
  }
}

template <class Metric>
struct TripletMarginLoss {
  Metric metric;
  Margins margin;
  double eps;
  bool swap;
};

// `buffer`: room for 4 D numbers.
template <class Metric, class T, class A>
FASTADV_CLONES void triplets(TripletMarginLoss<Metric> loss, Batch<3, T, A> batch, A* buffer, int64_t begin,
                             int64_t end) {
  const Metric metric = loss.metric;
  const A eps = static_cast<A>(loss.eps);
  const bool swap = loss.swap;
  const int64_t size = batch.size;
  A* const unneeded = buffer + 3 * size;
  for (int64_t n = begin; n < end; ++n) {
    const A* anchor = converted<A>(batch.x[0] + n * size, size, buffer);
    const A* positive = converted<A>(batch.x[1] + n * size, size, buffer + size);
    const A* negative = converted<A>(batch.x[2] + n * size, size, buffer + 2 * size);
    const auto near = [&](int64_t i) FASTADV_LAMBDA { return anchor[i] - positive[i] + eps; };
    const auto far = [&](int64_t i) FASTADV_LAMBDA { return anchor[i] - negative[i] + eps; };
    const auto swapped = [&](int64_t i) FASTADV_LAMBDA { return positive[i] - negative[i] + eps; };
    const FeatureNorm<A> near_norm = norm_of<A>(metric, size, near), far_norm = norm_of<A>(metric, size, far);
    FeatureNorm<A> swapped_norm{std::numeric_limits<A>::infinity(), 0};
    if (swap) swapped_norm = norm_of<A>(metric, size, swapped);
    const Hinge<A> hinge(loss.margin.template of<A>(n), near_norm.length, far_norm.length, swapped_norm.length);
    const A factor = batch.factor(n);
    batch.loss[n] = factor * hinge.value;

    if (!batch.grad[0] && !batch.grad[1] && !batch.grad[2]) continue;
    const A by_near = factor * hinge.by_near, by_far = factor * hinge.by_far, by_swapped = factor * hinge.by_swapped;
    A* g[3];
    for (int k = 0; k < 3; ++k) g[k] = batch.grad[k] ? batch.grad[k] + n * size : unneeded;
#pragma GCC ivdep
    for (int64_t i = 0; i < size; ++i) {
      const A by_first = by_near * metric.slope(near(i), near_norm);
      const A by_second = by_far * metric.slope(far(i), far_norm);
      const A by_third = swap ? by_swapped * metric.slope(swapped(i), swapped_norm) : A(0);
      g[0][i] = by_first + by_second;
      g[1][i] = by_third - by_first;
      g[2][i] = -by_second - by_third;
    }
  }
}

template <class Metric, class T, class A>
void compute_rows(const TripletMarginLoss<Metric>& loss, const Batch<3, T, A>& batch, const Tensor&) {
  each_sample(batch, 4 * batch.size, [&](const Batch<3, T, A>& batch, int64_t begin, int64_t end) {
    triplets<Metric, T, A>(loss, batch, scratch<A>(4 * batch.size), begin, end);
  });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("triplet_margin_loss", TORCH_BOX(&fastadv::triplet_margin_loss<fastadv::TripletMarginLoss>));
}
