// mix and mix_backward in C++; their front: ../common/ops/mix.h. Results are promised to the bit: no product is rounded
// into a sum.
#include "../common/ops/mix.h"

#include <vector>

#include "tensor.h"

namespace fastadv {
namespace {

template <class T, class A>
FASTADV_CLONES FASTADV_EXACT void mix_with_partners(Mixture<T, A> mixture, int64_t begin, int64_t end) {
  const int64_t size = mixture.size;
  for (int64_t n = begin; n < end; ++n) {
    const A own = mixture.shares.own(n), partner = mixture.shares.partner(n);
    const T *xn = mixture.x + n * size, *pn = mixture.x + mixture.permutation[n] * size;
    T* out = mixture.out + n * size;
    for (int64_t i = 0; i < size; ++i) {
      out[i] = static_cast<T>(own * static_cast<A>(xn[i]) + partner * static_cast<A>(pn[i]));
    }
  }
}

// For each sample the samples that were mixed with it, in order: those of sample n are at first[n] to first[n + 1].
struct Inverse {
  std::vector<int64_t> first;
  std::vector<int64_t> samples;

  Inverse(const int64_t* permutation, int64_t count) : first(count + 2), samples(count) {
    for (int64_t n = 0; n < count; ++n) ++first[permutation[n] + 2];
    for (int64_t n = 0; n < count; ++n) first[n + 2] += first[n + 1];
    for (int64_t n = 0; n < count; ++n) samples[first[permutation[n] + 1]++] = n;
  }
};

// `total`: room for D numbers.
template <class T, class A>
FASTADV_CLONES FASTADV_EXACT void gather_from_partners(Mixture<T, A> mixture, const Inverse& inverse, A* total,
                                                       int64_t begin, int64_t end) {
  const int64_t size = mixture.size;
  for (int64_t n = begin; n < end; ++n) {
    const A own = mixture.shares.own(n);
    const T* gn = mixture.x + n * size;
    for (int64_t i = 0; i < size; ++i) total[i] = own * static_cast<A>(gn[i]);
    for (int64_t k = inverse.first[n]; k < inverse.first[n + 1]; ++k) {
      const A partner = mixture.shares.partner(inverse.samples[k]);
      const T* gk = mixture.x + inverse.samples[k] * size;
      for (int64_t i = 0; i < size; ++i) total[i] += partner * static_cast<A>(gk[i]);
    }
    T* out = mixture.out + n * size;
    for (int64_t i = 0; i < size; ++i) out[i] = static_cast<T>(total[i]);
  }
}

template <class T, class A>
void mix_samples(const Mixture<T, A>& mixture, const Tensor&) {
  parallel(mixture.samples, mixture.size,
           [&](int64_t begin, int64_t end) { mix_with_partners<T, A>(mixture, begin, end); });
}

template <class T, class A>
void gather_samples(const Mixture<T, A>& mixture, const Tensor&) {
  const Inverse inverse(mixture.permutation, mixture.samples);
  parallel(mixture.samples, 2 * mixture.size, [&](int64_t begin, int64_t end) {
    gather_from_partners<T, A>(mixture, inverse, scratch<A>(mixture.size), begin, end);
  });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("mix", TORCH_BOX(&fastadv::mix));
  m.impl("mix_backward", TORCH_BOX(&fastadv::mix_backward));
}
