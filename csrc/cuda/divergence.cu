// kl_distill, kd_loss, js_distill and dkd_loss in CUDA; their front: ../common/ops/divergence.h. Kernels and cost:
// rows.h.
#include "../common/ops/divergence.h"

#include "rows.h"

namespace fastadv {
namespace {

struct KlDistill {
  static constexpr bool kSplits = true;
  double temperature;

  template <class A>
  struct State {
    Distillation<A> soft;

    DEVICE A value() const { return soft.value(); }
    DEVICE void gradient(int64_t, const A (&x)[2], A (&g)[2]) const {
      g[0] = soft.by_student(x[0], x[1]);
      g[1] = soft.by_teacher(x[0], x[1]);
    }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t) const {
    return {Distillation<A>::of(row, static_cast<A>(temperature))};
  }
};

struct KdLoss {
  static constexpr bool kSplits = true;
  Targets target;
  double temperature;
  double alpha;

  template <class A>
  struct State {
    Distillation<A> soft;
    CrossEntropy<A> hard;
    A soft_weight;
    A hard_weight;

    DEVICE A value() const { return hard_weight * hard.value + soft_weight * soft.value(); }
    DEVICE void gradient(int64_t c, const A (&x)[2], A (&g)[2]) const {
      g[0] = soft_weight * soft.by_student(x[0], x[1]) + hard_weight * hard.gradient(c, x[0]);
      g[1] = soft_weight * soft.by_teacher(x[0], x[1]);
    }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t n) const {
    // The student's softmax twice, at the temperature and as it is.
    const A t = static_cast<A>(temperature), inverse[3] = {1 / t, 1 / t, A(1)};
    const auto logits = [](int64_t, const auto& x, int e, A(&z)[3]) {
      z[0] = z[2] = x[0][e];
      z[1] = x[1][e];
    };
    const auto sums = RowSums<A, 3, true>::of(row, inverse, logits);
    const Softmax<A> softmax(sums.largest(2), sums.total(2), A(1));
    return {Distillation<A>::of(t, sums), CrossEntropy<A>::of(row, 0, softmax, target[n]), static_cast<A>(alpha),
            static_cast<A>(1 - alpha)};
  }
};

struct JsDistill {
  double temperature;

  // Both networks alike: the log of the share of either in the mean of the two.
  template <class A>
  struct State {
    A temperature;
    Softmax<A> softmax[2];
    A log_total[2];
    A mean[2];

    DEVICE A value() const { return temperature * temperature * (mean[0] + mean[1]); }
    DEVICE void gradient(int64_t, const A (&x)[2], A (&g)[2]) const {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const A p = softmax[k].probability(x[k]);
        g[k] = p == 0 ? A(0) : temperature * p * (surprise(k, x[k], x[1 - k]) - mean[k]);
      }
    }

    // log(own / mean) / 2, with log(own / mean) = log 2 - log(1 + other / own); the larger of the two stays out of exp.
    DEVICE A surprise(int k, A own, A other) const {
      const A gap = log_probability(1 - k, other) - log_probability(k, own);
      const A log_sum = (gap > 0 ? gap : A(0)) + std::log1p(std::exp(-absolute(gap)));
      return (A(0.693147180559945309) - log_sum) / 2;
    }

   private:
    DEVICE A log_probability(int k, A x) const { return softmax[k].scaled(x) - log_total[k]; }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t) const {
    const A t = static_cast<A>(temperature), inverse[2] = {1 / t, 1 / t};
    const auto both = RowSums<A, 2>::of(row, inverse, [](int64_t, const auto& x, int e, A(&z)[2]) {
      z[0] = x[0][e];
      z[1] = x[1][e];
    });
    State<A> state{t,
                   {{both.largest(0), both.total(0), inverse[0]}, {both.largest(1), both.total(1), inverse[1]}},
                   {},
                   {}};
    A sums[2] = {0, 0};
#pragma unroll
    for (int k = 0; k < 2; ++k) state.log_total[k] = std::log(state.softmax[k].total);
    row.each([&](int64_t, const auto& x) {
      for (int e = 0; e < Row::kWidth; ++e) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const A p = state.softmax[k].probability(x[k][e]);
          sums[k] += p == 0 ? A(0) : p * state.surprise(k, x[k][e], x[1 - k][e]);
        }
      }
    });
    typename Row::Team().template combine<Sum>(sums);
#pragma unroll
    for (int k = 0; k < 2; ++k) state.mean[k] = sums[k];
    return state;
  }
};

// The logits of input k but the target's.
template <int k, class A>
struct Others {
  int64_t target;

  template <class X>
  DEVICE A operator()(int64_t c, const X& x, int e) const {
    return c == target ? -std::numeric_limits<A>::infinity() : x[k][e];
  }
};

// log(1 / (1 + exp(-x))) without overflow.
template <class A>
DEVICE A log_sigmoid(A x) {
  return (x < 0 ? x : A(0)) - std::log1p(std::exp(-absolute(x)));
}

struct DkdLoss {
  static constexpr bool kSplits = true;
  Targets target;
  double temperature;
  double alpha;
  double beta;

  template <class A>
  struct State {
    // The divergence of the other classes from each other, and what the odds of the target add.
    Distillation<A> others;
    A others_weight;
    A of_target;
    A by_student_odds;
    A by_teacher_odds;
    int64_t target;

    DEVICE A value() const { return of_target + others_weight * others.value(); }

    // A logit moves the odds of the target: its own by 1, another's by minus its share among the others.
    DEVICE void gradient(int64_t c, const A (&x)[2], A (&g)[2]) const {
      const A q = others.q(x[0]), p = others.p(x[1]);
      const bool hit = c == target;
      g[0] = hit ? by_student_odds : others_weight * others.by_student(x[0], x[1]) - by_student_odds * q;
      g[1] = hit ? by_teacher_odds : others_weight * others.by_teacher(x[0], x[1]) - by_teacher_odds * p;
    }
  };

  template <class A, class Row>
  DEVICE State<A> of(const Row& row, int64_t n) const {
    const int64_t c = target[n];
    const A t = static_cast<A>(temperature), weight = static_cast<A>(alpha);
    auto others = Distillation<A>::of(row, t, Others<0, A>{c}, Others<1, A>{c});
    // Other classes that are all impossible have no probabilities; those of the teacher are infinitely far from them.
    if (others.student.total == 0) {
      others.student.inverse_total = 0;
      others.kl = others.teacher.total == 0 ? std::numeric_limits<A>::quiet_NaN() : std::numeric_limits<A>::infinity();
    }
    if (others.teacher.total == 0) others.teacher.inverse_total = 0;
    if (c < 0 || c >= row.classes()) {
      constexpr A kInvalid = std::numeric_limits<A>::quiet_NaN();
      return {others, kInvalid, kInvalid, kInvalid, kInvalid, c};
    }
    const A q_odds = others.student.scaled(row.logit(0, c)) - std::log(others.student.total);
    const A p_odds = others.teacher.scaled(row.logit(1, c)) - std::log(others.teacher.total);
    const A log_hit = log_sigmoid(p_odds), log_miss = log_sigmoid(-p_odds);
    const A p_hit = std::exp(log_hit), p_miss = std::exp(log_miss);
    const A divergence = p_hit * (log_hit - log_sigmoid(q_odds)) + p_miss * (log_miss - log_sigmoid(-q_odds));
    return {others,
            static_cast<A>(beta),
            weight * t * t * divergence,
            weight * t * (std::exp(log_sigmoid(q_odds)) - p_hit),
            weight * t * p_hit * p_miss * (p_odds - q_odds),
            c};
  }
};

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) {
  m.impl("kl_distill", TORCH_BOX(&fastadv::kl_distill<fastadv::KlDistill>));
  m.impl("kd_loss", TORCH_BOX(&fastadv::kd_loss<fastadv::KdLoss>));
  m.impl("js_distill", TORCH_BOX(&fastadv::js_distill<fastadv::JsDistill>));
  m.impl("dkd_loss", TORCH_BOX(&fastadv::dkd_loss<fastadv::DkdLoss>));
}
