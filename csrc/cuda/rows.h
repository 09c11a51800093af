// The losses over rows of logits or features share one skeleton: a row's elements, one functor a loss for value and
// gradients, then weight, scale and reduction:
//
//   rows of up to 128 classes    a warp a row, 4 numbers of each input a lane, in registers
//   up to 1,024                  a warp a row, 32 a lane (16 where a loss has three or four inputs; of doubles half)
//   longer ones                  a block a row, read once for what a loss has to sum, with online softmaxes of student
//                                and teacher together, and once more, from a cache, for the gradients; 128 bytes a
//                                thread are on their way at a time
//   few long ones                several blocks a row, in two launches: the first leaves the sums of its parts
//   where there are clusters     a cluster a longer row that it can hold, whatever its alignment: each block copies its
//                                part to shared memory, all of it at once, and reads that twice
//
// A sum over the batch is taken in a fixed order: by the only block that is launched where there are few short rows,
// else by a second launch over the values.
//
// A functor has  template <class A, class Row> auto of(const Row& row, int64_t n),
// which returns what the threads of a row know of it:  value()  and  gradient(c, x, g), which sets the derivatives g
// w.r.t. the logits x of class c, one an input. Where all it asks of a row's elements are RowSums, a constant kSplits
// says so, and its rows may be shared out, over several launches or a cluster.
#pragma once

#include <cmath>
#include <limits>

#include "../common/loss.h"
#include "block.h"
#include "cluster.h"
#include "memory.h"

namespace fastadv {

// Rows of a block whose warps take one each.
constexpr int kRowsABlock = 4;

// How much of a row an object stands for: all of it, or a part, of which RowSums are left or those of all parts merged.
enum class Extent { kWhole, kPart, kMerged };

// A row's logits in a warp; `each(f)` calls f(first, x) for each run of the thread, x[k][e] being the logit of class
// first + e in input k.
template <int kRuns, int kInputs, class T, class A>
class HeldRow {
 public:
  using Team = WarpTeam;
  static constexpr int kWidth = 1;
  static constexpr bool kHeld = true;
  static constexpr Extent kExtent = Extent::kWhole;
  static constexpr int64_t kLongest = int64_t{kRuns} * kWarp;
  // Where a lane holds many numbers, blocks are small and have registers for them.
  static constexpr int kMostThreads = kRuns > 4 ? kRowsABlock * kWarp : kMaxThreads;

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

  DEVICE Team team() const { return {}; }
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
  DEVICE int first(int run) const { return run * kWarp + Team().rank(); }

  const T* row_[kInputs];  // [C] each
  int classes_;            // C
  A x_[kRuns][kInputs][kWidth];
};

// Numbers of each input that a lane holds of a row of up to 1,024 classes, as far as registers allow.
template <int kInputs, class A>
constexpr int kHeldRuns = (kInputs <= 2 ? 32 : 16) * 4 / static_cast<int>(sizeof(A));

// A row, or a part of one, that a block reads again in every pass.
template <int kWidth_, Extent kExtent_, int kInputs, class T, class A>
class StreamedRow {
 public:
  using Team = BlockTeam;
  static constexpr int kWidth = kWidth_;
  static constexpr bool kHeld = false;
  static constexpr Extent kExtent = kExtent_;
  // Room for the sums of a part.
  static constexpr int kMostSums = 8;

  DEVICE StreamedRow(const T* const (&inputs)[kInputs], int64_t begin, int64_t classes)
      : classes_(classes), first_(0), last_(classes) {
#pragma unroll
    for (int k = 0; k < kInputs; ++k) row_[k] = inputs[k] + begin;
  }

  // Part `part` of `parts`; `sums` [parts, kMostSums].
  DEVICE StreamedRow(const T* const (&inputs)[kInputs], int64_t begin, int64_t classes, int part, int parts, A* sums)
      : StreamedRow(inputs, begin, classes) {
    const int64_t runs = (classes / kWidth + parts - 1) / parts;
    first_ = part * runs * kWidth;
    last_ = first_ + runs * kWidth < classes ? first_ + runs * kWidth : classes;
    part_ = part;
    parts_ = parts;
    sums_ = sums;
  }

  DEVICE Team team() const { return {}; }
  DEVICE int64_t classes() const { return classes_; }
  DEVICE A logit(int k, int64_t c) const { return static_cast<A>(row_[k][c]); }

  template <class F>
  DEVICE void each(const F& f) const {
    // 128 bytes on their way, in the precision that they are computed in; of doubles half, whose arithmetic takes more.
    constexpr int kNumbers = sizeof(A) == 4 ? 32 : 8, kMany = kNumbers / (kInputs * kWidth);
    constexpr int kAtOnce = kMany < 1 ? 1 : kMany > 8 ? 8 : kMany;
    const int64_t stride = int64_t{blockDim.x} * kWidth;
    for (int64_t first = first_ + int64_t{threadIdx.x} * kWidth; first < last_; first += kAtOnce * stride) {
      A x[kAtOnce][kInputs][kWidth];
#pragma unroll
      for (int run = 0; run < kAtOnce; ++run) {
#pragma unroll
        for (int k = 0; k < kInputs; ++k) {
          if (first + run * stride < last_) load(row_[k] + first + run * stride, x[run][k]);
        }
      }
#pragma unroll
      for (int run = 0; run < kAtOnce; ++run) {
        if (first + run * stride < last_) f(first + run * stride, x[run]);
      }
    }
  }

  // Sums of the parts: `count` numbers of each, after those of earlier calls.
  DEVICE void keep(const A* numbers, int count) const {
    if (threadIdx.x == 0) {
      for (int k = 0; k < count; ++k) sums_[part_ * kMostSums + kept_ + k] = numbers[k];
    }
    kept_ += count;
  }
  DEVICE const A* kept(int part) const { return sums_ + part * kMostSums + kept_; }
  DEVICE void skip(int count) const { kept_ += count; }
  DEVICE int parts() const { return parts_; }

 private:
  const T* row_[kInputs];  // [C] each
  int64_t classes_;        // C
  int64_t first_;
  int64_t last_;
  int part_ = 0;
  int parts_ = 1;
  mutable int kept_ = 0;
  A* sums_ = nullptr;
};

// A block's part of a row in the shared memory of its cluster.
template <int kWidth_, int kInputs, class T, class A>
class ClusterRow {
 public:
  using Team = ClusterTeam;
  static constexpr int kWidth = kWidth_;
  static constexpr bool kHeld = false;
  static constexpr Extent kExtent = Extent::kWhole;

  // `share`: the elements of a part; `room` for as many of each input.
  DEVICE ClusterRow(const T* const (&inputs)[kInputs], int64_t begin, int64_t classes, int share, T* room)
      : classes_(classes), part_(classes, share) {
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      row_[k] = inputs[k] + begin;
      copy_[k] = copy_run(room + k * (share + kVector<T>), row_[k] + part_.first, part_.size);
    }
    await_copies();
    Cluster::barrier();
  }

  DEVICE const Team& team() const { return team_; }
  DEVICE int64_t classes() const { return classes_; }
  DEVICE A logit(int k, int64_t c) const { return static_cast<A>(row_[k][c]); }

  template <class F>
  DEVICE void each(const F& f) const {
    for (int first = threadIdx.x * kWidth; first < part_.size; first += blockDim.x * kWidth) {
      A x[kInputs][kWidth];
#pragma unroll
      for (int k = 0; k < kInputs; ++k) load(copy_[k] + first, x[k]);
      f(part_.first + first, x);
    }
  }

 private:
  const T* row_[kInputs];   // [C] each
  const T* copy_[kInputs];  // of the part
  int64_t classes_;         // C
  ClusterPart part_;
  Team team_;
};

// The logits of a softmax: an input, or what a loss makes of the inputs; called with a class and its logits x[k][e].
template <int k>
struct Input {
  template <class X>
  DEVICE auto operator()(int64_t, const X& x, int e) const {
    return x[k][e];
  }
};

// What losses sum over a row, N softmaxes at once: the largest logit of each and the sum of exp((z - largest) / T).
// With a gap, softmax 0 is the student's (s) and 1 the teacher's (t), and so is the sum of exp((t - t_largest) / T) ((t
// - t_largest) - (s - s_largest)); where the exponential is 0 the gap may be undefined and does not count.
template <class A, int N, bool kGap = false>
class RowSums {
 public:
  static constexpr int kCount = 2 * N + (kGap ? 1 : 0);

  // `logits(c, x, e, z)` sets the logits z of class c, of which there are x[k][e]; `inverse` is 1 / T.
  template <class Row, class Logits>
  DEVICE static RowSums of(const Row& row, const A (&inverse)[N], const Logits& logits) {
    if constexpr (Row::kExtent == Extent::kMerged) {
      return merged(row, inverse);
    } else {
      return summed(row, inverse, logits);
    }
  }

  // Of logits that are all -inf the largest is taken to be 0, and the total is 0.
  DEVICE A largest(int k) const { return shift(largest_[k]); }
  DEVICE A total(int k) const { return sums_[k]; }
  DEVICE A gap() const { return sums_[N]; }

 private:
  static constexpr A kLowest = -std::numeric_limits<A>::infinity();

  template <class Row, class Logits>
  DEVICE static RowSums summed(const Row& row, const A (&inverse)[N], const Logits& logits) {
    const typename Row::Team& team = row.team();
    RowSums sums;
    const auto each = [&](const auto& f) {
      row.each([&](int64_t first, const auto& x) {
        A z[N][Row::kWidth];
#pragma unroll
        for (int e = 0; e < Row::kWidth; ++e) {
          A numbers[N];
          logits(first + e, x, e, numbers);
#pragma unroll
          for (int k = 0; k < N; ++k) z[k][e] = numbers[k];
        }
        f(z);
      });
    };
    A most[N];
#pragma unroll
    for (int k = 0; k < N; ++k) most[k] = kLowest;
    if constexpr (Row::kHeld) {
      each([&](const auto& z) { larger(most, z); });
      team.template combine<Larger>(most);
      sums.raise(most, inverse);
      each([&](const auto& z) { sums.add(z, inverse); });
    } else {
      // One pass: what has been summed is brought to each new maximum.
      each([&](const auto& z) {
        if (larger(most, z)) sums.raise(most, inverse);
        sums.add(z, inverse);
      });
      team.template combine<Larger>(most);
      sums.raise(most, inverse);
    }
    team.template combine<Sum>(sums.sums_);
    if constexpr (Row::kExtent == Extent::kPart) {
      row.keep(sums.largest_, N);
      row.keep(sums.sums_, kCount - N);
    }
    return sums;
  }

  DEVICE RowSums() {
#pragma unroll
    for (int k = 0; k < N; ++k) largest_[k] = kLowest;
#pragma unroll
    for (int k = 0; k < kCount - N; ++k) sums_[k] = 0;
  }

  // What is subtracted of a logit: nothing while all have been -inf.
  DEVICE static A shift(A largest) { return largest == kLowest ? A(0) : largest; }

  // Whether any of the maxima has risen.
  template <int kWidth>
  DEVICE static bool larger(A (&most)[N], const A (&z)[N][kWidth]) {
    bool risen = false;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const A before = most[k];
#pragma unroll
      for (int e = 0; e < kWidth; ++e) most[k] = Larger()(most[k], z[k][e]);
      risen = risen || most[k] > before;
    }
    return risen;
  }

  template <int kWidth>
  DEVICE void add(const A (&z)[N][kWidth], const A (&inverse)[N]) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      A below[N], term[N];
#pragma unroll
      for (int k = 0; k < N; ++k) {
        below[k] = z[k][e] - shift(largest_[k]);
        term[k] = std::exp(below[k] * inverse[k]);
        sums_[k] += term[k];
      }
      if constexpr (kGap) sums_[N] += term[1] == 0 ? A(0) : term[1] * (below[1] - below[0]);
    }
  }

  // Brings the sums to maxima that are no smaller.
  DEVICE void raise(const A (&to)[N], const A (&inverse)[N]) {
    A factor[N];
#pragma unroll
    for (int k = 0; k < N; ++k) factor[k] = std::exp((largest_[k] - shift(to[k])) * inverse[k]);
    if constexpr (kGap) {
      const A moved = (shift(to[1]) - shift(largest_[1])) - (shift(to[0]) - shift(largest_[0]));
      sums_[N] = factor[1] == 0 ? A(0) : factor[1] * (sums_[N] - sums_[1] * moved);
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
      sums_[k] *= factor[k];
      largest_[k] = to[k];
    }
  }

  // The sums of all parts of a row, in order.
  template <class Row>
  DEVICE static RowSums merged(const Row& row, const A (&inverse)[N]) {
    RowSums sums;
    A most[N];
#pragma unroll
    for (int k = 0; k < N; ++k) {
      most[k] = kLowest;
      for (int part = 0; part < row.parts(); ++part) most[k] = Larger()(most[k], row.kept(part)[k]);
    }
    for (int part = 0; part < row.parts(); ++part) {
      RowSums other;
      const A* numbers = row.kept(part);
#pragma unroll
      for (int k = 0; k < N; ++k) other.largest_[k] = numbers[k];
#pragma unroll
      for (int k = 0; k < kCount - N; ++k) other.sums_[k] = numbers[N + k];
      other.raise(most, inverse);
#pragma unroll
      for (int k = 0; k < kCount - N; ++k) sums.sums_[k] += other.sums_[k];
    }
#pragma unroll
    for (int k = 0; k < N; ++k) sums.largest_[k] = most[k];
    row.skip(kCount);
    return sums;
  }

  A largest_[N];
  A sums_[kCount - N];
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

  // Of the logits that `logit(c, x, e)` gives.
  template <class Row, class Logit>
  DEVICE static Softmax of(const Row& row, A inverse_temperature, const Logit& logit) {
    const A inverse[1] = {inverse_temperature};
    const auto sums = RowSums<A, 1>::of(row, inverse, [&](int64_t c, const auto& x, int e, A(&z)[1]) {
      z[0] = logit(c, x, e);
    });
    return {sums.largest(0), sums.total(0), inverse_temperature};
  }

  DEVICE A scaled(A x) const { return (x - largest) * inverse_temperature; }
  DEVICE A exponential(A x) const { return std::exp(scaled(x)); }
  DEVICE A probability(A x) const { return exponential(x) * inverse_total; }
};

// Cross-entropy of a row at temperature 1; NaN where the target is no class, which is never read.
template <class A>
struct CrossEntropy {
  Softmax<A> softmax;
  int64_t target;
  bool valid;
  A value;

  // Of input k, given its softmax.
  template <class Row>
  DEVICE static CrossEntropy of(const Row& row, int k, const Softmax<A>& softmax, int64_t target) {
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
    const A inverse[2] = {1 / temperature, 1 / temperature};
    return of(temperature, RowSums<A, 2, true>::of(row, inverse, [&](int64_t c, const auto& x, int e, A(&z)[2]) {
                z[0] = s(c, x, e);
                z[1] = t(c, x, e);
              }));
  }

  // Given the sums of student and teacher, and maybe of more.
  template <int N>
  DEVICE static Distillation of(A temperature, const RowSums<A, N, true>& sums) {
    const A inverse = 1 / temperature;
    const Softmax<A> student(sums.largest(0), sums.total(0), inverse);
    const Softmax<A> teacher(sums.largest(1), sums.total(1), inverse);
    const A log_ratio = std::log(student.total) - std::log(teacher.total);
    return {temperature, student, teacher, log_ratio, sums.gap() * inverse * teacher.inverse_total + log_ratio};
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

// The weighted loss of row n; writes the gradients of the elements that `row` stands for, where they are needed.
template <class Row, class Loss, int K, class T, class A>
DEVICE A evaluate_row(const Row& row, const Loss& loss, const Batch<K, T, A>& batch, int64_t n) {
  const int64_t begin = n * batch.size;
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

// The most short rows that one block takes alone, where that saves the launch of a sum.
constexpr int64_t kRowsAlone = 8 * kMaxWarps;
// Fewer rows than this are shared out over as many blocks as fill a GPU, though over no smaller parts.
constexpr int64_t kFewRows = 128;
constexpr int64_t kEnoughBlocks = 256;
constexpr int64_t kLeastPart = 4096;

// `sum` []: where the only block leaves the sum over all rows, if that is wanted; else null, and each row's loss is
// kept.
template <class Row, class Loss, int K, class T, class A>
KERNEL_FOR(Row::kMostThreads) warp_rows(Loss loss, Batch<K, T, A> batch, A* sum) {
  const int warps = blockDim.x / kWarp;
  const bool first_lane = threadIdx.x % kWarp == 0;
  double total = 0;
  const int64_t first = int64_t{blockIdx.x} * warps + threadIdx.x / kWarp;
  for (int64_t n = first; n < batch.samples; n += int64_t{gridDim.x} * warps) {
    const A value = evaluate_row(Row(batch.x, n * batch.size, batch.size), loss, batch, n);
    if (first_lane && !sum) batch.loss[n] = value;
    if (first_lane) total += static_cast<double>(value);
  }
  if (!sum) return;
  total = combined<Sum>(BlockTeam(), total);
  if (threadIdx.x == 0) *sum = static_cast<A>(total);
}

template <class Row, class Loss, int K, class T, class A>
KERNEL block_rows(Loss loss, Batch<K, T, A> batch) {
  const int64_t n = blockIdx.x;
  const A value = evaluate_row(Row(batch.x, n * batch.size, batch.size), loss, batch, n);
  if (threadIdx.x == 0) batch.loss[n] = value;
}

// `sums` [N, parts, Row::kMostSums]
template <class Row, class Loss, int K, class T, class A>
KERNEL part_sums(Loss loss, Batch<K, T, A> batch, int parts, A* sums) {
  const int64_t n = blockIdx.x / parts;
  const int part = static_cast<int>(blockIdx.x % parts);
  const Row row(batch.x, n * batch.size, batch.size, part, parts, sums + n * parts * Row::kMostSums);
  loss.template of<A>(row, n);
}

template <class Row, class Loss, int K, class T, class A>
KERNEL part_rows(Loss loss, Batch<K, T, A> batch, int parts, A* sums) {
  const int64_t n = blockIdx.x / parts;
  const int part = static_cast<int>(blockIdx.x % parts);
  const Row row(batch.x, n * batch.size, batch.size, part, parts, sums + n * parts * Row::kMostSums);
  const A value = evaluate_row(row, loss, batch, n);
  if (part == 0 && threadIdx.x == 0) batch.loss[n] = value;
}

// `share`: the elements of a block's part of a row.
template <class Row, class Loss, int K, class T, class A>
KERNEL_OF(kClusterThreads, sizeof(A) == 4 ? 2 : 1) cluster_rows(Loss loss, Batch<K, T, A> batch, int share) {
  if constexpr (kHasClusters) {
    SHARED_ROOM(T, room);
    const int64_t n = blockIdx.x / Cluster::size();
    const A value = evaluate_row(Row(batch.x, n * batch.size, batch.size, share, room), loss, batch, n);
    if (Cluster::rank() == 0 && threadIdx.x == 0) batch.loss[n] = value;
  }
}

// Launches a cluster a row; false where the GPU has none that holds one.
template <int kWidth, class Loss, int K, class T, class A>
bool launch_cluster_rows(const Loss& loss, const Batch<K, T, A>& batch, const Device& device) {
  const int blocks = cluster_blocks(K * batch.size * static_cast<int64_t>(sizeof(T)), batch.samples);
  const int share = cluster_share<T>(batch.size, blocks);
  const Clusters clusters{batch.samples, blocks, cluster_threads(share / kWidth), K * copy_room<T>(share)};
  const auto kernel = cluster_rows<ClusterRow<kWidth, K, T, A>, Loss, K, T, A>;
  if (clusters_at_once(kernel, clusters, device) == 0) return false;
  LAUNCH_CLUSTERS(kernel, clusters, device, loss, batch, share);
  return true;
}

// A block adds up to kSummands of `count` values, several blocks a number of `sums`. The mean of nothing, whose scale
// is NaN, is NaN.
constexpr int64_t kSummands = 16384;
template <class A>
KERNEL sum_values(const A* values /* [sums, count] */, int64_t count, A scale, A* sums /* [sums, blocks] */,
                  int64_t blocks) {
  const int64_t first = blockIdx.x % blocks * kSummands, left = count - first;
  const int64_t length = left < kSummands ? left : kSummands;
  values += blockIdx.x / blocks * count + first;
  double total = 0;
#pragma unroll 8
  for (int64_t n = threadIdx.x; n < length; n += blockDim.x) total += static_cast<double>(values[n]);
  total = combined<Sum>(BlockTeam(), total);
  if (threadIdx.x == 0) sums[blockIdx.x] = static_cast<A>(total + 0 * static_cast<double>(scale));
}

// Adds up `count` values for each number of `sums`, in a fixed order, over as many launches as that takes.
template <class A>
void add_up(const Device& device, const Tensor& like, const A* values /* [results, count] */, int64_t count, A scale,
            A* sums /* [results] */, int64_t results) {
  Tensor partial = like;
  while (count > kSummands) {
    const int64_t blocks = divide_up(count, kSummands);
    const Tensor next = empty_vector(like, results * blocks, accumulated(like.scalar_type()));
    LAUNCH((sum_values<A>), results * blocks, kMaxThreads, device, values, count, scale, mutable_data<A>(next), blocks);
    partial = next;
    values = data<A>(partial);
    count = blocks;
  }
  LAUNCH((sum_values<A>), results, block_threads(count), device, values, count, scale, sums, int64_t{1});
}

template <class Loss>
constexpr bool splits() {
  if constexpr (requires { Loss::kSplits; }) {
    return Loss::kSplits;
  } else {
    return false;
  }
}

namespace {

template <class Loss, int K, class T, class A>
void compute_rows(const Loss& loss, const Batch<K, T, A>& whole, const Tensor& like) {
  const Device device(like);
  Batch<K, T, A> batch = whole;
  const int64_t samples = batch.samples, classes = batch.size;
  using Short = HeldRow<4, K, T, A>;
  using Held = HeldRow<kHeldRuns<K, A>, K, T, A>;
  const bool short_rows = classes <= Short::kLongest;
  const bool one_block = samples == 1 || (short_rows && samples > 0 && samples <= kRowsAlone);
  const bool sum_apart = batch.reduce && !one_block;
  const Tensor values = sum_apart ? empty_vector(like, samples, accumulated(like.scalar_type())) : like;
  if (sum_apart) batch.loss = mutable_data<A>(values);
  bool vectors = classes % kVector<T> == 0;
  for (int k = 0; k < K; ++k) vectors = vectors && aligned<kVector<T>>(batch.x[k]);
  const auto launch_warps = [&](auto row) {
    using Row = typename decltype(row)::type;
    const int64_t blocks = one_block && batch.reduce ? 1 : divide_up(samples, kRowsABlock);
    A* const sum = one_block && batch.reduce ? batch.loss : nullptr;
    LAUNCH((warp_rows<Row, Loss, K, T, A>), blocks, block_threads(kWarp * divide_up(samples, blocks)), device, loss,
           batch, sum);
  };
  // Every thread has a few loads to wait for, so that no more rows than needed are in a cache at a time.
  const auto threads = [&](int64_t elements, int width) { return block_threads(elements / width / 4); };
  const auto launch_clusters = [&] {
    // Of half precision 8 bytes at a time, for which there are registers.
    constexpr int kWidth = 16 / static_cast<int>(sizeof(A));
    if constexpr (splits<Loss>()) {
      return vectors ? launch_cluster_rows<kWidth>(loss, batch, device) : launch_cluster_rows<1>(loss, batch, device);
    } else {
      return false;
    }
  };
  const auto launch_blocks = [&](auto row) {
    using Row = typename decltype(row)::type;
    LAUNCH((block_rows<Row, Loss, K, T, A>), samples, threads(classes, Row::kWidth), device, loss, batch);
  };
  const int64_t fitting = classes / kLeastPart, enough = samples ? divide_up(kEnoughBlocks, samples) : 1;
  const int parts = static_cast<int>(samples < kFewRows && vectors ? (fitting < enough ? fitting : enough) : 1);
  if (samples == 0) {
    // Nothing but a sum of nothing.
  } else if (short_rows) {
    launch_warps(std::type_identity<Short>());
  } else if (classes <= Held::kLongest) {
    launch_warps(std::type_identity<Held>());
  } else if (launch_clusters()) {
    // Each row is read once.
  } else if (!vectors) {
    launch_blocks(std::type_identity<StreamedRow<1, Extent::kWhole, K, T, A>>());
  } else if (parts < 2 || !splits<Loss>()) {
    launch_blocks(std::type_identity<StreamedRow<kVector<T>, Extent::kWhole, K, T, A>>());
  } else if constexpr (splits<Loss>()) {
    using Part = StreamedRow<kVector<T>, Extent::kPart, K, T, A>;
    using Merged = StreamedRow<kVector<T>, Extent::kMerged, K, T, A>;
    const int64_t blocks = samples * parts;
    const Tensor room = empty_vector(like, blocks * Part::kMostSums, accumulated(like.scalar_type()));
    A* const sums = mutable_data<A>(room);
    const int each = threads(classes / parts, kVector<T>);
    LAUNCH((part_sums<Part, Loss, K, T, A>), blocks, each, device, loss, batch, parts, sums);
    LAUNCH((part_rows<Merged, Loss, K, T, A>), blocks, each, device, loss, batch, parts, sums);
  }
  if (sum_apart) add_up(device, like, batch.loss, samples, batch.scale, whole.loss, 1);
}

}  // namespace
}  // namespace fastadv
