// pgd_step and, in place, pgd_step_.
#include "../common/step.h"

#include "ball.h"

namespace fastadv {
namespace {

template <class T, class A>
FASTADV_CLONES FASTADV_EXACT void linf_steps(const T* x, const T* grad, const T* x0, PerSample<A> eps,
                                             PerSample<A> step_size, Ball<A> ball, T* out, int64_t size, int64_t begin,
                                             int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    ball.eps = eps[n];
    const A step = step_size[n];
    const T *xn = x + n * size, *gn = grad + n * size, *cn = x0 + n * size;
    T* on = out + n * size;
    for (int64_t i = 0; i < size; ++i) {
      const A moved = move_by_sign<A>(static_cast<A>(xn[i]), static_cast<A>(gn[i]), step);
      on[i] = static_cast<T>(project_linf<A>(moved, static_cast<A>(cn[i]), ball));
    }
  }
}

template <class T, class A>
FASTADV_CLONES void l2_steps(const T* x, const T* grad, const T* x0, PerSample<A> eps, PerSample<A> step_size,
                             Ball<A> ball, T* out, int64_t size, A* buffer, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    ball.eps = eps[n];
    const A* point = converted<A>(x + n * size, size, buffer + size);
    const A* direction = converted<A>(grad + n * size, size, buffer + 2 * size);
    const A* centre = converted<A>(x0 + n * size, size, buffer + 3 * size);
    const UnitStep<A> step(norm<A>(size, [&](int64_t i) FASTADV_LAMBDA { return direction[i]; }), step_size[n]);
    T* on = out + n * size;
    project_l2<A>([&](int64_t i) FASTADV_LAMBDA { return point[i] + step(direction[i]); }, centre, size, ball, buffer,
                  [&](int64_t i, A z) FASTADV_LAMBDA { on[i] = static_cast<T>(z); });
  }
}

void step(const Tensor& x, const Tensor& grad, const Tensor& x0, double eps, const std::optional<Tensor>& eps_n,
          double step_size, const std::optional<Tensor>& step_size_n, int64_t norm, double low, double high, bool exact,
          const Tensor& out) {
  require_alike(x, grad);
  require_alike(x, x0);
  const Samples shape(x);
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Ball<A> ball{A(0), static_cast<A>(low), static_cast<A>(high), exact};
    const PerSample<A> radius(eps, eps_n, shape.samples), length(step_size, step_size_n, shape.samples);
    const T *point = data<T>(x), *direction = data<T>(grad), *centre = data<T>(x0);
    T* result = mutable_data<T>(out);
    parallel(shape.samples, shape.size, [&](int64_t begin, int64_t end) {
      if (static_cast<Norm>(norm) == Norm::kLinf) {
        linf_steps<T, A>(point, direction, centre, radius, length, ball, result, shape.size, begin, end);
      } else {
        l2_steps<T, A>(point, direction, centre, radius, length, ball, result, shape.size, scratch<A>(4 * shape.size),
                       begin, end);
      }
    });
  });
}

Tensor pgd_step(const Tensor& x, const Tensor& grad, const Tensor& x0, double eps, const std::optional<Tensor>& eps_n,
                double step_size, const std::optional<Tensor>& step_size_n, int64_t norm, double low, double high,
                bool exact) {
  Tensor out = empty_as(x);
  step(x, grad, x0, eps, eps_n, step_size, step_size_n, norm, low, high, exact, out);
  return out;
}

void pgd_step_(const Tensor& x, const Tensor& grad, const Tensor& x0, double eps, const std::optional<Tensor>& eps_n,
               double step_size, const std::optional<Tensor>& step_size_n, int64_t norm, double low, double high,
               bool exact) {
  step(x, grad, x0, eps, eps_n, step_size, step_size_n, norm, low, high, exact, x);
}

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("pgd_step", TORCH_BOX(&fastadv::pgd_step));
  m.impl("pgd_step_", TORCH_BOX(&fastadv::pgd_step_));
}
