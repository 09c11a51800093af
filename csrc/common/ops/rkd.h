// rkd_loss: arguments, checks and output. A backend brings `relate`.
#pragma once

#include "../loss.h"
#include "../rkd.h"

namespace fastadv {

// The features of a batch in two networks.
template <class T, class A>
struct Relations {
  const T* x[2];    // student's [B, D], teacher's [B, D']
  int64_t size[2];  // D, D'
  int64_t count;    // B
  RkdWeights weights;
  A* loss;  // []
  A* grad;  // by the student's features [B, D], null where none is needed
};

namespace {

// Of fewer than two points the loss and the gradient are zero.
template <class T, class A>
void relate(const Relations<T, A>& relations, const Tensor& like);

}  // namespace

inline std::tuple<Tensor, Gradient> rkd_loss(const Tensor& student, const Tensor& teacher, double distance_weight,
                                             double angle_weight, bool student_grad) {
  require(student.dim() == 2 && teacher.dim() == 2 && student.size(0) == teacher.size(0),
          "expected features [B, D] of one batch");
  require_beside(student, teacher, "teacher");
  require(student.scalar_type() == teacher.scalar_type(), "expected tensors of one dtype");
  require(student.is_contiguous() && teacher.is_contiguous(), "expected contiguous features");
  const int64_t count = student.size(0);
  const Results<1> results(student, true, {student_grad});
  with_dtype(student.scalar_type(), [&]<class T, class A>() {
    relate(Relations<T, A>{{data<T>(student), data<T>(teacher)},
                           {student.size(1), teacher.size(1)},
                           count,
                           RkdWeights(count, distance_weight, angle_weight),
                           mutable_data<A>(results.loss),
                           results.template grad<A>(0)},
           student);
  });
  return results.as_tuple();
}

}  // namespace fastadv
