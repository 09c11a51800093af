// pgd_step and, in place, pgd_step_. Kernels and cost: step.h.
#include "step.h"

namespace fastadv {
namespace {

void step(const Tensor& x, const Tensor& grad, const Tensor& x0, double eps, const std::optional<Tensor>& eps_n,
          double step_size, const std::optional<Tensor>& step_size_n, int64_t norm, double low, double high, bool exact,
          const Tensor& out) {
  require_alike(x, grad);
  require_alike(x, x0);
  const Samples shape(x);
  const Device device(x);
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Ball<A> ball{A(0), static_cast<A>(low), static_cast<A>(high), exact};
    const PerSample<A> radius(eps, eps_n, shape.samples), length(step_size, step_size_n, shape.samples);
    move<MoveBySign<A>, MoveByUnit<A>>(device, data<T>(x), data<T>(grad), data<T>(x0), radius, length, ball,
                                       static_cast<Norm>(norm), mutable_data<T>(out), shape.samples, shape.size);
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

REGISTER_OPS(m) {
  m.impl("pgd_step", TORCH_BOX(&fastadv::pgd_step));
  m.impl("pgd_step_", TORCH_BOX(&fastadv::pgd_step_));
}
