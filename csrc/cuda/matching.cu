// loss_matching and igdm_loss. Kernels and cost: rows.h.
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

// The response of network k: its logits at x + d less those at x - d.
template <int k>
struct Response {
  template <class X>
  DEVICE auto operator()(int64_t, const X& x, int e) const {
    return x[2 * k][e] - x[2 * k + 1][e];
  }
};

// Inputs: student and teacher at x + d and x - d, in the order of the schema.
struct IgdmLoss {
  template <class A>
  struct State {
    Distillation<A> responses;

    DEVICE A value() const { return responses.value(); }
    DEVICE void gradient(int64_t, const A (&x)[4], A (&g)[4]) const {
      const A student = x[0] - x[1], teacher = x[2] - x[3];
      g[0] = responses.by_student(student, teacher);
      g[1] = -g[0];
      g[2] = responses.by_teacher(student, teacher);
      g[3] = -g[2];
    }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t) const {
    return {Distillation<A>::of(row, A(1), Response<0>(), Response<1>())};
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

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> igdm_loss(
    const Tensor& student_plus, const Tensor& student_minus, const Tensor& teacher_plus, const Tensor& teacher_minus,
    const std::optional<Tensor>& weight, double scale, bool reduce, bool student_plus_grad, bool student_minus_grad,
    bool teacher_plus_grad, bool teacher_minus_grad) {
  auto [loss, a, b, c, d] = softmax_rows<IgdmLoss, 4>(
      {}, {&student_plus, &student_minus, &teacher_plus, &teacher_minus}, {weight, scale, reduce},
      {student_plus_grad, student_minus_grad, teacher_plus_grad, teacher_minus_grad});
  return {loss, a, b, c, d};
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("loss_matching", TORCH_BOX(&fastadv::loss_matching));
  m.impl("igdm_loss", TORCH_BOX(&fastadv::igdm_loss));
}
