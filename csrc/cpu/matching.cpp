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

std::tuple<Tensor, Tensor, Tensor> loss_matching(const Tensor& student, const Tensor& teacher, const Tensor& target,
                                                 const std::optional<Tensor>& weight, double scale, bool reduce,
                                                 bool student_grad, bool teacher_grad) {
  auto [loss, by_student, by_teacher] =
      softmax_rows<LossMatching, 2>({Targets(target, student)}, {&student, &teacher}, {weight, scale, reduce},
                                    {student_grad, teacher_grad});
  return {loss, by_student, by_teacher};
}

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) { m.impl("loss_matching", TORCH_BOX(&fastadv::loss_matching)); }
