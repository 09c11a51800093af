// pgd_step and, in place, pgd_step_; momentum_step; bss_step: arguments, checks and output. How samples move is each
// backend's: the two `move` and `move_to_boundary`.
#pragma once

#include <tuple>

#include "../step_arguments.h"

namespace fastadv {

// The direction of a step: a gradient, or a momentum with the normalised gradient added, which is kept in `gathered`.
template <class T>
struct AlongGradient {
  const T* grad;  // [N, D]
};

template <class T, class A>
struct AlongMomentum {
  const T* grad;      // [N, D]
  const T* momentum;  // [N, D]
  T* gathered;        // [N, D]
  A decay;
};

namespace {

template <class T, class A>
void move(const AlongGradient<T>& along, const Step<T, A>& step, const Tensor& like);

template <class T, class A>
void move(const AlongMomentum<T, A>& along, const Step<T, A>& step, const Tensor& like);

}  // namespace

inline void pgd_step_into(const Tensor& x, const Tensor& grad, const Tensor& x0, const StepArguments& arguments,
                          const Tensor& out) {
  require_alike(x, grad);
  require_alike(x, x0);
  const Samples shape(x);
  with_dtype(x.scalar_type(), [&]<class T, class A>() {
    const Step<T, A> step = arguments.step<T, A>(x, x0, out, shape);
    if (shape.samples * shape.size > 0) move(AlongGradient<T>{data<T>(grad)}, step, x);
  });
}

inline Tensor pgd_step(const Tensor& x, const Tensor& grad, const Tensor& x0, double eps, double step_size,
                       int64_t norm, double low, double high, double l1_fraction, bool exact,
                       const std::optional<Tensor>& eps_n, const std::optional<Tensor>& step_size_n) {
  Tensor out = empty_as(x);
  pgd_step_into(x, grad, x0, {eps, step_size, norm, low, high, l1_fraction, exact, eps_n, step_size_n}, out);
  return out;
}

inline void pgd_step_(const Tensor& x, const Tensor& grad, const Tensor& x0, double eps, double step_size,
                      int64_t norm, double low, double high, double l1_fraction, bool exact,
                      const std::optional<Tensor>& eps_n, const std::optional<Tensor>& step_size_n) {
  pgd_step_into(x, grad, x0, {eps, step_size, norm, low, high, l1_fraction, exact, eps_n, step_size_n}, x);
}

inline std::tuple<Tensor, Tensor> momentum_step(const Tensor& x, const Tensor& grad, const Tensor& momentum,
                                                const Tensor& x0, double eps, double step_size, int64_t norm,
                                                double low, double high, double l1_fraction, double decay,
                                                const std::optional<Tensor>& eps_n,
                                                const std::optional<Tensor>& step_size_n) {
  require_alike(x, grad);
  require_alike(x, momentum);
  require_alike(x, x0);
  const Samples shape(x);
  const StepArguments arguments{eps, step_size, norm, low, high, l1_fraction, true, eps_n, step_size_n};
  Tensor out = empty_as(x), gathered = empty_as(x);
  with_dtype(x.scalar_type(), [&]<class T, class A>() {
    const Step<T, A> step = arguments.step<T, A>(x, x0, out, shape);
    const AlongMomentum<T, A> along{data<T>(grad), data<T>(momentum), mutable_data<T>(gathered), static_cast<A>(decay)};
    if (shape.samples * shape.size > 0) move(along, step, x);
  });
  return {out, gathered};
}

// The samples that still move towards the boundary, and the length of their steps.
template <class A>
class Boundary {
 public:
  Boundary(const Tensor& gap, const Tensor& active, double step_size, const std::optional<Tensor>& step_size_n,
           const Tensor& x)
      : gap_(data<A>(gap)), active_(data<bool>(active)), step_size_("step_size_n", step_size, step_size_n, x) {
    require_beside(x, gap, "gap");
    require_beside(x, active, "active");
    const int64_t samples = x.size(0);
    constexpr ScalarType expected = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
    require(gap.scalar_type() == expected && gap.is_contiguous() && gap.numel() == samples,
            "expected gaps [N] in the accumulation precision");
    require(active.scalar_type() == ScalarType::Bool && active.is_contiguous() && active.numel() == samples,
            "expected contiguous bool active [N]");
  }

  FASTADV_INLINE bool active(int64_t sample) const { return active_[sample]; }

  // A little further than the boundary seems to be, so that the step ends beyond it.
  FASTADV_INLINE A length(int64_t sample) const { return step_size_[sample] * (gap_[sample] + A(1e-4)); }

 private:
  const A* gap_;        // [N]
  const bool* active_;  // [N]
  PerSample<A> step_size_;
};

template <class T, class A>
struct BoundaryStep {
  const T* x;     // [N, D]
  const T* grad;  // [N, D]
  T* out;         // [N, D]
  Boundary<A> boundary;
  A low;
  A high;
  int64_t samples;  // N
  int64_t size;     // D
};

namespace {

template <class T, class A>
void move_to_boundary(const BoundaryStep<T, A>& step, const Tensor& like);

}  // namespace

inline Tensor bss_step(const Tensor& x, const Tensor& grad, const Tensor& gap, const Tensor& active, double step_size,
                       double low, double high, const std::optional<Tensor>& step_size_n) {
  require_alike(x, grad);
  const Samples shape(x);
  Tensor out = empty_as(x);
  with_dtype(x.scalar_type(), [&]<class T, class A>() {
    const BoundaryStep<T, A> step{data<T>(x),
                                  data<T>(grad),
                                  mutable_data<T>(out),
                                  Boundary<A>(gap, active, step_size, step_size_n, x),
                                  static_cast<A>(low),
                                  static_cast<A>(high),
                                  shape.samples,
                                  shape.size};
    if (shape.samples * shape.size > 0) move_to_boundary(step, x);
  });
  return out;
}

}  // namespace fastadv
