// mix and mix_backward in CUDA; their front: ../common/ops/mix.h. A block takes a part of a sample, a thread 16 bytes
// of the result. mix reads them and the partner's and writes the result. Its backward pass is a second launch: the
// first finds for each sample the samples that were mixed with it, in order, so that an index taken twice is added up
// in one fixed order and without atomics. It reads all N indices in each of N / 32 blocks, from a cache: little for the
// batches of a training, most of the time for 10^5 samples and more.
#include "../common/ops/mix.h"

#include <limits>

#include "block.h"
#include "memory.h"

namespace fastadv {
namespace {

constexpr int kThreads = 256;

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

// The samples that were mixed with each one: the first of them and, after each, the next; N where there is no more.
struct Mixed {
  int64_t* first;  // [N]
  int64_t* next;   // [N]
};

// Indices that a lane reads at once.
constexpr int kIndices = 8;

// A block finds what was mixed with kWarp samples, lane l of each of its warps with the l-th. The warps share out the
// permutation, `part` indices each; what they found is joined in their order. An index that is none belongs to nobody.
KERNEL_FOR(kThreads) find_mixed(const int64_t* permutation /* [N] */, int64_t samples, int64_t part, Mixed mixed) {
  constexpr int kWarps = kThreads / kWarp;
  SHARED_ARRAY(int64_t, first_found, kWarps * kWarp);
  SHARED_ARRAY(int64_t, last_found, kWarps * kWarp);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t begin = warp * part, end = begin + part < samples ? begin + part : samples;
  const int64_t own = int64_t{blockIdx.x} * kWarp + lane;
  int64_t first = -1, last = -1;
  for (int64_t at = begin; at < end; at += kIndices * kWarp) {
    int64_t index[kIndices];
#pragma unroll
    for (int k = 0; k < kIndices; ++k) {
      const int64_t n = at + k * kWarp + lane;
      index[k] = n < end ? permutation[n] : -1;
    }
#pragma unroll
    for (int k = 0; k < kIndices; ++k) {
      const bool hit = index[k] >= own - lane && index[k] < own - lane + kWarp;
      const unsigned hits = __ballot_sync(kAllLanes, hit);
      // Hits are few.
#pragma unroll 1
      for (int source = 0; source < kWarp && hits >> source > 0; ++source) {
        if (!(hits >> source & 1) || __shfl_sync(kAllLanes, index[k], source) != own) continue;
        const int64_t n = at + k * kWarp + source;
        if (last < 0) {
          first = n;
        } else {
          mixed.next[last] = n;
        }
        last = n;
      }
    }
  }
  first_found[threadIdx.x] = first;
  last_found[threadIdx.x] = last;
  __syncthreads();
  if (warp > 0 || own >= samples) return;
  last = -1;
  for (int other = 0; other < kWarps; ++other) {
    const int64_t found = first_found[other * kWarp + lane];
    if (found < 0) continue;
    (last < 0 ? mixed.first[own] : mixed.next[last]) = found;
    last = last_found[other * kWarp + lane];
  }
  (last < 0 ? mixed.first[own] : mixed.next[last]) = samples;
}

template <int kWidth, class T, class A>
KERNEL gather_elements(Mixture<T, A> mixture, Parts parts, Mixed mixed) {
  const int64_t own = parts.sample(), first = parts.first<kWidth>(), size = mixture.size;
  if (first >= size) return;
  A total[kWidth];
  load(mixture.x + own * size + first, total);
#pragma unroll
  for (int e = 0; e < kWidth; ++e) total[e] *= mixture.shares.own(own);
  for (int64_t n = mixed.first[own]; n < mixture.samples; n = mixed.next[n]) {
    const A rest = mixture.shares.partner(n);
    A incoming[kWidth];
    load(mixture.x + n * size + first, incoming);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) total[e] += rest * incoming[e];
  }
  store(mixture.out + own * size + first, total);
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
      const Tensor room = empty_vector(like, 2 * mixture.samples, ScalarType::Long);
      int64_t* const first = mutable_data<int64_t>(room);
      const Mixed mixed{first, first + mixture.samples};
      const int64_t part = divide_up(mixture.samples, kThreads / kWarp);
      const int64_t searches = divide_up(mixture.samples, kWarp);
      LAUNCH(find_mixed, searches, kThreads, device, mixture.permutation, mixture.samples, part, mixed);
      LAUNCH((gather_elements<kWidth, T, A>), blocks, threads, device, mixture, parts, mixed);
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
