// loss_matching and igdm_loss: kernels and cost in rows.h.
//
// activation_boundary_loss: a block a part of a sample, which reads student and teacher once, writes the gradient once
// and leaves the part's sum; a second launch adds the parts up, in a fixed order.
#include "../common/boundary.h"
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

constexpr int kBoundaryThreads = 256;
// Runs of 16 bytes a thread.
constexpr int kBoundaryRuns = 4;

template <int kWidth, class T, class A>
KERNEL boundaries(const T* student, const T* teacher, PerSample<A> margin, PerSample<A> weight, A scale, A* grad,
                  A* sums, int64_t size, int64_t parts) {
  const int64_t n = blockIdx.x / parts, part = blockIdx.x % parts, begin = n * size;
  const A reach = margin[n], factor = scale * weight[n];
  A total = 0;
#pragma unroll
  for (int run = 0; run < kBoundaryRuns; ++run) {
    const int64_t first = ((part * kBoundaryRuns + run) * blockDim.x + threadIdx.x) * kWidth;
    if (first >= size) continue;
    A s[kWidth], t[kWidth], g[kWidth];
    load(student + begin + first, s);
    load(teacher + begin + first, t);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const A gap = shortfall<A>(s[e], t[e], reach);
      g[e] = 2 * factor * gap;
      total += gap * gap;
    }
    if (grad) store(grad + begin + first, g);
  }
  total = combined<Sum>(BlockTeam(), total);
  if (threadIdx.x == 0) sums[blockIdx.x] = factor * total;
}

std::tuple<Tensor, Gradient> activation_boundary_loss(const Tensor& student, const Tensor& teacher, double margin,
                                                      double scale, bool reduce, bool student_grad,
                                                      const std::optional<Tensor>& margin_n,
                                                      const std::optional<Tensor>& weight) {
  require_alike(student, teacher);
  const Samples shape(student);
  const Device device(student);
  const Results<1> out(student, reduce, {student_grad});
  with_type(student.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const PerSample<A> reach(margin, margin_n, shape.samples), factor(1.0, weight, shape.samples);
    const T *s = data<T>(student), *t = data<T>(teacher);
    A* const grad = out.grad<A>(0);
    with_width<T>(shape.size % kVector<T> == 0 && aligned<kVector<T>>(s, t), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const int64_t parts = divide_up(shape.size, int64_t{kWidth} * kBoundaryRuns * kBoundaryThreads);
      const int64_t blocks = shape.samples * parts, results = reduce ? 1 : shape.samples;
      const bool sum_apart = blocks != results;
      const Tensor sums = sum_apart ? empty_vector(student, blocks, out.loss.scalar_type()) : out.loss;
      if (blocks > 0) {
        LAUNCH((boundaries<kWidth, T, A>), blocks, kBoundaryThreads, device, s, t, reach, factor,
               static_cast<A>(scale), grad, mutable_data<A>(sums), shape.size, parts);
      }
      if (sum_apart) {
        LAUNCH((sum_rows<A>), results, block_threads(blocks / results), device, mutable_data<A>(sums), blocks / results,
               static_cast<A>(scale), mutable_data<A>(out.loss));
      }
    });
  });
  return out.as_tuple();
}

std::tuple<Tensor, Gradient, Gradient> loss_matching(const Tensor& student, const Tensor& teacher, const Tensor& target,
                                                     double scale, bool reduce, bool student_grad, bool teacher_grad,
                                                     const std::optional<Tensor>& weight) {
  return loss_rows<LossMatching, 2>({target_data(target, student)}, {&student, &teacher}, {scale, reduce, weight},
                                    {student_grad, teacher_grad});
}

std::tuple<Tensor, Gradient, Gradient, Gradient, Gradient> igdm_loss(
    const Tensor& student_plus, const Tensor& student_minus, const Tensor& teacher_plus, const Tensor& teacher_minus,
    double scale, bool reduce, bool student_plus_grad, bool student_minus_grad, bool teacher_plus_grad,
    bool teacher_minus_grad, const std::optional<Tensor>& weight) {
  return loss_rows<IgdmLoss, 4>(
      {}, {&student_plus, &student_minus, &teacher_plus, &teacher_minus}, {scale, reduce, weight},
      {student_plus_grad, student_minus_grad, teacher_plus_grad, teacher_minus_grad});
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("loss_matching", TORCH_BOX(&fastadv::loss_matching));
  m.impl("igdm_loss", TORCH_BOX(&fastadv::igdm_loss));
  m.impl("activation_boundary_loss", TORCH_BOX(&fastadv::activation_boundary_loss));
}
