// pgd_step, momentum_step and bss_step in C++; their front: ../common/ops/step.h.
//
// The step skeleton: for each sample a rule prepares itself, `begin(n, size)`, and then gives the direction's
// coordinates, `rule(i)`, as often as they are asked for; a loop nest for each norm moves along it and projects.
#include "../common/ops/step.h"

#include "ball.h"

namespace fastadv {
namespace {

template <class T, class A>
struct GradientRule {
  const T* grad;  // [N, D]
  const T* sample = nullptr;

  FASTADV_INLINE void begin(int64_t n, int64_t size) { sample = grad + n * size; }

  FASTADV_INLINE A operator()(int64_t i) const { return static_cast<A>(sample[i]); }
};

// The momentum with the normalised gradient added, which is written down on the way.
template <class T, class A>
struct MomentumRule {
  const T* grad;      // [N, D]
  const T* momentum;  // [N, D]
  T* gathered;        // [N, D]
  A decay;
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
    const auto term = [&](int64_t i, A (&terms)[1]) FASTADV_LAMBDA {
      terms[0] = magnitude<A>(static_cast<A>(g[i]), shrink);
    };
    A total[1];
    sum_all(size, total, term);
    if (total[0] == std::numeric_limits<A>::infinity()) {
      shrink = OverMean<A>::kShrink;
      sum_all(size, total, term);
    }
    normalised = OverMean<A>(total[0], shrink, size);
  }

  FASTADV_INLINE A operator()(int64_t i) const {
    const A next = decay * static_cast<A>(before[i]) + normalised(static_cast<A>(sample[i]));
    after[i] = static_cast<T>(next);
    return next;
  }
};

template <class Rule, class T, class A>
FASTADV_CLONES FASTADV_EXACT void linf_steps(Rule rule, Step<T, A> step, int64_t begin, int64_t end) {
  const int64_t size = step.size;
  for (int64_t n = begin; n < end; ++n) {
    rule.begin(n, size);
    const A length = step.step_size[n];
    const T *x = step.x + n * size, *x0 = step.x0 + n * size;
    const auto steps = [&](const Ball<A>& ball) FASTADV_LAMBDA {
      write<A>(step.out + n * size, size, [&](int64_t i) FASTADV_LAMBDA {
        const A moved = move_by_sign<A>(static_cast<A>(x[i]), rule(i), length);
        return project_linf<A>(moved, static_cast<A>(x0[i]), ball);
      });
    };
    // A loop for each mode, which the compiler does not make of one where the rule writes.
    if (step.ball.exact) {
      steps({step.eps[n], step.ball.low, step.ball.high, true});
    } else {
      steps({step.eps[n], step.ball.low, step.ball.high, false});
    }
  }
}

// The same along a gradient where a sample is one number, which a radius or a size for each pixel makes of it: one loop
// over all of them.
template <class T, class A>
FASTADV_CLONES FASTADV_EXACT void linf_steps_of_one(const T* grad, Step<T, A> step, int64_t begin, int64_t end) {
  A radius[kBlock], length[kBlock];
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = smaller(end - first, kBlock);
    copy_numbers(step.eps, first, count, radius);
    copy_numbers(step.step_size, first, count, length);
    const T *x = step.x + first, *x0 = step.x0 + first, *g = grad + first;
    const auto steps = [&](bool exact) FASTADV_LAMBDA {
      write<A>(step.out + first, count, [&](int64_t i) FASTADV_LAMBDA {
        const A moved = move_by_sign<A>(static_cast<A>(x[i]), static_cast<A>(g[i]), length[i]);
        return project_linf<A>(moved, static_cast<A>(x0[i]), {radius[i], step.ball.low, step.ball.high, exact});
      });
    };
    if (step.ball.exact) {
      steps(true);
    } else {
      steps(false);
    }
  }
}

// `buffer`: room for 3 D numbers.
template <class Rule, class T, class A>
FASTADV_CLONES void l2_steps(Rule rule, Step<T, A> step, A* buffer, int64_t begin, int64_t end) {
  const int64_t size = step.size;
  for (int64_t n = begin; n < end; ++n) {
    rule.begin(n, size);
    Ball<A> ball = step.ball;
    ball.eps = step.eps[n];
    const A* x = converted<A>(step.x + n * size, size, buffer + size);
    const A* x0 = converted<A>(step.x0 + n * size, size, buffer + 2 * size);
    const UnitStep<A> unit(norm<A>(size, rule), step.step_size[n]);
    const auto point = [&](int64_t i) FASTADV_LAMBDA { return x[i] + unit(rule(i)); };
    const auto first = [&](int64_t i) FASTADV_LAMBDA { return buffer[i] = point(i) - x0[i]; };
    const auto delta = [&](int64_t i) FASTADV_LAMBDA { return buffer[i]; };
    project_l2<A>(first, delta, point, x0, size, ball, step.out + n * size);
  }
}

// The k-th largest magnitude of a direction [D]. NaN is none of them.
template <class A>
FASTADV_INLINE LargestSearch<A> search_largest(const A* direction, int64_t size, int64_t k) {
  const A most = largest_positive<A>(size, [&](int64_t i) FASTADV_LAMBDA {
    const A length = std::fabs(direction[i]);
    return length == length ? length : A(0);
  });
  LargestSearch<A> search(k, most);
  while (search.next()) {
    const A least = search.threshold();
    search.take(count<A>(size, [&](int64_t i) FASTADV_LAMBDA { return std::fabs(direction[i]) >= least; }));
  }
  return search;
}

// `buffer`: room for 5 D numbers.
template <class Rule, class T, class A>
FASTADV_CLONES void l1_steps(Rule rule, Step<T, A> step, A* buffer, int64_t begin, int64_t end) {
  const int64_t size = step.size;
  A* moved = buffer + 4 * size;
  for (int64_t n = begin; n < end; ++n) {
    rule.begin(n, size);
    Ball<A> ball = step.ball;
    ball.eps = step.eps[n];
    const A* x = converted<A>(step.x + n * size, size, buffer + 2 * size);
    const A* x0 = converted<A>(step.x0 + n * size, size, buffer + 3 * size);
    for (int64_t i = 0; i < size; ++i) moved[i] = rule(i);
    const LargestSearch<A> found = search_largest<A>(moved, size, step.largest);
    const SharedStep<A> shared(step.step_size[n], found.least(), found.count());
    for (int64_t i = 0; i < size; ++i) moved[i] = shared(x[i], moved[i]);
    project_l1<A>([&](int64_t i) FASTADV_LAMBDA { return moved[i]; }, x0, size, ball, buffer, step.out + n * size);
  }
}

template <class Rule, class T, class A>
void move_by_rule(const Rule& rule, const Step<T, A>& step) {
  parallel(step.samples, cost(step.norm) * step.size, [&](int64_t begin, int64_t end) {
    switch (step.norm) {
      case Norm::kLinf: return linf_steps<Rule, T, A>(rule, step, begin, end);
      case Norm::kL2: return l2_steps<Rule, T, A>(rule, step, scratch<A>(3 * step.size), begin, end);
      case Norm::kL1: return l1_steps<Rule, T, A>(rule, step, scratch<A>(5 * step.size), begin, end);
    }
  });
}

template <class T, class A>
FASTADV_CLONES void boundary_steps(BoundaryStep<T, A> step, int64_t begin, int64_t end) {
  const int64_t size = step.size;
  for (int64_t n = begin; n < end; ++n) {
    const T *x = step.x + n * size, *grad = step.grad + n * size;
    T* out = step.out + n * size;
    if (!step.boundary.active(n)) {
      for (int64_t i = 0; i < size; ++i) out[i] = x[i];
      continue;
    }
    const A length = norm<A>(size, [&](int64_t i) FASTADV_LAMBDA { return static_cast<A>(grad[i]); });
    const UnitStep<A> unit(length, step.boundary.length(n));
    write<A>(out, size, [&](int64_t i) FASTADV_LAMBDA {
      return clamp<A>(static_cast<A>(x[i]) + unit(static_cast<A>(grad[i])), step.low, step.high);
    });
  }
}

template <class T, class A>
void move(const AlongGradient<T>& along, const Step<T, A>& step, const Tensor&) {
  if (step.norm == Norm::kLinf && step.size == 1) {
    return parallel(step.samples, 1, [&](int64_t begin, int64_t end) {
      linf_steps_of_one<T, A>(along.grad, step, begin, end);
    });
  }
  move_by_rule(GradientRule<T, A>{along.grad}, step);
}

template <class T, class A>
void move(const AlongMomentum<T, A>& along, const Step<T, A>& step, const Tensor&) {
  move_by_rule(MomentumRule<T, A>{along.grad, along.momentum, along.gathered, along.decay}, step);
}

template <class T, class A>
void move_to_boundary(const BoundaryStep<T, A>& step, const Tensor&) {
  parallel(step.samples, step.size,
           [&](int64_t begin, int64_t end) { boundary_steps<T, A>(step, begin, end); });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("pgd_step", TORCH_BOX(&fastadv::pgd_step));
  m.impl("pgd_step_", TORCH_BOX(&fastadv::pgd_step_));
  m.impl("momentum_step", TORCH_BOX(&fastadv::momentum_step));
  m.impl("bss_step", TORCH_BOX(&fastadv::bss_step));
}
