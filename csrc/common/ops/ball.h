// project and random_start: arguments, checks and output. A backend brings `project_samples` and `draw_starts`.
#pragma once

#include "../noise.h"
#include "../step_arguments.h"

namespace fastadv {

namespace {

// A step that stays where it is.
template <class T, class A>
void project_samples(const Step<T, A>& step, const Tensor& like);

}  // namespace

inline Tensor project(const Tensor& x, const Tensor& x0, double eps, int64_t norm, double low, double high, bool exact,
                      const std::optional<Tensor>& eps_n) {
  require_alike(x, x0);
  const Samples shape(x);
  Tensor out = empty_as(x);
  const std::optional<Tensor> none;
  const StepArguments arguments{eps, 0.0, norm, low, high, 0.0, exact, eps_n, none};
  with_dtype(x.scalar_type(), [&]<class T, class A>() {
    const Step<T, A> step = arguments.step<T, A>(x, x0, out, shape);
    if (shape.samples * shape.size > 0) project_samples(step, x);
  });
  return out;
}

template <class T, class A>
struct Starts {
  const T* x0;       // [N, D]
  T* out;            // [N, D]
  PerSample<A> eps;  // [N]
  Ball<A> ball;
  Norm norm;
  Noise noise;
  Order order;
  int64_t samples;  // N
  int64_t size;     // D
};

namespace {

template <class T, class A>
void draw_starts(const Starts<T, A>& starts, const Tensor& like);

}  // namespace

inline Tensor random_start(const Tensor& x0, double eps, int64_t norm, double low, double high, int64_t seed,
                           const std::optional<Tensor>& eps_n, const std::optional<Tensor>& seed_t,
                           const std::optional<Tensor>& sample_ids) {
  const Samples shape(x0);
  const Noise noise(seed, seed_t, sample_ids, x0);
  const Norm kind = norm_of_code(norm);
  Tensor out = empty_as(x0);
  with_dtype(x0.scalar_type(), [&]<class T, class A>() {
    const PerSample<A> radius("eps_n", eps, eps_n, x0);
    if (shape.samples * shape.size == 0) return;
    draw_starts(Starts<T, A>{data<T>(x0),
                             mutable_data<T>(out),
                             radius,
                             {A(0), static_cast<A>(low), static_cast<A>(high), true},
                             kind,
                             noise,
                             Order(x0, shape.size),
                             shape.samples,
                             shape.size},
                x0);
  });
  return out;
}

}  // namespace fastadv
