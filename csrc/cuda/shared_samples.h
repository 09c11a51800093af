// l2 steps and projections of few large samples that no cluster holds, each shared out over several blocks. What
// is summed over a sample takes a launch, whose blocks leave the sums of their parts; every block of the next one adds
// these up, in a fixed order:
//
//   direction_parts   the squares of the direction, where there is one
//   distance_parts    the squared distance of the moved sample from its centre, and of that clipped to the box
//   newton_parts      kSharedPasses times, what is free and what the box stops at the scale that the sums so far give;
//                     nothing of a sample once a pass has changed nothing
//   finish_passes     the passes that a sample still needs, which few do, a block a sample
//   write_parts       the projection
//
// Formulas: l2_scale in step.h.
#pragma once

#include "cluster_samples.h"

namespace fastadv {

constexpr int kPartThreads = 256;
constexpr int64_t kPartElements = 8192;
// Larger samples are shared out, where there are fewer of them.
constexpr int64_t kLargeSample = 32768;
constexpr int64_t kFewSamples = 128;
// Of Newton's passes, those that are shared out.
constexpr int kSharedPasses = 9;

template <class T, class A>
struct SharedSamples {
  Step<T, A> step;
  const T* direction;  // [N, D]
  int64_t parts;
  A* squares;    // [N, parts, 3]
  A* distances;  // [N, parts, 4]
  A* passes;     // [kSharedPasses, N, parts, 2]
  A* scales;     // [kSharedPasses + 1, N, 2]: the scale before a pass, and whether it stays; the last is what was found
};

// Squares of terms as they are, made smaller and made larger, so that one of the sums neither overflows nor underflows.
template <class A>
struct SafeSquares {
  static constexpr A kSmaller = sizeof(A) == 4 ? A(0x1p-100) : A(0x1p-500), kLarger = 1 / kSmaller;

  DEVICE static void add(A term, A* sums) {
    const A smaller = term * kSmaller, larger = term * kLarger;
    sums[0] += term * term;
    sums[1] += smaller * smaller;
    sums[2] += larger * larger;
  }

  DEVICE static A norm(const A* sums) {
    constexpr A kSafe = sizeof(A) == 4 ? A(1e-30) : A(1e-280);
    if (sums[0] <= kSafe) return std::sqrt(sums[2]) * kSmaller;
    if (sums[0] >= 1 / kSafe) return std::sqrt(sums[1]) * kLarger;
    return std::sqrt(sums[0]);
  }
};

// The sums [K] of a sample from those of its parts [parts, K].
template <int K, class A>
DEVICE void add_parts(const A* of_parts, int64_t parts, A (&sums)[K]) {
  double wide[K] = {};
  for (int64_t part = threadIdx.x; part < parts; part += blockDim.x) {
#pragma unroll
    for (int k = 0; k < K; ++k) wide[k] += of_parts[part * K + k];
  }
  BlockTeam().combine<Sum>(wide);
#pragma unroll
  for (int k = 0; k < K; ++k) sums[k] = static_cast<A>(wide[k]);
}

// A block's part of a sample, or all of it.
template <int kWidth, class T, class A, class Rule>
class Part {
 public:
  DEVICE explicit Part(const SharedSamples<T, A>& shared)
      : Part(shared, blockIdx.x / shared.parts, blockIdx.x % shared.parts, kPartElements) {}

  DEVICE static Part whole(const SharedSamples<T, A>& shared) { return Part(shared, blockIdx.x, 0, shared.step.size); }

  DEVICE const Ball<A>& ball() const { return ball_; }

  // The rule for the whole sample's direction.
  DEVICE Rule rule(Rule rule) const {
    A sums[3] = {1, 1, 1};
    if constexpr (Rule::kDirected) add_parts(shared_.squares + n_ * shared_.parts * 3, shared_.parts, sums);
    rule.set(shared_.step.step_size[n_], SafeSquares<A>::norm(sums));
    return rule;
  }

  template <class F>
  DEVICE void directions(const F& f) const {
    each([&](int64_t at) {
      A direction[kWidth];
      load(shared_.direction + at, direction);
      f(direction);
    });
  }

  // f(at, points, centres) for each run of the thread, moved by the rule.
  template <class F>
  DEVICE void points(const Rule& rule, const F& f) const {
    each([&](int64_t at) {
      A point[kWidth], centre[kWidth], direction[kWidth] = {};
      load(shared_.step.x + at, point);
      load(shared_.step.x0 + at, centre);
      if constexpr (Rule::kDirected) load(shared_.direction + at, direction);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) point[e] = rule(point[e], direction[e]);
      f(at, point, centre);
    });
  }

  template <int K>
  DEVICE void keep(A (&sums)[K], A* of_parts /* [N, parts, K] */) const {
    BlockTeam().combine<Sum>(sums);
    if (threadIdx.x > 0) return;
#pragma unroll
    for (int k = 0; k < K; ++k) of_parts[(n_ * shared_.parts + part_) * K + k] = sums[k];
  }

  // The scale after so many of Newton's passes, and whether it stays.
  struct Scale {
    A s;
    bool stays;
  };
  DEVICE Scale scale(int passes) const {
    const A radius = ball_.eps * ball_.eps;
    if (passes == 0) {
      A sums[4];
      add_parts(shared_.distances + n_ * shared_.parts * 4, shared_.parts, sums);
      if (!(sums[3] > radius)) return {A(1), true};
      return {ball_.eps / SafeSquares<A>::norm(sums), sums[0] == sums[3]};
    }
    const Scale before = kept(passes - 1);
    if (before.stays) return before;
    A sums[2];
    add_parts(pass(passes - 1) + n_ * shared_.parts * 2, shared_.parts, sums);
    return raised(before.s, sums[0], sums[1]);
  }

  // The scale after a pass at s, from its two sums.
  DEVICE Scale raised(A s, A free, A fixed) const {
    const A next = newton_pass(s, free, fixed, ball_.eps * ball_.eps);
    return {next, next == s};
  }

  // Adds up both.
  template <class Wide>
  DEVICE void add_squares(const Rule& rule, A s, Wide (&sums)[2]) const {
    points(rule, [&](int64_t, const auto& point, const auto& centre) {
      add_free_and_fixed(point, centre, s, ball_, sums);
    });
  }

  DEVICE Scale kept(int passes) const { return {scales(passes)[0], scales(passes)[1] != 0}; }

  DEVICE void keep(const Scale& scale, int passes) const {
    if (part_ > 0 || threadIdx.x > 0) return;
    scales(passes)[0] = scale.s;
    scales(passes)[1] = scale.stays;
  }

  DEVICE A* pass(int passes) const { return shared_.passes + passes * shared_.step.samples * shared_.parts * 2; }

 private:
  DEVICE Part(const SharedSamples<T, A>& shared, int64_t n, int64_t part, int64_t elements)
      : shared_(shared), n_(n), part_(part), elements_(elements), ball_(shared.step.ball) {
    ball_.eps = shared.step.eps[n];
  }

  DEVICE A* scales(int passes) const { return shared_.scales + (passes * shared_.step.samples + n_) * 2; }

  template <class F>
  DEVICE void each(const F& f) const {
    const int64_t begin = part_ * elements_, size = shared_.step.size;
    const int64_t end = begin + elements_ < size ? begin + elements_ : size;
    for (int64_t at = begin + int64_t{threadIdx.x} * kWidth; at < end; at += int64_t{blockDim.x} * kWidth) {
      f(n_ * size + at);
    }
  }

  const SharedSamples<T, A>& shared_;
  int64_t n_;
  int64_t part_;
  int64_t elements_;
  Ball<A> ball_;
};

template <int kWidth, class T, class A, class Rule>
KERNEL direction_parts(SharedSamples<T, A> shared) {
  const Part<kWidth, T, A, Rule> part(shared);
  A sums[3] = {};
  part.directions([&](const auto& direction) {
    for (const A d : direction) SafeSquares<A>::add(d, sums);
  });
  part.keep(sums, shared.squares);
}

template <int kWidth, class T, class A, class Rule>
KERNEL distance_parts(SharedSamples<T, A> shared, Rule rule) {
  const Part<kWidth, T, A, Rule> part(shared);
  const Ball<A> ball = part.ball();
  // A run of terms at a time: equal ones would add up their errors in a longer sum.
  A sums[4] = {};
  part.points(part.rule(rule), [&](int64_t, const auto& point, const auto& centre) {
    A run[4] = {};
    for (int e = 0; e < kWidth; ++e) {
      const A d = point[e] - centre[e];
      const A inside = ball.exact ? clamp<A>(d, ball.low - centre[e], ball.high - centre[e]) : d;
      SafeSquares<A>::add(d, run);
      run[3] += inside * inside;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) sums[k] += run[k];
  });
  part.keep(sums, shared.distances);
}

template <int kWidth, class T, class A, class Rule>
KERNEL newton_parts(SharedSamples<T, A> shared, Rule rule, int passes) {
  const Part<kWidth, T, A, Rule> part(shared);
  const auto scale = part.scale(passes);
  part.keep(scale, passes);
  if (scale.stays) return;
  A sums[2] = {};
  part.add_squares(part.rule(rule), scale.s, sums);
  part.keep(sums, part.pass(passes));
}

template <int kWidth, class T, class A, class Rule>
KERNEL finish_passes(SharedSamples<T, A> shared, Rule rule) {
  const auto sample = Part<kWidth, T, A, Rule>::whole(shared);
  auto scale = sample.scale(kSharedPasses);
  if (!scale.stays) rule = sample.rule(rule);
  for (int pass = kSharedPasses; pass < kNewtonPasses && !scale.stays; ++pass) {
    double sums[2] = {};
    sample.add_squares(rule, scale.s, sums);
    BlockTeam().combine<Sum>(sums);
    scale = sample.raised(scale.s, static_cast<A>(sums[0]), static_cast<A>(sums[1]));
  }
  sample.keep(scale, kSharedPasses);
}

template <int kWidth, class T, class A, class Rule>
KERNEL write_parts(SharedSamples<T, A> shared, Rule rule) {
  const Part<kWidth, T, A, Rule> part(shared);
  const Ball<A> ball = part.ball();
  const A s = part.kept(kSharedPasses).s;
  part.points(part.rule(rule), [&](int64_t at, const auto& point, const auto& centre) {
    A z[kWidth];
    for (int e = 0; e < kWidth; ++e) {
      const A moved = s < 1 ? move_inside<A>(centre[e], s * (point[e] - centre[e])) : point[e];
      z[e] = clamp<A>(ball.eps == ball.eps ? moved : ball.eps, ball.low, ball.high);
    }
    store(shared.step.out + at, z);
  });
}

// The l2 step of all samples along `direction`, which may be null where the rule stays.
template <int kWidth, class T, class A, class Rule>
void move_shared(const Rule& rule, const Step<T, A>& step, const T* direction, const Device& device,
                 const Tensor& like) {
  const int64_t parts = divide_up(step.size, kPartElements), blocks = step.samples * parts;
  const int64_t numbers = (3 + 4 + 2 * kSharedPasses) * blocks + 2 * (kSharedPasses + 1) * step.samples;
  const Tensor room = empty_vector(like, numbers, accumulated(like.scalar_type()));
  A* const squares = mutable_data<A>(room);
  A *const distances = squares + 3 * blocks, *const passes = distances + 4 * blocks;
  const SharedSamples<T, A> shared{step,      direction, parts, squares,
                                   distances, passes,    passes + 2 * kSharedPasses * blocks};
  if constexpr (Rule::kDirected) {
    LAUNCH((direction_parts<kWidth, T, A, Rule>), blocks, kPartThreads, device, shared);
  }
  LAUNCH((distance_parts<kWidth, T, A, Rule>), blocks, kPartThreads, device, shared, rule);
  for (int pass = 0; pass < kSharedPasses; ++pass) {
    LAUNCH((newton_parts<kWidth, T, A, Rule>), blocks, kPartThreads, device, shared, rule, pass);
  }
  LAUNCH((finish_passes<kWidth, T, A, Rule>), step.samples, kPartThreads, device, shared, rule);
  LAUNCH((write_parts<kWidth, T, A, Rule>), blocks, kPartThreads, device, shared, rule);
}

// Moves all samples along `direction` [N, D], which may be null where the rules stay.
template <class Rules, class T, class A>
void move_batch(const Rules& rules, const Step<T, A>& step, const T* direction, const Tensor& like) {
  const Device device(like);
  if (move_in_clusters(rules, step, direction, device)) return;
  if (step.norm != Norm::kL2 || step.size < kLargeSample || step.samples >= kFewSamples) {
    return move_along(rules, step, direction, device);
  }
  const auto rule = rules.template rule<Norm::kL2, A>();
  const bool vectors = step.size % kVector<T> == 0 && aligned<kVector<T>>(step.x, direction, step.x0, step.out);
  with_width<T>(vectors, [&](auto width) {
    move_shared<decltype(width)::value>(rule, step, direction, device, like);
  });
}

}  // namespace fastadv
