// What the losses share: arguments, checks and results; and for losses over rows of logits or features the skeleton, to
// which a backend brings `compute_rows` and a functor a loss.
#pragma once

#include <array>
#include <tuple>

#include "tensor.h"

namespace fastadv {

struct ScaleAndReduce {
  double scale;
  bool reduce;
  const std::optional<Tensor>& weight;  // [N]
};

// None where none is needed.
using Gradient = std::optional<Tensor>;

// The loss, [] or [N], and one gradient an input, all in the accumulation precision.
template <int K>
struct Results {
  Tensor loss;
  std::array<Gradient, K> grads;

  // Room for them; all inputs are like `x`.
  Results(const Tensor& x, bool reduce, const std::array<bool, K>& needs_grad)
      : loss(reduce ? empty_scalar(x, accumulated(x.scalar_type()))
                    : empty_vector(x, x.size(0), accumulated(x.scalar_type()))) {
    for (int k = 0; k < K; ++k) {
      if (needs_grad[k]) grads[k] = empty_as(x, loss.scalar_type());
    }
  }

  // Null where no gradient is needed.
  template <class A>
  A* grad(int k) const {
    return grads[k] ? mutable_data<A>(*grads[k]) : nullptr;
  }

  // As the schema has them.
  auto as_tuple() const { return std::tuple_cat(std::tuple(loss), grads); }
};

// The samples of K inputs, and where their weighted and scaled losses and gradients go.
template <int K, class T, class A>
struct Batch {
  const T* x[K];  // [N, C] each
  A* grad[K];     // [N, C] each, null where no gradient is needed
  A* loss;        // [N], their sum [] where `reduce`
  bool reduce;
  int64_t samples;      // N
  int64_t size;         // C
  PerSample<A> weight;  // [N]
  A scale;

  FASTADV_INLINE A factor(int64_t sample) const { return scale * weight[sample]; }
};

// The loss and, for each input, its gradient where needed, as a tuple; `f(batch)` computes them.
template <int K, class F>
auto evaluate(const std::array<const Tensor*, K>& inputs, const ScaleAndReduce& scale_and_reduce,
              const std::array<bool, K>& needs_grad, const F& f) {
  const Tensor& first = *inputs[0];
  const Samples shape(first);
  for (int k = 1; k < K; ++k) require_alike(first, *inputs[k]);
  const Results<K> results(first, scale_and_reduce.reduce, needs_grad);
  with_dtype(first.scalar_type(), [&]<class T, class A>() {
    Batch<K, T, A> batch{{},
                         {},
                         mutable_data<A>(results.loss),
                         scale_and_reduce.reduce,
                         shape.samples,
                         shape.size,
                         PerSample<A>("weight", 1.0, scale_and_reduce.weight, first),
                         static_cast<A>(scale_and_reduce.scale)};
    for (int k = 0; k < K; ++k) {
      batch.x[k] = data<T>(*inputs[k]);
      batch.grad[k] = results.template grad<A>(k);
    }
    f(batch);
  });
  return results.as_tuple();
}

namespace {

// Value and gradients of every row of a batch, by a functor that the backend's rows.h describes.
template <class Loss, int K, class T, class A>
void compute_rows(const Loss& loss, const Batch<K, T, A>& batch, const Tensor& like);

}  // namespace

// The same of a loss over rows [N, C].
template <int K, class Loss>
auto loss_rows(const Loss& loss, const std::array<const Tensor*, K>& inputs, const ScaleAndReduce& scale_and_reduce,
               const std::array<bool, K>& needs_grad) {
  const Tensor& first = *inputs[0];
  require(first.dim() == 2 && first.size(1) > 0, "expected rows [N, C] with C > 0");
  require(first.is_contiguous(), "expected contiguous rows");
  return evaluate<K>(inputs, scale_and_reduce, needs_grad,
                     [&](const auto& batch) { compute_rows(loss, batch, first); });
}

// Class indices [N].
class Targets {
 public:
  Targets(const Tensor& target, const Tensor& logits, const char* name = "target") : classes_(data<int64_t>(target)) {
    require_beside(logits, target, name);
    require(target.scalar_type() == ScalarType::Long && target.is_contiguous() && target.dim() == 1 &&
                target.size(0) == logits.size(0),
            "expected contiguous int64 classes [N]");
    require_indices(name, classes_, target.size(0), 0, logits.size(1));
  }

  FASTADV_INLINE int64_t operator[](int64_t sample) const { return classes_[sample]; }

 private:
  const int64_t* classes_;  // [N]
};

}  // namespace fastadv
