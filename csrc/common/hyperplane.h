// Towards a hyperplane {u : w . u = b} within a box, one coordinate at a time. The gap is w . x - b, which falls where a
// coordinate moves against sign(gap) w; weights are |w| over the largest of them.
#pragma once

#include <limits>

#include "ball.h"

namespace fastadv {

// Newton on a concave, piecewise linear function rises to the root, each pass at least to the next breakpoint.
constexpr int kHyperplanePasses = 24;

template <class A>
struct Leg {
  A weight;
  A room;       // how far the box lets it go
  A direction;  // -1, 0 or 1
};

// The way of a coordinate that lies at x, inside the box, of normal w / scale.
template <class A>
FASTADV_INLINE Leg<A> leg_of(A x, A w, A scale, A gap, A low, A high) {
  const A normal = w / scale;
  const A slope = gap > 0 ? normal : -normal;
  const bool moves = (normal != 0) & (gap != 0);
  return {absolute<A>(normal), moves ? slope > 0 ? x - low : high - x : A(0), moves ? slope > 0 ? A(-1) : A(1) : A(0)};
}

// How far a coordinate goes in "time" t: for linf all at one speed, for l2 each at its weight, to the end of its room.
template <Norm norm, class A>
FASTADV_INLINE A speed_of(const Leg<A>& leg) {
  return norm == Norm::kL2 ? leg.weight : leg.weight > 0 ? A(1) : A(0);
}

// What a coordinate adds at time t: to how fast the gap falls, and to what has come to its end.
template <Norm norm, class A>
FASTADV_INLINE void hyperplane_terms(const Leg<A>& leg, A t, A& slope, A& spent) {
  const A speed = speed_of<norm>(leg);
  const bool free = t * speed < leg.room;
  slope = free ? leg.weight * speed : A(0);
  spent = free ? A(0) : leg.weight * leg.room;
}

// The next time; infinite where no coordinate is free any more.
template <class A>
FASTADV_INLINE A next_time(A t, A gap, A slope, A spent) {
  const A next = slope > 0 ? (gap - spent) / slope : std::numeric_limits<A>::infinity();
  return next > t ? next : t;
}

template <Norm norm, class A>
FASTADV_INLINE A length_at(const Leg<A>& leg, A t) {
  const A speed = speed_of<norm>(leg);
  const A way = t * speed;
  return speed > 0 ? way < leg.room ? way : leg.room : A(0);
}

// For l1 the coordinates of the largest weights go to their ends, those of the weight `least` some of the way.
template <class A>
struct Last {
  A least;
  A missing;  // of the gap, after those of larger weights
  A gain;     // what those of that weight could add
  A endless;  // how many of them have no end
};

template <class A>
FASTADV_INLINE A gain_of(const Leg<A>& leg) {
  return leg.weight > 0 ? leg.weight * leg.room : A(0);
}

template <class A>
FASTADV_INLINE bool is_endless(A room) {
  return room > std::numeric_limits<A>::max();
}

template <class A>
FASTADV_INLINE A length_at(const Leg<A>& leg, const Last<A>& last) {
  if (leg.weight > last.least) return leg.room;
  if (leg.weight < last.least || !(leg.weight > 0)) return A(0);
  if (last.endless > 0) return is_endless(leg.room) ? last.missing / (last.least * last.endless) : A(0);
  const A share = last.missing / last.gain;
  return leg.room * (share > 0 ? share < 1 ? share : A(1) : A(0));
}

}  // namespace fastadv
