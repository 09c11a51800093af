// mix and its backward pass. A block takes a part of a sample, a thread 16 bytes of the result. mix reads them and the
// partner's and writes the result. Its backward pass looks through the permutation for the samples that were mixed with
// its own, in order, so that an index taken twice is added up in one fixed order and without atomics: one search by the
// whole block for each, and one that finds no more.
#include <limits>

#include "../common/mix.h"
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

// A batch of `samples` runs of `size` elements, each in `parts`, and where in a sample a thread begins.
struct Parts {
  int64_t samples;
  int64_t size;
  int64_t parts;

  DEVICE int64_t sample() const { return blockIdx.x / parts; }
  template <int kWidth>
  DEVICE int64_t first() const {
    return (blockIdx.x % parts * blockDim.x + threadIdx.x) * kWidth;
  }
};

template <int kWidth, class T, class A>
KERNEL mix_elements(const T* x, Shares<A> shares, const int64_t* permutation, T* out, Parts batch) {
  const int64_t n = batch.sample(), first = batch.first<kWidth>();
  if (first >= batch.size) return;
  const int64_t index = permutation[n];
  const bool valid = index >= 0 && index < batch.samples;
  const A own = shares.own(n), rest = shares.partner(n);
  A mixed[kWidth], partner[kWidth];
  load(x + n * batch.size + first, mixed);
  load(x + (valid ? index : 0) * batch.size + first, partner);
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    mixed[e] = valid ? own * mixed[e] + rest * partner[e] : std::numeric_limits<A>::quiet_NaN();
  }
  store(out + n * batch.size + first, mixed);
}

// The next sample from `begin` on that was mixed with `sample`; `samples` where there is none.
DEVICE int64_t next_mixed(const int64_t* permutation, int64_t sample, int64_t begin, int64_t samples) {
  int64_t n = begin + threadIdx.x;
  while (n < samples && permutation[n] != sample) n += blockDim.x;
  return combined<Smaller>(BlockTeam(), n < samples ? n : samples);
}

template <int kWidth, class T, class A>
KERNEL gather_elements(const T* grad, Shares<A> shares, const int64_t* permutation, T* out, Parts batch) {
  const int64_t own = batch.sample(), first = batch.first<kWidth>();
  // Threads past the end search with the others.
  const bool inside = first < batch.size;
  A total[kWidth] = {};
  if (inside) load(grad + own * batch.size + first, total);
#pragma unroll
  for (int e = 0; e < kWidth; ++e) total[e] *= shares.own(own);
  for (int64_t n = -1; (n = next_mixed(permutation, own, n + 1, batch.samples)) < batch.samples;) {
    const A rest = shares.partner(n);
    A incoming[kWidth] = {};
    if (inside) load(grad + n * batch.size + first, incoming);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) total[e] += rest * incoming[e];
  }
  if (inside) store(out + own * batch.size + first, total);
}

template <bool kBackward>
Tensor launch(const Tensor& x, double lam, const Tensor& permutation, const std::optional<Tensor>& lam_n) {
  const Samples shape(x);
  require_permutation(permutation, shape.samples);
  const Device device(x);
  Tensor out = empty_as(x);
  if (shape.samples * shape.size == 0) return out;
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Shares<A> shares(lam, lam_n, shape.samples);
    const int64_t* partners = data<int64_t>(permutation);
    const T* from = data<T>(x);
    T* result = mutable_data<T>(out);
    with_width<T>(shape.size % kVector<T> == 0 && aligned<kVector<T>>(from, result), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const int64_t runs = shape.size / kWidth;
      const int threads = block_threads(runs < kThreads ? runs : kThreads);
      const Parts batch{shape.samples, shape.size, divide_up(runs, threads)};
      const int64_t blocks = batch.samples * batch.parts;
      if constexpr (kBackward) {
        LAUNCH((gather_elements<kWidth, T, A>), blocks, threads, device, from, shares, partners, result, batch);
      } else {
        LAUNCH((mix_elements<kWidth, T, A>), blocks, threads, device, from, shares, partners, result, batch);
      }
    });
  });
  return out;
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("mix", TORCH_BOX(&fastadv::launch<false>));
  m.impl("mix_backward", TORCH_BOX(&fastadv::launch<true>));
}
