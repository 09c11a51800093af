// The formulas of rkd_loss. Lengths and angles are functions of the squared distances s of the points alone:
//
//   <e_ij, e_ik> = (s_ij + s_ik - s_jk) / (2 |ij| |ik|)
//
// so a backend computes the B x B squared distances of either network, the loss and its derivative by each of the
// student's, and from these the gradient, sum_j 2 (dL/ds_ij) (x_i - x_j). Where two points are near each other and a
// third is far, the numerator cancels: squared distances are double, whatever the features are. They are in units of
// the square of the network's mean length, so nothing overflows.
#pragma once

#include <cmath>

#include "scalar.h"

namespace fastadv {

// A length is at least this in the distances.
constexpr double kShortest = 1e-6;
// Points no farther apart coincide: they have no direction.
constexpr double kCoincident = 1e-12;

// Smooth L1 of a gap, and its derivative; NaN stays.
template <class A>
FASTADV_INLINE A slope_of(A gap) {
  const A capped = gap > 1 ? A(1) : gap;
  return capped < -1 ? A(-1) : capped;
}

template <class A>
FASTADV_INLINE A smooth_l1(A gap, A slope) {
  return slope * (gap - A(0.5) * slope);
}

// The unit of a network's lengths, in those of its features: their mean, once that is known.
struct Unit {
  double length = 1;

  // The square below which a distance is held, and has no derivative.
  FASTADV_INLINE double least() const { return (kShortest / length) * (kShortest / length); }

  FASTADV_INLINE double square(double square) const { return square / (length * length); }

  // The inverse length for a squared distance in the units of the features; zero for points that coincide.
  FASTADV_INLINE double inverse(double square) const {
    return square <= kCoincident * kCoincident ? 0.0 : length / std::sqrt(square);
  }
};

FASTADV_INLINE double length_of(double square, double least) { return std::sqrt(square < least ? least : square); }

// Factors of the sums over a batch. A pair of points counts in both orders, and so does a pair of sides.
struct RkdWeights {
  double pairs;
  double distance;
  double angle;

  RkdWeights(int64_t batch, double distance_weight, double angle_weight)
      : pairs(0.5 * batch * (batch - 1)),
        distance(2 * distance_weight / (static_cast<double>(batch) * batch)),
        angle(2 * angle_weight / (static_cast<double>(batch) * batch * batch)) {}
};

// The corner of a triangle where sides of inverse lengths p and q meet, in the networks of student (s) and teacher (t).
template <class A>
struct Corner {
  A loss;
  // The derivative w.r.t. the numerator, and what the lengths of the sides take back of it: cosine times slope.
  A pull;
  A turn;

  FASTADV_INLINE Corner(double s, A s_p, A s_q, double t, A t_p, A t_q) {
    const A half = A(0.5) * s_p * s_q;
    const A cosine = static_cast<A>(s) * half;
    const A gap = cosine - static_cast<A>(t) * (A(0.5) * t_p * t_q);
    const A slope = slope_of(gap);
    loss = smooth_l1(gap, slope);
    pull = slope * half;
    turn = slope * cosine;
  }
};

// The derivative of a triangle's loss w.r.t. the squared distance of the side between corners a and b, whose inverse
// length is p.
template <class A>
FASTADV_INLINE A by_side(const Corner<A>& a, const Corner<A>& b, const Corner<A>& opposite, A p) {
  return (a.pull + b.pull - opposite.pull) - (a.turn + b.turn) * (A(0.5) * p * p);
}

}  // namespace fastadv
