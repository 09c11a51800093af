// pgd_step and, in place, pgd_step_; momentum_step; bss_step. The skeleton and its cost: step.h.
//
// momentum_samples: a block a sample, whatever the norm. The gradient is read for its mean and again, mostly from the
//   cache, for the step. The momentum is read and written once where the sample stays in registers or the norm is linf,
//   once more in every pass over the sample where not.
// bss_samples: a block a sample, which stays in registers where it fits.
#include <tuple>

#include "../common/bss.h"
#include "step.h"

namespace fastadv {
namespace {

void step_into(const Tensor& x, const Tensor& grad, const Tensor& x0, double eps, double step_size, int64_t norm,
               double low, double high, double l1_fraction, bool exact, const std::optional<Tensor>& eps_n,
               const std::optional<Tensor>& step_size_n, const Tensor& out) {
  require_alike(x, grad);
  require_alike(x, x0);
  const Samples shape(x);
  const Device device(x);
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Ball<A> ball{A(0), static_cast<A>(low), static_cast<A>(high), exact};
    const PerSample<A> radius(eps, eps_n, shape.samples), length(step_size, step_size_n, shape.samples);
    const Steepest steepest{largest_count(l1_fraction, shape.size)};
    move(steepest, device, data<T>(x), data<T>(grad), data<T>(x0), radius, length, ball, norm_of_code(norm),
         mutable_data<T>(out), shape.samples, shape.size);
  });
}

Tensor pgd_step(const Tensor& x, const Tensor& grad, const Tensor& x0, double eps, double step_size, int64_t norm,
                double low, double high, double l1_fraction, bool exact, const std::optional<Tensor>& eps_n,
                const std::optional<Tensor>& step_size_n) {
  Tensor out = empty_as(x);
  step_into(x, grad, x0, eps, step_size, norm, low, high, l1_fraction, exact, eps_n, step_size_n, out);
  return out;
}

void pgd_step_(const Tensor& x, const Tensor& grad, const Tensor& x0, double eps, double step_size, int64_t norm,
               double low, double high, double l1_fraction, bool exact, const std::optional<Tensor>& eps_n,
               const std::optional<Tensor>& step_size_n) {
  step_into(x, grad, x0, eps, step_size, norm, low, high, l1_fraction, exact, eps_n, step_size_n, x);
}

// The momentum with the normalised gradient added, written down whenever it is read.
template <class T, class A>
struct Gathered {
  const T* grad;
  const T* before;
  A decay;
  OverMean<A> normalised;
  T* after;

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
DEVICE A total_magnitude(const T* grad, int64_t size, A shrink) {
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
KERNEL momentum_samples(const T* x, const T* grad, const T* momentum, const T* x0, PerSample<A> eps,
                        PerSample<A> step_size, A decay, Ball<A> ball, Rule rule, T* out, T* gathered, int64_t size) {
  const int64_t n = blockIdx.x, begin = n * size;
  ball.eps = eps[n];
  A shrink = 1, total = total_magnitude<kWidth>(grad + begin, size, shrink);
  if (total == std::numeric_limits<A>::infinity()) {
    shrink = OverMean<A>::kShrink;
    total = total_magnitude<kWidth>(grad + begin, size, shrink);
  }
  const Gathered<T, A> direction{grad + begin, momentum + begin, decay, OverMean<A>(total, shrink, size),
                                 gathered + begin};
  move_sample<kHold, kWidth>(x + begin, direction, x0 + begin, rule, step_size[n], ball, kNorm, out + begin, size);
}

std::tuple<Tensor, Tensor> momentum_step(const Tensor& x, const Tensor& grad, const Tensor& momentum, const Tensor& x0,
                                         double eps, double step_size, int64_t norm, double low, double high,
                                         double l1_fraction, double decay, const std::optional<Tensor>& eps_n,
                                         const std::optional<Tensor>& step_size_n) {
  require_alike(x, grad);
  require_alike(x, momentum);
  require_alike(x, x0);
  const Samples shape(x);
  const Device device(x);
  Tensor out = empty_as(x), gathered = empty_as(x);
  if (shape.samples * shape.size == 0) return {out, gathered};
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Ball<A> ball{A(0), static_cast<A>(low), static_cast<A>(high), true};
    const PerSample<A> radius(eps, eps_n, shape.samples), length(step_size, step_size_n, shape.samples);
    const T *point = data<T>(x), *gradient = data<T>(grad), *before = data<T>(momentum), *centre = data<T>(x0);
    T *moved = mutable_data<T>(out), *after = mutable_data<T>(gathered);
    const bool vectors =
        shape.size % kVector<T> == 0 && aligned<kVector<T>>(point, gradient, before, centre, moved, after);
    const Steepest steepest{largest_count(l1_fraction, shape.size)};
    with_rule<A>(steepest, norm_of_code(norm), [&](auto known, auto rule) {
      with_sample<T>(vectors, shape.size, [&](auto width, auto held) {
        constexpr int kWidth = decltype(width)::value;
        LAUNCH((momentum_samples<decltype(known)::value, decltype(held)::value, kWidth, T, A, decltype(rule)>),
               shape.samples, block_threads(shape.size / kWidth), device, point, gradient, before, centre, radius,
               length, static_cast<A>(decay), ball, rule, moved, after, shape.size);
      });
    });
  });
  return {out, gathered};
}

template <bool kHold, int kWidth, class T, class A>
KERNEL bss_samples(const T* x, const T* grad, Boundary<A> boundary, Ball<A> box, T* out, int64_t size) {
  const int64_t n = blockIdx.x, begin = n * size;
  if (boundary.active(n)) {
    // In a ball of infinite radius around itself, so that only the box is left.
    move_sample<kHold, kWidth>(x + begin, Stored<T>{grad + begin}, x + begin, MoveByUnit<A>(), boundary.length(n), box,
                               Norm::kLinf, out + begin, size);
    return;
  }
  for (int64_t first = int64_t{threadIdx.x} * kWidth; first < size; first += int64_t{blockDim.x} * kWidth) {
    T same[kWidth];
    load(x + begin + first, same);
    store(out + begin + first, same);
  }
}

Tensor bss_step(const Tensor& x, const Tensor& grad, const Tensor& gap, const Tensor& active, double step_size,
                double low, double high, const std::optional<Tensor>& step_size_n) {
  require_alike(x, grad);
  const Samples shape(x);
  const Device device(x);
  Tensor out = empty_as(x);
  if (shape.samples * shape.size == 0) return out;
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Boundary<A> boundary(gap, active, step_size, step_size_n, shape.samples);
    const Ball<A> box{std::numeric_limits<A>::infinity(), static_cast<A>(low), static_cast<A>(high), true};
    const T *point = data<T>(x), *gradient = data<T>(grad);
    T* moved = mutable_data<T>(out);
    const bool vectors = shape.size % kVector<T> == 0 && aligned<kVector<T>>(point, gradient, moved);
    with_sample<T>(vectors, shape.size, [&](auto width, auto held) {
      constexpr int kWidth = decltype(width)::value;
      LAUNCH((bss_samples<decltype(held)::value, kWidth, T, A>), shape.samples, block_threads(shape.size / kWidth),
             device, point, gradient, boundary, box, moved, shape.size);
    });
  });
  return out;
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("pgd_step", TORCH_BOX(&fastadv::pgd_step));
  m.impl("pgd_step_", TORCH_BOX(&fastadv::pgd_step_));
  m.impl("momentum_step", TORCH_BOX(&fastadv::momentum_step));
  m.impl("bss_step", TORCH_BOX(&fastadv::bss_step));
}
