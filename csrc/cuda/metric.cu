// triplet_margin_loss in CUDA; its front: ../common/ops/metric.h. Kernels and cost: rows.h; where rows are streamed,
// one pass more for the norms, for p = inf two.
#include "../common/ops/metric.h"

#include "rows.h"

namespace fastadv {
namespace {

// The differences whose norms count: anchor to positive, anchor to negative, positive to negative.
template <class A>
struct Differences {
  A of[3];

  DEVICE Differences(A anchor, A positive, A negative, A eps)
      : of{anchor - positive + eps, anchor - negative + eps, positive - negative + eps} {}
};

template <class Metric>
struct TripletMarginLoss {
  Metric metric;
  Margins margin;
  double eps;
  bool swap;

  template <class A>
  struct State {
    Metric metric;
    A eps;
    bool swap;
    FeatureNorm<A> norm[3];
    Hinge<A> hinge;

    DEVICE A value() const { return hinge.value; }
    DEVICE void gradient(int64_t, const A (&x)[3], A (&g)[3]) const {
      const Differences<A> d(x[0], x[1], x[2], eps);
      const A near = hinge.by_near * metric.slope(d.of[0], norm[0]);
      const A far = hinge.by_far * metric.slope(d.of[1], norm[1]);
      const A swapped = swap ? hinge.by_swapped * metric.slope(d.of[2], norm[2]) : A(0);
      g[0] = near + far;
      g[1] = swapped - near;
      g[2] = -far - swapped;
    }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t n) const {
    constexpr A kInfinity = std::numeric_limits<A>::infinity();
    FeatureNorm<A> norm[3];
    norms(row, norm);
    return {metric, static_cast<A>(eps), swap, {norm[0], norm[1], norm[2]},
            Hinge<A>(margin.of<A>(n), norm[0].length, norm[1].length, swap ? norm[2].length : kInfinity)};
  }

  // Calls `f(k, difference)` for each difference of the thread's coordinates.
  template <class A, class Row, class F>
  DEVICE void each(const Row& row, const F& f) const {
    row.each([&](int64_t, const auto& x) {
      for (int e = 0; e < Row::kWidth; ++e) {
        const Differences<A> d(x[0][e], x[1][e], x[2][e], static_cast<A>(eps));
        f(0, d.of[0]);
        f(1, d.of[1]);
        if (swap) f(2, d.of[2]);
      }
    });
  }

  template <class A, class Row>
  DEVICE void norms(const Row& row, FeatureNorm<A> (&norm)[3]) const {
    const typename Row::Team team;
    A total[3] = {};
    if constexpr (Metric::kLargest) {
      constexpr A kInfinity = std::numeric_limits<A>::infinity();
      A largest[3] = {}, count[3] = {};
      each<A>(row, [&](int k, A d) {
        const A size = absolute<A>(d);
        largest[k] = Larger()(largest[k], size == size ? size : kInfinity);
        total[k] += size;
      });
      team.template combine<Larger>(largest);
      team.template combine<Sum>(total);
      // Only a sum tells infinity from NaN.
      for (int k = 0; k < 3; ++k) largest[k] = largest[k] == kInfinity ? total[k] : largest[k];
      each<A>(row, [&](int k, A d) { count[k] += absolute<A>(d) < largest[k] ? A(0) : A(1); });
      team.template combine<Sum>(count);
      for (int k = 0; k < 3; ++k) norm[k] = {largest[k], 1 / count[k]};
    } else {
      each<A>(row, [&](int k, A d) { total[k] += metric.term(d); });
      team.template combine<Sum>(total);
      for (int k = 0; k < 3; ++k) norm[k] = metric.root(total[k]);
    }
  }
};

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("triplet_margin_loss", TORCH_BOX(&fastadv::triplet_margin_loss<fastadv::TripletMarginLoss>));
}
