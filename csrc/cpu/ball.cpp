// project and random_start.
#include <cmath>

#include "../common/noise.h"
#include "ball.h"

namespace fastadv {
namespace {

template <class T, class A>
FASTADV_CLONES FASTADV_EXACT void project_linf_samples(const T* x, const T* x0, PerSample<A> eps, Ball<A> ball, T* out,
                                                       int64_t size, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    ball.eps = eps[n];
    const T *xn = x + n * size, *cn = x0 + n * size;
    write<A>(out + n * size, size, [&](int64_t i) FASTADV_LAMBDA {
      return project_linf<A>(static_cast<A>(xn[i]), static_cast<A>(cn[i]), ball);
    });
  }
}

template <class T, class A>
FASTADV_CLONES void project_samples(const T* x, const T* x0, PerSample<A> eps, Ball<A> ball, Norm norm, T* out,
                                    int64_t size, A* buffer, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    ball.eps = eps[n];
    const A* point = converted<A>(x + n * size, size, buffer + size);
    const A* centre = converted<A>(x0 + n * size, size, buffer + 2 * size);
    project_sample<A>(norm, [&](int64_t i) FASTADV_LAMBDA { return point[i]; }, centre, size, ball, buffer,
                      out + n * size);
  }
}

Tensor project(const Tensor& x, const Tensor& x0, double eps, int64_t norm, double low, double high, bool exact,
               const std::optional<Tensor>& eps_n) {
  require_alike(x, x0);
  const Samples shape(x);
  const Norm kind = norm_of_code(norm);
  Tensor out = empty_as(x);
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Ball<A> ball{A(0), static_cast<A>(low), static_cast<A>(high), exact};
    const PerSample<A> radius(eps, eps_n, shape.samples);
    const T *point = data<T>(x), *centre = data<T>(x0);
    T* result = mutable_data<T>(out);
    parallel(shape.samples, shape.size, [&](int64_t begin, int64_t end) {
      if (kind == Norm::kLinf) {
        project_linf_samples<T, A>(point, centre, radius, ball, result, shape.size, begin, end);
      } else {
        project_samples<T, A>(point, centre, radius, ball, kind, result, shape.size,
                              scratch<A>(3 * shape.size), begin, end);
      }
    });
  });
  return out;
}

// Words are drawn this many blocks of four at a time.
constexpr int64_t kBlocks = 256;

template <class T, class A>
FASTADV_CLONES FASTADV_EXACT void linf_starts(const T* x0, PerSample<A> eps, Ball<A> ball, Noise noise,
                                              Order order, T* out, int64_t size, int64_t begin, int64_t end) {
  uint32_t words[4 * kBlocks];
  for (int64_t n = begin; n < end; ++n) {
    const A radius = eps[n];
    const T* centre = x0 + n * size;
    T* on = out + n * size;
    for (int64_t first = 0; first < size; first += 4 * kBlocks) {
      const int64_t count = size - first < 4 * kBlocks ? size - first : 4 * kBlocks;
      noise.words(n, static_cast<uint64_t>(first / 4), (count + 3) / 4, words);
      const auto start = [&](int64_t i, int64_t at) FASTADV_LAMBDA {
        const A z = static_cast<A>(centre[at]) + radius * symmetric<A>(words[i]);
        on[at] = static_cast<T>(clamp<A>(z, ball.low, ball.high));
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

template <class T, class A, class InBall>
FASTADV_CLONES void ball_starts(const T* x0, PerSample<A> eps, Ball<A> ball, Noise noise, Order order, T* out,
                                int64_t size, A* direction, int64_t begin, int64_t end) {
  uint32_t words[4 * kBlocks];
  for (int64_t n = begin; n < end; ++n) {
    for (int64_t first = 0; first < size; first += 4 * kBlocks) {
      const int64_t count = size - first < 4 * kBlocks ? size - first : 4 * kBlocks;
      noise.words(n, static_cast<uint64_t>(first / 4), (count + 3) / 4, words);
      for (int64_t i = 0; i < count; i += 2) InBall::template pair<A>(words + i, direction + first + i);
    }
    noise.words(n, kRadiusBlock, 1, words);
    const A scale = eps[n] * InBall::template scale<A>(direction, size, words[0]);
    const T* centre = x0 + n * size;
    T* on = out + n * size;
    for (int64_t i = 0; i < size; ++i) {
      const int64_t at = order.offset(i);
      const A z = move_inside<A>(static_cast<A>(centre[at]), direction[i] * scale);
      on[at] = static_cast<T>(clamp<A>(z, ball.low, ball.high));
    }
  }
}

Tensor random_start(const Tensor& x0, double eps, int64_t norm, double low, double high, int64_t seed,
                    const std::optional<Tensor>& eps_n, const std::optional<Tensor>& seed_t,
                    const std::optional<Tensor>& sample_ids) {
  const Samples shape(x0);
  const Noise noise(seed, seed_t, sample_ids, shape.samples);
  const Norm kind = norm_of_code(norm);
  Tensor out = empty_as(x0);
  with_type(x0.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Ball<A> ball{A(0), static_cast<A>(low), static_cast<A>(high), true};
    const PerSample<A> radius(eps, eps_n, shape.samples);
    const Order order(x0, shape.size);
    const T* centre = data<T>(x0);
    T* result = mutable_data<T>(out);
    parallel(shape.samples, 8 * shape.size, [&](int64_t begin, int64_t end) {
      // Deviates come in pairs, so one more than there are elements.
      const auto in_ball = [&](auto in) {
        ball_starts<T, A, decltype(in)>(centre, radius, ball, noise, order, result, shape.size,
                                          scratch<A>(shape.size + 1), begin, end);
      };
      switch (kind) {
        case Norm::kLinf:
          return linf_starts<T, A>(centre, radius, ball, noise, order, result, shape.size, begin, end);
        case Norm::kL2: return in_ball(InL2Ball());
        case Norm::kL1: return in_ball(InL1Ball());
      }
    });
  });
  return out;
}

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("project", TORCH_BOX(&fastadv::project));
  m.impl("random_start", TORCH_BOX(&fastadv::random_start));
}
