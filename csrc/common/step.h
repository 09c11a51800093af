// Where a coordinate moves along a direction.
#pragma once

#include <cmath>
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

// Factors whose product is size / length, neither of which overflows or loses digits where the quotient by a tiny or
// huge length would; both are zero where the length is zero, infinite or NaN, so that such a direction moves nothing.
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

// How many coordinates a step of l1 norm moves.
inline int64_t largest_count(double fraction, int64_t size) {
  return static_cast<int64_t>(std::ceil(fraction * static_cast<double>(size)));
}

// Searches for the k-th largest of many magnitudes, of which at each threshold those are counted that reach it. Floats
// that are not negative are ordered as their bits are, so bisection on the bits ends, after a first probing downward by
// powers of two; it ends early where a threshold is reached by exactly k. Zero and NaN reach none.
template <class A>
class LargestSearch {
 public:
  FASTADV_INLINE LargestSearch(int64_t wanted, A largest) : wanted_(wanted), above_(bits<Bits>(largest) + 1) {}

  // Whether there is another threshold to count at.
  FASTADV_INLINE bool next() {
    if (at_least_ == 0) {
      probe_ = above_ - stride_ > 1 ? above_ - stride_ : 1;
      if (probe_ > 1) stride_ *= 2;
      return above_ > 1;
    }
    probe_ = at_least_ + (above_ - at_least_) / 2;
    return count_ > wanted_ && probe_ > at_least_;
  }

  FASTADV_INLINE A threshold() const { return bits<A>(probe_); }

  FASTADV_INLINE void take(int64_t count) {
    if (count < wanted_ && probe_ > 1) {
      above_ = probe_;
    } else {
      at_least_ = probe_;
      count_ = count;
    }
  }

  // The k-th largest magnitude, or where fewer are above zero the least one that is, and how many reach it.
  FASTADV_INLINE A least() const { return bits<A>(at_least_ > 0 ? at_least_ : Bits(1)); }
  FASTADV_INLINE int64_t count() const { return count_; }

 private:
  using Bits = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;

  int64_t wanted_;
  int64_t count_ = 0;
  // At `at_least_`, once it is not zero, enough reach the threshold, at `above_` too few.
  Bits at_least_ = 0;
  Bits above_;
  Bits probe_ = 0;
  // An octave.
  Bits stride_ = Bits(1) << (std::numeric_limits<A>::digits - 1);
};

// A step of l1 norm `size` in equal shares along the signs of the `selected` coordinates of magnitude `least` and more.
template <class A>
struct SharedStep {
  A share = 0;
  A least = 0;

  SharedStep() = default;
  FASTADV_INLINE SharedStep(A size, A least, int64_t selected) : share(size / static_cast<A>(selected)), least(least) {}

  FASTADV_INLINE A operator()(A x, A direction) const {
    return absolute<A>(direction) >= least ? move_by_sign<A>(x, direction, share) : x;
  }
};

}  // namespace fastadv
