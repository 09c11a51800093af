// attack_loss in CUDA; its front: ../common/ops/attack_loss.h. Kernels and cost: rows.h. The kinds that rank logits
// read the row once: every thread keeps the largest of its own, which the team then joins.
#include "../common/ops/attack_loss.h"

#include "rows.h"

namespace fastadv {
namespace {

// A row's logit of class c; NaN where that is no class, which is never read.
template <class Row>
DEVICE auto logit(const Row& row, int64_t c) {
  using A = decltype(row.logit(0, c));
  return c >= 0 && c < row.classes() ? row.logit(0, c) : std::numeric_limits<A>::quiet_NaN();
}

// The log-odds of the other classes against the target, v = logsumexp_{c != target} z_c - z_target, or the cross-entropy
// log(1 + exp v), whose slope in v is taken to the smallest numbers. NaN where the target is no class.
template <bool kCrossEntropy>
struct LogOdds {
  static constexpr bool kSplits = true;
  Targets target;

  template <class A>
  struct State {
    Softmax<A> others;
    int64_t target;
    A loss;
    A slope;

    DEVICE A value() const { return loss; }
    DEVICE void gradient(int64_t c, const A (&x)[1], A (&g)[1]) const {
      const A e = others.exponential(x[0]);
      // Where all other logits are -inf, so is the logarithm of their sum.
      const A q = e == 0 ? A(0) : e * others.inverse_total;
      g[0] = loss == loss ? (c == target ? -slope : slope * q) : loss;
    }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t n) const {
    const int64_t own = target[n];
    const auto others = Softmax<A>::of(row, A(1), [own](int64_t c, const auto& x, int e) {
      return c == own ? -std::numeric_limits<A>::infinity() : x[0][e];
    });
    const A odds = (others.largest - logit(row, own)) + std::log(others.total);
    if constexpr (kCrossEntropy) {
      const A e = std::exp(-absolute(odds)), likely = 1 / (1 + e);
      return {others, own, (odds > 0 ? odds : A(0)) + std::log1p(e), odds > 0 ? likely : e * likely};
    } else {
      return {others, own, odds, A(1)};
    }
  }
};

// The second input is the reference, which takes no gradient.
struct Divergence {
  static constexpr bool kSplits = true;

  template <class A>
  struct State {
    Distillation<A> soft;

    DEVICE A value() const { return soft.kl; }
    DEVICE void gradient(int64_t, const A (&x)[2], A (&g)[2]) const {
      g[0] = soft.by_student(x[0], x[1]);
      g[1] = 0;
    }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t) const {
    return {Distillation<A>::of(row, A(1))};
  }
};

// The kCount largest logits of a row and their classes, in descending order. Of equal ones the lower class ranks first,
// NaN before all numbers; a row has at least kCount classes.
template <class A, int kCount>
struct Ranking {
  A value[kCount];
  int64_t position[kCount];

  template <class Row>
  DEVICE static Ranking of(const Row& row) {
    Ranking own;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      own.value[j] = -std::numeric_limits<A>::infinity();
      own.position[j] = std::numeric_limits<int64_t>::max();
    }
    row.each([&](int64_t first, const auto& x) {
      for (int e = 0; e < Row::kWidth; ++e) own.insert(x[0][e], first + e);
    });
    own.join(typename Row::Team());
    return own;
  }

 private:
  DEVICE void insert(A x, int64_t c) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const A held = value[j];
      const int64_t held_c = position[j];
      const bool rises = (!(x <= held) && held == held) || (x == held && c < held_c);
      value[j] = rises ? x : held;
      position[j] = rises ? c : held_c;
      x = rises ? held : x;
      c = rises ? held_c : c;
    }
  }

  DEVICE void insert(const Ranking& other) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) insert(other.value[j], other.position[j]);
  }

  // With what the other threads of the team have found.
  DEVICE void join(WarpTeam) {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      Ranking other;
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        other.value[j] = __shfl_xor_sync(kAllLanes, value[j], offset);
        other.position[j] = __shfl_xor_sync(kAllLanes, position[j], offset);
      }
      insert(other);
    }
  }

  DEVICE void join(BlockTeam) {
    SHARED_ARRAY(Ranking, partial, kMaxWarps);
    join(WarpTeam());
    const int warps = blockDim.x / kWarp;
    if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = *this;
    __syncthreads();
    // A block takes one row, so nobody writes there again.
    *this = partial[0];
    for (int warp = 1; warp < warps; ++warp) insert(partial[warp]);
  }
};

// (z_rival - z_own) / spread, by the ranks that it takes:
//   2  CW: the rival is the largest but the target, the spread is 1
//   3  DLR: the same over z_(1) - z_(3)
//   4  DLR towards the target: that is the rival of the truth, the spread is z_(1) - (z_(3) + z_(4)) / 2
// A target or truth that is no class makes the row NaN and is never read.
template <int kRanks>
struct Gap {
  Targets target;
  Targets truth;

  template <class A>
  struct State {
    int64_t own;
    int64_t rival;
    int64_t rank[kRanks];
    A loss;
    A by_gap;
    A by_spread;

    DEVICE A value() const { return loss; }
    DEVICE void gradient(int64_t c, const A (&)[1], A (&g)[1]) const {
      A sum = loss == loss ? A(0) : loss;
      if (c == rival) sum += by_gap;
      if (c == own) sum -= by_gap;
      if constexpr (kRanks > 2) {
        if (c == rank[0]) sum += by_spread;
#pragma unroll
        for (int j = 2; j < kRanks; ++j) {
          if (c == rank[j]) sum -= by_spread / (kRanks - 2);
        }
      }
      g[0] = sum;
    }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t n) const {
    const auto ranking = Ranking<A, kRanks>::of(row);
    const A* top = ranking.value;
    State<A> state;
#pragma unroll
    for (int j = 0; j < kRanks; ++j) state.rank[j] = ranking.position[j];
    A rival;
    if constexpr (kRanks == 4) {
      state.own = truth[n];
      state.rival = target[n];
      rival = logit(row, state.rival);
    } else {
      state.own = target[n];
      const bool first = state.rank[0] == state.own;
      state.rival = first ? state.rank[1] : state.rank[0];
      rival = first ? top[1] : top[0];
    }
    A spread = 1;
    if constexpr (kRanks == 3) spread = (top[0] - top[2]) + A(1e-12);
    if constexpr (kRanks == 4) spread = ((top[0] - top[2]) + (top[0] - top[3])) / 2 + A(1e-12);
    state.loss = (rival - logit(row, state.own)) / spread;
    state.by_gap = 1 / spread;
    state.by_spread = -state.loss / spread;
    return state;
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
