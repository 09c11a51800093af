// pgd_step and, in place, pgd_step_; momentum_step; bss_step.
//
// The step skeleton: for each sample a rule prepares itself, `begin(n, size)`, and then gives the direction's
// coordinates, `rule(i)`, as often as they are asked for; a loop nest for each norm moves along it and projects.
#include <tuple>

#include "../common/bss.h"
#include "../common/step.h"
#include "ball.h"

namespace fastadv {
namespace {

// pgd_step: along the gradient.
template <class T, class A>
struct Gradient {
  const T* grad;
  const T* sample = nullptr;

  FASTADV_INLINE void begin(int64_t n, int64_t size) { sample = grad + n * size; }

  FASTADV_INLINE A operator()(int64_t i) const { return static_cast<A>(sample[i]); }
};

// momentum_step: along the momentum with the normalised gradient added, which is written down on the way.
template <class T, class A>
struct Momentum {
  const T* grad;
  const T* momentum;
  A decay;
  T* gathered;
  OverMean<A> normalised{A(0), A(1), 0};
  const T* sample = nullptr;
  const T* before = nullptr;
  T* after = nullptr;

  FASTADV_INLINE void begin(int64_t n, int64_t size) {
    const T* g = grad + n * size;
    sample = g;
    before = momentum + n * size;
    after = gathered + n * size;
    A shrink = 1;
    const auto term = [&](int64_t i) FASTADV_LAMBDA { return magnitude<A>(static_cast<A>(g[i]), shrink); };
    A total = sum<A>(size, term);
    if (total == std::numeric_limits<A>::infinity()) {
      shrink = OverMean<A>::kShrink;
      total = sum<A>(size, term);
    }
    normalised = OverMean<A>(total, shrink, size);
  }

  FASTADV_INLINE A operator()(int64_t i) const {
    const A next = decay * static_cast<A>(before[i]) + normalised(static_cast<A>(sample[i]));
    after[i] = static_cast<T>(next);
    return next;
  }
};

template <class Rule, class T, class A>
FASTADV_CLONES FASTADV_EXACT void linf_steps(Rule rule, const T* x, const T* x0, PerSample<A> eps,
                                             PerSample<A> step_size, Ball<A> ball, T* out, int64_t size, int64_t begin,
                                             int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    rule.begin(n, size);
    ball.eps = eps[n];
    const A step = step_size[n];
    const T *xn = x + n * size, *cn = x0 + n * size;
    write<A>(out + n * size, size, [&](int64_t i) FASTADV_LAMBDA {
      const A moved = move_by_sign<A>(static_cast<A>(xn[i]), rule(i), step);
      return project_linf<A>(moved, static_cast<A>(cn[i]), ball);
    });
  }
}

template <class Rule, class T, class A>
FASTADV_CLONES void l2_steps(Rule rule, const T* x, const T* x0, PerSample<A> eps, PerSample<A> step_size, Ball<A> ball,
                             T* out, int64_t size, A* buffer, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    rule.begin(n, size);
    ball.eps = eps[n];
    const A* point = converted<A>(x + n * size, size, buffer + size);
    const A* centre = converted<A>(x0 + n * size, size, buffer + 2 * size);
    const UnitStep<A> step(norm<A>(size, rule), step_size[n]);
    project_l2<A>([&](int64_t i) FASTADV_LAMBDA { return point[i] + step(rule(i)); }, centre, size, ball, buffer,
                  out + n * size);
  }
}

// The `wanted` largest coordinates of a direction.
template <class A>
FASTADV_INLINE LargestSearch<A> search_largest(const A* direction, int64_t size, int64_t wanted) {
  const A most = maximum<A>(size, [&](int64_t i) FASTADV_LAMBDA { return absolute<A>(direction[i]); });
  LargestSearch<A> search(wanted, most);
  while (search.next()) {
    const A least = search.threshold();
    search.take(count(size, [&](int64_t i) FASTADV_LAMBDA { return absolute<A>(direction[i]) >= least; }));
  }
  return search;
}

template <class Rule, class T, class A>
FASTADV_CLONES void l1_steps(Rule rule, const T* x, const T* x0, PerSample<A> eps, PerSample<A> step_size,
                             int64_t largest, Ball<A> ball, T* out, int64_t size, A* buffer, int64_t begin,
                             int64_t end) {
  A* moved = buffer + 3 * size;
  for (int64_t n = begin; n < end; ++n) {
    rule.begin(n, size);
    ball.eps = eps[n];
    const A* point = converted<A>(x + n * size, size, buffer + size);
    const A* centre = converted<A>(x0 + n * size, size, buffer + 2 * size);
    for (int64_t i = 0; i < size; ++i) moved[i] = rule(i);
    const LargestSearch<A> found = search_largest<A>(moved, size, largest);
    const SharedStep<A> step(step_size[n], found.least(), found.count());
    for (int64_t i = 0; i < size; ++i) moved[i] = step(point[i], moved[i]);
    project_l1<A>([&](int64_t i) FASTADV_LAMBDA { return moved[i]; }, centre, size, ball, buffer, out + n * size);
  }
}

// Everything but the direction; `largest` is how many of its coordinates an l1 step moves.
template <class T, class A>
struct Step {
  const T* x;
  const T* x0;
  PerSample<A> eps;
  PerSample<A> step_size;
  Norm norm;
  int64_t largest;
  Ball<A> ball;
  T* out;
  Samples shape;
};

template <class Rule, class T, class A>
void move(const Rule& rule, const Step<T, A>& step) {
  const int64_t size = step.shape.size;
  parallel(step.shape.samples, size, [&](int64_t begin, int64_t end) {
    switch (step.norm) {
      case Norm::kLinf:
        return linf_steps<Rule, T, A>(rule, step.x, step.x0, step.eps, step.step_size, step.ball, step.out, size, begin,
                                      end);
      case Norm::kL2:
        return l2_steps<Rule, T, A>(rule, step.x, step.x0, step.eps, step.step_size, step.ball, step.out, size,
                                    scratch<A>(3 * size), begin, end);
      case Norm::kL1:
        return l1_steps<Rule, T, A>(rule, step.x, step.x0, step.eps, step.step_size, step.largest, step.ball, step.out,
                                    size, scratch<A>(4 * size), begin, end);
    }
  });
}

void step_into(const Tensor& x, const Tensor& grad, const Tensor& x0, double eps, double step_size, int64_t norm,
               double low, double high, double l1_fraction, bool exact, const std::optional<Tensor>& eps_n,
               const std::optional<Tensor>& step_size_n, const Tensor& out) {
  require_alike(x, grad);
  require_alike(x, x0);
  const Samples shape(x);
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    move(Gradient<T, A>{data<T>(grad)},
         Step<T, A>{data<T>(x), data<T>(x0), PerSample<A>(eps, eps_n, shape.samples),
                    PerSample<A>(step_size, step_size_n, shape.samples), norm_of_code(norm),
                    largest_count(l1_fraction, shape.size),
                    Ball<A>{A(0), static_cast<A>(low), static_cast<A>(high), exact}, mutable_data<T>(out), shape});
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

std::tuple<Tensor, Tensor> momentum_step(const Tensor& x, const Tensor& grad, const Tensor& momentum, const Tensor& x0,
                                         double eps, double step_size, int64_t norm, double low, double high,
                                         double l1_fraction, double decay, const std::optional<Tensor>& eps_n,
                                         const std::optional<Tensor>& step_size_n) {
  require_alike(x, grad);
  require_alike(x, momentum);
  require_alike(x, x0);
  const Samples shape(x);
  Tensor out = empty_as(x), gathered = empty_as(x);
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    move(Momentum<T, A>{data<T>(grad), data<T>(momentum), static_cast<A>(decay), mutable_data<T>(gathered)},
         Step<T, A>{data<T>(x), data<T>(x0), PerSample<A>(eps, eps_n, shape.samples),
                    PerSample<A>(step_size, step_size_n, shape.samples), norm_of_code(norm),
                    largest_count(l1_fraction, shape.size),
                    Ball<A>{A(0), static_cast<A>(low), static_cast<A>(high), true}, mutable_data<T>(out), shape});
  });
  return {out, gathered};
}

template <class T, class A>
FASTADV_CLONES void bss_steps(const T* x, const T* grad, Boundary<A> boundary, A low, A high, T* out, int64_t size,
                              int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const T *xn = x + n * size, *gn = grad + n * size;
    T* on = out + n * size;
    if (!boundary.active(n)) {
      for (int64_t i = 0; i < size; ++i) on[i] = xn[i];
      continue;
    }
    const A length = norm<A>(size, [&](int64_t i) FASTADV_LAMBDA { return static_cast<A>(gn[i]); });
    const UnitStep<A> step(length, boundary.length(n));
    write<A>(on, size, [&](int64_t i) FASTADV_LAMBDA {
      return clamp<A>(static_cast<A>(xn[i]) + step(static_cast<A>(gn[i])), low, high);
    });
  }
}

Tensor bss_step(const Tensor& x, const Tensor& grad, const Tensor& gap, const Tensor& active, double step_size,
                double low, double high, const std::optional<Tensor>& step_size_n) {
  require_alike(x, grad);
  const Samples shape(x);
  Tensor out = empty_as(x);
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Boundary<A> boundary(gap, active, step_size, step_size_n, shape.samples);
    const T *point = data<T>(x), *direction = data<T>(grad);
    T* result = mutable_data<T>(out);
    parallel(shape.samples, shape.size, [&](int64_t begin, int64_t end) {
      bss_steps<T, A>(point, direction, boundary, static_cast<A>(low), static_cast<A>(high), result, shape.size, begin,
                      end);
    });
  });
  return out;
}

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("pgd_step", TORCH_BOX(&fastadv::pgd_step));
  m.impl("pgd_step_", TORCH_BOX(&fastadv::pgd_step_));
  m.impl("momentum_step", TORCH_BOX(&fastadv::momentum_step));
  m.impl("bss_step", TORCH_BOX(&fastadv::bss_step));
}
