// The losses over softmax rows share one skeleton: convert the rows, one functor a loss for value and gradients of a row,
// then weight, scale and reduction.
//
// A functor has
//   template <class A> A row(const A* const* logits, int64_t classes, int64_t row, A* const* grads, A* buffer) const
// which returns the row's loss and writes each gradient whose pointer is not null; the buffer has room for two rows.
#pragma once

#include <array>
#include <limits>
#include <tuple>

#include "tensor.h"

namespace fastadv {

struct Reduction {
  const std::optional<Tensor>& weight;
  double scale;
  bool reduce;
};

// exp((x - largest) / temperature) into `out`, and the sum of it.
template <class A>
struct Softmax {
  A largest;
  A total;

  FASTADV_INLINE Softmax(const A* x, int64_t classes, A inverse_temperature, A* out) {
    largest = maximum<A>(classes, [&](int64_t c) FASTADV_LAMBDA { return x[c]; });
    const A shift = largest;
    total = sum<A>(classes, [&](int64_t c) FASTADV_LAMBDA {
      const A e = exp_nonpositive((x[c] - shift) * inverse_temperature);
      out[c] = e;
      return e;
    });
  }
};

namespace detail {

// Rows are copied to whole registers, filled up with -inf, so that no loop over classes has a scalar tail; the gradients
// are written there too and leave with the factor applied.
template <class A>
constexpr int64_t padded(int64_t classes) {
  return (classes + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

template <class Loss, class T, class A, size_t K>
FASTADV_CLONES void rows(Loss loss, std::array<const T*, K> inputs, std::array<A*, K> grads, A* values, int64_t classes,
                         PerSample<A> weight, A scale, A* buffer, int64_t begin, int64_t end) {
  const int64_t width = padded<A>(classes);
  const A* row[K];
  A* grad[K];
  for (size_t k = 0; k < K; ++k) {
    row[k] = buffer + k * width;
    grad[k] = grads[k] ? buffer + (K + k) * width : nullptr;
    for (int64_t c = classes; c < width; ++c) buffer[k * width + c] = -std::numeric_limits<A>::infinity();
  }
  for (int64_t n = begin; n < end; ++n) {
    for (size_t k = 0; k < K; ++k) {
      const T* x = inputs[k] + n * classes;
      A* copy = buffer + k * width;
      for (int64_t c = 0; c < classes; ++c) copy[c] = static_cast<A>(x[c]);
    }
    const A factor = scale * weight[n];
    values[n] = factor * loss.row(row, width, n, grad, buffer + 2 * K * width);
    for (size_t k = 0; k < K; ++k) {
      if (!grad[k]) continue;
      const A* g = grad[k];
      A* out = grads[k] + n * classes;
      for (int64_t c = 0; c < classes; ++c) out[c] = factor * g[c];
    }
  }
}

}  // namespace detail

// The loss and, for each input, its gradient where wanted, else an empty tensor.
template <class Loss, size_t K>
std::array<Tensor, K + 1> softmax_rows(const Loss& loss, const std::array<const Tensor*, K>& inputs,
                                       const Reduction& how, const std::array<bool, K>& wanted) {
  const Tensor& first = *inputs[0];
  require(first.dim() == 2 && first.size(1) > 0, "expected logits [N, C] with C > 0");
  const int64_t samples = first.size(0), classes = first.size(1);
  for (const Tensor* x : inputs) {
    require_alike(first, *x);
    require(x->is_contiguous(), "expected contiguous logits");
  }
  const ScalarType dtype = accumulated(first.scalar_type());
  std::array<Tensor, K + 1> results;
  results[0] = how.reduce ? empty_scalar(first, dtype) : empty_vector(first, samples, dtype);
  for (size_t k = 0; k < K; ++k) {
    results[k + 1] = wanted[k] ? empty(first, first.sizes().data(), first.strides().data(), 2, dtype)
                               : empty_vector(first, 0, dtype);
  }
  with_type(first.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    std::array<const T*, K> x;
    std::array<A*, K> grads;
    for (size_t k = 0; k < K; ++k) {
      x[k] = data<T>(*inputs[k]);
      grads[k] = wanted[k] ? mutable_data<A>(results[k + 1]) : nullptr;
    }
    const PerSample<A> weight(1.0, how.weight, samples);
    A* result = mutable_data<A>(results[0]);
    std::vector<A> summands(how.reduce ? samples : 0);
    A* value = how.reduce ? summands.data() : result;
    parallel(samples, 4 * classes, [&](int64_t begin, int64_t end) {
      // Of the last, two rows are the loss's own.
      A* buffer = scratch<A>((2 * K + 2) * detail::padded<A>(classes));
      detail::rows<Loss, T, A, K>(loss, x, grads, value, classes, weight, static_cast<A>(how.scale), buffer, begin, end);
    });
    if (how.reduce) {
      // In order, so that the sum does not depend on the number of threads; the mean of nothing, whose scale is NaN, is NaN.
      double total = 0 * how.scale;
      for (const A summand : summands) total += summand;
      *result = static_cast<A>(total);
    }
  });
  return results;
}

// Class indices [N]; their values are checked here, where a pass over them costs nothing.
class Targets {
 public:
  Targets(const Tensor& target, const Tensor& logits) : classes_(data<int64_t>(target)) {
    require(target.scalar_type() == ScalarType::Long && target.is_contiguous() && target.dim() == 1 &&
                target.size(0) == logits.size(0),
            "expected a contiguous int64 target [N]");
    require_indices("target", classes_, target.size(0), logits.size(1));
  }

  int64_t operator[](int64_t sample) const { return classes_[sample]; }

 private:
  const int64_t* classes_;
};

// Cross-entropy of one row at temperature 1; softmax - onehot into `grad` where it is not null.
template <class A>
FASTADV_INLINE A cross_entropy(const A* x, int64_t classes, int64_t target, A* grad, A* buffer) {
  A* e = grad ? grad : buffer;
  const Softmax<A> softmax(x, classes, A(1), e);
  if (grad) {
    const A inverse = 1 / softmax.total;
    for (int64_t c = 0; c < classes; ++c) grad[c] *= inverse;
    grad[target] -= 1;
  }
  return std::log(softmax.total) - (x[target] - softmax.largest);
}

// Log-odds of the target, and the softmax over the other classes alone into `out`, 0 at the target.
template <class A>
struct TargetAndOthers {
  A odds;
  A largest;
  A log_total;

  FASTADV_INLINE TargetAndOthers(const A* x, int64_t classes, int64_t target, A inverse_temperature, A* out) {
    const A missing = -std::numeric_limits<A>::infinity();
    largest = maximum<A>(classes, [&](int64_t c) FASTADV_LAMBDA { return c == target ? missing : x[c]; });
    const A shift = largest;
    const A total = sum<A>(classes, [&](int64_t c) FASTADV_LAMBDA {
      const A e = c == target ? A(0) : exp_nonpositive((x[c] - shift) * inverse_temperature);
      out[c] = e;
      return e;
    });
    const A inverse_total = 1 / total;
    for (int64_t c = 0; c < classes; ++c) out[c] *= inverse_total;
    log_total = std::log(total);
    odds = (x[target] - largest) * inverse_temperature - log_total;
  }
};

// log(1 / (1 + exp(-x))) without overflow.
template <class A>
FASTADV_INLINE A log_sigmoid(A x) {
  return (x < 0 ? x : A(0)) - std::log1p(std::exp(-absolute(x)));
}

// T^2 KL(softmax(t / T) || softmax(s / T)) of one row, with its gradients by s and t where they are wanted.
template <class A>
FASTADV_INLINE A distillation(const A* s, const A* t, int64_t classes, A temperature, A* s_grad, A* t_grad, A* buffer) {
  const A inverse = 1 / temperature;
  A* q = s_grad ? s_grad : buffer;
  A* p = t_grad ? t_grad : buffer + classes;
  const Softmax<A> student(s, classes, inverse, q);
  const Softmax<A> teacher(t, classes, inverse, p);
  const A log_ratio = std::log(student.total) - std::log(teacher.total);
  // log p - log q of a class; where p is 0 it may be undefined and must not count.
  const auto surprise = [&](int64_t c) FASTADV_LAMBDA {
    return ((t[c] - teacher.largest) - (s[c] - student.largest)) * inverse + log_ratio;
  };
  const A kl = sum<A>(classes, [&](int64_t c) FASTADV_LAMBDA { return p[c] == 0 ? A(0) : p[c] * surprise(c); }) /
               teacher.total;
  const A p_scale = temperature / teacher.total, q_scale = temperature / student.total;
  if (s_grad) {
    for (int64_t c = 0; c < classes; ++c) s_grad[c] = q_scale * q[c] - p_scale * p[c];
  }
  if (t_grad) {
    for (int64_t c = 0; c < classes; ++c) t_grad[c] = p[c] == 0 ? A(0) : p_scale * p[c] * (surprise(c) - kl);
  }
  return temperature * temperature * kl;
}

}  // namespace fastadv
