// svgd_step: arguments, checks and output. A backend brings `move_particles`.
#pragma once

#include <limits>

#include "../ball.h"
#include "../tensor.h"

namespace fastadv {

// N images of n particles of D elements each.
struct Particles {
  int64_t images;  // N
  int64_t count;   // n
  int64_t size;    // D

  Particles(const Tensor& particles, const Tensor& score, const Tensor& x0) {
    require_alike(particles, score);
    require_beside(particles, x0, "x0");
    require(particles.is_contiguous() && x0.is_contiguous() && particles.dim() >= 3, "expected contiguous tensors");
    require(x0.scalar_type() == particles.scalar_type(), "expected tensors of one dtype");
    images = particles.size(0);
    count = particles.size(1);
    require(x0.dim() == particles.dim() - 1 && x0.size(0) == images && x0.numel() * count == particles.numel(),
            "expected x0 [N, ...] for particles [N, n, ...]");
    size = images ? x0.numel() / images : 0;
  }
};

// Whether sums of squares of this size have lost nothing that counts to underflow, and nothing to overflow.
template <class A>
FASTADV_INLINE bool keeps_its_digits(A squares) {
  constexpr A kSafe = sizeof(A) == 4 ? A(1e-30) : A(1e-280);
  return squares > kSafe && squares < 1 / kSafe;
}

// The power of two that brings a number near 1 and is no subnormal number; 1 of zero, infinity and NaN.
template <class A>
FASTADV_INLINE A to_one(A number) {
  using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
  constexpr int kMantissa = std::numeric_limits<A>::digits - 1;
  constexpr Bits kMost = (Bits{1} << (8 * sizeof(A) - 1 - kMantissa)) - 1;
  if (!(number > 0) || number == std::numeric_limits<A>::infinity()) return 1;
  // With their bias, the exponents of a power of two and of its inverse add up to kMost - 1.
  const Bits exponent = kMost - 1 - (bits<Bits>(number) >> kMantissa);
  return bits<A>((exponent > 1 ? exponent : Bits{1}) << kMantissa);
}

// The nearest finite number: of scores that are all but zero the scale would be infinite.
template <class A>
FASTADV_INLINE A finite(double number) {
  constexpr double kMost = std::numeric_limits<A>::max();
  return static_cast<A>(number < kMost ? number : kMost);
}

enum class Update : int64_t { kSign = 0, kL2 = 1, kRaw = 2 };

// The choices of a Stein step.
template <class A>
struct Stein {
  A bandwidth;  // 0: the median rule
  A score_scale;
  bool equal_rms;
  Update update;

  Stein(std::optional<double> bandwidth, std::optional<double> score_scale, int64_t update)
      : bandwidth(static_cast<A>(bandwidth.value_or(0))),
        score_scale(static_cast<A>(score_scale.value_or(1))),
        equal_rms(!score_scale.has_value()),
        update(static_cast<Update>(update)) {
    require(update >= 0 && update <= 2, "update must be 0 (sign), 1 (l2) or 2 (raw)");
  }
};

template <class T, class A>
struct SteinStep {
  const T* particles;      // [N, n, D]
  const T* score;          // [N, n, D]
  const T* x0;             // [N, D]
  T* out;                  // [N, n, D]
  PerSample<A> eps;        // [N]
  PerSample<A> step_size;  // [N]
  Ball<A> ball;            // with the radius of one image at a time
  Norm norm;
  Stein<A> stein;
  int64_t images;  // N
  int64_t count;   // n
  int64_t size;    // D

  // True where each coordinate moves without regard to the others.
  FASTADV_INLINE bool by_coordinate() const { return norm == Norm::kLinf && stein.update != Update::kL2; }
};

namespace {

template <class T, class A>
void move_particles(const SteinStep<T, A>& step, const Tensor& like);

}  // namespace

inline Tensor svgd_step(const Tensor& particles, const Tensor& score, const Tensor& x0, double eps, double step_size,
                        int64_t norm, double low, double high, std::optional<double> bandwidth, int64_t update,
                        std::optional<double> score_scale, const std::optional<Tensor>& eps_n,
                        const std::optional<Tensor>& step_size_n) {
  const Particles shape(particles, score, x0);
  Tensor out = empty_as(particles);
  with_dtype(particles.scalar_type(), [&]<class T, class A>() {
    const SteinStep<T, A> step{data<T>(particles),
                               data<T>(score),
                               data<T>(x0),
                               mutable_data<T>(out),
                               PerSample<A>("eps_n", eps, eps_n, particles),
                               PerSample<A>("step_size_n", step_size, step_size_n, particles),
                               {A(0), static_cast<A>(low), static_cast<A>(high), true},
                               norm_of_code(norm),
                               Stein<A>(bandwidth, score_scale, update),
                               shape.images,
                               shape.count,
                               shape.size};
    if (shape.images * shape.count * shape.size > 0) move_particles(step, particles);
  });
  return out;
}

}  // namespace fastadv
