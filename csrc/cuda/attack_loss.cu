// attack_loss. Kernels and cost: rows.h.
#include "rows.h"

namespace fastadv {
namespace {

struct CrossEntropyOnly {
  const int64_t* target;

  template <class A>
  struct State {
    CrossEntropy<A> hard;

    DEVICE A value() const { return hard.value; }
    DEVICE void gradient(int64_t c, const A (&x)[1], A (&g)[1]) const { g[0] = hard.gradient(c, x[0]); }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t n) const {
    return {CrossEntropy<A>::template of<0>(row, target[n])};
  }
};

// The second input is the reference, which takes no gradient.
struct Divergence {

  template <class A>
  struct State {
    Distillation<A> soft;

    DEVICE A value() const { return soft.kl; }
    DEVICE void gradient(int64_t, const A (&x)[2], A (&g)[2]) const {
      g[0] = soft.by_student(x[0], x[1]);
      g[1] = 0;
    }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t) const {
    return {Distillation<A>::of(row, A(1))};
  }
};

std::tuple<Tensor, Tensor> attack_loss(const Tensor& logits, const std::optional<Tensor>& target,
                                       const std::optional<Tensor>& reference, int64_t kind,
                                       const std::optional<Tensor>& weight, double scale, bool reduce, bool grad) {
  const Reduction how{weight, scale, reduce};
  if (kind == 0) {
    require(target.has_value(), "target must be given for kind='ce'");
    auto [loss, by_logits] =
        loss_rows<CrossEntropyOnly, 1>({target_data(*target, logits)}, {&logits}, how, {grad});
    return {loss, by_logits};
  }
  require(kind == 1 && reference.has_value(), "reference must be given for kind='kl'");
  auto [loss, by_logits, none] = loss_rows<Divergence, 2>({}, {&logits, &*reference}, how, {grad, false});
  return {loss, by_logits};
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("attack_loss", TORCH_BOX(&fastadv::attack_loss)); }
