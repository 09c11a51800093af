// mix and its backward pass. A thread takes 16 bytes of the result. mix reads a sample and its partner and writes the
// result; its backward pass looks through the permutation for the samples that were mixed with its own, in order, so
// that an index taken twice is added up in one fixed order and without atomics.
#include "../common/mix.h"

#include "memory.h"

#include <limits>

namespace fastadv {
namespace {

constexpr int kThreads = 256;

// What a thread takes of a batch of `samples` runs of `size` elements.
struct Place {
  int64_t sample;
  int64_t at;

  DEVICE Place(int64_t first, int64_t size) : sample(first / size), at(first % size) {}
};

template <int kWidth, class T, class A>
KERNEL mix_elements(const T* x, Shares<A> shares, const int64_t* permutation, T* out, int64_t samples, int64_t size) {
  const int64_t first = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kWidth;
  if (first >= samples * size) return;
  const Place place(first, size);
  const int64_t index = permutation[place.sample];
  const bool valid = index >= 0 && index < samples;
  const A own = shares.own(place.sample), rest = shares.partner(place.sample);
  A mixed[kWidth], partner[kWidth];
  load(x + first, mixed);
  load(x + (valid ? index : 0) * size + place.at, partner);
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    mixed[e] = valid ? own * mixed[e] + rest * partner[e] : std::numeric_limits<A>::quiet_NaN();
  }
  store(out + first, mixed);
}

template <int kWidth, class T, class A>
KERNEL gather_elements(const T* grad, Shares<A> shares, const int64_t* permutation, T* out, int64_t samples,
                       int64_t size) {
  const int64_t first = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kWidth;
  if (first >= samples * size) return;
  const Place place(first, size);
  A total[kWidth];
  load(grad + first, total);
#pragma unroll
  for (int e = 0; e < kWidth; ++e) total[e] *= shares.own(place.sample);
  for (int64_t n = 0; n < samples; ++n) {
    if (permutation[n] != place.sample) continue;
    const A rest = shares.partner(n);
    A incoming[kWidth];
    load(grad + n * size + place.at, incoming);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) total[e] += rest * incoming[e];
  }
  store(out + first, total);
}

Tensor mix(const Tensor& x, double lam, const std::optional<Tensor>& lam_n, const Tensor& permutation) {
  const Samples shape(x);
  require_permutation(permutation, shape.samples);
  const Device device(x);
  Tensor out = empty_as(x);
  const int64_t total = shape.samples * shape.size;
  if (total == 0) return out;
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Shares<A> shares(lam, lam_n, shape.samples);
    const T* samples = data<T>(x);
    T* result = mutable_data<T>(out);
    with_width<T>(shape.size % kVector<T> == 0 && aligned<kVector<T>>(samples, result), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      LAUNCH((mix_elements<kWidth, T, A>), divide_up(total, kWidth * kThreads), kThreads, device, samples, shares,
             data<int64_t>(permutation), result, shape.samples, shape.size);
    });
  });
  return out;
}

Tensor mix_backward(const Tensor& grad, double lam, const std::optional<Tensor>& lam_n, const Tensor& permutation) {
  const Samples shape(grad);
  require_permutation(permutation, shape.samples);
  const Device device(grad);
  Tensor out = empty_as(grad);
  const int64_t total = shape.samples * shape.size;
  if (total == 0) return out;
  with_type(grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Shares<A> shares(lam, lam_n, shape.samples);
    const T* incoming = data<T>(grad);
    T* result = mutable_data<T>(out);
    with_width<T>(shape.size % kVector<T> == 0 && aligned<kVector<T>>(incoming, result), [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      LAUNCH((gather_elements<kWidth, T, A>), divide_up(total, kWidth * kThreads), kThreads, device, incoming, shares,
             data<int64_t>(permutation), result, shape.samples, shape.size);
    });
  });
  return out;
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("mix", TORCH_BOX(&fastadv::mix));
  m.impl("mix_backward", TORCH_BOX(&fastadv::mix_backward));
}
