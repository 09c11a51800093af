// Projection of one sample onto norm ball and box, shared by every op that ends in one.
#pragma once

#include "../common/ball.h"
#include "../common/l1.h"
#include "tensor.h"

namespace fastadv {

// The s in [0, 1] for which clamp(x0 + s delta, low, high) lies at distance eps from x0; 1 inside the ball. `delta` is
// room for `size` numbers, filled with point(i) - x0[i].
// In s^2 the squared distance is concave and piecewise linear, s^2 A + B, with A the sum of delta^2 over the
// coordinates still inside the box and B the squared distance of those the box stopped; from the left Newton rises to
// the root.
template <class A, class Point>
FASTADV_INLINE A l2_scale(const Point& point, const A* x0, int64_t size, const Ball<A>& ball, A* delta) {
  A squares[2];
  sum_all(size, squares, [&](int64_t i, A (&terms)[2]) FASTADV_LAMBDA {
    const A d = point(i) - x0[i];
    const A inside = ball.exact ? clamp<A>(d, ball.low - x0[i], ball.high - x0[i]) : d;
    delta[i] = d;
    terms[0] = d * d;
    terms[1] = inside * inside;
  });
  const A whole = squares[0], clipped = squares[1];
  const A radius = ball.eps * ball.eps;
  if (!(clipped > radius)) return A(1);
  const A length = norm<A>(size, whole, [&](int64_t i) FASTADV_LAMBDA { return delta[i]; });
  A s = ball.eps / length;
  // Where the box stopped nothing at the far end it stops nothing on the way, and s is exact already.
  for (int pass = 0; pass < kNewtonPasses && whole != clipped; ++pass) {
    A free_and_fixed[2];
    sum_all(size, free_and_fixed, [&](int64_t i, A (&terms)[2]) FASTADV_LAMBDA {
      const A d = delta[i], step = s * d;
      const A inside = clamp<A>(step, ball.low - x0[i], ball.high - x0[i]);
      const bool stopped = inside != step;
      terms[0] = stopped ? A(0) : d * d;
      terms[1] = stopped ? inside * inside : A(0);
    });
    const A free = free_and_fixed[0], left = radius - free_and_fixed[1];
    const A root = free > 0 && left > 0 ? std::sqrt(left / free) : A(0);
    if (!(root > s)) break;
    s = root < 1 ? root : A(1);
  }
  return s;
}

// The l1 threshold t >= 0; 0 where the point, clipped to the box, lies inside the ball. `delta` as for l2_scale.
template <class A, class Point>
FASTADV_INLINE double l1_threshold(const Point& point, const A* x0, int64_t size, const Ball<A>& ball, A* delta) {
  // Equal terms, which sign steps leave behind, round alike and add up their errors: the lanes are added up sooner.
  constexpr int64_t kRun = 2 * kBlock;
  A distance, slope;
  sum_both<A, kRun>(size, distance, slope, [&](int64_t i, A& a, A& b) FASTADV_LAMBDA {
    delta[i] = point(i) - x0[i];
    l1_terms<A>(delta[i], x0[i], ball, Threshold<A>(0), a, b);
  });
  if (!(distance > ball.eps)) return 0;
  const A largest = maximum<A>(size, [&](int64_t i) FASTADV_LAMBDA { return absolute<A>(delta[i]); });
  L1Search<A> search(ball.eps, distance, slope, largest);
  while (search.next()) {
    const Threshold<A> threshold(search.t());
    sum_both<A, kRun>(size, distance, slope, [&](int64_t i, A& a, A& b) FASTADV_LAMBDA {
      l1_terms<A>(delta[i], x0[i], ball, threshold, a, b);
    });
    if (search.arrived(distance, slope)) break;
  }
  return search.inside();
}

// Projects the points `point(i)` of one sample onto l2 ball and box and writes them to `out`. `delta` is room for
// `size` numbers.
template <class A, class Point, class T>
FASTADV_INLINE void project_l2(const Point& point, const A* x0, int64_t size, const Ball<A>& ball, A* delta, T* out) {
  const A s = l2_scale<A>(point, x0, size, ball, delta);
  if (s < 1) {
    write<A>(out, size, [&](int64_t i) FASTADV_LAMBDA {
      return clamp<A>(move_inside<A>(x0[i], s * delta[i]), ball.low, ball.high);
    });
  } else {
    write<A>(out, size, [&](int64_t i) FASTADV_LAMBDA { return clamp<A>(point(i), ball.low, ball.high); });
  }
}

// The same for the l1 ball.
template <class A, class Point, class T>
FASTADV_INLINE void project_l1(const Point& point, const A* x0, int64_t size, const Ball<A>& ball, A* delta, T* out) {
  const double t = l1_threshold<A>(point, x0, size, ball, delta);
  if (t > 0) {
    const Threshold<A> threshold(t);
    write<A>(out, size, [&](int64_t i) FASTADV_LAMBDA {
      return clamp<A>(move_inside<A>(x0[i], threshold.soften(delta[i])), ball.low, ball.high);
    });
  } else {
    write<A>(out, size, [&](int64_t i) FASTADV_LAMBDA { return clamp<A>(point(i), ball.low, ball.high); });
  }
}

// Projects onto the ball of a norm other than linf.
template <class A, class Point, class T>
FASTADV_INLINE void project_sample(Norm norm, const Point& point, const A* x0, int64_t size, const Ball<A>& ball,
                                   A* delta, T* out) {
  if (norm == Norm::kL1) {
    project_l1<A>(point, x0, size, ball, delta, out);
  } else {
    project_l2<A>(point, x0, size, ball, delta, out);
  }
}

}  // namespace fastadv
