// The losses over softmax rows share one skeleton: convert the rows, one functor a loss for value and gradients of a
// block of rows, then weight, scale and reduction.
//
// A functor has
//   static constexpr int kSpare
//   template <class A>
//   void operator()(Block block, const A* const* logits, A* const* grads, PerRow<A>& loss, A* spare) const
// which sets the loss of each row and writes each gradient that is not null; `spare` is room for kSpare blocks.
#pragma once

#include <limits>

#include "loss.h"

namespace fastadv {

// Rows that are worked on together, all of them one step at a time: the sums and maxima of a row are chains of
// dependent operations, and those of the next rows fill the gaps. `first` is the index of the first row in the batch. A
// row is `width` numbers, whole registers, filled up with -inf, so that no loop over classes has a tail.
constexpr int64_t kBlockRows = 8;

struct Block {
  int64_t first;
  int64_t rows;
  int64_t width;

  // f(r) for each row; f(i) for each number of row r, `i` its index in the block.
  template <class F>
  FASTADV_INLINE void each_row(const F& f) const {
    for (int64_t r = 0; r < rows; ++r) f(r);
  }

  template <class F>
  FASTADV_INLINE void each_class(int64_t r, const F& f) const {
    const int64_t end = (r + 1) * width;
#pragma GCC ivdep
    for (int64_t i = r * width; i < end; ++i) f(i);
  }
};

// One number for each row of a block.
template <class A>
using PerRow = std::array<A, kBlockRows>;

template <class A>
FASTADV_INLINE PerRow<A> largest(Block block, const A* x) {
  PerRow<A> result{};
  block.each_row([&](int64_t r) FASTADV_LAMBDA { result[r] = maximum<A>(x + r * block.width, block.width); });
  return result;
}

// exp((x - largest) / temperature) into `out`, and the sum of it.
template <class A>
struct Softmax {
  PerRow<A> largest;
  PerRow<A> total{};

  FASTADV_INLINE Softmax(Block block, const A* x, A inverse_temperature, A* out, const PerRow<A>& known_largest)
      : largest(known_largest) {
    block.each_row([&](int64_t r) FASTADV_LAMBDA {
      const A shift = known_largest[r];
      block.each_class(r, [&](int64_t i) FASTADV_LAMBDA {
        out[i] = exp_nonpositive((x[i] - shift) * inverse_temperature);
      });
    });
    block.each_row([&](int64_t r) FASTADV_LAMBDA { total[r] = sum<A>(out + r * block.width, block.width); });
  }

  FASTADV_INLINE Softmax(Block block, const A* x, A inverse_temperature, A* out)
      : Softmax(block, x, inverse_temperature, out, fastadv::largest<A>(block, x)) {}
};

namespace detail {

template <class A>
constexpr int64_t padded(int64_t classes) {
  return (classes + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

// As many rows as stay in the first-level cache with all that is computed of them.
template <class A>
constexpr int64_t block_rows(int64_t width) {
  constexpr int64_t kNumbers = 4096 / sizeof(A);
  return width > kNumbers ? 1 : smaller(kNumbers / width, kBlockRows);
}

template <class Loss, class T, class A, size_t K>
FASTADV_CLONES void rows(Loss loss, Batch<T, A, K> batch, A* buffer, int64_t begin, int64_t end) {
  const int64_t classes = batch.size, width = padded<A>(classes);
  const int64_t at_once = block_rows<A>(width), room = at_once * width;
  const A* x[K];
  A* grad[K];
  for (size_t k = 0; k < K; ++k) {
    A* copy = buffer + k * room;
    x[k] = copy;
    grad[k] = batch.grad[k] ? buffer + (K + k) * room : nullptr;
    for (int64_t i = 0; i < room; ++i) copy[i] = -std::numeric_limits<A>::infinity();
  }
  for (int64_t first = begin; first < end; first += at_once) {
    const Block block{first, smaller(end - first, at_once), width};
    for (size_t k = 0; k < K; ++k) {
      A* copy = buffer + k * room;
      block.each_row([&](int64_t r) FASTADV_LAMBDA {
        const T* row = batch.x[k] + (first + r) * classes;
#pragma GCC ivdep
        for (int64_t c = 0; c < classes; ++c) copy[r * width + c] = static_cast<A>(row[c]);
      });
    }
    PerRow<A> value{}, factor{};
    loss(block, x, grad, value, buffer + 2 * K * room);
    block.each_row([&](int64_t r) FASTADV_LAMBDA {
      factor[r] = batch.factor(first + r);
      batch.value[first + r] = factor[r] * value[r];
    });
    for (size_t k = 0; k < K; ++k) {
      if (!grad[k]) continue;
      block.each_row([&](int64_t r) FASTADV_LAMBDA {
        const A* g = grad[k] + r * width;
        const A f = factor[r];
        A* out = batch.grad[k] + (first + r) * classes;
#pragma GCC ivdep
        for (int64_t c = 0; c < classes; ++c) out[c] = f * g[c];
      });
    }
  }
}

}  // namespace detail

// The loss and, for each input, its gradient where wanted, as a tuple.
template <class Loss, size_t K>
auto softmax_rows(const Loss& loss, const std::array<const Tensor*, K>& inputs, const Reduction& how,
                  const std::array<bool, K>& wanted) {
  const Tensor& first = *inputs[0];
  require(first.dim() == 2 && first.size(1) > 0, "expected logits [N, C] with C > 0");
  for (const Tensor* x : inputs) require(x->is_contiguous(), "expected contiguous logits");
  return evaluate<K>(inputs, how, wanted, 4 * first.size(1),
                     [&]<class T, class A>(const Batch<T, A, K>& batch, int64_t begin, int64_t end) {
                       const int64_t width = detail::padded<A>(batch.size);
                       A* buffer = scratch<A>((2 * K + Loss::kSpare) * detail::block_rows<A>(width) * width);
                       detail::rows<Loss, T, A, K>(loss, batch, buffer, begin, end);
                     });
}

// Class indices [N]; their values are checked here, where a pass over them costs nothing.
class Targets {
 public:
  Targets(const Tensor& target, const Tensor& logits, const char* name = "target") : classes_(data<int64_t>(target)) {
    require(target.scalar_type() == ScalarType::Long && target.is_contiguous() && target.dim() == 1 &&
                target.size(0) == logits.size(0),
            "expected contiguous int64 classes [N]");
    require_indices(name, classes_, target.size(0), logits.size(1));
  }

  int64_t operator[](int64_t sample) const { return classes_[sample]; }

 private:
  const int64_t* classes_;
};

// Cross-entropy at temperature 1 of rows whose largest logits are known; softmax - onehot into `grad`, if any.
template <class A>
FASTADV_INLINE PerRow<A> cross_entropy(Block block, const A* x, const Targets& target, const PerRow<A>& largest,
                                       A* grad, A* spare) {
  const Softmax<A> softmax(block, x, A(1), grad ? grad : spare, largest);
  PerRow<A> loss;
  for (int64_t r = 0; r < kBlockRows; ++r) loss[r] = log_positive(softmax.total[r]);
  block.each_row([&](int64_t r) FASTADV_LAMBDA {
    const int64_t hit = r * block.width + target[block.first + r];
    loss[r] -= x[hit] - largest[r];
    if (!grad) return;
    const A inverse = 1 / softmax.total[r];
    block.each_class(r, [&](int64_t i) FASTADV_LAMBDA { grad[i] *= inverse; });
    grad[hit] -= 1;
  });
  return loss;
}

template <class A>
FASTADV_INLINE PerRow<A> cross_entropy(Block block, const A* x, const Targets& target, A* grad, A* spare) {
  return cross_entropy<A>(block, x, target, largest<A>(block, x), grad, spare);
}

// T^2 KL(softmax(t / T) || softmax(s / T)), the largest logits of s being known, with its gradients by s and t where
// they are wanted; `spare` is room for two blocks.
template <class A>
FASTADV_INLINE PerRow<A> distillation(Block block, const A* s, const A* t, A temperature, const PerRow<A>& s_largest,
                                      A* s_grad, A* t_grad, A* spare) {
  const A inverse = 1 / temperature;
  A* q = s_grad ? s_grad : spare;
  A* p = t_grad ? t_grad : spare + block.rows * block.width;
  const Softmax<A> student(block, s, inverse, q, s_largest), teacher(block, t, inverse, p);
  PerRow<A> log_ratio, p_scale, q_scale, kl{};
  for (int64_t r = 0; r < kBlockRows; ++r) {
    log_ratio[r] = log_positive(student.total[r] / teacher.total[r]);
    p_scale[r] = temperature / teacher.total[r];
    q_scale[r] = temperature / student.total[r];
  }
  block.each_row([&](int64_t r) FASTADV_LAMBDA {
    const A s_shift = s_largest[r], t_shift = teacher.largest[r], shift = log_ratio[r];
    // log p - log q of a class; where p is 0 it may be undefined and must not count.
    const auto surprise = [&](int64_t i) FASTADV_LAMBDA {
      return ((t[i] - t_shift) - (s[i] - s_shift)) * inverse + shift;
    };
    const int64_t at = r * block.width;
    kl[r] = sum<A>(block.width, [&](int64_t c) FASTADV_LAMBDA {
      return p[at + c] == 0 ? A(0) : p[at + c] * surprise(at + c);
    });
    kl[r] *= temperature * p_scale[r];
    if (s_grad) {
      const A by_p = p_scale[r], by_q = q_scale[r];
      block.each_class(r, [&](int64_t i) FASTADV_LAMBDA { s_grad[i] = by_q * q[i] - by_p * p[i]; });
    }
    if (t_grad) {
      const A by_p = p_scale[r], mean = kl[r] / (temperature * temperature);
      block.each_class(r, [&](int64_t i) FASTADV_LAMBDA {
        t_grad[i] = p[i] == 0 ? A(0) : by_p * p[i] * (surprise(i) - mean);
      });
    }
  });
  return kl;
}

template <class A>
FASTADV_INLINE PerRow<A> distillation(Block block, const A* s, const A* t, A temperature, A* s_grad, A* t_grad,
                                      A* spare) {
  return distillation<A>(block, s, t, temperature, largest<A>(block, s), s_grad, t_grad, spare);
}

}  // namespace fastadv
