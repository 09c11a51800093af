// project and random_start in C++; their front: ../common/ops/ball.h.
#include "../common/ops/ball.h"

#include <cmath>

#include "ball.h"

namespace fastadv {
namespace {

template <class T, class A>
FASTADV_CLONES FASTADV_EXACT void project_onto_linf(Step<T, A> step, int64_t begin, int64_t end) {
  const int64_t size = step.size;
  for (int64_t n = begin; n < end; ++n) {
    Ball<A> ball = step.ball;
    ball.eps = step.eps[n];
    const T *x = step.x + n * size, *x0 = step.x0 + n * size;
    write<A>(step.out + n * size, size, [&](int64_t i) FASTADV_LAMBDA {
      return project_linf<A>(static_cast<A>(x[i]), static_cast<A>(x0[i]), ball);
    });
  }
}

// The same where a sample is one number, which a radius for each pixel makes of it: one loop over all of them.
template <class T, class A>
FASTADV_CLONES FASTADV_EXACT void project_numbers_onto_linf(Step<T, A> step, int64_t begin, int64_t end) {
  A radius[kBlock];
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = smaller(end - first, kBlock);
    copy_numbers(step.eps, first, count, radius);
    const T *x = step.x + first, *x0 = step.x0 + first;
    const auto project = [&](bool exact) FASTADV_LAMBDA {
      write<A>(step.out + first, count, [&](int64_t i) FASTADV_LAMBDA {
        const Ball<A> ball{radius[i], step.ball.low, step.ball.high, exact};
        return project_linf<A>(static_cast<A>(x[i]), static_cast<A>(x0[i]), ball);
      });
    };
    if (step.ball.exact) {
      project(true);
    } else {
      project(false);
    }
  }
}

// `buffer`: room for 4 D numbers.
template <class T, class A>
FASTADV_CLONES void project_onto_other(Step<T, A> step, A* buffer, int64_t begin, int64_t end) {
  const int64_t size = step.size;
  for (int64_t n = begin; n < end; ++n) {
    Ball<A> ball = step.ball;
    ball.eps = step.eps[n];
    const A* x = converted<A>(step.x + n * size, size, buffer + 2 * size);
    const A* x0 = converted<A>(step.x0 + n * size, size, buffer + 3 * size);
    project_sample<A>(step.norm, [&](int64_t i) FASTADV_LAMBDA { return x[i]; }, x0, size, ball, buffer,
                      step.out + n * size);
  }
}

// Words are drawn this many blocks of four at a time.
constexpr int64_t kBlocks = 256;

template <class T, class A>
FASTADV_CLONES FASTADV_EXACT void linf_starts(Starts<T, A> starts, int64_t begin, int64_t end) {
  const int64_t size = starts.size;
  const Order order = starts.order;
  uint32_t words[4 * kBlocks];
  for (int64_t n = begin; n < end; ++n) {
    const A radius = starts.eps[n];
    const T* x0 = starts.x0 + n * size;
    T* out = starts.out + n * size;
    for (int64_t first = 0; first < size; first += 4 * kBlocks) {
      const int64_t count = size - first < 4 * kBlocks ? size - first : 4 * kBlocks;
      starts.noise.words(n, static_cast<uint64_t>(first / 4), (count + 3) / 4, words);
      const auto start = [&](int64_t i, int64_t at) FASTADV_LAMBDA {
        const A z = static_cast<A>(x0[at]) + radius * symmetric<A>(words[i]);
        out[at] = static_cast<T>(clamp<A>(z, starts.ball.low, starts.ball.high));
      };
      if (order.channels == 1) {
        for (int64_t i = 0; i < count; ++i) start(i, first + i);
      } else {
        for (int64_t i = 0; i < count; ++i) start(i, order.offset(first + i));
      }
    }
  }
}

// sin(2 pi u) and cos(2 pi u) within 2^-23, for u in [0, 1], a multiple of 2^-24: what a turn has beyond its nearest
// quarter is exact, and within pi / 4 the polynomials of the Cephes library hold.
FASTADV_INLINE void sine_and_cosine(float u, float& sine, float& cosine) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: the nearest integer appears in the low bits of the sum
  const float shifted = 4 * u + kShift;
  const uint32_t quarter = bits<uint32_t>(shifted);
  const float t = (u - (shifted - kShift) * 0.25f) * 6.283185307179586477f, square = t * t;
  const float s = t + t * square * (-1.6666654611e-1f + square * (8.3321608736e-3f - square * 1.9515295891e-4f));
  const float c = (1 - 0.5f * square) +
                  square * square * (4.1666645683e-2f + square * (-1.3887316255e-3f + square * 2.4433157118e-5f));
  const float along = quarter & 1 ? s : c, across = quarter & 1 ? c : s;
  cosine = bits<float>(bits<uint32_t>(along) ^ (((quarter + 1) & 2) << 30));
  sine = bits<float>(bits<uint32_t>(across) ^ ((quarter & 2) << 30));
}

FASTADV_INLINE void sine_and_cosine(double u, double& sine, double& cosine) {
  const double angle = 6.283185307179586477 * u;
  sine = std::sin(angle);
  cosine = std::cos(angle);
}

// Uniform in the unit ball: deviates that give the direction, an even number of them, and what they are multiplied by,
// for which there is one more word.
struct InL2Ball {
  template <class A>
  FASTADV_INLINE static void deviates(const uint32_t* words, int64_t count, A* out) {
    // By Box and Muller.
    for (int64_t i = 0; i < count; i += 2) {
      const A radius = std::sqrt(-2 * log_positive(positive<A>(words[i])));
      A sine, cosine;
      sine_and_cosine(positive<A>(words[i + 1]), sine, cosine);
      out[i] = radius * cosine;
      out[i + 1] = radius * sine;
    }
  }

  template <class A>
  FASTADV_INLINE static A scale(const A* direction, int64_t size, uint32_t word) {
    const A length = norm<A>(size, [&](int64_t i) FASTADV_LAMBDA { return direction[i]; });
    return length > 0 ? std::pow(positive<A>(word), A(1) / static_cast<A>(size)) / length : A(0);
  }
};

struct InL1Ball {
  // As signed_exponential.
  template <class A>
  FASTADV_INLINE static void deviates(const uint32_t* words, int64_t count, A* out) {
    for (int64_t i = 0; i < count; ++i) {
      const A deviate = -log_positive(positive<A>(words[i]));
      out[i] = words[i] & 1 ? -deviate : deviate;
    }
  }

  template <class A>
  FASTADV_INLINE static A scale(const A* direction, int64_t size, uint32_t word) {
    const A length = sum<A>(size, [&](int64_t i) FASTADV_LAMBDA { return absolute<A>(direction[i]); });
    const A total = length + absolute<A>(signed_exponential<A>(word));
    return total > 0 ? 1 / total : A(0);
  }
};

// `direction`: room for D + 1 numbers, since deviates come in pairs.
template <class InBall, class T, class A>
FASTADV_CLONES void ball_starts(Starts<T, A> starts, A* direction, int64_t begin, int64_t end) {
  const int64_t size = starts.size;
  uint32_t words[4 * kBlocks];
  for (int64_t n = begin; n < end; ++n) {
    for (int64_t first = 0; first < size; first += 4 * kBlocks) {
      const int64_t count = size - first < 4 * kBlocks ? size - first : 4 * kBlocks;
      starts.noise.words(n, static_cast<uint64_t>(first / 4), (count + 3) / 4, words);
      InBall::template deviates<A>(words, count + count % 2, direction + first);
    }
    starts.noise.words(n, kRadiusBlock, 1, words);
    const A scale = starts.eps[n] * InBall::template scale<A>(direction, size, words[0]);
    const T* x0 = starts.x0 + n * size;
    T* out = starts.out + n * size;
    const auto start = [&](int64_t i, int64_t at) FASTADV_LAMBDA {
      const A z = move_inside<A>(static_cast<A>(x0[at]), direction[i] * scale);
      return clamp<A>(z, starts.ball.low, starts.ball.high);
    };
    if (starts.order.channels == 1) {
      write<A>(out, size, [&](int64_t i) FASTADV_LAMBDA { return start(i, i); });
      continue;
    }
    for (int64_t i = 0; i < size; ++i) {
      const int64_t at = starts.order.offset(i);
      out[at] = static_cast<T>(start(i, at));
    }
  }
}

template <class T, class A>
void project_samples(const Step<T, A>& step, const Tensor&) {
  parallel(step.samples, cost(step.norm) * step.size, [&](int64_t begin, int64_t end) {
    if (step.norm == Norm::kLinf && step.size == 1) {
      project_numbers_onto_linf<T, A>(step, begin, end);
    } else if (step.norm == Norm::kLinf) {
      project_onto_linf<T, A>(step, begin, end);
    } else {
      project_onto_other<T, A>(step, scratch<A>(4 * step.size), begin, end);
    }
  });
}

template <class T, class A>
void draw_starts(const Starts<T, A>& starts, const Tensor&) {
  parallel(starts.samples, 8 * starts.size, [&](int64_t begin, int64_t end) {
    switch (starts.norm) {
      case Norm::kLinf: return linf_starts<T, A>(starts, begin, end);
      case Norm::kL2: return ball_starts<InL2Ball, T, A>(starts, scratch<A>(starts.size + 1), begin, end);
      case Norm::kL1: return ball_starts<InL1Ball, T, A>(starts, scratch<A>(starts.size + 1), begin, end);
    }
  });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("project", TORCH_BOX(&fastadv::project));
  m.impl("random_start", TORCH_BOX(&fastadv::random_start));
}
