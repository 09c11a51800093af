// The step skeleton: read a sample, ask a rule where it moves, project, write. Its plain kernels are
//
// move_elements, for linf balls and rules that look at one coordinate: a thread moves 16 bytes of the flat batch, so x,
//   direction and x0 are read once and the result is written once.
// move_samples, for whatever needs a norm or the l1 ball: a block a sample. Where 16-byte accesses are possible, up to
//   kHeldBytes each of the sample's points, of its centres and of the direction stay in a thread's registers and are
//   read once, by as few threads as hold them. Any other sample is read again in every pass: one for each norm, one for
//   every eight bits of the least of the largest coordinates, one for each step of the search for the ball's scale or
//   threshold (none where the sample lies inside the ball), one to write. Where a GPU has clusters, these passes read
//   shared memory: cluster_samples.h.
//
// A rule has  kDirected, whether it reads a direction;  needs_length(), whether it must know the direction's l2 norm;
// set(size, length), once a sample;  where it selects coordinates,  selects(), how many, and  select(least, selected);
// and operator()(x, direction), where the coordinate goes.
#pragma once

#include <cmath>

#include "../common/l1.h"
#include "../common/step_arguments.h"
#include "block.h"
#include "memory.h"

namespace fastadv {

template <class A>
struct Stay {
  static constexpr bool kDirected = false;
  FASTADV_INLINE bool needs_length() const { return false; }
  FASTADV_INLINE void set(A, A) {}
  FASTADV_INLINE A operator()(A x, A) const { return x; }
};

template <class A>
struct MoveBySign {
  static constexpr bool kDirected = true;
  A size = 0;
  FASTADV_INLINE bool needs_length() const { return false; }
  FASTADV_INLINE void set(A step_size, A) { size = step_size; }
  FASTADV_INLINE A operator()(A x, A direction) const { return move_by_sign<A>(x, direction, size); }
};

template <class A>
struct MoveByUnit {
  static constexpr bool kDirected = true;
  UnitStep<A> step{A(0), A(0)};
  FASTADV_INLINE bool needs_length() const { return true; }
  FASTADV_INLINE void set(A step_size, A length) { step = UnitStep<A>(length, step_size); }
  FASTADV_INLINE A operator()(A x, A direction) const { return x + step(direction); }
};

template <class A>
struct MoveLargest {
  static constexpr bool kDirected = true;
  int64_t largest;
  SharedStep<A> step{};
  FASTADV_INLINE bool needs_length() const { return false; }
  FASTADV_INLINE void set(A step_size, A) { step.share = step_size; }
  FASTADV_INLINE int64_t selects() const { return largest; }
  FASTADV_INLINE void select(A least, int64_t selected) { step = SharedStep<A>(step.share, least, selected); }
  FASTADV_INLINE A operator()(A x, A direction) const { return step(x, direction); }
};

// The rule whose step is steepest for each norm; in l1 it moves the `largest` coordinates of a direction.
struct Steepest {
  int64_t largest;

  template <Norm kNorm, class A>
  auto rule() const {
    if constexpr (kNorm == Norm::kLinf) {
      return MoveBySign<A>();
    } else if constexpr (kNorm == Norm::kL2) {
      return MoveByUnit<A>();
    } else {
      return MoveLargest<A>{largest};
    }
  }
};

struct Staying {
  template <Norm, class A>
  auto rule() const {
    return Stay<A>();
  }
};

// A direction that lies in memory.
template <class T>
struct Stored {
  const T* from;

  template <int kWidth, class A>
  DEVICE void read(int64_t first, A (&direction)[kWidth]) const {
    load(from + first, direction);
  }
};

// `size`: elements that share radius and step size; `total`: N D, or the same where all do.
template <int kWidth, class T, class A, class Rule>
KERNEL move_elements(Step<T, A> step, const T* direction /* [N, D] */, Rule rule, int64_t size, int64_t total) {
  const int64_t first = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kWidth;
  if (first >= total) return;
  const int64_t sample = size == total ? 0 : first / size;
  Ball<A> ball = step.ball;
  ball.eps = step.eps[sample];
  rule.set(step.step_size[sample], A(1));
  A point[kWidth], centre[kWidth], along[kWidth] = {};
  load(step.x + first, point);
  load(step.x0 + first, centre);
  if constexpr (Rule::kDirected) load(direction + first, along);
#pragma unroll
  for (int e = 0; e < kWidth; ++e) point[e] = project_linf<A>(rule(point[e], along[e]), centre[e], ball);
  store(step.out + first, point);
}

// Bytes of a sample's points, and as many each of its centres and of the direction, that a thread keeps in registers.
constexpr int kHeldBytes = 64;
template <class A>
constexpr int kHeld = kHeldBytes / static_cast<int>(sizeof(A));
template <class A>
constexpr int64_t kHeldSample = int64_t{kMaxThreads} * kHeld<A>;

// A thread's share of a sample in registers. `directions(f)` and, once a rule has moved the sample, `points(f)` call
// f(first, numbers...) for each run of kWidth elements that belong to the thread.
template <int kWidth, class T, class A, class Rule, class Direction>
class HeldSample {
 public:
  static constexpr bool kInRegisters = true;

  DEVICE HeldSample(const T* x, const Direction& direction, const T* x0, int64_t size) : x_(x), x0_(x0), size_(size) {
    // All of it is on its way before the first reduction waits for any; but a search takes registers of its own.
    if constexpr (!kSearches) load_points();
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      if (Rule::kDirected && first(run) < size_) direction.read(first(run), direction_[run]);
    }
  }

  template <class F>
  DEVICE void directions(const F& f) const {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      if (first(run) < size_) f(direction_[run]);
    }
  }

  DEVICE void move(const Rule& rule) {
    if constexpr (kSearches) load_points();
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        if (first(run) < size_) point_[run][e] = rule(point_[run][e], Rule::kDirected ? direction_[run][e] : A(0));
      }
    }
  }

  template <class F>
  DEVICE void points(const F& f) const {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      if (first(run) >= size_) continue;
      A centre[kWidth];
#pragma unroll
      for (int e = 0; e < kWidth; ++e) centre[e] = computed_anew(centre_[run][e]);
      f(first(run), point_[run], centre);
    }
  }

 private:
  static constexpr int kRuns = kHeld<A> / kWidth;

  static constexpr bool kSearches = requires(const Rule& rule) { rule.selects(); };

  DEVICE int first(int run) const { return (run * blockDim.x + threadIdx.x) * kWidth; }

  DEVICE void load_points() {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      if (first(run) >= size_) continue;
      load(x_ + first(run), point_[run]);
      load(x0_ + first(run), centre_[run]);
    }
  }

  const T* x_;
  const T* x0_;
  int64_t size_;
  A point_[kRuns][kWidth];
  A centre_[kRuns][kWidth];
  A direction_[kRuns][kWidth];
};

// The same of a sample that is read again in every pass. Points that may be written to, and are of type A, are replaced
// by the moved ones in the first.
template <int kWidth, class Point, class A, class Rule, class Direction>
class StreamedSample {
 public:
  static constexpr bool kInRegisters = false;

  using T = std::remove_const_t<Point>;

  DEVICE StreamedSample(Point* x, const Direction& direction, const T* x0, int64_t size)
      : x_(x), direction_(direction), x0_(x0), size_(size) {}

  template <class F>
  DEVICE void directions(const F& f) const {
    for (int64_t first = begin(); first < size_; first += stride()) {
      A direction[kWidth];
      direction_.read(first, direction);
      f(direction);
    }
  }

  DEVICE void move(const Rule& rule) { rule_ = rule; }

  template <class F>
  DEVICE void points(const F& f) const {
    for (int64_t first = begin(); first < size_; first += stride()) {
      A point[kWidth], centre[kWidth];
      load(x_ + first, point);
      load(x0_ + first, centre);
      if (!moved_) {
        A direction[kWidth] = {};
        if constexpr (Rule::kDirected) direction_.read(first, direction);
#pragma unroll
        for (int e = 0; e < kWidth; ++e) point[e] = rule_(point[e], direction[e]);
        if constexpr (kReplaces) store(x_ + first, point);
      }
      f(first, point, centre);
    }
    moved_ = kReplaces;
  }

 private:
  static constexpr bool kReplaces = Rule::kDirected && std::is_same_v<Point, A>;

  DEVICE int64_t begin() const { return int64_t{threadIdx.x} * kWidth; }
  DEVICE int64_t stride() const { return int64_t{blockDim.x} * kWidth; }

  Point* x_;
  const Direction& direction_;
  const T* x0_;
  int64_t size_;
  Rule rule_;
  mutable bool moved_ = false;
};

// Euclidean norm over a team, given the sum of squares, that neither overflows nor underflows; NaN if any term is.
// `terms(f)` calls f(term) for each term of the thread.
template <class A, class Team, class Terms>
DEVICE A norm(const Team& team, A squares, const Terms& terms) {
  constexpr A kSafe = sizeof(A) == 4 ? A(1e-30) : A(1e-280);
  if (squares > kSafe && squares < 1 / kSafe) return std::sqrt(squares);
  if (squares != squares) return squares;
  A largest = 0;
  terms([&](A term) { largest = Larger()(largest, absolute<A>(term)); });
  largest = combined<Larger>(team, largest);
  if (!(largest > 0) || largest == std::numeric_limits<A>::infinity()) return largest;
  A scaled = 0;
  terms([&](A term) { scaled += (term / largest) * (term / largest); });
  return largest * std::sqrt(combined<Sum>(team, scaled));
}

// Adds to both sums of a Newton pass what a run of coordinates has at scale s. A run at a time: equal terms, which sign
// steps leave behind, round alike and would add up their errors in a longer sum.
template <class A, class Run, class Wide>
DEVICE void add_free_and_fixed(const Run& point, const Run& centre, A s, const Ball<A>& ball, Wide (&sums)[2]) {
  A run[2] = {0, 0};
  for (int e = 0; e < static_cast<int>(std::size(point)); ++e) {
    const A d = point[e] - centre[e], step = s * d;
    const A below = ball.low - centre[e], above = ball.high - centre[e];
    const A limit = step < 0 ? below : above;
    const bool stopped = step < below || step > above;
    run[0] += stopped ? A(0) : d * d;
    run[1] += stopped ? limit * limit : A(0);
  }
  sums[0] += run[0];
  sums[1] += run[1];
}

// The s in [0, 1] for which clamp(x0 + s delta, low, high) lies at distance eps from x0, delta being point - x0, by
// newton_pass; 1 inside the ball. Long sums, which a thread's share of a sample in registers has not, are taken in
// double.
template <class A, class Team, class Sample>
DEVICE A l2_scale(const Team& team, const Sample& sample, const Ball<A>& ball) {
  using Wide = std::conditional_t<Sample::kInRegisters, A, double>;
  Wide whole_and_clipped[2] = {0, 0};
  sample.points([&](int64_t, const auto& point, const auto& centre) {
    A run[2] = {0, 0};
    for (int e = 0; e < static_cast<int>(std::size(point)); ++e) {
      const A d = point[e] - centre[e];
      const A inside = ball.exact ? clamp<A>(d, ball.low - centre[e], ball.high - centre[e]) : d;
      run[0] += d * d;
      run[1] += inside * inside;
    }
    whole_and_clipped[0] += run[0];
    whole_and_clipped[1] += run[1];
  });
  team.template combine<Sum>(whole_and_clipped);
  const A whole = static_cast<A>(whole_and_clipped[0]), clipped = static_cast<A>(whole_and_clipped[1]);
  const A radius = ball.eps * ball.eps;
  if (!(clipped > radius)) return A(1);
  A s = ball.eps / norm<A>(team, whole, [&](const auto& term) {
    sample.points([&](int64_t, const auto& point, const auto& centre) {
      for (int e = 0; e < static_cast<int>(std::size(point)); ++e) term(point[e] - centre[e]);
    });
  });
  // Where the box stopped nothing at the far end it stops nothing on the way, and s is exact already.
  for (int pass = 0; pass < kNewtonPasses && whole != clipped; ++pass) {
    Wide free_and_fixed[2] = {0, 0};
    sample.points([&](int64_t, const auto& point, const auto& centre) {
      add_free_and_fixed(point, centre, s, ball, free_and_fixed);
    });
    team.template combine<Sum>(free_and_fixed);
    const A next = newton_pass(s, static_cast<A>(free_and_fixed[0]), static_cast<A>(free_and_fixed[1]), radius);
    if (next == s) break;
    s = next;
  }
  return s;
}

// The l1 threshold t >= 0; 0 where the point, clipped to the box, lies inside the ball. Sums are taken in double: equal
// terms, which sign steps leave behind, round alike and would add up their errors.
template <class A, class Team, class Sample>
DEVICE double l1_threshold(const Team& team, const Sample& sample, const Ball<A>& ball) {
  double distance, slope, bend, largest;
  const auto look = [&](const Threshold<A>& threshold) {
    double sum = 0;
    A moving = 0, next = std::numeric_limits<A>::infinity(), most = 0;
    sample.points([&](int64_t, const auto& point, const auto& centre) {
      for (int e = 0; e < static_cast<int>(std::size(point)); ++e) {
        const A delta = searched<A>(point[e] - centre[e]);
        const A bend_of_one = l1_bend<A>(delta, centre[e], ball, threshold);
        A distance_of_one, slope_of_one;
        l1_terms<A>(delta, centre[e], ball, threshold, distance_of_one, slope_of_one);
        sum += distance_of_one;
        moving += slope_of_one;
        next = bend_of_one < next ? bend_of_one : next;
        most = Larger()(most, absolute<A>(delta));
      }
    });
    double found[] = {sum, moving, -next, most};
    team.template combine<Sum, Sum, Larger, Larger>(found);
    distance = found[0], slope = found[1], bend = -found[2], largest = found[3];
  };
  look(Threshold<A>(0));
  if (!(distance > ball.eps)) return 0;
  L1Search<A> search(ball.eps, distance, slope, largest);
  bool done = search.ends_before(bend);
  while (!done && search.next()) {
    look(Threshold<A>(search.t()));
    done = search.arrived(distance, slope) || search.ends_before(bend);
  }
  return search.inside();
}

// The k-th largest magnitude of a direction, or where fewer are above zero the least that one can be, or any between it
// and the next; and how many coordinates reach it.
template <class A>
struct Largest {
  A least;
  int64_t count;
};

// Radix selection: magnitudes are ordered as their bits are, of which each pass finds eight, from the highest on, by a
// histogram of the coordinates that have the bits found so far. A pass after which exactly k reach what is found is the
// last. Zero, and NaN that counts as zero, reach nothing.
template <class A, class Team, class Sample>
DEVICE Largest<A> find_largest(const Team& team, const Sample& sample, int64_t k) {
  using Word = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
  constexpr int kDigit = 8;
  static_assert(kBins == 1 << kDigit);
  Word found = 0;
  // Of the coordinates that have these bits, those still to be chosen.
  uint32_t wanted = static_cast<uint32_t>(k);
  for (int shift = 8 * static_cast<int>(sizeof(A)) - kDigit;; shift -= kDigit) {
    const Bin bin = team.highest_bin(wanted, [&](uint32_t* bins) {
      sample.directions([&](const auto& direction) {
        for (const A d : direction) {
          // Without its sign.
          const Word word = d == d ? bits<Word>(d) << 1 : Word(0), digit = (word - found) >> shift;
          if (word != 0 && digit < kBins) atomicAdd(bins + digit, 1u);
        }
      });
    });
    // Only the first pass may find too few.
    if (bin.count == 0) return {bits<A>(Word(1)), bin.above};
    found += static_cast<Word>(bin.index) << shift;
    wanted -= bin.above;
    if (wanted == bin.count || shift == 0) return {bits<A>(found >> 1), k - wanted + bin.count};
  }
}

// Moves and projects one sample with the whole team, or of one of several blocks their part of it. `x` is const where
// it must stay as it is.
template <bool kHold, int kWidth, class Team, class Point, class T, class A, class Rule, class Direction>
DEVICE void move_sample(const Team& team, Point* x, const Direction& direction, const T* x0, Rule rule, A step_size,
                        const Ball<A>& ball, Norm ball_norm, T* out, int64_t size) {
  using Sample = std::conditional_t<kHold, HeldSample<kWidth, T, A, Rule, Direction>,
                                    StreamedSample<kWidth, Point, A, Rule, Direction>>;
  Sample sample(x, direction, x0, size);
  A length = 1;
  if (rule.needs_length()) {
    const auto terms = [&](const auto& term) {
      sample.directions([&](const auto& d) {
        for (int e = 0; e < kWidth; ++e) term(d[e]);
      });
    };
    A squares = 0;
    terms([&](A d) { squares += d * d; });
    length = norm<A>(team, combined<Sum>(team, squares), terms);
  }
  rule.set(step_size, length);
  if constexpr (requires { rule.selects(); }) {
    const Largest<A> found = find_largest<A>(team, sample, rule.selects());
    rule.select(found.least, found.count);
  }
  sample.move(rule);
  const A s = ball_norm == Norm::kL2 ? l2_scale<A>(team, sample, ball) : A(1);
  const double t = ball_norm == Norm::kL1 ? l1_threshold<A>(team, sample, ball) : 0;
  const Threshold<A> threshold(t);
  sample.points([&](int64_t first, const auto& point, const auto& centre) {
    A z[kWidth];
    for (int e = 0; e < kWidth; ++e) {
      if (ball_norm == Norm::kLinf) {
        z[e] = project_linf<A>(point[e], centre[e], ball);
      } else {
        const A delta = point[e] - centre[e];
        const A inside = ball_norm == Norm::kL2 ? s * delta : threshold.soften(delta);
        const A moved = s < 1 || t > 0 ? move_inside<A>(centre[e], inside) : point[e];
        // A radius that is NaN bounds nothing, and must not pass for one that holds the point.
        z[e] = clamp<A>(ball.eps == ball.eps ? moved : ball.eps, ball.low, ball.high);
      }
    }
    store_at_once(out + first, z);
  });
}

template <Norm kNorm, bool kHold, int kWidth, class T, class A, class Rule>
KERNEL move_samples(Step<T, A> step, const T* direction /* [N, D] */, Rule rule) {
  const int64_t n = blockIdx.x, begin = n * step.size;
  Ball<A> ball = step.ball;
  ball.eps = step.eps[n];
  const Stored<T> from{direction + begin};
  move_sample<kHold, kWidth>(BlockTeam(), step.x + begin, from, step.x0 + begin, rule, step.step_size[n], ball, kNorm,
                             step.out + begin, step.size);
}

// Threads of a block for a sample: as few as hold it, so that several blocks share a multiprocessor.
template <class T>
int sample_threads(int64_t size, bool held) {
  using A = Accumulated<T>;
  if (!held) return block_threads(size / kVector<T>);
  return static_cast<int>(divide_up(divide_up(size, int64_t{kHeld<A>}), kWarp)) * kWarp;
}

// Calls `f` with the number of elements that a thread takes at once and whether it keeps the sample, as types.
template <class T, class F>
void with_sample(bool vectors, int64_t size, const F& f) {
  if (!vectors) {
    f(Width<1>(), std::false_type());
  } else if (size <= kHeldSample<Accumulated<T>>) {
    f(Width<kVector<T>>(), std::true_type());
  } else {
    f(Width<kVector<T>>(), std::false_type());
  }
}

// Calls `f` with the norm, as a type, and the rule for it.
template <class A, class Rules, class F>
void with_rule(const Rules& rules, Norm norm, const F& f) {
  const auto call = [&](auto known) { f(known, rules.template rule<decltype(known)::value, A>()); };
  switch (norm) {
    case Norm::kLinf: return call(std::integral_constant<Norm, Norm::kLinf>());
    case Norm::kL2: return call(std::integral_constant<Norm, Norm::kL2>());
    case Norm::kL1: return call(std::integral_constant<Norm, Norm::kL1>());
  }
}

// Moves all samples by the rule for the norm along `direction` [N, D], which may be null where that stays.
template <class Rules, class T, class A>
void move_along(const Rules& rules, const Step<T, A>& step, const T* direction, const Device& device) {
  with_rule<A>(rules, step.norm, [&](auto known, auto rule) {
    constexpr Norm kNorm = decltype(known)::value;
    using Rule = decltype(rule);
    if constexpr (kNorm == Norm::kLinf) {
      // Where all share one radius and one step size, the batch is a single sample.
      const int64_t total = step.samples * step.size;
      const int64_t run = step.eps.varies() || step.step_size.varies() ? step.size : total;
      with_width<T>(run % kVector<T> == 0 && aligned<kVector<T>>(step.x, direction, step.x0, step.out),
                    [&](auto width) {
                      constexpr int kWidth = decltype(width)::value;
                      constexpr int kThreads = 256;
                      LAUNCH((move_elements<kWidth, T, A, Rule>), divide_up(total, kWidth * kThreads), kThreads, device,
                             step, direction, rule, run, total);
                    });
    } else {
      const bool vectors = step.size % kVector<T> == 0 && aligned<kVector<T>>(step.x, direction, step.x0, step.out);
      with_sample<T>(vectors, step.size, [&](auto width, auto held) {
        constexpr int kWidth = decltype(width)::value;
        LAUNCH((move_samples<kNorm, decltype(held)::value, kWidth, T, A, Rule>), step.samples,
               sample_threads<T>(step.size, decltype(held)::value), device, step, direction, rule);
      });
    }
  });
}

}  // namespace fastadv
