// project and random_start in CUDA; their front: ../common/ops/ball.h.
//
// project is a step that stays where it is: step.h. random_start reads x0 and writes the result once; the noise never
// touches memory. linf: a thread a (sample, four elements), the four words of one Philox block. l2 and l1: a block a
// sample, which draws its noise twice, for its norm and to write.
#include "../common/ops/ball.h"

#include "shared_samples.h"

namespace fastadv {
namespace {

// Replaces the centres of the four elements of sample n from `first` on by `start(centre, k)`, k from 0 to 3, clamped
// to the box. `vectors` says that the four lie side by side in memory, aligned.
template <class T, class A, class Start>
DEVICE void write_starts(const Starts<T, A>& starts, int64_t n, bool vectors, int64_t first, const Start& start) {
  const Ball<A>& ball = starts.ball;
  const T* x0 = starts.x0 + n * starts.size;
  T* out = starts.out + n * starts.size;
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
    if (first + k >= starts.size) return;
    const int64_t at = starts.order.offset(first + k);
    out[at] = static_cast<T>(clamp<A>(start(static_cast<A>(x0[at]), k), ball.low, ball.high));
  }
}

// `blocks_each`: Philox blocks a sample.
template <class T, class A>
KERNEL linf_starts(Starts<T, A> starts, bool vectors, int64_t blocks_each) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= starts.samples * blocks_each) return;
  const int64_t n = index / blocks_each, block = index % blocks_each;
  const A radius = starts.eps[n];
  uint32_t words[4];
  starts.noise.words(n, static_cast<uint64_t>(block), 1, words);
  write_starts(starts, n, vectors, 4 * block,
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
    const A length = norm<A>(BlockTeam(), combined<Sum>(BlockTeam(), squares), terms);
    return length > 0 ? std::pow(positive<A>(word), A(1) / static_cast<A>(size)) / length : A(0);
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

template <class InBall, class T, class A>
KERNEL ball_starts(Starts<T, A> starts, bool vectors, int64_t blocks_each) {
  const int64_t n = blockIdx.x;
  uint32_t words[4];
  A deviates[4];
  starts.noise.words(n, kRadiusBlock, 1, words);
  const uint32_t last = words[0];
  const auto terms = [&](const auto& term) {
    for (int64_t block = threadIdx.x; block < blocks_each; block += blockDim.x) {
      starts.noise.words(n, static_cast<uint64_t>(block), 1, words);
      InBall::deviates(words, deviates);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (4 * block + k < starts.size) term(deviates[k]);
      }
    }
  };
  const A scale = starts.eps[n] * InBall::template scale<A>(terms, starts.size, last);
  for (int64_t block = threadIdx.x; block < blocks_each; block += blockDim.x) {
    starts.noise.words(n, static_cast<uint64_t>(block), 1, words);
    InBall::deviates(words, deviates);
    write_starts(starts, n, vectors, 4 * block,
                 [&](A centre, int k) { return move_inside<A>(centre, deviates[k] * scale); });
  }
}

template <class T, class A>
void project_samples(const Step<T, A>& step, const Tensor& like) {
  move_batch(Staying(), step, static_cast<const T*>(nullptr), like);
}

template <class T, class A>
void draw_starts(const Starts<T, A>& starts, const Tensor& like) {
  const Device device(like);
  const bool vectors = starts.order.channels == 1 && starts.size % 4 == 0 && aligned<4>(starts.x0, starts.out);
  const int64_t blocks_each = divide_up(starts.size, 4);
  const auto in_ball = [&](auto in) {
    LAUNCH((ball_starts<decltype(in), T, A>), starts.samples, block_threads(blocks_each), device, starts, vectors,
           blocks_each);
  };
  constexpr int kThreads = 256;
  switch (starts.norm) {
    case Norm::kLinf:
      LAUNCH((linf_starts<T, A>), divide_up(starts.samples * blocks_each, kThreads), kThreads, device, starts, vectors,
             blocks_each);
      break;
    case Norm::kL2: in_ball(InL2Ball()); break;
    case Norm::kL1: in_ball(InL1Ball()); break;
  }
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("project", TORCH_BOX(&fastadv::project));
  m.impl("random_start", TORCH_BOX(&fastadv::random_start));
}
