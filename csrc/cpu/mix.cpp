// mix and its backward pass. Results are promised to the bit: no product is rounded into a sum.
#include <vector>

#include "../common/mix.h"
#include "tensor.h"

namespace fastadv {
namespace {

template <class T, class A>
FASTADV_CLONES FASTADV_EXACT void mix_samples(const T* x, Shares<A> shares, const int64_t* permutation, T* out,
                                              int64_t size, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const A own = shares.own(n), partner = shares.partner(n);
    const T *xn = x + n * size, *pn = x + permutation[n] * size;
    T* on = out + n * size;
    for (int64_t i = 0; i < size; ++i) {
      on[i] = static_cast<T>(own * static_cast<A>(xn[i]) + partner * static_cast<A>(pn[i]));
    }
  }
}

Tensor mix(const Tensor& x, double lam, const Tensor& permutation, const std::optional<Tensor>& lam_n) {
  const Samples shape(x);
  require_permutation(permutation, shape.samples);
  const int64_t* partners = data<int64_t>(permutation);
  require_indices("permutation", partners, shape.samples, shape.samples);
  Tensor out = empty_as(x);
  with_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Shares<A> shares(lam, lam_n, shape.samples);
    const T* samples = data<T>(x);
    T* result = mutable_data<T>(out);
    parallel(shape.samples, shape.size, [&](int64_t begin, int64_t end) {
      mix_samples<T, A>(samples, shares, partners, result, shape.size, begin, end);
    });
  });
  return out;
}

// For each sample the samples that were mixed with it, in order: those of sample n are at first[n] to first[n + 1].
struct Mixed {
  std::vector<int64_t> first;
  std::vector<int64_t> samples;

  Mixed(const int64_t* permutation, int64_t count) : first(count + 2), samples(count) {
    for (int64_t n = 0; n < count; ++n) ++first[permutation[n] + 2];
    for (int64_t n = 0; n < count; ++n) first[n + 2] += first[n + 1];
    for (int64_t n = 0; n < count; ++n) samples[first[permutation[n] + 1]++] = n;
  }
};

template <class T, class A>
FASTADV_CLONES FASTADV_EXACT void gather_samples(const T* grad, Shares<A> shares, const Mixed& mixed, T* out, A* total,
                                                 int64_t size, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) {
    const A own = shares.own(n);
    const T* gn = grad + n * size;
    for (int64_t i = 0; i < size; ++i) total[i] = own * static_cast<A>(gn[i]);
    for (int64_t k = mixed.first[n]; k < mixed.first[n + 1]; ++k) {
      const A partner = shares.partner(mixed.samples[k]);
      const T* gk = grad + mixed.samples[k] * size;
      for (int64_t i = 0; i < size; ++i) total[i] += partner * static_cast<A>(gk[i]);
    }
    T* on = out + n * size;
    for (int64_t i = 0; i < size; ++i) on[i] = static_cast<T>(total[i]);
  }
}

Tensor mix_backward(const Tensor& grad, double lam, const Tensor& permutation, const std::optional<Tensor>& lam_n) {
  const Samples shape(grad);
  require_permutation(permutation, shape.samples);
  const int64_t* partners = data<int64_t>(permutation);
  require_indices("permutation", partners, shape.samples, shape.samples);
  const Mixed mixed(partners, shape.samples);
  Tensor out = empty_as(grad);
  with_type(grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Shares<A> shares(lam, lam_n, shape.samples);
    const T* incoming = data<T>(grad);
    T* result = mutable_data<T>(out);
    parallel(shape.samples, 2 * shape.size, [&](int64_t begin, int64_t end) {
      gather_samples<T, A>(incoming, shares, mixed, result, scratch<A>(shape.size), shape.size, begin, end);
    });
  });
  return out;
}

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("mix", TORCH_BOX(&fastadv::mix));
  m.impl("mix_backward", TORCH_BOX(&fastadv::mix_backward));
}
