// loss_matching. Kernels and cost: rows.h.
#include "rows.h"

namespace fastadv {
namespace {

struct LossMatching {
  const int64_t* target;

  template <class A>
  struct State {
    CrossEntropy<A> student;
    CrossEntropy<A> teacher;

    DEVICE A gap() const { return student.value - teacher.value; }
    DEVICE A value() const { return gap() * gap(); }
    DEVICE void gradient(int64_t c, const A (&x)[2], A (&g)[2]) const {
      g[0] = 2 * gap() * student.gradient(c, x[0]);
      g[1] = -2 * gap() * teacher.gradient(c, x[1]);
    }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t n) const {
    return {CrossEntropy<A>::template of<0>(row, target[n]), CrossEntropy<A>::template of<1>(row, target[n])};
  }
};

std::tuple<Tensor, Tensor, Tensor> loss_matching(const Tensor& student, const Tensor& teacher, const Tensor& target,
                                                 const std::optional<Tensor>& weight, double scale, bool reduce,
                                                 bool student_grad, bool teacher_grad) {
  auto [loss, by_student, by_teacher] =
      softmax_rows<LossMatching, 2>({target_data(target, student)}, {&student, &teacher}, {weight, scale, reduce},
                                    {student_grad, teacher_grad});
  return {loss, by_student, by_teacher};
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("loss_matching", TORCH_BOX(&fastadv::loss_matching)); }
