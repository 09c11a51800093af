// The l1 ball. Its projection, with the box, is  z = clamp(x0 + soft(delta, t), low, high),  soft bringing each
// coordinate t nearer to zero; the threshold t >= 0 is such that z lies at distance eps from x0.
//
// Every backend searches for t by L1Search and moves by Threshold. What a pass sums up is each backend's own: l1_terms,
// l1_bend and ends_before serve ../cuda/step.h, which makes it anew from the points in each pass; ../cpu/ball.h keeps
// how far each coordinate goes, and its terms are of that.
#pragma once

#include <cmath>
#include <limits>

#include "ball.h"

namespace fastadv {

// A threshold in two parts, so that small differences from a large one keep their digits.
template <class A>
struct Threshold {
  A high;
  A low;

  FASTADV_INLINE explicit Threshold(double t)
      : high(static_cast<A>(t)), low(static_cast<A>(t - static_cast<double>(high))) {}

  FASTADV_INLINE A soften(A delta) const {
    const A left = (absolute<A>(delta) - high) - low;
    return std::copysign(left < 0 ? A(0) : left, delta);
  }
};

// What a coordinate at `delta` from x0 counts as in the search. One that is infinitely far counts as none, so that the
// threshold is finite: it ends where the box has it, and the others as if it was not there.
template <class A>
FASTADV_INLINE A searched(A delta) {
  return absolute<A>(delta) == std::numeric_limits<A>::infinity() ? A(0) : delta;
}

// One coordinate's terms of the distance from x0 and of its slope, how fast it falls as t grows.
template <class A>
FASTADV_INLINE void l1_terms(A delta, A x0, const Ball<A>& ball, const Threshold<A>& threshold, A& distance, A& slope) {
  const A soft = threshold.soften(delta);
  const A reached = ball.exact ? clamp<A>(soft, ball.low - x0, ball.high - x0) : soft;
  distance = absolute<A>(reached);
  slope = (reached == soft) & (soft != 0) ? A(1) : A(0);
}

// The next t, from the threshold on, at which the coordinate's slope changes; zero where x0 lies outside of the box.
template <class A>
FASTADV_INLINE A l1_bend(A delta, A x0, const Ball<A>& ball, const Threshold<A>& threshold) {
  const A soft = threshold.soften(delta);
  if (soft == 0) return std::numeric_limits<A>::infinity();
  if (!ball.exact) return absolute<A>(delta);
  const A low = ball.low - x0, high = ball.high - x0, reached = clamp<A>(soft, low, high);
  if (low > 0 || high < 0) return 0;
  return absolute<A>(delta) - (reached == soft ? A(0) : absolute<A>(reached));
}

// Searches for the threshold. The distance is piecewise linear in t and never rises, but with the box it is neither
// convex nor concave: from a bracket, Newton's steps from both ends and the secant each propose a next t, and the one
// in the middle is taken. Every second pass that has not halved the bracket is followed by one that does.
template <class A>
class L1Search {
 public:
  // The distance at t = 0 lies outside the ball, and at t = `largest`, the largest |delta|, x0 itself is left.
  FASTADV_INLINE L1Search(A eps, double distance, double slope, double largest)
      : tolerance_(eps * kTolerance),
        goal_(eps - tolerance_),
        near_{0, distance, slope},
        far_{largest, 0, 0},
        width_(largest) {}

  // True while there is a next t to look at.
  FASTADV_INLINE bool next() {
    if (passes_ == kMostPasses || goal_ == 0) return false;
    const bool stalled = passes_ > 0 && passes_ % 2 == 0 && far_.t - near_.t > width_ / 2;
    if (passes_ % 2 == 0) width_ = far_.t - near_.t;
    ++passes_;
    t_ = stalled ? middle() : proposal();
    if (!(t_ > near_.t && t_ < far_.t)) t_ = middle();
    return t_ > near_.t && t_ < far_.t;
  }

  FASTADV_INLINE double t() const { return t_; }

  // Takes in the distance and the slope at t; whether that is the threshold.
  FASTADV_INLINE bool arrived(double distance, double slope) {
    const End end{t_, distance, slope};
    const double above = end.distance - goal_;
    (above > tolerance_ ? near_ : far_) = end;
    return above <= tolerance_ && above >= -tolerance_;
  }

  // Takes in the first bend beyond the t that was last looked at; whether Newton's step from there ends before it, and
  // so at the threshold. From farther away the distance would lose digits.
  FASTADV_INLINE bool ends_before(double bend) {
    if (near_.t != t_ || !(near_.slope > 0) || near_.distance > 2 * goal_) return false;
    const double t = near_.t + (near_.distance - goal_) / near_.slope;
    if (!(t <= bend * (1 - kTolerance))) return false;
    far_ = {t, goal_, near_.slope};
    return true;
  }

  // The best threshold so far that is in the ball: stopping early is safe.
  FASTADV_INLINE double inside() const { return far_.t; }

 private:
  struct End {
    double t;
    double distance;
    double slope;
  };

  // In float half of what the norm may exceed eps by, 4 * 2^-23; the other half is left to other rounding.
  static constexpr double kTolerance = sizeof(A) == 4 ? 0x1p-22 : 0x1p-46;
  static constexpr int kMostPasses = 128;

  FASTADV_INLINE double middle() const { return near_.t + (far_.t - near_.t) / 2; }

  FASTADV_INLINE double proposal() const {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    const double over = near_.distance - goal_, under = goal_ - far_.distance;
    const double from_near = near_.slope > 0 ? near_.t + over / near_.slope : kInfinity;
    const double from_far = far_.slope > 0 ? far_.t - under / far_.slope : -kInfinity;
    const double secant = near_.t + (far_.t - near_.t) * (over / (over + under));
    const double lower = from_near < from_far ? from_near : from_far;
    const double upper = from_near < from_far ? from_far : from_near;
    return secant < lower ? lower : secant > upper ? upper : secant;
  }

  double tolerance_;
  double goal_;
  End near_;
  End far_;
  double width_;
  double t_ = 0;
  int passes_ = 0;
};

}  // namespace fastadv
