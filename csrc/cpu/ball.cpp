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

// `buffer`: room for 3 D numbers.
template <class T, class A>
FASTADV_CLONES void project_onto_other(Step<T, A> step, A* buffer, int64_t begin, int64_t end) {
  const int64_t size = step.size;
  for (int64_t n = begin; n < end; ++n) {
    Ball<A> ball = step.ball;
    ball.eps = step.eps[n];
    const A* x = converted<A>(step.x + n * size, size, buffer + size);
    const A* x0 = converted<A>(step.x0 + n * size, size, buffer + 2 * size);
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

// Uniform in the unit ball: deviates that give the direction, drawn in pairs, and what they are multiplied by, for
// which there is one more word.
struct InL2Ball {
  template <class A>
  FASTADV_INLINE static void pair(const uint32_t* words, A* out) {
    // By Box and Muller.
    const A radius = std::sqrt(-2 * std::log(positive<A>(words[0])));
    const A angle = A(6.283185307179586477) * positive<A>(words[1]);
    out[0] = radius * std::cos(angle);
    out[1] = radius * std::sin(angle);
  }

  template <class A>
  FASTADV_INLINE static A scale(const A* direction, int64_t size, uint32_t word) {
    const A length = norm<A>(size, [&](int64_t i) FASTADV_LAMBDA { return direction[i]; });
    return std::pow(positive<A>(word), A(1) / static_cast<A>(size)) / length;
  }
};

struct InL1Ball {
  template <class A>
  FASTADV_INLINE static void pair(const uint32_t* words, A* out) {
    for (int k = 0; k < 2; ++k) out[k] = signed_exponential<A>(words[k]);
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
      for (int64_t i = 0; i < count; i += 2) InBall::template pair<A>(words + i, direction + first + i);
    }
    starts.noise.words(n, kRadiusBlock, 1, words);
    const A scale = starts.eps[n] * InBall::template scale<A>(direction, size, words[0]);
    const T* x0 = starts.x0 + n * size;
    T* out = starts.out + n * size;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t at = starts.order.offset(i);
      const A z = move_inside<A>(static_cast<A>(x0[at]), direction[i] * scale);
      out[at] = static_cast<T>(clamp<A>(z, starts.ball.low, starts.ball.high));
    }
  }
}

template <class T, class A>
void project_samples(const Step<T, A>& step, const Tensor&) {
  parallel(step.samples, step.size, [&](int64_t begin, int64_t end) {
    if (step.norm == Norm::kLinf) {
      project_onto_linf<T, A>(step, begin, end);
    } else {
      project_onto_other<T, A>(step, scratch<A>(3 * step.size), begin, end);
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
