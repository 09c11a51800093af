// Projection of one sample onto norm ball and box, shared by every op that ends in one.
#pragma once

#include "../common/ball.h"
#include "tensor.h"

namespace fastadv {

// The s in [0, 1] for which clamp(x0 + s delta, low, high) lies at distance eps from x0; 1 inside the ball. `delta` is
// room for `size` numbers, filled with point(i) - x0[i].
// In s^2 the squared distance is concave and piecewise linear, s^2 A + B, with A the sum of delta^2 over the coordinates
// still inside the box and B the squared distance of those the box stopped; from the left Newton rises to the root.
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
      const A below = ball.low - x0[i], above = ball.high - x0[i];
      const A limit = step < 0 ? below : above;
      const bool stopped = (step < below) | (step > above);
      terms[0] = stopped ? A(0) : d * d;
      terms[1] = stopped ? limit * limit : A(0);
    });
    const A free = free_and_fixed[0], left = radius - free_and_fixed[1];
    const A root = free > 0 && left > 0 ? std::sqrt(left / free) : A(0);
    if (!(root > s)) break;
    s = root < 1 ? root : A(1);
  }
  return s;
}

// Projects the points `point(i)` of one sample and hands each to `store(i, z)`. `delta` is room for `size` numbers.
template <class A, class Point, class Store>
FASTADV_INLINE void project_l2(const Point& point, const A* x0, int64_t size, const Ball<A>& ball, A* delta,
                               const Store& store) {
  const A s = l2_scale<A>(point, x0, size, ball, delta);
  if (s < 1) {
    for (int64_t i = 0; i < size; ++i) store(i, clamp<A>(move_inside<A>(x0[i], s * delta[i]), ball.low, ball.high));
  } else {
    for (int64_t i = 0; i < size; ++i) store(i, clamp<A>(point(i), ball.low, ball.high));
  }
}

}  // namespace fastadv
