// Norm ball and box, one coordinate at a time: what every compiled projection is made of.
#pragma once

#include "scalar.h"

namespace fastadv {

enum class Norm : int64_t { kLinf = 0, kL2 = 1, kL1 = 2 };

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
  // Of two intervals that meet, clamping to one and then the other projects onto both; where they do not, the box wins.
  const A z = clamp<A>(clamp<A>(x, x0 - ball.eps, x0 + ball.eps), ball.low, ball.high);
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

}  // namespace fastadv
