// Where a coordinate moves along a direction.
#pragma once

#include <limits>
#include <type_traits>

#include "scalar.h"

namespace fastadv {

// x + size * sign(direction), without a multiplication; a direction of zero or NaN moves nothing.
template <class A>
FASTADV_INLINE A move_by_sign(A x, A direction, A size) {
  using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
  constexpr Bits kSign = Bits{1} << (8 * sizeof(A) - 1);
  const A step = bits<A>(bits<Bits>(size) ^ (bits<Bits>(direction) & kSign));
  const A moved = x + step;
  return (direction < 0) | (direction > 0) ? moved : x;
}

// Factors whose product is size / length, neither of which overflows or loses digits where the quotient by a tiny or huge
// length would; both are zero where the length is zero, infinite or NaN, so that such a direction moves nothing.
template <class A>
struct UnitStep {
  A first = 0;
  A second = 0;

  FASTADV_INLINE UnitStep(A length, A size) {
    constexpr A kTiny = sizeof(A) == 4 ? A(1e-30) : A(1e-280);
    if (!(length > 0) || length == std::numeric_limits<A>::infinity()) return;
    first = length < kTiny ? 1 / kTiny : length > 1 / kTiny ? kTiny : A(1);
    second = size / (length * first);
  }

  // A direction with an infinite or undefined length never multiplies its coordinates.
  FASTADV_INLINE A operator()(A coordinate) const { return second == 0 ? A(0) : coordinate * first * second; }
};

// The magnitude of a gradient's coordinate, times `shrink`. NaN counts as zero.
template <class A>
FASTADV_INLINE A magnitude(A gradient, A shrink) {
  return gradient == gradient ? absolute<A>(gradient) * shrink : A(0);
}

// What momentum_step adds of a gradient: its coordinates over the mean magnitude of all `size`; `total` is the sum of
// their magnitudes times `shrink`. NaN counts as zero; where the mean is zero or infinite, so does everything.
template <class A>
class OverMean {
 public:
  // The sum of any finite magnitudes that are multiplied with this is finite.
  static constexpr A kShrink = A(5.421010862427522e-20);  // 2^-64

  FASTADV_INLINE OverMean(A total, A shrink, int64_t size) : unit_(total, static_cast<A>(size)), shrink_(shrink) {}

  FASTADV_INLINE A operator()(A gradient) const { return gradient == gradient ? unit_(shrink_ * gradient) : A(0); }

 private:
  UnitStep<A> unit_;
  A shrink_;
};

}  // namespace fastadv
