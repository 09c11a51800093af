// project and random_start.
//
// project is a step that stays where it is: step.h. random_start reads x0 and writes the result once; the noise never
// touches memory. linf: a thread a (sample, four elements), the four words of one Philox block. l2 and l1: a block a
// sample, which draws its noise twice, for its norm and to write.
#include "../common/noise.h"
#include "step.h"

namespace fastadv {
namespace {

Tensor project(const Tensor& x, const Tensor& x0, double eps, int64_t norm, double low, double high, bool exact,
               const std::optional<Tensor>& eps_n) {
  require_alike(x, x0);
  const Samples shape(x);
  const Device device(x);
  Tensor out = empty_as(x);
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Ball<A> ball{A(0), static_cast<A>(low), static_cast<A>(high), exact};
    const PerSample<A> radius(eps, eps_n, shape.samples), nowhere(0.0, std::nullopt, shape.samples);
    move(Staying(), device, data<T>(x), static_cast<const T*>(nullptr), data<T>(x0), radius, nowhere, ball,
         norm_of_code(norm), mutable_data<T>(out), shape.samples, shape.size);
  });
  return out;
}

// Replaces the centres of a sample's four elements from `first` on by `start(centre, k)`, k from 0 to 3, clamped to the
// box. `vectors` says that the four lie side by side in memory, aligned.
template <class T, class A, class Start>
DEVICE void write_starts(const T* x0, const Ball<A>& ball, const Order& order, bool vectors, T* out, int64_t size,
                         int64_t first, const Start& start) {
  if (vectors) {
    A z[4];
    load(x0 + first, z);
#pragma unroll
    for (int k = 0; k < 4; ++k) z[k] = clamp<A>(start(z[k], k), ball.low, ball.high);
    store(out + first, z);
    return;
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (first + k >= size) return;
    const int64_t at = order.offset(first + k);
    out[at] = static_cast<T>(clamp<A>(start(static_cast<A>(x0[at]), k), ball.low, ball.high));
  }
}

template <class T, class A>
KERNEL linf_starts(const T* x0, PerSample<A> eps, Ball<A> ball, Noise noise, Order order, bool vectors, T* out,
                   int64_t size, int64_t blocks_each, int64_t blocks) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= blocks) return;
  const int64_t n = index / blocks_each, block = index % blocks_each;
  const A radius = eps[n];
  uint32_t words[4];
  noise.words(n, static_cast<uint64_t>(block), 1, words);
  write_starts(x0 + n * size, ball, order, vectors, out + n * size, size, 4 * block,
               [&](A centre, int k) { return centre + radius * symmetric<A>(words[k]); });
}

// Four standard normal deviates by Box and Muller.
template <class A>
DEVICE void normal_deviates(const uint32_t (&words)[4], A (&deviates)[4]) {
#pragma unroll
  for (int pair = 0; pair < 4; pair += 2) {
    const A radius = std::sqrt(-2 * std::log(positive<A>(words[pair])));
    A sine, cosine;
    sincospi(2 * positive<A>(words[pair + 1]), &sine, &cosine);
    deviates[pair] = radius * cosine;
    deviates[pair + 1] = radius * sine;
  }
}

// Uniform in the unit ball: deviates that give the direction, and what they are multiplied by, for which there is one
// more word. `terms(f)` calls f(deviate) for each deviate of the thread.
struct InL2Ball {
  template <class A>
  DEVICE static void deviates(const uint32_t (&words)[4], A (&out)[4]) {
    normal_deviates(words, out);
  }

  template <class A, class Terms>
  DEVICE static A scale(const Terms& terms, int64_t size, uint32_t word) {
    A squares = 0;
    terms([&](A deviate) { squares += deviate * deviate; });
    const A length = norm<A>(combined<Sum>(BlockTeam(), squares), terms);
    return std::pow(positive<A>(word), A(1) / static_cast<A>(size)) / length;
  }
};

struct InL1Ball {
  template <class A>
  DEVICE static void deviates(const uint32_t (&words)[4], A (&out)[4]) {
#pragma unroll
    for (int k = 0; k < 4; ++k) out[k] = signed_exponential<A>(words[k]);
  }

  template <class A, class Terms>
  DEVICE static A scale(const Terms& terms, int64_t, uint32_t word) {
    double length = 0;
    terms([&](A deviate) { length += absolute<A>(deviate); });
    const double total = combined<Sum>(BlockTeam(), length) + absolute<A>(signed_exponential<A>(word));
    return total > 0 ? static_cast<A>(1 / total) : A(0);
  }
};

template <class T, class A, class InBall>
KERNEL ball_starts(const T* x0, PerSample<A> eps, Ball<A> ball, Noise noise, Order order, bool vectors, T* out,
                   int64_t size, int64_t blocks_each) {
  const int64_t n = blockIdx.x;
  uint32_t words[4];
  A deviates[4];
  noise.words(n, kRadiusBlock, 1, words);
  const uint32_t last = words[0];
  const auto terms = [&](const auto& term) {
    for (int64_t block = threadIdx.x; block < blocks_each; block += blockDim.x) {
      noise.words(n, static_cast<uint64_t>(block), 1, words);
      InBall::deviates(words, deviates);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (4 * block + k < size) term(deviates[k]);
      }
    }
  };
  const A scale = eps[n] * InBall::template scale<A>(terms, size, last);
  for (int64_t block = threadIdx.x; block < blocks_each; block += blockDim.x) {
    noise.words(n, static_cast<uint64_t>(block), 1, words);
    InBall::deviates(words, deviates);
    write_starts(x0 + n * size, ball, order, vectors, out + n * size, size, 4 * block,
                 [&](A centre, int k) { return move_inside<A>(centre, deviates[k] * scale); });
  }
}

Tensor random_start(const Tensor& x0, double eps, int64_t norm, double low, double high, int64_t seed,
                    const std::optional<Tensor>& eps_n, const std::optional<Tensor>& seed_t,
                    const std::optional<Tensor>& sample_ids) {
  const Samples shape(x0);
  const Noise noise(seed, seed_t, sample_ids, shape.samples);
  const Norm kind = norm_of_code(norm);
  const Device device(x0);
  Tensor out = empty_as(x0);
  if (shape.samples * shape.size == 0) return out;
  with_type(x0.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Ball<A> ball{A(0), static_cast<A>(low), static_cast<A>(high), true};
    const PerSample<A> radius(eps, eps_n, shape.samples);
    const T* centre = data<T>(x0);
    T* result = mutable_data<T>(out);
    const Order order(x0, shape.size);
    const bool vectors = order.channels == 1 && shape.size % 4 == 0 && aligned<4>(centre, result);
    const int64_t blocks_each = divide_up(shape.size, 4), blocks = shape.samples * blocks_each;
    const auto in_ball = [&](auto in) {
      LAUNCH((ball_starts<T, A, decltype(in)>), shape.samples, block_threads(blocks_each), device, centre, radius, ball,
             noise, order, vectors, result, shape.size, blocks_each);
    };
    constexpr int kThreads = 256;
    switch (kind) {
      case Norm::kLinf:
        LAUNCH((linf_starts<T, A>), divide_up(blocks, kThreads), kThreads, device, centre, radius, ball, noise, order,
               vectors, result, shape.size, blocks_each, blocks);
        break;
      case Norm::kL2: in_ball(InL2Ball()); break;
      case Norm::kL1: in_ball(InL1Ball()); break;
    }
  });
  return out;
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("project", TORCH_BOX(&fastadv::project));
  m.impl("random_start", TORCH_BOX(&fastadv::random_start));
}
