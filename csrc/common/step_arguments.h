// The arguments of a step and of a projection: typed for a backend, and as the schemas have them.
#pragma once

#include "ball.h"
#include "step.h"
#include "tensor.h"

namespace fastadv {

// A step of all samples, and what they are projected onto after it.
template <class T, class A>
struct Step {
  const T* x;              // [N, D]
  const T* x0;             // [N, D]
  T* out;                  // [N, D], may be x
  PerSample<A> eps;        // [N]
  PerSample<A> step_size;  // [N]
  Ball<A> ball;            // with the radius of one sample at a time
  Norm norm;
  int64_t largest;  // of a sample's coordinates, how many a step of l1 norm moves
  int64_t samples;  // N
  int64_t size;     // D
};

// The same as the schemas have it.
struct StepArguments {
  double eps;
  double step_size;
  int64_t norm;
  double low;
  double high;
  double l1_fraction;
  bool exact;
  const std::optional<Tensor>& eps_n;
  const std::optional<Tensor>& step_size_n;

  template <class T, class A>
  Step<T, A> step(const Tensor& x, const Tensor& x0, const Tensor& out, const Samples& shape) const {
    return {data<T>(x),
            data<T>(x0),
            mutable_data<T>(out),
            PerSample<A>("eps_n", eps, eps_n, x),
            PerSample<A>("step_size_n", step_size, step_size_n, x),
            {A(0), static_cast<A>(low), static_cast<A>(high), exact},
            norm_of_code(norm),
            largest_count(l1_fraction, shape.size),
            shape.samples,
            shape.size};
  }
};

}  // namespace fastadv
