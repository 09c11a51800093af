// loss_matching and igdm_loss, for which a backend brings functors, and activation_boundary_loss, for which it brings
// `match_activations`: arguments and checks.
#pragma once

#include "../loss.h"

namespace fastadv {

template <class Loss>
std::tuple<Tensor, Gradient, Gradient> loss_matching(const Tensor& student, const Tensor& teacher, const Tensor& target,
                                                     double scale, bool reduce, bool student_grad, bool teacher_grad,
                                                     const std::optional<Tensor>& weight) {
  return loss_rows<2>(Loss{Targets(target, student)}, {&student, &teacher}, {scale, reduce, weight},
                      {student_grad, teacher_grad});
}

template <class Loss>
std::tuple<Tensor, Gradient, Gradient, Gradient, Gradient> igdm_loss(
    const Tensor& student_plus, const Tensor& student_minus, const Tensor& teacher_plus, const Tensor& teacher_minus,
    double scale, bool reduce, bool student_plus_grad, bool student_minus_grad, bool teacher_plus_grad,
    bool teacher_minus_grad, const std::optional<Tensor>& weight) {
  return loss_rows<4>(Loss{}, {&student_plus, &student_minus, &teacher_plus, &teacher_minus}, {scale, reduce, weight},
                      {student_plus_grad, student_minus_grad, teacher_plus_grad, teacher_minus_grad});
}

namespace {

// `batch` has student and teacher; margin [N].
template <class T, class A>
void match_activations(const Batch<2, T, A>& batch, const PerSample<A>& margin, const Tensor& like);

}  // namespace

inline std::tuple<Tensor, Gradient> activation_boundary_loss(const Tensor& student, const Tensor& teacher,
                                                             double margin, double scale, bool reduce,
                                                             bool student_grad, const std::optional<Tensor>& margin_n,
                                                             const std::optional<Tensor>& weight) {
  auto [loss, grad_student, none] =
      evaluate<2>({&student, &teacher}, {scale, reduce, weight}, {student_grad, false},
                  [&]<class T, class A>(const Batch<2, T, A>& batch) {
                    match_activations(batch, PerSample<A>("margin_n", margin, margin_n, student), student);
                  });
  return {loss, grad_student};
}

}  // namespace fastadv
