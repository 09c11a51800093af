// mix and mix_backward: arguments, checks and output. A backend brings `mix_samples` and `gather_samples`.
#pragma once

#include "../tensor.h"

namespace fastadv {

// The factors of a sample and its partner.
template <class A>
class Shares {
 public:
  Shares(double lam, const std::optional<Tensor>& lam_n, const Tensor& x)
      : own_("lam_n", lam, lam_n, x), rest_(static_cast<A>(1 - lam)) {}

  FASTADV_INLINE A own(int64_t sample) const { return own_[sample]; }

  // Of one number for all, the difference is rounded once, as where Python takes it.
  FASTADV_INLINE A partner(int64_t sample) const { return own_.varies() ? 1 - own_[sample] : rest_; }

 private:
  PerSample<A> own_;
  A rest_;
};

template <class T, class A>
struct Mixture {
  const T* x;                  // [N, D], or for the backward pass the incoming gradient
  T* out;                      // [N, D]
  const int64_t* permutation;  // [N]
  Shares<A> shares;
  int64_t samples;  // N
  int64_t size;     // D
};

// Calls `f(mixture)` unless there is nothing to mix, and returns the output.
template <class F>
Tensor with_mixture(const Tensor& x, double lam, const Tensor& permutation, const std::optional<Tensor>& lam_n,
                    const F& f) {
  const Samples shape(x);
  require_beside(x, permutation, "permutation");
  require(permutation.scalar_type() == ScalarType::Long && permutation.is_contiguous() && permutation.dim() == 1 &&
              permutation.size(0) == shape.samples,
          "expected a contiguous int64 permutation [N]");
  require_indices("permutation", data<int64_t>(permutation), shape.samples, 0, shape.samples);
  Tensor out = empty_as(x);
  with_dtype(x.scalar_type(), [&]<class T, class A>() {
    const Mixture<T, A> mixture{data<T>(x),
                                mutable_data<T>(out),
                                data<int64_t>(permutation),
                                Shares<A>(lam, lam_n, x),
                                shape.samples,
                                shape.size};
    if (shape.samples * shape.size > 0) f(mixture);
  });
  return out;
}

namespace {

template <class T, class A>
void mix_samples(const Mixture<T, A>& mixture, const Tensor& like);

template <class T, class A>
void gather_samples(const Mixture<T, A>& mixture, const Tensor& like);

}  // namespace

inline Tensor mix(const Tensor& x, double lam, const Tensor& permutation, const std::optional<Tensor>& lam_n) {
  return with_mixture(x, lam, permutation, lam_n, [&](const auto& mixture) { mix_samples(mixture, x); });
}

inline Tensor mix_backward(const Tensor& grad, double lam, const Tensor& permutation,
                           const std::optional<Tensor>& lam_n) {
  return with_mixture(grad, lam, permutation, lam_n, [&](const auto& mixture) { gather_samples(mixture, grad); });
}

}  // namespace fastadv
