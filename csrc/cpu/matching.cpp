#include "rows.h"

namespace fastadv {
namespace {

struct LossMatching {
  Targets target;

  template <class A>
  FASTADV_INLINE A row(const A* const* x, int64_t classes, int64_t n, A* const* grad, A* buffer) const {
    const A gap = cross_entropy<A>(x[0], classes, target[n], grad[0], buffer) -
                  cross_entropy<A>(x[1], classes, target[n], grad[1], buffer);
    for (int k = 0; k < 2; ++k) {
      const A factor = k ? -2 * gap : 2 * gap;
      if (!grad[k]) continue;
      A* g = grad[k];
      for (int64_t c = 0; c < classes; ++c) g[c] *= factor;
    }
    return gap * gap;
  }
};

// Inputs: student and teacher at x + d and x - d, in the order of the schema.
struct IgdmLoss {
  // Beyond them a row is padding, whose difference would be undefined.
  int64_t present;

  template <class A>
  FASTADV_INLINE A row(const A* const* x, int64_t classes, int64_t, A* const* grad, A* buffer) const {
    A *response[2], *by_response[2];
    for (int k = 0; k < 2; ++k) {
      const A *plus = x[2 * k], *minus = x[2 * k + 1];
      A* r = buffer + k * classes;
      for (int64_t c = 0; c < classes; ++c) r[c] = c < present ? plus[c] - minus[c] : plus[c];
      response[k] = r;
      // Either side's gradient has room for the response's; with neither wanted none is computed.
      by_response[k] = grad[2 * k] ? grad[2 * k] : grad[2 * k + 1];
    }
    const A loss = distillation<A>(response[0], response[1], classes, A(1), by_response[0], by_response[1],
                                   buffer + 2 * classes);
    for (int k = 0; k < 2; ++k) {
      const A* g = by_response[k];
      if (A* minus = grad[2 * k + 1]) {
        for (int64_t c = 0; c < classes; ++c) minus[c] = -g[c];
      }
    }
    return loss;
  }
};

std::tuple<Tensor, Tensor, Tensor> loss_matching(const Tensor& student, const Tensor& teacher, const Tensor& target,
                                                 const std::optional<Tensor>& weight, double scale, bool reduce,
                                                 bool student_grad, bool teacher_grad) {
  auto [loss, by_student, by_teacher] =
      softmax_rows<LossMatching, 2>({Targets(target, student)}, {&student, &teacher}, {weight, scale, reduce},
                                    {student_grad, teacher_grad});
  return {loss, by_student, by_teacher};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> igdm_loss(
    const Tensor& student_plus, const Tensor& student_minus, const Tensor& teacher_plus, const Tensor& teacher_minus,
    const std::optional<Tensor>& weight, double scale, bool reduce, bool student_plus_grad, bool student_minus_grad,
    bool teacher_plus_grad, bool teacher_minus_grad) {
  require(student_plus.dim() == 2, "expected logits [N, C]");
  auto [loss, a, b, c, d] = softmax_rows<IgdmLoss, 4>(
      {student_plus.size(1)}, {&student_plus, &student_minus, &teacher_plus, &teacher_minus}, {weight, scale, reduce},
      {student_plus_grad, student_minus_grad, teacher_plus_grad, teacher_minus_grad});
  return {loss, a, b, c, d};
}

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("loss_matching", TORCH_BOX(&fastadv::loss_matching));
  m.impl("igdm_loss", TORCH_BOX(&fastadv::igdm_loss));
}
