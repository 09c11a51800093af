#include "rows.h"

namespace fastadv {
namespace {

struct CrossEntropy {
  static constexpr int kSpare = 1;
  Targets target;

  template <class A>
  FASTADV_INLINE void operator()(Block block, const A* const* x, A* const* grad, PerRow<A>& loss, A* spare) const {
    loss = cross_entropy<A>(block, x[0], target, grad[0], spare);
  }
};

// The second input is the reference, which takes no gradient.
struct Divergence {
  static constexpr int kSpare = 2;

  template <class A>
  FASTADV_INLINE void operator()(Block block, const A* const* x, A* const* grad, PerRow<A>& loss, A* spare) const {
    loss = distillation<A>(block, x[0], x[1], A(1), grad[0], static_cast<A*>(nullptr), spare);
  }
};

std::tuple<Tensor, Tensor> attack_loss(const Tensor& logits, const std::optional<Tensor>& target,
                                       const std::optional<Tensor>& reference, int64_t kind,
                                       const std::optional<Tensor>& weight, double scale, bool reduce, bool grad) {
  const Reduction how{weight, scale, reduce};
  if (kind == 0) {
    require(target.has_value(), "target must be given for kind='ce'");
    auto [loss, by_logits] = softmax_rows<CrossEntropy, 1>({Targets(*target, logits)}, {&logits}, how, {grad});
    return {loss, by_logits};
  }
  require(kind == 1 && reference.has_value(), "reference must be given for kind='kl'");
  auto [loss, by_logits, none] = softmax_rows<Divergence, 2>({}, {&logits, &*reference}, how, {grad, false});
  return {loss, by_logits};
}

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) { m.impl("attack_loss", TORCH_BOX(&fastadv::attack_loss)); }
