// loss_matching and igdm_loss in CUDA: kernels and cost in rows.h. Their front: ../common/ops/matching.h.
//
// activation_boundary_loss: a block a part of a sample, which reads student and teacher once, writes the gradient once
// and leaves the part's sum; a second launch adds the parts up, in a fixed order.
#include "../common/ops/matching.h"

#include "../common/boundary.h"
#include "rows.h"

namespace fastadv {
namespace {

struct LossMatching {
  static constexpr bool kSplits = true;
  Targets target;

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
    const A inverse[2] = {A(1), A(1)};
    const auto sums = RowSums<A, 2>::of(row, inverse, [](int64_t, const auto& x, int e, A(&z)[2]) {
      z[0] = x[0][e];
      z[1] = x[1][e];
    });
    const Softmax<A> student(sums.largest(0), sums.total(0), A(1)), teacher(sums.largest(1), sums.total(1), A(1));
    return {CrossEntropy<A>::of(row, 0, student, target[n]), CrossEntropy<A>::of(row, 1, teacher, target[n])};
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
  static constexpr bool kSplits = true;

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

// `sums` [N, parts]
template <int kWidth, class T, class A>
KERNEL boundary_parts(Batch<2, T, A> batch, PerSample<A> margin, A* sums, int64_t parts) {
  const int64_t size = batch.size, n = blockIdx.x / parts, part = blockIdx.x % parts, begin = n * size;
  const A reach = margin[n], factor = batch.factor(n);
  A total = 0;
#pragma unroll
  for (int run = 0; run < kBoundaryRuns; ++run) {
    const int64_t first = ((part * kBoundaryRuns + run) * blockDim.x + threadIdx.x) * kWidth;
    if (first >= size) continue;
    A s[kWidth], t[kWidth], g[kWidth];
    load(batch.x[0] + begin + first, s);
    load(batch.x[1] + begin + first, t);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const A gap = shortfall<A>(s[e], t[e], reach);
      g[e] = 2 * factor * gap;
      total += gap * gap;
    }
    if (batch.grad[0]) store(batch.grad[0] + begin + first, g);
  }
  total = combined<Sum>(BlockTeam(), total);
  if (threadIdx.x == 0) sums[blockIdx.x] = factor * total;
}

template <class T, class A>
void match_activations(const Batch<2, T, A>& batch, const PerSample<A>& margin, const Tensor& like) {
  const Device device(like);
  const bool vectors = batch.size % kVector<T> == 0 && aligned<kVector<T>>(batch.x[0], batch.x[1]);
  with_width<T>(vectors, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    const int64_t parts = divide_up(batch.size, int64_t{kWidth} * kBoundaryRuns * kBoundaryThreads);
    const int64_t blocks = batch.samples * parts, results = batch.reduce ? 1 : batch.samples;
    const bool sum_apart = blocks != results;
    const Tensor apart = sum_apart ? empty_vector(like, blocks, accumulated(like.scalar_type())) : like;
    A* const sums = sum_apart ? mutable_data<A>(apart) : batch.loss;
    if (blocks > 0) {
      LAUNCH((boundary_parts<kWidth, T, A>), blocks, kBoundaryThreads, device, batch, margin, sums, parts);
    }
    if (sum_apart) add_up(device, like, sums, blocks / results, batch.scale, batch.loss, results);
  });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("loss_matching", TORCH_BOX(&fastadv::loss_matching<fastadv::LossMatching>));
  m.impl("igdm_loss", TORCH_BOX(&fastadv::igdm_loss<fastadv::IgdmLoss>));
  m.impl("activation_boundary_loss", TORCH_BOX(&fastadv::activation_boundary_loss));
}
