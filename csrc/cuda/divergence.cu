// kl_distill and kd_loss. Kernels and cost: rows.h.
#include "rows.h"

namespace fastadv {
namespace {

struct KlDistill {
  double temperature;

  template <class A>
  struct State {
    Distillation<A> soft;

    DEVICE A value() const { return soft.value(); }
    DEVICE void gradient(int64_t, const A (&x)[2], A (&g)[2]) const {
      g[0] = soft.by_student(x[0], x[1]);
      g[1] = soft.by_teacher(x[0], x[1]);
    }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t) const {
    return {Distillation<A>::of(row, static_cast<A>(temperature))};
  }
};

struct KdLoss {
  const int64_t* target;
  double temperature;
  double alpha;

  template <class A>
  struct State {
    Distillation<A> soft;
    CrossEntropy<A> hard;
    A soft_weight;
    A hard_weight;

    DEVICE A value() const { return hard_weight * hard.value + soft_weight * soft.value(); }
    DEVICE void gradient(int64_t c, const A (&x)[2], A (&g)[2]) const {
      g[0] = soft_weight * soft.by_student(x[0], x[1]) + hard_weight * hard.gradient(c, x[0]);
      g[1] = soft_weight * soft.by_teacher(x[0], x[1]);
    }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t n) const {
    return {Distillation<A>::of(row, static_cast<A>(temperature)), CrossEntropy<A>::template of<0>(row, target[n]),
            static_cast<A>(alpha), static_cast<A>(1 - alpha)};
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
      softmax_rows<KdLoss, 2>({target_data(target, student), temperature, alpha}, {&student, &teacher},
                              {weight, scale, reduce}, {student_grad, teacher_grad});
  return {loss, by_student, by_teacher};
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("kl_distill", TORCH_BOX(&fastadv::kl_distill));
  m.impl("kd_loss", TORCH_BOX(&fastadv::kd_loss));
}
