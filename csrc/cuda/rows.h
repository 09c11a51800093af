// The losses over rows of logits or features share one skeleton: a row's elements, one functor a loss for value and
// gradients, then weight, scale and reduction. Value and gradients leave in one launch, which reads the rows once from
// device memory:
//
//   rows of up to 128 classes        a warp a row, four rows a block, in registers
//   up to 4096, 16-byte accesses     a block a row, in registers
//   all others                       a block a row, streamed: one pass of online softmax an input, one for the
//                                    divergence, one for the gradients; all but the first come from the cache
//
// A sum over the batch is taken in a fixed order: by the only block that is launched where there are few short rows,
// else by a second launch over the values.
//
// A functor has  template <class A, class Row> auto of(const Row& row, int64_t n),
// which returns what the threads of a row know of it:  value()  and  gradient(c, x, g), which sets the derivatives g
// w.r.t. the logits x of class c, one an input.
#pragma once

#include <cmath>
#include <limits>

#include "../common/ops/loss.h"
#include "block.h"
#include "memory.h"

namespace fastadv {

// A row's logits; `each(f)` calls f(first, x) for each run of the thread, x[k][e] being the logit of class first + e in
// input k.
template <class Team_, int kWidth_, int kRuns, int kInputs, class T, class A>
class HeldRow {
 public:
  using Team = Team_;
  static constexpr int kWidth = kWidth_;
  static constexpr bool kHeld = true;
  // The longest row, for a block of kMaxThreads.
  static constexpr int64_t kLongest = int64_t{kWidth} * kRuns * (std::is_same_v<Team, WarpTeam> ? kWarp : kMaxThreads);

  DEVICE HeldRow(const T* const (&inputs)[kInputs], int64_t begin, int64_t classes)
      : classes_(static_cast<int>(classes)) {
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      row_[k] = inputs[k] + begin;
#pragma unroll
      for (int run = 0; run < kRuns; ++run) {
        if (first(run) < classes_) load(row_[k] + first(run), x_[run][k]);
      }
    }
  }

  DEVICE int64_t classes() const { return classes_; }
  DEVICE A logit(int k, int64_t c) const { return static_cast<A>(row_[k][c]); }

  template <class F>
  DEVICE void each(const F& f) const {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      if (first(run) < classes_) f(first(run), x_[run]);
    }
  }

 private:
  DEVICE int first(int run) const { return (run * Team().size() + Team().rank()) * kWidth; }

  const T* row_[kInputs];  // [C] each
  int classes_;            // C
  A x_[kRuns][kInputs][kWidth];
};

template <int kWidth_, int kInputs, class T, class A>
class StreamedRow {
 public:
  using Team = BlockTeam;
  static constexpr int kWidth = kWidth_;
  static constexpr bool kHeld = false;

  DEVICE StreamedRow(const T* const (&inputs)[kInputs], int64_t begin, int64_t classes)
      : classes_(classes) {
#pragma unroll
    for (int k = 0; k < kInputs; ++k) row_[k] = inputs[k] + begin;
  }

  DEVICE int64_t classes() const { return classes_; }
  DEVICE A logit(int k, int64_t c) const { return static_cast<A>(row_[k][c]); }

  template <class F>
  DEVICE void each(const F& f) const {
    for (int64_t first = int64_t{threadIdx.x} * kWidth; first < classes_; first += int64_t{blockDim.x} * kWidth) {
      A x[kInputs][kWidth];
#pragma unroll
      for (int k = 0; k < kInputs; ++k) load(row_[k] + first, x[k]);
      f(first, x);
    }
  }

 private:
  const T* row_[kInputs];  // [C] each
  int64_t classes_;        // C
};

// The logits of a softmax: an input, or what a loss makes of the inputs; called with a class and its logits x[k][e].
template <int k>
struct Input {
  template <class X>
  DEVICE auto operator()(int64_t, const X& x, int e) const {
    return x[k][e];
  }
};

// The softmax of x / temperature: the largest logit, and the sum of exp((x - largest) / temperature).
template <class A>
struct Softmax {
  A largest;
  A total;
  A inverse_temperature;
  // A division for every class would cost as much as its exponential.
  A inverse_total;

  DEVICE Softmax(A largest, A total, A inverse_temperature)
      : largest(largest), total(total), inverse_temperature(inverse_temperature), inverse_total(1 / total) {}

  DEVICE A scaled(A x) const { return (x - largest) * inverse_temperature; }
  DEVICE A exponential(A x) const { return std::exp(scaled(x)); }
  DEVICE A probability(A x) const { return exponential(x) * inverse_total; }

  template <class Row, class Logit>
  DEVICE static Softmax of(const Row& row, A inverse_temperature, const Logit& logit) {
    constexpr A kLowest = -std::numeric_limits<A>::infinity();
    const typename Row::Team team;
    A own = kLowest, sum = 0;
    if constexpr (Row::kHeld) {
      row.each([&](int64_t first, const auto& x) {
        for (int e = 0; e < Row::kWidth; ++e) own = Larger()(own, logit(first + e, x, e));
      });
      const A largest = combined<Larger>(team, own);
      row.each([&](int64_t first, const auto& x) {
        for (int e = 0; e < Row::kWidth; ++e) {
          sum += std::exp((logit(first + e, x, e) - largest) * inverse_temperature);
        }
      });
      return {largest, combined<Sum>(team, sum), inverse_temperature};
    } else {
      // One pass: the sum is brought to each new maximum. Before there is one, -inf adds nothing.
      row.each([&](int64_t first, const auto& x) {
        for (int e = 0; e < Row::kWidth; ++e) {
          const A z = logit(first + e, x, e);
          if (z > own) {
            sum = sum * std::exp((own - z) * inverse_temperature) + 1;
            own = z;
          } else if (z != kLowest) {
            sum += std::exp((z - own) * inverse_temperature);
          }
        }
      });
      const A largest = combined<Larger>(team, own);
      sum *= std::exp((own - largest) * inverse_temperature);
      return {largest, combined<Sum>(team, sum), inverse_temperature};
    }
  }
};

// Cross-entropy of a row of input k at temperature 1; NaN where the target is no class, which is never read.
template <class A>
struct CrossEntropy {
  Softmax<A> softmax;
  int64_t target;
  bool valid;
  A value;

  template <int k, class Row>
  DEVICE static CrossEntropy of(const Row& row, int64_t target) {
    const auto softmax = Softmax<A>::of(row, A(1), Input<k>());
    const bool valid = target >= 0 && target < row.classes();
    return {softmax, target, valid,
            valid ? std::log(softmax.total) - softmax.scaled(row.logit(k, target))
                  : std::numeric_limits<A>::quiet_NaN()};
  }

  DEVICE A gradient(int64_t c, A x) const {
    const A q = softmax.probability(x);
    return valid ? (c == target ? q - 1 : q) : std::numeric_limits<A>::quiet_NaN();
  }
};

// T^2 KL(softmax(t / T) || softmax(s / T)) of a row, with the logits s and t that two functions give.
template <class A>
struct Distillation {
  A temperature;
  Softmax<A> student;
  Softmax<A> teacher;
  A log_ratio;
  A kl;

  template <class Row, class S = Input<0>, class T = Input<1>>
  DEVICE static Distillation of(const Row& row, A temperature, const S& s = {}, const T& t = {}) {
    const A inverse = 1 / temperature;
    Distillation d{temperature, Softmax<A>::of(row, inverse, s), Softmax<A>::of(row, inverse, t), 0, 0};
    d.log_ratio = std::log(d.student.total) - std::log(d.teacher.total);
    A sum = 0;
    row.each([&](int64_t first, const auto& x) {
      for (int e = 0; e < Row::kWidth; ++e) {
        const A own = t(first + e, x, e), p = d.teacher.exponential(own);
        sum += p == 0 ? A(0) : p * d.surprise(s(first + e, x, e), own);
      }
    });
    d.kl = combined<Sum>(typename Row::Team(), sum) / d.teacher.total;
    return d;
  }

  DEVICE A value() const { return temperature * temperature * kl; }

  DEVICE A q(A s) const { return student.probability(s); }
  DEVICE A p(A t) const { return teacher.probability(t); }

  DEVICE A by_student(A s, A t) const { return temperature * (q(s) - p(t)); }
  DEVICE A by_teacher(A s, A t) const { return p(t) == 0 ? A(0) : temperature * p(t) * (surprise(s, t) - kl); }

 private:
  // log p - log q of a class; where p is 0 it may be undefined and must not count.
  DEVICE A surprise(A s, A t) const {
    return ((t - teacher.largest) - (s - student.largest)) * student.inverse_temperature + log_ratio;
  }
};

// The weighted loss of row n; writes the gradients that are needed.
template <class Row, class Loss, int K, class T, class A>
DEVICE A evaluate_row(const Loss& loss, const Batch<K, T, A>& batch, int64_t n) {
  const int64_t begin = n * batch.size;
  const Row row(batch.x, begin, batch.size);
  const auto state = loss.template of<A>(row, n);
  const A factor = batch.factor(n);
  row.each([&](int64_t first, const auto& x) {
    A run[K][Row::kWidth];
    for (int e = 0; e < Row::kWidth; ++e) {
      A logits[K], g[K];
#pragma unroll
      for (int k = 0; k < K; ++k) logits[k] = x[k][e];
      state.gradient(first + e, logits, g);
#pragma unroll
      for (int k = 0; k < K; ++k) run[k][e] = factor * g[k];
    }
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (batch.grad[k]) store(batch.grad[k] + begin + first, run[k]);
    }
  });
  return factor * state.value();
}

constexpr int kRowsABlock = 4;
// The most short rows that one block takes alone, where that saves the launch of a sum.
constexpr int64_t kRowsAlone = 8 * kMaxWarps;

// `sum` []: where the only block leaves the sum over all rows, if that is wanted; else null, and each row's loss is
// kept.
template <class Loss, int K, class T, class A>
KERNEL warp_rows(Loss loss, Batch<K, T, A> batch, A* sum) {
  using Row = HeldRow<WarpTeam, 1, 4, K, T, A>;
  const int warps = blockDim.x / kWarp;
  const bool first_lane = threadIdx.x % kWarp == 0;
  double total = 0;
  const int64_t first = int64_t{blockIdx.x} * warps + threadIdx.x / kWarp;
  for (int64_t n = first; n < batch.samples; n += int64_t{gridDim.x} * warps) {
    const A value = evaluate_row<Row>(loss, batch, n);
    if (first_lane && !sum) batch.loss[n] = value;
    if (first_lane) total += static_cast<double>(value);
  }
  if (!sum) return;
  total = combined<Sum>(BlockTeam(), total);
  if (threadIdx.x == 0) *sum = static_cast<A>(total);
}

template <class Row, class Loss, int K, class T, class A>
KERNEL block_rows(Loss loss, Batch<K, T, A> batch) {
  const A value = evaluate_row<Row>(loss, batch, blockIdx.x);
  if (threadIdx.x == 0) batch.loss[blockIdx.x] = value;
}

// A block adds up `count` values, one block a number of `sums`. The mean of nothing, whose scale is NaN, is NaN.
template <class A>
KERNEL sum_rows(const A* values /* [sums, count] */, int64_t count, A scale, A* sums) {
  values += blockIdx.x * count;
  double total = 0;
  for (int64_t n = threadIdx.x; n < count; n += blockDim.x) total += static_cast<double>(values[n]);
  total = combined<Sum>(BlockTeam(), total);
  if (threadIdx.x == 0) sums[blockIdx.x] = static_cast<A>(total + 0 * static_cast<double>(scale));
}

namespace {

template <class Loss, int K, class T, class A>
void compute_rows(const Loss& loss, const Batch<K, T, A>& whole, const Tensor& like) {
  const Device device(like);
  Batch<K, T, A> batch = whole;
  const int64_t samples = batch.samples, classes = batch.size;
  const bool short_rows = classes <= HeldRow<WarpTeam, 1, 4, 1, float, float>::kLongest;
  const bool one_block = samples == 1 || (short_rows && samples > 0 && samples <= kRowsAlone);
  const bool sum_apart = batch.reduce && !one_block;
  const Tensor values = sum_apart ? empty_vector(like, samples, accumulated(like.scalar_type())) : like;
  if (sum_apart) batch.loss = mutable_data<A>(values);
  bool vectors = classes % kVector<T> == 0;
  for (int k = 0; k < K; ++k) vectors = vectors && aligned<kVector<T>>(batch.x[k]);
  using Held = HeldRow<BlockTeam, kVector<T>, 8 / kVector<T>, K, T, A>;
  const auto launch_blocks = [&](auto row) {
    using Row = typename decltype(row)::type;
    LAUNCH((block_rows<Row, Loss, K, T, A>), samples, block_threads(classes / Row::kWidth), device, loss, batch);
  };
  if (samples == 0) {
    // Nothing but a sum of nothing.
  } else if (short_rows) {
    const int64_t blocks = one_block && batch.reduce ? 1 : divide_up(samples, kRowsABlock);
    const int64_t rows = divide_up(samples, blocks);
    A* const sum = one_block && batch.reduce ? batch.loss : nullptr;
    LAUNCH((warp_rows<Loss, K, T, A>), blocks, block_threads(kWarp * rows), device, loss, batch, sum);
  } else if (!vectors) {
    launch_blocks(std::type_identity<StreamedRow<1, K, T, A>>());
  } else if (classes <= Held::kLongest) {
    launch_blocks(std::type_identity<Held>());
  } else {
    launch_blocks(std::type_identity<StreamedRow<kVector<T>, K, T, A>>());
  }
  if (sum_apart) {
    LAUNCH((sum_rows<A>), 1, kMaxThreads, device, mutable_data<A>(values), samples, batch.scale, whole.loss);
  }
}

}  // namespace
}  // namespace fastadv
