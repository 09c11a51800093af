// Projection of one sample onto norm ball and box, shared by every op that ends in one.
#pragma once

#include "tensor.h"

namespace fastadv {

template <class A>
struct Ball {
  A eps;
  A low;
  A high;
  bool exact;
};

// Clamps that let NaN through, as torch.clamp does.
template <class A>
FASTADV_INLINE A clamp(A x, A low, A high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

template <class A>
FASTADV_INLINE A project_linf(A x, A x0, const Ball<A>& ball) {
  if (!ball.exact) return clamp<A>(x0 + clamp<A>(x - x0, -ball.eps, ball.eps), ball.low, ball.high);
  const A z = clamp<A>(x, clamp<A>(x0 - ball.eps, ball.low, ball.high), clamp<A>(x0 + ball.eps, ball.low, ball.high));
  return x0 == x0 ? z : x0;
}

// The neighbour of `x` in the direction of `to`, for x != to.
FASTADV_INLINE float next_towards(float x, float to) {
  const int32_t step = ((x < to) == (x > 0)) ? 1 : -1;
  const float next = bits<float>(bits<int32_t>(x) + step);
  return x == 0 ? (to > 0 ? 1e-45f : -1e-45f) : next;
}

FASTADV_INLINE double next_towards(double x, double to) {
  const int64_t step = ((x < to) == (x > 0)) ? 1 : -1;
  const double next = bits<double>(bits<int64_t>(x) + step);
  return x == 0 ? (to > 0 ? 5e-324 : -5e-324) : next;
}

// x0 + delta, rounded towards x0: rounding never carries a pixel out of the ball.
template <class A>
FASTADV_INLINE A move_inside(A x0, A delta) {
  const A moved = x0 + delta;
  return absolute<A>(moved - x0) > absolute<A>(delta) ? next_towards(moved, x0) : moved;
}

// Newton's method on a concave, piecewise linear function: each pass is monotone and feasible, so stopping early is safe.
constexpr int kNewtonPasses = 10;

// The s in [0, 1] for which clamp(x0 + s delta, low, high) lies at distance eps from x0; 1 inside the ball.
// In s^2 the squared distance is concave and piecewise linear, s^2 A + B, with A the sum of delta^2 over the coordinates
// still inside the box and B the squared distance of those the box stopped; from the left Newton rises to the root.
template <class A>
FASTADV_INLINE A l2_scale(const A* delta, const A* x0, int64_t size, const Ball<A>& ball) {
  const A length = norm<A>(size, [&](int64_t i) FASTADV_LAMBDA { return delta[i]; });
  if (!(length > ball.eps)) return A(1);
  A s = ball.eps / length;
  for (int pass = 0; pass < kNewtonPasses && s < 1; ++pass) {
    const auto stopped = [&](int64_t i, A step) FASTADV_LAMBDA {
      return (step < ball.low - x0[i]) | (step > ball.high - x0[i]);
    };
    const A free = sum<A>(size, [&](int64_t i) FASTADV_LAMBDA {
      return stopped(i, s * delta[i]) ? A(0) : delta[i] * delta[i];
    });
    const A fixed = sum<A>(size, [&](int64_t i) FASTADV_LAMBDA {
      const A step = s * delta[i];
      const A limit = step < 0 ? ball.low - x0[i] : ball.high - x0[i];
      return stopped(i, step) ? limit * limit : A(0);
    });
    const A left = ball.eps * ball.eps - fixed;
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
  A s;
  if (ball.exact) {
    for (int64_t i = 0; i < size; ++i) delta[i] = clamp<A>(point(i), ball.low, ball.high) - x0[i];
    s = l2_scale<A>(delta, x0, size, ball);
  } else {
    for (int64_t i = 0; i < size; ++i) delta[i] = point(i) - x0[i];
    const A length = norm<A>(size, [&](int64_t i) FASTADV_LAMBDA { return delta[i]; });
    s = length > ball.eps ? ball.eps / length : A(1);
  }
  if (s < 1) {
    for (int64_t i = 0; i < size; ++i) store(i, clamp<A>(move_inside<A>(x0[i], s * delta[i]), ball.low, ball.high));
  } else {
    for (int64_t i = 0; i < size; ++i) store(i, clamp<A>(point(i), ball.low, ball.high));
  }
}

}  // namespace fastadv
