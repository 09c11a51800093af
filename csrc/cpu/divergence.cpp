// kl_distill, kd_loss, js_distill and dkd_loss in C++; their front: ../common/ops/divergence.h. Rows: rows.h.
#include "../common/ops/divergence.h"

#include "rows.h"

namespace fastadv {
namespace {

struct KlDistill {
  static constexpr int kSpare = 2;
  double temperature;

  template <class A>
  FASTADV_INLINE void operator()(Block block, A* const* x, const Gradients<A>& grad, PerRow<A>& loss, A* spare) const {
    const SoftLoss<A> soft(block, x[0], x[1], largest<A>(block, x[0]), static_cast<A>(temperature), spare);
    loss = soft.value;
    grad.set(0, [&](int64_t r) FASTADV_LAMBDA { return soft.by_student(r); });
    grad.set(1, [&](int64_t r) FASTADV_LAMBDA { return soft.by_teacher(r); });
  }
};

struct KdLoss {
  static constexpr int kSpare = 3;
  Targets target;
  double temperature;
  double alpha;

  template <class A>
  FASTADV_INLINE void operator()(Block block, A* const* x, const Gradients<A>& grad, PerRow<A>& loss, A* spare) const {
    const A soft_weight = static_cast<A>(alpha), hard_weight = static_cast<A>(1 - alpha);
    const PerRow<A> shift = largest<A>(block, x[0]);
    const SoftLoss<A> soft(block, x[0], x[1], shift, static_cast<A>(temperature), spare);
    const HardLoss<A> hard(block, x[0], shift, target, spare + 2 * block.room());
    // Which product is fused into the sum is not left to the compiler, which may choose by the number of rows.
    for (int64_t r = 0; r < kBlockRows; ++r) {
      loss[r] = std::fma(hard_weight, hard.value[r], soft_weight * soft.value[r]);
    }
    grad.set(0, [&](int64_t r) FASTADV_LAMBDA {
      return [=, by_soft = soft.by_student(r), by_hard = hard.grad_logits(r)](int64_t i) FASTADV_LAMBDA {
        return soft_weight * by_soft(i) + hard_weight * by_hard(i);
      };
    });
    grad.set(1, [&](int64_t r) FASTADV_LAMBDA {
      return [=, by_soft = soft.by_teacher(r)](int64_t i) FASTADV_LAMBDA { return soft_weight * by_soft(i); };
    });
  }
};

struct JsDistill {
  static constexpr int kSpare = 4;
  double temperature;

  template <class A>
  FASTADV_INLINE void operator()(Block block, A* const* x, const Gradients<A>& grad, PerRow<A>& loss, A* spare) const {
    const A t = static_cast<A>(temperature), inverse = 1 / t;
    A *share[2] = {spare, spare + block.room()}, *log_ratio[2] = {share[1] + block.room(), share[1] + 2 * block.room()};
    const Softmax<A> own[2] = {softmax<A>(block, x[0], largest<A>(block, x[0]), inverse, share[0]),
                               softmax<A>(block, x[1], largest<A>(block, x[1]), inverse, share[1])};
    const PerRow<A> log_total[2] = {log_positive<A>(own[0].total), log_positive<A>(own[1].total)};
    PerRow<A> mean[2] = {};
    block.each_row([&](int64_t r) FASTADV_LAMBDA {
      const auto p = own[0].probability(r), q = own[1].probability(r);
      const A p_shift = own[0].largest[r], p_log = log_total[0][r];
      const A q_shift = own[1].largest[r], q_log = log_total[1][r];
      A sums[2];
      block.sum_all(r, sums, [&](int64_t i, A(&terms)[2]) FASTADV_LAMBDA {
        // log(own / mean) = log 2 - log(1 + other / own), with the ratio of the larger to the smaller kept out of exp.
        const A gap = ((x[1][i] - q_shift) * inverse - q_log) - ((x[0][i] - p_shift) * inverse - p_log);
        const A nearness = A(0.693147180559945309) - log_one_plus(exp_nonpositive(-absolute(gap)));
        const A of_p = (nearness - (gap > 0 ? gap : A(0))) / 2, of_q = (nearness + (gap < 0 ? gap : A(0))) / 2;
        const A p_i = p(i), q_i = q(i);
        terms[0] = only_if(p_i != 0, p_i * of_p);
        terms[1] = only_if(q_i != 0, q_i * of_q);
        log_ratio[0][i] = of_p;
        log_ratio[1][i] = of_q;
      });
      for (int k = 0; k < 2; ++k) mean[k][r] = sums[k];
      loss[r] = t * t * (sums[0] + sums[1]);
    });
    for (int k = 0; k < 2; ++k) {
      grad.set(k, [&](int64_t r) FASTADV_LAMBDA {
        return [=, p = own[k].probability(r), of_p = log_ratio[k], center = mean[k][r]](int64_t i) FASTADV_LAMBDA {
          return only_if(p(i) != 0, t * p(i) * (of_p[i] - center));
        };
      });
    }
  }
};

// Probabilities of the target and of all other classes together, and their logarithms.
template <class A>
struct Odds {
  A hit, miss, log_hit, log_miss;

  FASTADV_INLINE explicit Odds(A log_odds) {
    const A e = exp_nonpositive(-absolute(log_odds)), likely = 1 / (1 + e), unlikely = e * likely;
    const A gap = log_one_plus(e);
    hit = log_odds < 0 ? unlikely : likely;
    miss = log_odds < 0 ? likely : unlikely;
    log_hit = (log_odds < 0 ? log_odds : A(0)) - gap;
    log_miss = (log_odds < 0 ? A(0) : -log_odds) - gap;
  }
};

struct DkdLoss {
  static constexpr int kSpare = 2;
  Targets target;
  double temperature;
  double alpha;
  double beta;

  template <class A>
  FASTADV_INLINE void operator()(Block block, A* const* x, const Gradients<A>& grad, PerRow<A>& loss, A* spare) const {
    const A t = static_cast<A>(temperature), inverse = 1 / t;
    const A target_weight = static_cast<A>(alpha), others_weight = static_cast<A>(beta);
    const PerRow<A> logit[2] = {take_target<A>(block, x[0], target), take_target<A>(block, x[1], target)};
    SoftLoss<A> others(block, x[0], x[1], shift<A>(block, x[0]), shift<A>(block, x[1]), t, spare);
    const PerRow<A> s_log = log_total(others.student), t_log = log_total(others.teacher);
    // A logit moves the odds of the target: its own by 1, another's by minus its share among the others.
    PerRow<A> pull[2];
    for (int64_t r = 0; r < kBlockRows; ++r) {
      const A s_odds = (logit[0][r] - others.student.largest[r]) * inverse - s_log[r];
      const A t_odds = (logit[1][r] - others.teacher.largest[r]) * inverse - t_log[r];
      const Odds<A> of_student(s_odds), of_teacher(t_odds);
      const A of_target = of_teacher.hit * (of_teacher.log_hit - of_student.log_hit) +
                          of_teacher.miss * (of_teacher.log_miss - of_student.log_miss);
      loss[r] = std::fma(t * t * target_weight, of_target, others_weight * others.value[r]);
      pull[0][r] = t * target_weight * (of_student.hit - of_teacher.hit);
      pull[1][r] = t * target_weight * of_teacher.hit * of_teacher.miss * (t_odds - s_odds);
    }
    grad.set(0, [&](int64_t r) FASTADV_LAMBDA {
      return [=, of_others = others.by_student(r), q = others.student.probability(r),
              pull = pull[0][r]](int64_t i) FASTADV_LAMBDA { return others_weight * of_others(i) - pull * q(i); };
    });
    grad.set(1, [&](int64_t r) FASTADV_LAMBDA {
      return [=, of_others = others.by_teacher(r), p = others.teacher.probability(r),
              pull = pull[1][r]](int64_t i) FASTADV_LAMBDA { return others_weight * of_others(i) - pull * p(i); };
    });
    for (int k = 0; k < 2; ++k) {
      block.each_row([&](int64_t r) FASTADV_LAMBDA { grad.add(k, r, target[block.first + r], pull[k][r]); });
    }
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
