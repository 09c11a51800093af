// kl_distill, kd_loss, js_distill and dkd_loss: arguments and checks. A backend brings a functor for each.
#pragma once

#include "../loss.h"

namespace fastadv {

template <class Loss>
std::tuple<Tensor, Gradient, Gradient> kl_distill(const Tensor& student, const Tensor& teacher, double temperature,
                                                  double scale, bool reduce, bool student_grad, bool teacher_grad,
                                                  const std::optional<Tensor>& weight) {
  return loss_rows<2>(Loss{temperature}, {&student, &teacher}, {scale, reduce, weight}, {student_grad, teacher_grad});
}

template <class Loss>
std::tuple<Tensor, Gradient, Gradient> kd_loss(const Tensor& student, const Tensor& teacher, const Tensor& target,
                                               double temperature, double alpha, double scale, bool reduce,
                                               bool student_grad, bool teacher_grad,
                                               const std::optional<Tensor>& weight) {
  return loss_rows<2>(Loss{Targets(target, student), temperature, alpha}, {&student, &teacher},
                      {scale, reduce, weight}, {student_grad, teacher_grad});
}

template <class Loss>
std::tuple<Tensor, Gradient, Gradient> js_distill(const Tensor& student, const Tensor& teacher, double temperature,
                                                  double scale, bool reduce, bool student_grad, bool teacher_grad,
                                                  const std::optional<Tensor>& weight) {
  return loss_rows<2>(Loss{temperature}, {&student, &teacher}, {scale, reduce, weight}, {student_grad, teacher_grad});
}

template <class Loss>
std::tuple<Tensor, Gradient, Gradient> dkd_loss(const Tensor& student, const Tensor& teacher, const Tensor& target,
                                                double temperature, double alpha, double beta, double scale,
                                                bool reduce, bool student_grad, bool teacher_grad,
                                                const std::optional<Tensor>& weight) {
  require(student.dim() == 2 && student.size(1) > 1, "expected logits [N, C] with C > 1");
  return loss_rows<2>(Loss{Targets(target, student), temperature, alpha, beta}, {&student, &teacher},
                      {scale, reduce, weight}, {student_grad, teacher_grad});
}

}  // namespace fastadv
