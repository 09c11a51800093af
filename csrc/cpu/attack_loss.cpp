// attack_loss in C++; its front: ../common/ops/attack_loss.h. Rows: rows.h. The kinds that rank logits read the row
// once for the values, in lanes, and once more for the classes where a gradient is needed.
#include "../common/ops/attack_loss.h"

#include "rows.h"

namespace fastadv {
namespace {

// The log-odds of the other classes against the target, v = logsumexp_{c != target} z_c - z_target, or the cross-entropy
// log(1 + exp v), whose slope in v is taken to the smallest numbers.
template <bool kCrossEntropy>
struct LogOdds {
  static constexpr int kSpare = 1;
  Targets target;

  template <class A>
  FASTADV_INLINE void operator()(Block block, A* const* x, const Gradients<A>& grad, PerRow<A>& loss, A* spare) const {
    const PerRow<A> own = take_target<A>(block, x[0], target);
    Softmax<A> others = softmax<A>(block, x[0], shift<A>(block, x[0]), A(1), spare);
    const PerRow<A> log_others = log_total(others);
    PerRow<A> slope;
#pragma GCC unroll 1
    for (int64_t r = 0; r < kBlockRows; ++r) {
      const A odds = (others.largest[r] - own[r]) + log_others[r];
      if constexpr (kCrossEntropy) {
        const A e = exp_nonpositive(-absolute(odds)), likely = 1 / (1 + e);
        loss[r] = (odds > 0 ? odds : A(0)) + log_one_plus(e);
        slope[r] = odds > 0 ? likely : e * likely;
      } else {
        loss[r] = odds;
        slope[r] = 1;
      }
    }
    grad.set(0, [&](int64_t r) FASTADV_LAMBDA {
      const A* e = others.exponential;
      const A share = slope[r] / others.total[r];
      return [=](int64_t i) FASTADV_LAMBDA { return share * e[i]; };
    });
    block.each_row([&](int64_t r) FASTADV_LAMBDA {
      if (loss[r] == loss[r]) {
        grad.add(0, r, target[block.first + r], -slope[r]);
      } else if (grad.needed(0)) {
        grad.fill(0, r, loss[r]);
      }
    });
  }
};

// The second input is the reference, which takes no gradient.
struct Divergence {
  static constexpr int kSpare = 2;

  template <class A>
  FASTADV_INLINE void operator()(Block block, A* const* x, const Gradients<A>& grad, PerRow<A>& loss, A* spare) const {
    const SoftLoss<A> soft(block, x[0], x[1], largest<A>(block, x[0]), A(1), spare);
    loss = soft.value;
    grad.set(0, [&](int64_t r) FASTADV_LAMBDA { return soft.by_student(r); });
  }
};

// The kCount largest logits of a row in descending order; a NaN anywhere is the largest. Of equal ones the lower class
// ranks first, so the padding of a row of kCount classes or more is never among them.
template <class A, int kCount>
struct Ranking {
  A value[kCount];

  FASTADV_INLINE Ranking(const A* x, int64_t width) {
    // Every lane keeps the largest of its own.
    A top[kCount][kRun], nan[kRun] = {};
    for (auto& lanes : top) {
      for (A& lane : lanes) lane = -std::numeric_limits<A>::infinity();
    }
    int64_t c = 0;
    do {
      each_lane([&](int k) FASTADV_LAMBDA {
        A next = x[c + k];
        nan[k] = next == next ? nan[k] : next;
        for (int j = 0; j < kCount; ++j) sink(top[j][k], next);
      });
    } while ((c += kRun) < width);
    fold(top);
    value[0] += fastadv::fold<Add>(nan);
  }

  // The classes of the values, which are numbers.
  FASTADV_INLINE void find(const A* x, int64_t width, int64_t (&position)[kCount]) const {
    for (int j = 0; j < kCount; ++j) {
      const int64_t begin = j > 0 && value[j] == value[j - 1] ? position[j - 1] + 1 : 0;
      position[j] = first(x, width, value[j], begin);
    }
  }

 private:
  using V = typename Vector<A>::Type;

  // Leaves the larger in `held` and the smaller in `next`.
  template <class Number>
  FASTADV_INLINE static void sink(Number& held, Number& next) {
    const Number smaller = next > held ? held : next;
    held = next > held ? next : held;
    next = smaller;
  }

  FASTADV_INLINE void fold(const A (&lanes)[kCount][kRun]) {
    constexpr int kVectors = kRun * sizeof(A) / sizeof(V);
    V top[kCount], others[kCount];
    for (int v = 0; v < kVectors; ++v) {
      for (int j = 0; j < kCount; ++j) std::memcpy(v ? &others[j] : &top[j], lanes[j] + v * kRun / kVectors, sizeof(V));
      if (v) merge(top, others);
    }
    if constexpr (sizeof(A) == 4) {
      for (int j = 0; j < kCount; ++j) others[j] = exchanged<2>(top[j]);
      merge(top, others);
    }
    for (int j = 0; j < kCount; ++j) others[j] = exchanged<1>(top[j]);
    merge(top, others);
    for (int j = 0; j < kCount; ++j) value[j] = top[j][0];
  }

  FASTADV_INLINE static void merge(V (&top)[kCount], const V (&others)[kCount]) {
    for (V next : others) {
      for (V& held : top) sink(held, next);
    }
  }

  // The first class from `begin` on that has this value. Within a block it is searched for without a branch.
  FASTADV_INLINE static int64_t first(const A* x, int64_t width, A value, int64_t begin) {
    for (int64_t c = begin / kRun * kRun; c < width; c += kBlock) {
      const A least = static_cast<A>(begin - c), none = kBlock;
      A found[kRun];
      for (A& lane : found) lane = none;
      const int count = static_cast<int>(smaller(width - c, kBlock));
      int i = 0;
      do {
        each_lane([&](int k) FASTADV_LAMBDA {
          const A index = static_cast<A>(i + k);
          Smaller()(found[k], (x[c + i + k] == value) & (index >= least) ? index : none);
        });
      } while ((i += kRun) < count);
      const A index = fastadv::fold<Smaller>(found);
      if (index < none) return c + static_cast<int64_t>(index);
    }
    return 0;
  }
};

// (z_rival - z_own) / spread, by the ranks that it takes:
//   2  CW: the rival is the largest but the target, the spread is 1
//   3  DLR: the same over z_(1) - z_(3)
//   4  DLR towards the target: that is the rival of the truth, the spread is z_(1) - (z_(3) + z_(4)) / 2
template <int kRanks>
struct Gap {
  static constexpr int kSpare = 0;
  static constexpr bool kTowards = kRanks == 4;

  Targets target;
  Targets truth;

  template <class A>
  FASTADV_INLINE void operator()(Block block, A* const* x, const Gradients<A>& grad, PerRow<A>& loss, A*) const {
    block.each_row([&](int64_t r) FASTADV_LAMBDA {
      loss[r] = row<A>(x[0] + r * block.width, block.width, block.first + r, r, grad);
    });
  }

 private:
  template <class A>
  FASTADV_INLINE A row(const A* z, int64_t classes, int64_t n, int64_t r, const Gradients<A>& grad) const {
    const Ranking<A, kRanks> ranking(z, classes);
    const A* top = ranking.value;
    const int64_t own = kTowards ? truth[n] : target[n];
    // Where the target shares the first place with another class, both have the value of the second.
    const A rival = kTowards ? z[target[n]] : z[own] == top[0] ? top[1] : top[0];
    A spread = 1;
    if constexpr (kRanks == 3) spread = (top[0] - top[2]) + A(1e-12);
    if constexpr (kRanks == 4) spread = ((top[0] - top[2]) + (top[0] - top[3])) / 2 + A(1e-12);
    const A loss = (rival - z[own]) / spread;
    if (grad.needed(0)) {
      const bool defined = loss == loss;
      const A elsewhere = defined ? A(0) : loss;
      grad.fill(0, r, elsewhere);
      if (defined) {
        int64_t rank[kRanks];
        ranking.find(z, classes, rank);
        grad.add(0, r, kTowards ? target[n] : rank[0] == own ? rank[1] : rank[0], 1 / spread);
        grad.add(0, r, own, -1 / spread);
        if constexpr (kRanks > 2) {
          const A by_spread = -loss / spread;
          grad.add(0, r, rank[0], by_spread);
          for (int j = 2; j < kRanks; ++j) grad.add(0, r, rank[j], -by_spread / (kRanks - 2));
        }
      }
    }
    return loss;
  }
};

struct AttackLosses {
  template <bool kCrossEntropy>
  using LogOdds = fastadv::LogOdds<kCrossEntropy>;
  using Divergence = fastadv::Divergence;
  template <int kRanks>
  using Gap = fastadv::Gap<kRanks>;
};

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("attack_loss", TORCH_BOX(&fastadv::attack_loss<fastadv::AttackLosses>)); }
