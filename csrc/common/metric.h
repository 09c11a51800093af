// The p-norms that features are compared by, one functor for each kind of p.
//
//   term(d)          the term of a difference in the total, from which root(total) makes the norm; where kLargest, the
//                    norm is the largest magnitude instead
//   slope(d, norm)   the derivative of the norm w.r.t. the difference d: zero where either is zero
#pragma once

#include <cmath>
#include <cstdint>

#include "scalar.h"

namespace fastadv {

// A norm, and what all of its slopes have in common.
template <class A>
struct FeatureNorm {
  A length;
  A factor;
};

// -1, 0 or 1; 0 for NaN.
template <class A>
FASTADV_INLINE A sign(A x) {
  return static_cast<A>(x > 0) - static_cast<A>(x < 0);
}

struct Euclidean {
  static constexpr bool kLargest = false;

  template <class A>
  FASTADV_INLINE A term(A d) const {
    return d * d;
  }
  template <class A>
  FASTADV_INLINE FeatureNorm<A> root(A total) const {
    const A length = std::sqrt(total);
    return {length, length == 0 ? A(0) : 1 / length};
  }
  template <class A>
  FASTADV_INLINE A slope(A d, const FeatureNorm<A>& norm) const {
    return d * norm.factor;
  }
};

struct Manhattan {
  static constexpr bool kLargest = false;

  template <class A>
  FASTADV_INLINE A term(A d) const {
    return absolute<A>(d);
  }
  template <class A>
  FASTADV_INLINE FeatureNorm<A> root(A total) const {
    return {total, A(1)};
  }
  template <class A>
  FASTADV_INLINE A slope(A d, const FeatureNorm<A>&) const {
    return sign<A>(d);
  }
};

// Its factor is the share of each of the largest differences.
struct Chebyshev {
  static constexpr bool kLargest = true;

  template <class A>
  FASTADV_INLINE A slope(A d, const FeatureNorm<A>& norm) const {
    return absolute<A>(d) < norm.length ? A(0) : norm.factor * sign<A>(d);
  }
};

// Any other p; 0 counts the coordinates that differ.
struct Minkowski {
  static constexpr bool kLargest = false;
  double p;

  template <class A>
  FASTADV_INLINE A term(A d) const {
    return d == 0 ? A(0) : std::pow(absolute<A>(d), static_cast<A>(p));
  }
  template <class A>
  FASTADV_INLINE FeatureNorm<A> root(A total) const {
    return {p == 0 ? total : std::pow(total, static_cast<A>(1 / p)), A(1)};
  }
  template <class A>
  FASTADV_INLINE A slope(A d, const FeatureNorm<A>& norm) const {
    if (p == 0 || d == 0 || norm.length == 0) return 0;
    return sign<A>(d) * std::pow(absolute<A>(d) / norm.length, static_cast<A>(p - 1));
  }
};

// Calls `f` with the functor of the order p.
template <class F>
auto with_norm(double p, const F& f) {
  if (p == 2) return f(Euclidean());
  if (p == 1) return f(Manhattan());
  if (std::isinf(p)) return f(Chebyshev());
  return f(Minkowski{p});
}

// The loss of a triplet and its derivatives w.r.t. the distances from anchor to positive, from anchor to negative and
// from positive to negative.
template <class A>
struct Hinge {
  A value;
  A by_near;
  A by_far;
  A by_swapped;

  // `swapped` is infinite where it does not count.
  FASTADV_INLINE Hinge(A margin, A near, A far, A swapped) {
    const A smaller = far <= swapped || far != far ? far : swapped;
    const A gap = margin + near - smaller;
    value = gap < 0 ? A(0) : gap;
    // Where it begins the hinge has its slope already, and equal distances share it.
    const A slope = gap >= 0 ? A(1) : A(0), share = far < swapped ? A(1) : far == swapped ? A(0.5) : A(0);
    by_near = slope;
    by_far = -slope * share;
    by_swapped = -slope * (1 - share);
  }
};

}  // namespace fastadv
