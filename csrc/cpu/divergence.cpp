#include "rows.h"

namespace fastadv {
namespace {

struct KlDistill {
  static constexpr int kSpare = 2;
  double temperature;

  template <class A>
  FASTADV_INLINE void operator()(Block block, const A* const* x, A* const* grad, PerRow<A>& loss, A* spare) const {
    loss = distillation<A>(block, x[0], x[1], static_cast<A>(temperature), grad[0], grad[1], spare);
  }
};

struct KdLoss {
  static constexpr int kSpare = 2;
  Targets target;
  double temperature;
  double alpha;

  // The divergence leaves its gradient in the output; the cross-entropy's is added to it.
  template <class A>
  FASTADV_INLINE void operator()(Block block, const A* const* x, A* const* grad, PerRow<A>& loss, A* spare) const {
    const A soft_weight = static_cast<A>(alpha), hard_weight = static_cast<A>(1 - alpha);
    const int64_t room = block.rows * block.width;
    const PerRow<A> shift = largest<A>(block, x[0]);
    const PerRow<A> soft =
        distillation<A>(block, x[0], x[1], static_cast<A>(temperature), shift, grad[0], grad[1], spare);
    A* hard_grad = grad[0] ? spare : nullptr;
    const PerRow<A> hard = cross_entropy<A>(block, x[0], target, shift, hard_grad, spare);
    // Which product is fused into the sum is not left to the compiler, which may choose by the number of rows.
    for (int64_t r = 0; r < kBlockRows; ++r) loss[r] = std::fma(hard_weight, hard[r], soft_weight * soft[r]);
    if (A* g = grad[0]) {
      for (int64_t i = 0; i < room; ++i) g[i] = soft_weight * g[i] + hard_weight * hard_grad[i];
    }
    if (A* g = grad[1]) {
      for (int64_t i = 0; i < room; ++i) g[i] *= soft_weight;
    }
  }
};

struct JsDistill {
  static constexpr int kSpare = 2;
  double temperature;

  template <class A>
  FASTADV_INLINE void operator()(Block block, const A* const* x, A* const* grad, PerRow<A>& loss, A* spare) const {
    const A t = static_cast<A>(temperature), inverse = 1 / t;
    // Both networks alike: exponentials, then the log of the share of either in the mean of the two.
    A* e[2] = {spare, spare + block.rows * block.width};
    const Softmax<A> own[2] = {{block, x[0], inverse, e[0]}, {block, x[1], inverse, e[1]}};
    PerRow<A> log_total[2];
    for (int k = 0; k < 2; ++k) {
      for (int64_t r = 0; r < kBlockRows; ++r) log_total[k][r] = log_positive(own[k].total[r]);
    }
    for (int k = 0; k < 2; ++k) {
      const A *z = x[k], *other = x[1 - k], *share = e[k];
      block.each_row([&](int64_t r) FASTADV_LAMBDA {
        const A shift = own[k].largest[r], other_shift = own[1 - k].largest[r];
        const A log_own = log_total[k][r], log_other = log_total[1 - k][r];
        const A inverse_total = 1 / own[k].total[r];
        // log(own / mean) = log 2 - log(1 + other / own), with the ratio of the larger to the smaller kept out of exp.
        const auto surprise = [&](int64_t i) FASTADV_LAMBDA {
          const A gap = ((other[i] - other_shift) * inverse - log_other) - ((z[i] - shift) * inverse - log_own);
          const A log_sum = (gap > 0 ? gap : A(0)) + log_one_plus(exp_nonpositive(-absolute(gap)));
          return (A(0.693147180559945309) - log_sum) / 2;
        };
        const int64_t at = r * block.width;
        const A mean = sum<A>(block.width, [&](int64_t c) FASTADV_LAMBDA {
          const A p = share[at + c] * inverse_total;
          return p == 0 ? A(0) : p * surprise(at + c);
        });
        if (A* g = grad[k]) {
          block.each_class(r, [&](int64_t i) FASTADV_LAMBDA {
            const A p = share[i] * inverse_total;
            g[i] = p == 0 ? A(0) : t * p * (surprise(i) - mean);
          });
        }
        loss[r] += t * t * mean;
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

// Log-odds of the target, and the softmax over the other classes alone into `out`, 0 at the target.
template <class A>
struct TargetAndOthers {
  PerRow<A> log_odds{};
  PerRow<A> largest;
  PerRow<A> log_total;

  FASTADV_INLINE TargetAndOthers(Block block, const A* x, const Targets& target, A inverse_temperature, A* out) {
    for (int64_t i = 0; i < block.rows * block.width; ++i) out[i] = x[i];
    block.each_row([&](int64_t r) FASTADV_LAMBDA {
      out[r * block.width + target[block.first + r]] = -std::numeric_limits<A>::infinity();
    });
    const Softmax<A> others(block, out, inverse_temperature, out);
    largest = others.largest;
    for (int64_t r = 0; r < kBlockRows; ++r) log_total[r] = log_positive(others.total[r]);
    block.each_row([&](int64_t r) FASTADV_LAMBDA {
      const A inverse_total = 1 / others.total[r];
      block.each_class(r, [&](int64_t i) FASTADV_LAMBDA { out[i] *= inverse_total; });
      const A logit = x[r * block.width + target[block.first + r]];
      log_odds[r] = (logit - largest[r]) * inverse_temperature - log_total[r];
    });
  }
};

struct DkdLoss {
  static constexpr int kSpare = 2;
  Targets target;
  double temperature;
  double alpha;
  double beta;

  template <class A>
  FASTADV_INLINE void operator()(Block block, const A* const* x, A* const* grad, PerRow<A>& loss, A* spare) const {
    const A t = static_cast<A>(temperature), inverse = 1 / t;
    const A target_weight = static_cast<A>(alpha), others_weight = static_cast<A>(beta);
    const A *s = x[0], *z = x[1];
    A *q = spare, *p = spare + block.rows * block.width;
    const TargetAndOthers<A> student(block, s, target, inverse, q), teacher(block, z, target, inverse, p);
    block.each_row([&](int64_t r) FASTADV_LAMBDA {
      const Odds<A> of_student(student.log_odds[r]), of_teacher(teacher.log_odds[r]);
      const A of_target = of_teacher.hit * (of_teacher.log_hit - of_student.log_hit) +
                          of_teacher.miss * (of_teacher.log_miss - of_student.log_miss);
      const A s_shift = student.largest[r], z_shift = teacher.largest[r];
      const A log_ratio = student.log_total[r] - teacher.log_total[r];
      const auto surprise = [&](int64_t i) FASTADV_LAMBDA {
        return ((z[i] - z_shift) - (s[i] - s_shift)) * inverse + log_ratio;
      };
      const int64_t at = r * block.width, hit = at + target[block.first + r];
      const A of_others = sum<A>(block.width, [&](int64_t c) FASTADV_LAMBDA {
        return p[at + c] == 0 ? A(0) : p[at + c] * surprise(at + c);
      });
      loss[r] = t * t * (target_weight * of_target + others_weight * of_others);
      // A logit moves the odds of the target: its own by 1, another's by minus its share among the others.
      if (A* g = grad[0]) {
        const A pull = target_weight * (of_student.hit - of_teacher.hit);
        block.each_class(r, [&](int64_t i) FASTADV_LAMBDA {
          g[i] = t * (others_weight * (q[i] - p[i]) - pull * q[i]);
        });
        g[hit] = t * pull;
      }
      if (A* g = grad[1]) {
        const A pull = target_weight * of_teacher.hit * of_teacher.miss * (teacher.log_odds[r] - student.log_odds[r]);
        block.each_class(r, [&](int64_t i) FASTADV_LAMBDA {
          g[i] = p[i] == 0 ? A(0) : t * p[i] * (others_weight * (surprise(i) - of_others) - pull);
        });
        g[hit] = t * pull;
      }
    });
  }
};

std::tuple<Tensor, Gradient, Gradient> kl_distill(const Tensor& student, const Tensor& teacher, double temperature,
                                                  double scale, bool reduce, bool student_grad, bool teacher_grad,
                                                  const std::optional<Tensor>& weight) {
  return softmax_rows<KlDistill, 2>({temperature}, {&student, &teacher}, {scale, reduce, weight},
                                    {student_grad, teacher_grad});
}

std::tuple<Tensor, Gradient, Gradient> kd_loss(const Tensor& student, const Tensor& teacher, const Tensor& target,
                                               double temperature, double alpha, double scale, bool reduce,
                                               bool student_grad, bool teacher_grad,
                                               const std::optional<Tensor>& weight) {
  return softmax_rows<KdLoss, 2>({Targets(target, student), temperature, alpha}, {&student, &teacher},
                                 {scale, reduce, weight}, {student_grad, teacher_grad});
}

std::tuple<Tensor, Gradient, Gradient> js_distill(const Tensor& student, const Tensor& teacher, double temperature,
                                                  double scale, bool reduce, bool student_grad, bool teacher_grad,
                                                  const std::optional<Tensor>& weight) {
  return softmax_rows<JsDistill, 2>({temperature}, {&student, &teacher}, {scale, reduce, weight},
                                    {student_grad, teacher_grad});
}

std::tuple<Tensor, Gradient, Gradient> dkd_loss(const Tensor& student, const Tensor& teacher, const Tensor& target,
                                                double temperature, double alpha, double beta, double scale,
                                                bool reduce, bool student_grad, bool teacher_grad,
                                                const std::optional<Tensor>& weight) {
  require(student.dim() == 2 && student.size(1) > 1, "expected logits [N, C] with C > 1");
  return softmax_rows<DkdLoss, 2>({Targets(target, student), temperature, alpha, beta}, {&student, &teacher},
                                  {scale, reduce, weight}, {student_grad, teacher_grad});
}

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("kl_distill", TORCH_BOX(&fastadv::kl_distill));
  m.impl("kd_loss", TORCH_BOX(&fastadv::kd_loss));
  m.impl("js_distill", TORCH_BOX(&fastadv::js_distill));
  m.impl("dkd_loss", TORCH_BOX(&fastadv::dkd_loss));
}
