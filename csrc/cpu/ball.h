// Projection of one sample onto norm ball and box, shared by every op that ends in one.
#pragma once

#include "../common/ball.h"
#include "../common/l1.h"
#include "tensor.h"

namespace fastadv {

// Equal terms, which sign steps leave behind, round alike and add up their errors: the lanes are added up sooner.
constexpr int64_t kEqualRun = 2 * kBlock;

// Elements of work that a step or a projection makes of one, measured in those of linf.
inline int64_t cost(Norm norm) { return norm == Norm::kLinf ? 1 : norm == Norm::kL2 ? 2 : 6; }

// The s in [0, 1] for which clamp(x0 + s delta, low, high) lies at distance eps from x0, by newton_pass; 1 inside the
// ball. The first time, deltas are asked of `first`, which may write them down.
template <class A, class First, class Delta>
FASTADV_INLINE A l2_scale(const First& first, const Delta& delta, const A* x0, int64_t size, const Ball<A>& ball) {
  A squares[2];
  sum_all<2, A, 2, kEqualRun>(size, squares, [&](int64_t i, A (&terms)[2]) FASTADV_LAMBDA {
    const A d = first(i);
    const A inside = ball.exact ? clamp<A>(d, ball.low - x0[i], ball.high - x0[i]) : d;
    terms[0] = d * d;
    terms[1] = inside * inside;
  });
  const A whole = squares[0], clipped = squares[1];
  const A radius = ball.eps * ball.eps;
  if (!(clipped > radius)) return A(1);
  const A length = norm<A>(size, whole, delta);
  A s = ball.eps / length;
  // Where the box stopped nothing at the far end it stops nothing on the way, and s is exact already.
  for (int pass = 0; pass < kNewtonPasses && whole != clipped; ++pass) {
    A free_and_fixed[2];
    sum_all<2, A, 2, kEqualRun>(size, free_and_fixed, [&](int64_t i, A (&terms)[2]) FASTADV_LAMBDA {
      const A d = delta(i), step = s * d;
      const A inside = clamp<A>(step, ball.low - x0[i], ball.high - x0[i]);
      const bool stopped = inside != step;
      terms[0] = stopped ? A(0) : d * d;
      terms[1] = stopped ? inside * inside : A(0);
    });
    const A next = newton_pass(s, free_and_fixed[0], free_and_fixed[1], radius);
    if (next == s) break;
    s = next;
  }
  return s;
}

// The l1 threshold t >= 0; 0 where the point, clipped to the box, lies inside the ball. `room`: for 2 `size` numbers.
// A coordinate ends min(max(length - t, 0), most) from x0, or farther by what lies between x0 and the box.
template <class A, class Point>
FASTADV_INLINE double l1_threshold(const Point& point, const A* x0, int64_t size, const Ball<A>& ball, A* room) {
  constexpr A kInfinity = std::numeric_limits<A>::infinity();
  const A low = ball.exact ? ball.low : -kInfinity, high = ball.exact ? ball.high : kInfinity;
  A *length = room, *most = room + size;
  A sums[3];
  sum_all<3, A, 2, kEqualRun>(size, sums, [&](int64_t i, A (&terms)[3]) FASTADV_LAMBDA {
    const A delta = searched<A>(point(i) - x0[i]);
    const A under = low - x0[i], over = x0[i] - high, outside = under > over ? under : over;
    const A least = outside > 0 ? outside : A(0), ahead = delta < 0 ? under : over;
    const A l = std::fabs(delta) - least, m = std::fabs(ahead) - least;
    length[i] = l;
    most[i] = m;
    terms[0] = clamp<A>(l, 0, m);
    terms[1] = (l > 0) & (l <= m) ? A(1) : A(0);
    terms[2] = least;
  });
  const double fixed = sums[2];
  if (!(sums[0] + fixed > ball.eps)) return 0;
  const A largest = largest_positive<A>(size, [&](int64_t i) FASTADV_LAMBDA { return length[i]; });
  L1Search<A> search(ball.eps, sums[0] + fixed, sums[1], largest);
  while (search.next()) {
    const Threshold<A> t(search.t());
    A left[2];
    sum_all<2, A, 2, kEqualRun>(size, left, [&](int64_t i, A (&terms)[2]) FASTADV_LAMBDA {
      const A softened = (length[i] - t.high) - t.low;
      terms[0] = clamp<A>(softened, 0, most[i]);
      terms[1] = (softened > 0) & (softened <= most[i]) ? A(1) : A(0);
    });
    if (search.arrived(left[0] + fixed, left[1])) break;
  }
  return search.inside();
}

// Projects the points `point(i)` of one sample, `delta(i)` from x0, onto l2 ball and box and writes them to `out`;
// `first` as in l2_scale.
template <class A, class First, class Delta, class Point, class T>
FASTADV_INLINE void project_l2(const First& first, const Delta& delta, const Point& point, const A* x0, int64_t size,
                               const Ball<A>& ball, T* out) {
  const A s = l2_scale<A>(first, delta, x0, size, ball);
  if (ball.eps != ball.eps) {
    write<A>(out, size, [&](int64_t) FASTADV_LAMBDA { return ball.eps; });
  } else if (s < 1) {
    write<A>(out, size, [&](int64_t i) FASTADV_LAMBDA {
      return clamp<A>(move_inside<A>(x0[i], s * delta(i)), ball.low, ball.high);
    });
  } else {
    write<A>(out, size, [&](int64_t i) FASTADV_LAMBDA { return clamp<A>(point(i), ball.low, ball.high); });
  }
}

// Projects points onto l1 ball and box. `room`: for 2 `size` numbers.
template <class A, class Point, class T>
FASTADV_INLINE void project_l1(const Point& point, const A* x0, int64_t size, const Ball<A>& ball, A* room, T* out) {
  const double t = l1_threshold<A>(point, x0, size, ball, room);
  if (ball.eps != ball.eps) {
    write<A>(out, size, [&](int64_t) FASTADV_LAMBDA { return ball.eps; });
  } else if (t > 0) {
    const Threshold<A> threshold(t);
    write<A>(out, size, [&](int64_t i) FASTADV_LAMBDA {
      return clamp<A>(move_inside<A>(x0[i], threshold.soften(point(i) - x0[i])), ball.low, ball.high);
    });
  } else {
    write<A>(out, size, [&](int64_t i) FASTADV_LAMBDA { return clamp<A>(point(i), ball.low, ball.high); });
  }
}

// Projects them onto the ball of a norm other than linf. `room` as for project_l1.
template <class A, class Point, class T>
FASTADV_INLINE void project_sample(Norm norm, const Point& point, const A* x0, int64_t size, const Ball<A>& ball,
                                   A* room, T* out) {
  if (norm == Norm::kL1) {
    project_l1<A>(point, x0, size, ball, room, out);
  } else {
    const auto delta = [&](int64_t i) FASTADV_LAMBDA { return point(i) - x0[i]; };
    project_l2<A>(delta, delta, point, x0, size, ball, out);
  }
}

}  // namespace fastadv
