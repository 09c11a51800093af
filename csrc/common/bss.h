// The per-sample arguments of bss_step: which samples still move, and how far.
#pragma once

#include "tensor.h"

namespace fastadv {

template <class A>
class Boundary {
 public:
  Boundary(const Tensor& gap, const Tensor& active, double step_size, const std::optional<Tensor>& step_size_n,
           int64_t samples)
      : gap_(data<A>(gap)), active_(data<bool>(active)), step_size_(step_size, step_size_n, samples) {
    constexpr ScalarType expected = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
    require(gap.scalar_type() == expected && gap.is_contiguous() && gap.numel() == samples,
            "expected gaps [N] in the accumulation precision");
    require(active.scalar_type() == ScalarType::Bool && active.is_contiguous() && active.numel() == samples,
            "expected contiguous bool active [N]");
  }

  FASTADV_INLINE bool active(int64_t sample) const { return active_[sample]; }

  // A little further than the boundary seems to be, so that the step ends beyond it.
  FASTADV_INLINE A length(int64_t sample) const { return step_size_[sample] * (gap_[sample] + A(1e-4)); }

 private:
  const A* gap_;
  const bool* active_;
  PerSample<A> step_size_;
};

}  // namespace fastadv
