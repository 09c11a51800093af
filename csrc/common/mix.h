// What mix multiplies a sample and its partner with.
#pragma once

#include "tensor.h"

namespace fastadv {

template <class A>
class Shares {
 public:
  Shares(double lam, const std::optional<Tensor>& lam_n, int64_t samples)
      : own_(lam, lam_n, samples), rest_(static_cast<A>(1 - lam)) {}

  FASTADV_INLINE A own(int64_t sample) const { return own_[sample]; }

  // Of one number for all, the difference is rounded once, as where Python takes it.
  FASTADV_INLINE A partner(int64_t sample) const { return own_.varies() ? 1 - own_[sample] : rest_; }

 private:
  PerSample<A> own_;
  A rest_;
};

inline void require_permutation(const Tensor& permutation, int64_t samples) {
  require(permutation.scalar_type() == ScalarType::Long && permutation.is_contiguous() && permutation.dim() == 1 &&
              permutation.size(0) == samples,
          "expected a contiguous int64 permutation [N]");
}

}  // namespace fastadv
