#include "rows.h"

namespace fastadv {
namespace {

struct KlDistill {
  double temperature;

  template <class A>
  FASTADV_INLINE A row(const A* const* x, int64_t classes, int64_t, A* const* grad, A* buffer) const {
    return distillation<A>(x[0], x[1], classes, static_cast<A>(temperature), grad[0], grad[1], buffer);
  }
};

struct KdLoss {
  Targets target;
  double temperature;
  double alpha;

  // The divergence leaves its gradient in the output; the cross-entropy's is added to it.
  template <class A>
  FASTADV_INLINE A row(const A* const* x, int64_t classes, int64_t n, A* const* grad, A* buffer) const {
    const A soft_weight = static_cast<A>(alpha), hard_weight = static_cast<A>(1 - alpha);
    const A soft = distillation<A>(x[0], x[1], classes, static_cast<A>(temperature), grad[0], grad[1], buffer);
    A* hard_grad = grad[0] ? buffer : nullptr;
    const A hard = cross_entropy<A>(x[0], classes, target[n], hard_grad, buffer);
    if (A* g = grad[0]) {
      for (int64_t c = 0; c < classes; ++c) g[c] = soft_weight * g[c] + hard_weight * hard_grad[c];
    }
    if (A* g = grad[1]) {
      for (int64_t c = 0; c < classes; ++c) g[c] *= soft_weight;
    }
    return hard_weight * hard + soft_weight * soft;
  }
};

std::tuple<Tensor, Tensor, Tensor> kl_distill(const Tensor& student, const Tensor& teacher, double temperature,
                                              const std::optional<Tensor>& weight, double scale, bool reduce,
                                              bool student_grad, bool teacher_grad) {
  auto [loss, by_student, by_teacher] = softmax_rows<KlDistill, 2>(
      {temperature}, {&student, &teacher}, {weight, scale, reduce}, {student_grad, teacher_grad});
  return {loss, by_student, by_teacher};
}

std::tuple<Tensor, Tensor, Tensor> kd_loss(const Tensor& student, const Tensor& teacher, const Tensor& target,
                                           double temperature, double alpha, const std::optional<Tensor>& weight,
                                           double scale, bool reduce, bool student_grad, bool teacher_grad) {
  auto [loss, by_student, by_teacher] =
      softmax_rows<KdLoss, 2>({Targets(target, student), temperature, alpha}, {&student, &teacher},
                              {weight, scale, reduce}, {student_grad, teacher_grad});
  return {loss, by_student, by_teacher};
}

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("kl_distill", TORCH_BOX(&fastadv::kl_distill));
  m.impl("kd_loss", TORCH_BOX(&fastadv::kd_loss));
}
