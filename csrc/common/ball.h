// Norm ball and box, one coordinate at a time: what every compiled projection is made of.
#pragma once

#include <stdexcept>
#include <type_traits>

#include "scalar.h"

namespace fastadv {

enum class Norm : int64_t { kLinf = 0, kL2 = 1, kL1 = 2 };

// The norm that a schema's integer stands for.
inline Norm norm_of_code(int64_t code) {
  if (code < 0 || code > 2) throw std::invalid_argument("norm must be 0 (linf), 1 (l2) or 2 (l1)");
  return static_cast<Norm>(code);
}

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
  if (!ball.exact) {
    const A z = clamp<A>(x0 + clamp<A>(x - x0, -ball.eps, ball.eps), ball.low, ball.high);
    return ball.eps == ball.eps ? z : ball.eps;
  }
  // Of two intervals that meet, clamping to one and then the other projects onto both; where they do not, the box wins.
  const A least = x0 - ball.eps;
  const A z = clamp<A>(clamp<A>(x, least, x0 + ball.eps), ball.low, ball.high);
  // NaN where the centre or the radius is.
  return least == least ? z : least;
}

// x0 + delta, rounded towards x0: rounding never carries a pixel out of the ball. Bits in the place of a branch, so
// that loops over it vectorise: the neighbour towards x0 is the smaller magnitude where the sum has the sign of delta.
template <class A>
FASTADV_INLINE A move_inside(A x0, A delta) {
  using Bits = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  const A moved = x0 + delta;
  const Bits word = bits<Bits>(moved);
  const Bits opposed = (word ^ bits<Bits>(delta)) >> (8 * sizeof(A) - 1);
  const A inward = bits<A>(word + ~(2 * opposed));
  // A sum of zero is exact, or was flushed to zero.
  return (absolute<A>(moved - x0) > absolute<A>(delta)) & (moved != 0) ? inward : moved;
}

// Newton's method for the s in [0, 1] at which clamp(x0 + s delta, low, high) lies at distance eps from x0. In s^2 the
// squared distance is concave and piecewise linear, s^2 free + fixed, with `free` the sum of delta^2 over the
// coordinates still inside the box and `fixed` the squared distance of those the box stopped: from the left each pass
// rises towards the root, so that the method may stop early. It ends by itself, after a few passes; where the distances
// of coordinates differ by many orders of magnitude, after two dozen.
constexpr int kNewtonPasses = 32;

// Where a pass leads from s, given the two sums there and eps^2; s itself where it has arrived.
template <class A>
FASTADV_INLINE A newton_pass(A s, A free, A fixed, A squared_radius) {
  const A left = squared_radius - fixed;
  const A root = free > 0 && left > 0 ? std::sqrt(left / free) : A(0);
  if (!(root > s)) return s;
  return root < 1 ? root : A(1);
}

}  // namespace fastadv
