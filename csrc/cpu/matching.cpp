// loss_matching and igdm_loss in C++, on rows.h, and activation_boundary_loss, in one pass over each sample; their
// front: ../common/ops/matching.h.
#include "../common/ops/matching.h"

#include "../common/boundary.h"
#include "rows.h"

namespace fastadv {
namespace {

struct LossMatching {
  static constexpr int kSpare = 2;
  Targets target;

  template <class A>
  FASTADV_INLINE void operator()(Block block, A* const* x, const Gradients<A>& grad, PerRow<A>& loss, A* spare) const {
    const HardLoss<A> of[2] = {{block, x[0], largest<A>(block, x[0]), target, spare},
                               {block, x[1], largest<A>(block, x[1]), target, spare + block.room()}};
    PerRow<A> gap;
    for (int64_t r = 0; r < kBlockRows; ++r) {
      gap[r] = of[0].value[r] - of[1].value[r];
      loss[r] = gap[r] * gap[r];
    }
    for (int k = 0; k < 2; ++k) {
      grad.set(k, [&](int64_t r) FASTADV_LAMBDA {
        return [grad_logit = of[k].grad_logits(r), by_loss = k ? -2 * gap[r] : 2 * gap[r]](int64_t i) FASTADV_LAMBDA {
          return by_loss * grad_logit(i);
        };
      });
    }
  }
};

// Inputs: student and teacher at x + d and x - d, in the order of the schema.
struct IgdmLoss {
  static constexpr int kSpare = 2;
  static constexpr bool kDifferences = true;

  template <class A>
  FASTADV_INLINE void operator()(Block block, A* const* x, const Gradients<A>& grad, PerRow<A>& loss, A* spare) const {
    const SoftLoss<A> soft(block, x[0], x[1], largest<A>(block, x[0]), A(1), spare);
    loss = soft.value;
    const auto negative = [](auto f) FASTADV_LAMBDA { return [f](int64_t i) FASTADV_LAMBDA { return -f(i); }; };
    grad.set(0, [&](int64_t r) FASTADV_LAMBDA { return soft.by_student(r); });
    grad.set(1, [&](int64_t r) FASTADV_LAMBDA { return negative(soft.by_student(r)); });
    grad.set(2, [&](int64_t r) FASTADV_LAMBDA { return soft.by_teacher(r); });
    grad.set(3, [&](int64_t r) FASTADV_LAMBDA { return negative(soft.by_teacher(r)); });
  }
};

// The squared shortfall of each pre-activation, and 2 factor times it as the gradient.
template <class T, class A>
FASTADV_CLONES void activation_boundaries(Batch<2, T, A> batch, PerSample<A> margin, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const T *s = batch.x[0] + n * batch.size, *t = batch.x[1] + n * batch.size;
    const A reach = margin[n], factor = batch.factor(n), slope = 2 * factor;
    const auto gap = [&](int64_t i) FASTADV_LAMBDA {
      return shortfall<A>(static_cast<A>(s[i]), static_cast<A>(t[i]), reach);
    };
    A total;
    if (batch.grad[0]) {
      A* g = batch.grad[0] + n * batch.size;
      total = sum<A>(batch.size, [&](int64_t i) FASTADV_LAMBDA {
        const A d = gap(i);
        g[i] = slope * d;
        return d * d;
      });
    } else {
      total = sum<A>(batch.size, [&](int64_t i) FASTADV_LAMBDA {
        const A d = gap(i);
        return d * d;
      });
    }
    batch.loss[n] = factor * total;
  }
}

template <class T, class A>
void match_activations(const Batch<2, T, A>& batch, const PerSample<A>& margin, const Tensor&) {
  each_sample(batch, batch.size, [&](const Batch<2, T, A>& batch, int64_t begin, int64_t end) {
    activation_boundaries<T, A>(batch, margin, begin, end);
  });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("loss_matching", TORCH_BOX(&fastadv::loss_matching<fastadv::LossMatching>));
  m.impl("igdm_loss", TORCH_BOX(&fastadv::igdm_loss<fastadv::IgdmLoss>));
  m.impl("activation_boundary_loss", TORCH_BOX(&fastadv::activation_boundary_loss));
}
