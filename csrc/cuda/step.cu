// pgd_step, momentum_step and bss_step in CUDA; their front: ../common/ops/step.h; the skeleton and its cost: step.h.
//
// momentum_samples: a block a sample, whatever the norm. The gradient is read for its mean and again, mostly from the
//   cache, for the step. The momentum is read and written once where the sample stays in registers or the norm is linf,
//   once more in every pass over the sample where not.
// boundary_samples: a block a sample, which stays in registers where it fits.
#include "../common/ops/step.h"

#include "shared_samples.h"

namespace fastadv {
namespace {

// The momentum with the normalised gradient added, written down whenever it is read.
template <class T, class A>
struct Gathered {
  const T* grad;    // [D]
  const T* before;  // [D]
  T* after;         // [D]
  A decay;
  OverMean<A> normalised;

  template <int kWidth>
  DEVICE void read(int64_t first, A (&direction)[kWidth]) const {
    A gradient[kWidth];
    load(grad + first, gradient);
    load(before + first, direction);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) direction[e] = decay * direction[e] + normalised(gradient[e]);
    store(after + first, direction);
  }
};

template <int kWidth, class A, class T>
DEVICE A total_magnitude(const T* grad /* [D] */, int64_t size, A shrink) {
  A total = 0;
  for (int64_t first = int64_t{threadIdx.x} * kWidth; first < size; first += int64_t{blockDim.x} * kWidth) {
    A gradient[kWidth];
    load(grad + first, gradient);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) total += magnitude<A>(gradient[e], shrink);
  }
  return combined<Sum>(BlockTeam(), total);
}

template <Norm kNorm, bool kHold, int kWidth, class T, class A, class Rule>
KERNEL momentum_samples(Step<T, A> step, AlongMomentum<T, A> along, Rule rule) {
  const int64_t n = blockIdx.x, begin = n * step.size;
  Ball<A> ball = step.ball;
  ball.eps = step.eps[n];
  A shrink = 1, total = total_magnitude<kWidth>(along.grad + begin, step.size, shrink);
  if (total == std::numeric_limits<A>::infinity()) {
    shrink = OverMean<A>::kShrink;
    total = total_magnitude<kWidth>(along.grad + begin, step.size, shrink);
  }
  const Gathered<T, A> direction{along.grad + begin, along.momentum + begin, along.gathered + begin, along.decay,
                                 OverMean<A>(total, shrink, step.size)};
  move_sample<kHold, kWidth>(BlockTeam(), step.x + begin, direction, step.x0 + begin, rule, step.step_size[n], ball,
                             kNorm, step.out + begin, step.size);
}

template <bool kHold, int kWidth, class T, class A>
KERNEL boundary_samples(BoundaryStep<T, A> step) {
  const int64_t n = blockIdx.x, begin = n * step.size;
  if (step.boundary.active(n)) {
    // In a ball of infinite radius around itself, so that only the box is left.
    const Ball<A> box{std::numeric_limits<A>::infinity(), step.low, step.high, true};
    move_sample<kHold, kWidth>(BlockTeam(), step.x + begin, Stored<T>{step.grad + begin}, step.x + begin,
                               MoveByUnit<A>(), step.boundary.length(n), box, Norm::kLinf, step.out + begin, step.size);
    return;
  }
  for (int64_t first = int64_t{threadIdx.x} * kWidth; first < step.size; first += int64_t{blockDim.x} * kWidth) {
    T same[kWidth];
    load(step.x + begin + first, same);
    store(step.out + begin + first, same);
  }
}

template <class T, class A>
void move(const AlongGradient<T>& along, const Step<T, A>& step, const Tensor& like) {
  move_batch(Steepest{step.largest}, step, along.grad, like);
}

template <class T, class A>
void move(const AlongMomentum<T, A>& along, const Step<T, A>& step, const Tensor& like) {
  const Device device(like);
  const bool vectors =
      step.size % kVector<T> == 0 &&
      aligned<kVector<T>>(step.x, along.grad, along.momentum, step.x0, step.out, along.gathered);
  with_rule<A>(Steepest{step.largest}, step.norm, [&](auto known, auto rule) {
    with_sample<T>(vectors, step.size, [&](auto width, auto held) {
      constexpr int kWidth = decltype(width)::value;
      LAUNCH((momentum_samples<decltype(known)::value, decltype(held)::value, kWidth, T, A, decltype(rule)>),
             step.samples, sample_threads<T>(step.size, decltype(held)::value), device, step, along, rule);
    });
  });
}

template <class T, class A>
void move_to_boundary(const BoundaryStep<T, A>& step, const Tensor& like) {
  const Device device(like);
  const bool vectors = step.size % kVector<T> == 0 && aligned<kVector<T>>(step.x, step.grad, step.out);
  with_sample<T>(vectors, step.size, [&](auto width, auto held) {
    constexpr int kWidth = decltype(width)::value;
    LAUNCH((boundary_samples<decltype(held)::value, kWidth, T, A>), step.samples,
           sample_threads<T>(step.size, decltype(held)::value), device, step);
  });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("pgd_step", TORCH_BOX(&fastadv::pgd_step));
  m.impl("pgd_step_", TORCH_BOX(&fastadv::pgd_step_));
  m.impl("momentum_step", TORCH_BOX(&fastadv::momentum_step));
  m.impl("bss_step", TORCH_BOX(&fastadv::bss_step));
}
