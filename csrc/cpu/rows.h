// The losses over rows of logits share one skeleton: convert the rows, one functor a loss for value and gradients of a
// block of rows, weight and scale on their way out, then reduction.
//
// A functor has
//   static constexpr int kSpare
//   template <class A>
//   void operator()(Block block, A* const* logits, const Gradients<A>& grad, PerRow<A>& loss, A* spare) const
// which sets the loss of each row and the gradients that are needed. The logits are a copy, which it may change;
// `spare` is room for kSpare blocks. A functor with a kDifferences is given differences as logits: of inputs 0 and 1,
// of 2 and 3, and so on.
#pragma once

#include <limits>

#include "loss.h"

namespace fastadv {

// Rows that are worked on together, all of them one step at a time: the sums and maxima of a row are chains of
// dependent operations, and those of the next rows fill the gaps; at the end of a block nothing does, so it has as many
// rows as lie in a vector. `first` is the index of the first row in the batch. A row is `width` numbers, whole runs,
// filled up with -inf, so that no loop over classes has a tail.
constexpr int64_t kBlockRows = 16;

// Loops over classes have an inner loop of this many, which becomes straight vector code on every machine; sums and
// maxima have a lane for each number of it and stay in registers.
constexpr int kRun = 16;

// f(k) for each number of a run. Unrolled before it is vectorised, the loop would stay scalar.
template <class F>
FASTADV_INLINE void each_lane(const F& f) {
#pragma GCC ivdep
#pragma GCC unroll 1
  for (int k = 0; k < kRun; ++k) f(k);
}

struct Block {
  int64_t first;
  int64_t rows;
  int64_t width;

  int64_t room() const { return rows * width; }

  // f(r) for each row; f(i) for each number of row r, `i` its index in the block.
  template <class F>
  FASTADV_INLINE void each_row(const F& f) const {
    for (int64_t r = 0; r < rows; ++r) f(r);
  }

  // The sums over row r of the terms that `term(i, terms)` sets; it may also write what is read of no other number.
  template <int kSums, class A, class Term>
  FASTADV_INLINE void sum_all(int64_t r, A (&sums)[kSums], const Term& term) const {
    double totals[kSums] = {};
    int64_t i = r * width;
    const int64_t end = i + width;
    do {
      A lanes[kSums][kRun] = {};
      const int64_t stop = smaller(end, i + kSumRun);
      do {
        each_lane([&](int k) FASTADV_LAMBDA {
          A terms[kSums];
          term(i + k, terms);
          for (int j = 0; j < kSums; ++j) lanes[j][k] += terms[j];
        });
      } while ((i += kRun) < stop);
      for (int j = 0; j < kSums; ++j) totals[j] += fold<Add>(lanes[j]);
    } while (i < end);
    for (int j = 0; j < kSums; ++j) sums[j] = static_cast<A>(totals[j]);
  }

  template <class A>
  FASTADV_INLINE A maximum(int64_t r, const A* x) const {
    A lanes[kRun];
    for (A& lane : lanes) lane = -std::numeric_limits<A>::infinity();
    int64_t i = r * width;
    const int64_t end = i + width;
    do {
      each_lane([&](int k) FASTADV_LAMBDA { Larger()(lanes[k], x[i + k]); });
    } while ((i += kRun) < end);
    return fold<Larger>(lanes);
  }
};

// One number for each row of a block.
template <class A>
using PerRow = std::array<A, kBlockRows>;

// f(c) for each class of a row without padding. The last run ends with the row, and so comes again to classes of the
// one before.
template <class F>
FASTADV_INLINE void each_class(int64_t classes, const F& f) {
  const auto run = [&](int64_t first) FASTADV_LAMBDA {
    each_lane([&](int k) FASTADV_LAMBDA { f(first + k); });
  };
  if (classes < kRun) {
    for (int64_t c = 0; c < classes; ++c) f(c);
  } else {
    for (int64_t first = 0; first < classes - kRun; first += kRun) run(first);
    run(classes - kRun);
  }
}

// Where the gradients of a block go: weighted, scaled and without the padding.
template <class A>
struct Gradients {
  Block block;
  int64_t classes;    // C
  const A* factor;    // [kBlockRows]
  A* const* input;    // for each input [N, C] or null

  FASTADV_INLINE bool needed(int k) const { return input[k] != nullptr; }

  // Those by input k, where they are needed: `of_row(r)(i)` for the number of index i in row r.
  template <class F>
  FASTADV_INLINE void set(int k, const F& of_row) const {
    if (!needed(k)) return;
    block.each_row([&](int64_t r) FASTADV_LAMBDA {
      A* out = row(k, r);
      const A scale = factor[r];
      const int64_t at = r * block.width;
      const auto f = of_row(r);
      each_class(classes, [&](int64_t c) FASTADV_LAMBDA { out[c] = scale * f(at + c); });
    });
  }

  // All of row r alike.
  FASTADV_INLINE void fill(int k, int64_t r, A value) const {
    A* out = row(k, r);
    each_class(classes, [&](int64_t c) FASTADV_LAMBDA { out[c] = value; });
  }

  // Adds to that of one class, where it is needed.
  FASTADV_INLINE void add(int k, int64_t r, int64_t target, A amount) const {
    if (needed(k)) row(k, r)[target] += factor[r] * amount;
  }

 private:
  FASTADV_INLINE A* row(int k, int64_t r) const { return input[k] + (block.first + r) * classes; }
};

template <class A>
FASTADV_INLINE PerRow<A> largest(Block block, const A* x) {
  PerRow<A> result{};
  block.each_row([&](int64_t r) FASTADV_LAMBDA { result[r] = block.maximum(r, x); });
  return result;
}

namespace detail {

constexpr int64_t padded(int64_t classes) { return (classes + kRun - 1) / kRun * kRun; }

// As many rows as stay in the first-level cache with all that is computed of them.
template <class A>
constexpr int64_t block_rows(int64_t width) {
  constexpr int64_t kNumbers = 8192 / sizeof(A);
  return width > kNumbers ? 1 : smaller(kNumbers / width, kBlockRows);
}

template <class Loss>
constexpr bool kDifferences = requires { Loss::kDifferences; };

template <class Loss, int K>
constexpr int kLogits = kDifferences<Loss> ? K / 2 : K;

template <class Loss, int K, class T, class A>
FASTADV_CLONES void rows(Loss loss, Batch<K, T, A> batch, A* buffer, int64_t begin, int64_t end) {
  const int64_t classes = batch.size, width = padded(classes);
  const int64_t at_once = block_rows<A>(width), room = at_once * width;
  A* x[kLogits<Loss, K>];
  for (A*& copy : x) {
    copy = buffer;
    buffer += room;
    for (int64_t i = 0; i < room; ++i) copy[i] = -std::numeric_limits<A>::infinity();
  }
  for (int64_t first = begin; first < end; first += at_once) {
    const Block block{first, smaller(end - first, at_once), width};
    for (int k = 0; k < kLogits<Loss, K>; ++k) {
      block.each_row([&](int64_t r) FASTADV_LAMBDA {
        const int64_t from = (first + r) * classes;
        A* copy = x[k] + r * width;
        if constexpr (kDifferences<Loss>) {
          const T *plus = batch.x[2 * k] + from, *minus = batch.x[2 * k + 1] + from;
          each_class(classes, [&](int64_t c) FASTADV_LAMBDA {
            copy[c] = static_cast<A>(plus[c]) - static_cast<A>(minus[c]);
          });
        } else {
          const T* row = batch.x[k] + from;
          each_class(classes, [&](int64_t c) FASTADV_LAMBDA { copy[c] = static_cast<A>(row[c]); });
        }
      });
    }
    PerRow<A> value{}, factor{};
    block.each_row([&](int64_t r) FASTADV_LAMBDA { factor[r] = batch.factor(first + r); });
    loss(block, x, Gradients<A>{block, classes, factor.data(), batch.grad}, value, buffer);
    block.each_row([&](int64_t r) FASTADV_LAMBDA { batch.loss[first + r] = factor[r] * value[r]; });
  }
}

}  // namespace detail

// exp((x - largest) / temperature) and the sum of it, of each row.
template <class A>
struct Softmax {
  const A* exponential;
  PerRow<A> largest;
  PerRow<A> total;

  // The probability of number i of row r.
  FASTADV_INLINE auto probability(int64_t r) const {
    const A *e = exponential, inverse = 1 / total[r];
    return [=](int64_t i) FASTADV_LAMBDA { return e[i] * inverse; };
  }
};

// The exponentials go to `out`.
template <class A>
FASTADV_INLINE Softmax<A> softmax(Block block, const A* x, const PerRow<A>& largest, A inverse_temperature, A* out) {
  Softmax<A> result{out, largest, {}};
  block.each_row([&](int64_t r) FASTADV_LAMBDA {
    const A shift = largest[r];
    A sums[1];
    block.sum_all(r, sums, [&](int64_t i, A(&terms)[1]) FASTADV_LAMBDA {
      terms[0] = out[i] = exp_nonpositive((x[i] - shift) * inverse_temperature);
    });
    result.total[r] = sums[0];
  });
  return result;
}

template <class A>
FASTADV_INLINE PerRow<A> log_positive(const PerRow<A>& x) {
  PerRow<A> result;
#pragma GCC unroll 1
  for (int64_t r = 0; r < kBlockRows; ++r) result[r] = log_positive(x[r]);
  return result;
}

// Makes the target of each row impossible, so that the others are left, and returns its logits.
template <class A>
FASTADV_INLINE PerRow<A> take_target(Block block, A* x, const Targets& target) {
  PerRow<A> result{};
  block.each_row([&](int64_t r) FASTADV_LAMBDA {
    A& of_target = x[r * block.width + target[block.first + r]];
    result[r] = of_target;
    of_target = -std::numeric_limits<A>::infinity();
  });
  return result;
}

// What is subtracted of the logits of each row: of -inf alone there is no largest.
template <class A>
FASTADV_INLINE PerRow<A> shift(Block block, const A* x) {
  PerRow<A> result = largest<A>(block, x);
  for (A& most : result) most = most == -std::numeric_limits<A>::infinity() ? A(0) : most;
  return result;
}

// The logarithm of each total; of classes that are all impossible, whose probabilities are 0 from here on, it is -inf.
template <class A>
FASTADV_INLINE PerRow<A> log_total(Softmax<A>& softmax) {
  PerRow<A> result = log_positive<A>(softmax.total);
  for (int64_t r = 0; r < kBlockRows; ++r) {
    if (softmax.total[r] != 0) continue;
    result[r] = -std::numeric_limits<A>::infinity();
    softmax.total[r] = 1;
  }
  return result;
}

// Cross-entropy of each row at temperature 1. `spare` is room for a block; the gradient is read from it.
template <class A>
struct HardLoss {
  Softmax<A> student;
  PerRow<A> value;

  FASTADV_INLINE HardLoss(Block block, const A* x, const PerRow<A>& largest, const Targets& target, A* spare)
      : student(softmax<A>(block, x, largest, A(1), spare)), value(log_positive<A>(student.total)) {
    block.each_row([&](int64_t r) FASTADV_LAMBDA {
      const int64_t hit = r * block.width + target[block.first + r];
      value[r] -= x[hit] - largest[r];
      spare[hit] -= student.total[r];
    });
  }

  // The derivative by number i of row r: softmax - onehot, the latter of which is in the exponentials.
  FASTADV_INLINE auto grad_logits(int64_t r) const { return student.probability(r); }
};

// T^2 KL(softmax(t / T) || softmax(s / T)) of each row. `spare` is room for two blocks; the gradients are read from it.
template <class A>
struct SoftLoss {
  const A *s, *t;
  A temperature;
  Softmax<A> student, teacher;
  PerRow<A> value;

  FASTADV_INLINE SoftLoss(Block block, const A* s, const A* t, const PerRow<A>& s_largest, A temperature, A* spare)
      : SoftLoss(block, s, t, s_largest, largest<A>(block, t), temperature, spare) {}

  FASTADV_INLINE SoftLoss(Block block, const A* s, const A* t, const PerRow<A>& s_largest, const PerRow<A>& t_largest,
                          A temperature, A* spare)
      : s(s),
        t(t),
        temperature(temperature),
        student{spare, s_largest, {}},
        teacher{spare + block.room(), t_largest, {}} {
    A *q = spare, *p = spare + block.room();
    const A inverse = 1 / temperature;
    block.each_row([&](int64_t r) FASTADV_LAMBDA {
      const A s_shift = student.largest[r], t_shift = teacher.largest[r];
      A sums[3];
      block.sum_all(r, sums, [&](int64_t i, A(&terms)[3]) FASTADV_LAMBDA {
        const A below_s = s[i] - s_shift, below_t = t[i] - t_shift;
        terms[0] = exp_nonpositive(below_s * inverse);
        terms[1] = exp_nonpositive(below_t * inverse);
        // Where the teacher has nothing the difference may be undefined and must not count.
        terms[2] = only_if(terms[1] != 0, terms[1] * (below_t - below_s));
        q[i] = terms[0];
        p[i] = terms[1];
      });
      student.total[r] = sums[0];
      teacher.total[r] = sums[1];
      mean_gap_[r] = sums[2];
    });
    PerRow<A> ratio;
    for (int64_t r = 0; r < kBlockRows; ++r) {
      ratio[r] = student.total[r] / teacher.total[r];
      mean_gap_[r] /= teacher.total[r];
    }
    const PerRow<A> log_ratio = log_positive<A>(ratio);
    for (int64_t r = 0; r < kBlockRows; ++r) value[r] = temperature * (mean_gap_[r] + temperature * log_ratio[r]);
  }

  // The derivative by number i of row r of the student, and of the teacher.
  FASTADV_INLINE auto by_student(int64_t r) const {
    const A *q = student.exponential, *p = teacher.exponential;
    const A by_q = temperature / student.total[r], by_p = temperature / teacher.total[r];
    return [=](int64_t i) FASTADV_LAMBDA { return by_q * q[i] - by_p * p[i]; };
  }

  FASTADV_INLINE auto by_teacher(int64_t r) const {
    const A *s = this->s, *t = this->t, *p = teacher.exponential;
    const A s_shift = student.largest[r], t_shift = teacher.largest[r], by_p = 1 / teacher.total[r];
    const A mean_gap = mean_gap_[r];
    return [=](int64_t i) FASTADV_LAMBDA {
      const A share = by_p * p[i];
      return only_if(share != 0, share * (((t[i] - t_shift) - (s[i] - s_shift)) - mean_gap));
    };
  }

 private:
  // Of the teacher's logits over the student's, both below their largest, in the mean over the teacher's softmax.
  PerRow<A> mean_gap_;
};

namespace {

template <class Loss, int K, class T, class A>
void compute_rows(const Loss& loss, const Batch<K, T, A>& batch, const Tensor&) {
  each_sample(batch, 4 * batch.size, [&](const Batch<K, T, A>& batch, int64_t begin, int64_t end) {
    const int64_t width = detail::padded(batch.size);
    const int64_t blocks = detail::kLogits<Loss, K> + Loss::kSpare;
    A* buffer = scratch<A>(blocks * detail::block_rows<A>(width) * width);
    detail::rows<Loss, K, T, A>(loss, batch, buffer, begin, end);
  });
}

}  // namespace
}  // namespace fastadv
