// mix and mix_backward in CUDA; their front: ../common/ops/mix.h. A block takes a part of a sample, a thread 16 bytes
// of the result. mix reads them and the partner's and writes the result. Its backward pass looks through the
// permutation for the samples that were mixed with its own, in order, so that an index taken twice is added up in one
// fixed order and without atomics: one search by the whole block for each, and one that finds no more.
#include "../common/ops/mix.h"

#include <limits>

#include "block.h"
#include "memory.h"

namespace fastadv {
namespace {

constexpr int kThreads = 256;

struct Smaller {
  template <class A>
  DEVICE A operator()(A a, A b) const {
    return b < a ? b : a;
  }
};

// A sample is taken in parts, a block each: which sample a block has, and where in it a thread begins.
struct Parts {
  int64_t parts;

  DEVICE int64_t sample() const { return blockIdx.x / parts; }
  template <int kWidth>
  DEVICE int64_t first() const {
    return (blockIdx.x % parts * blockDim.x + threadIdx.x) * kWidth;
  }
};

template <int kWidth, class T, class A>
KERNEL mix_elements(Mixture<T, A> mixture, Parts parts) {
  const int64_t n = parts.sample(), first = parts.first<kWidth>();
  if (first >= mixture.size) return;
  const int64_t index = mixture.permutation[n];
  const bool valid = index >= 0 && index < mixture.samples;
  const A own = mixture.shares.own(n), rest = mixture.shares.partner(n);
  A mixed[kWidth], partner[kWidth];
  load(mixture.x + n * mixture.size + first, mixed);
  load(mixture.x + (valid ? index : 0) * mixture.size + first, partner);
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    mixed[e] = valid ? own * mixed[e] + rest * partner[e] : std::numeric_limits<A>::quiet_NaN();
  }
  store(mixture.out + n * mixture.size + first, mixed);
}

// The next sample from `begin` on that was mixed with `sample`; `samples` where there is none.
DEVICE int64_t next_mixed(const int64_t* permutation /* [N] */, int64_t sample, int64_t begin, int64_t samples) {
  int64_t n = begin + threadIdx.x;
  while (n < samples && permutation[n] != sample) n += blockDim.x;
  return combined<Smaller>(BlockTeam(), n < samples ? n : samples);
}

template <int kWidth, class T, class A>
KERNEL gather_elements(Mixture<T, A> mixture, Parts parts) {
  const int64_t own = parts.sample(), first = parts.first<kWidth>(), size = mixture.size;
  // Threads past the end search with the others.
  const bool inside = first < size;
  A total[kWidth] = {};
  if (inside) load(mixture.x + own * size + first, total);
#pragma unroll
  for (int e = 0; e < kWidth; ++e) total[e] *= mixture.shares.own(own);
  for (int64_t n = -1; (n = next_mixed(mixture.permutation, own, n + 1, mixture.samples)) < mixture.samples;) {
    const A rest = mixture.shares.partner(n);
    A incoming[kWidth] = {};
    if (inside) load(mixture.x + n * size + first, incoming);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) total[e] += rest * incoming[e];
  }
  if (inside) store(mixture.out + own * size + first, total);
}

template <bool kBackward, class T, class A>
void launch(const Mixture<T, A>& mixture, const Tensor& like) {
  const Device device(like);
  with_width<T>(mixture.size % kVector<T> == 0 && aligned<kVector<T>>(mixture.x, mixture.out), [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    const int64_t runs = mixture.size / kWidth;
    const int threads = block_threads(runs < kThreads ? runs : kThreads);
    const Parts parts{divide_up(runs, threads)};
    const int64_t blocks = mixture.samples * parts.parts;
    if constexpr (kBackward) {
      LAUNCH((gather_elements<kWidth, T, A>), blocks, threads, device, mixture, parts);
    } else {
      LAUNCH((mix_elements<kWidth, T, A>), blocks, threads, device, mixture, parts);
    }
  });
}

template <class T, class A>
void mix_samples(const Mixture<T, A>& mixture, const Tensor& like) {
  launch<false>(mixture, like);
}

template <class T, class A>
void gather_samples(const Mixture<T, A>& mixture, const Tensor& like) {
  launch<true>(mixture, like);
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("mix", TORCH_BOX(&fastadv::mix));
  m.impl("mix_backward", TORCH_BOX(&fastadv::mix_backward));
}
