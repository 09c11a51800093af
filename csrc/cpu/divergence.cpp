#include "rows.h"

namespace fastadv {
namespace {

struct KlDistill {
  double temperature;

  template <class A>
  FASTADV_INLINE A row(const A* const* x, int64_t classes, int64_t, A* const* grad, A* buffer) const {
    return distillation<A>(x[0], x[1], classes, static_cast<A>(temperature), grad[0], grad[1], buffer);
  }
};

struct KdLoss {
  Targets target;
  double temperature;
  double alpha;

  // The divergence leaves its gradient in the output; the cross-entropy's is added to it.
  template <class A>
  FASTADV_INLINE A row(const A* const* x, int64_t classes, int64_t n, A* const* grad, A* buffer) const {
    const A soft_weight = static_cast<A>(alpha), hard_weight = static_cast<A>(1 - alpha);
    const A soft = distillation<A>(x[0], x[1], classes, static_cast<A>(temperature), grad[0], grad[1], buffer);
    A* hard_grad = grad[0] ? buffer : nullptr;
    const A hard = cross_entropy<A>(x[0], classes, target[n], hard_grad, buffer);
    if (A* g = grad[0]) {
      for (int64_t c = 0; c < classes; ++c) g[c] = soft_weight * g[c] + hard_weight * hard_grad[c];
    }
    if (A* g = grad[1]) {
      for (int64_t c = 0; c < classes; ++c) g[c] *= soft_weight;
    }
    return hard_weight * hard + soft_weight * soft;
  }
};

struct JsDistill {
  double temperature;

  template <class A>
  FASTADV_INLINE A row(const A* const* x, int64_t classes, int64_t, A* const* grad, A* buffer) const {
    const A t = static_cast<A>(temperature), inverse = 1 / t;
    // Both networks alike: exponentials, then the log of the share of either in the mean of the two.
    A* e[2] = {buffer, buffer + classes};
    const Softmax<A> own[2] = {{x[0], classes, inverse, e[0]}, {x[1], classes, inverse, e[1]}};
    A loss = 0;
    for (int k = 0; k < 2; ++k) {
      const A *z = x[k], *other = x[1 - k];
      const A shift = own[k].largest, other_shift = own[1 - k].largest;
      const A log_total = std::log(own[k].total), other_log_total = std::log(own[1 - k].total);
      const A inverse_total = 1 / own[k].total;
      // log(own / mean) = log 2 - log(1 + other / own), with the ratio of the larger to the smaller kept out of exp.
      const auto surprise = [&](int64_t c) FASTADV_LAMBDA {
        const A gap = ((other[c] - other_shift) * inverse - other_log_total) - ((z[c] - shift) * inverse - log_total);
        const A log_sum = (gap > 0 ? gap : A(0)) + std::log1p(exp_nonpositive(-absolute(gap)));
        return (A(0.693147180559945309) - log_sum) / 2;
      };
      const A mean = sum<A>(classes, [&](int64_t c) FASTADV_LAMBDA {
        return e[k][c] == 0 ? A(0) : e[k][c] * inverse_total * surprise(c);
      });
      if (A* g = grad[k]) {
        for (int64_t c = 0; c < classes; ++c) {
          g[c] = e[k][c] == 0 ? A(0) : t * e[k][c] * inverse_total * (surprise(c) - mean);
        }
      }
      loss += mean;
    }
    return t * t * loss;
  }
};

struct DkdLoss {
  Targets target;
  double temperature;
  double alpha;
  double beta;

  template <class A>
  FASTADV_INLINE A row(const A* const* x, int64_t classes, int64_t n, A* const* grad, A* buffer) const {
    const A t = static_cast<A>(temperature), inverse = 1 / t;
    const A target_weight = static_cast<A>(alpha), others_weight = static_cast<A>(beta);
    A *q = buffer, *p = buffer + classes;
    const int64_t hit = target[n];
    const TargetAndOthers<A> student(x[0], classes, hit, inverse, q), teacher(x[1], classes, hit, inverse, p);
    const A p_hit = std::exp(log_sigmoid(teacher.odds)), p_miss = std::exp(log_sigmoid(-teacher.odds));
    const A q_hit = std::exp(log_sigmoid(student.odds));
    const A of_target = p_hit * (log_sigmoid(teacher.odds) - log_sigmoid(student.odds)) +
                        p_miss * (log_sigmoid(-teacher.odds) - log_sigmoid(-student.odds));
    const A log_ratio = student.log_total - teacher.log_total;
    const auto surprise = [&](int64_t c) FASTADV_LAMBDA {
      return ((x[1][c] - teacher.largest) - (x[0][c] - student.largest)) * inverse + log_ratio;
    };
    const A of_others =
        sum<A>(classes, [&](int64_t c) FASTADV_LAMBDA { return p[c] == 0 ? A(0) : p[c] * surprise(c); });
    // A logit moves the odds of the target: its own by 1, another's by minus its share among the others.
    if (A* g = grad[0]) {
      const A pull = target_weight * (q_hit - p_hit);
      for (int64_t c = 0; c < classes; ++c) g[c] = t * (others_weight * (q[c] - p[c]) - pull * q[c]);
      g[hit] = t * pull;
    }
    if (A* g = grad[1]) {
      const A pull = target_weight * p_hit * p_miss * (teacher.odds - student.odds);
      for (int64_t c = 0; c < classes; ++c) {
        g[c] = p[c] == 0 ? A(0) : t * p[c] * (others_weight * (surprise(c) - of_others) - pull);
      }
      g[hit] = t * pull;
    }
    return t * t * (target_weight * of_target + others_weight * of_others);
  }
};

std::tuple<Tensor, Tensor, Tensor> kl_distill(const Tensor& student, const Tensor& teacher, double temperature,
                                              const std::optional<Tensor>& weight, double scale, bool reduce,
                                              bool student_grad, bool teacher_grad) {
  auto [loss, by_student, by_teacher] = softmax_rows<KlDistill, 2>(
      {temperature}, {&student, &teacher}, {weight, scale, reduce}, {student_grad, teacher_grad});
  return {loss, by_student, by_teacher};
}

std::tuple<Tensor, Tensor, Tensor> kd_loss(const Tensor& student, const Tensor& teacher, const Tensor& target,
                                           double temperature, double alpha, const std::optional<Tensor>& weight,
                                           double scale, bool reduce, bool student_grad, bool teacher_grad) {
  auto [loss, by_student, by_teacher] =
      softmax_rows<KdLoss, 2>({Targets(target, student), temperature, alpha}, {&student, &teacher},
                              {weight, scale, reduce}, {student_grad, teacher_grad});
  return {loss, by_student, by_teacher};
}

std::tuple<Tensor, Tensor, Tensor> js_distill(const Tensor& student, const Tensor& teacher, double temperature,
                                              const std::optional<Tensor>& weight, double scale, bool reduce,
                                              bool student_grad, bool teacher_grad) {
  auto [loss, by_student, by_teacher] = softmax_rows<JsDistill, 2>(
      {temperature}, {&student, &teacher}, {weight, scale, reduce}, {student_grad, teacher_grad});
  return {loss, by_student, by_teacher};
}

std::tuple<Tensor, Tensor, Tensor> dkd_loss(const Tensor& student, const Tensor& teacher, const Tensor& target,
                                            double temperature, double alpha, double beta,
                                            const std::optional<Tensor>& weight, double scale, bool reduce,
                                            bool student_grad, bool teacher_grad) {
  require(student.dim() == 2 && student.size(1) > 1, "expected logits [N, C] with C > 1");
  auto [loss, by_student, by_teacher] =
      softmax_rows<DkdLoss, 2>({Targets(target, student), temperature, alpha, beta}, {&student, &teacher},
                               {weight, scale, reduce}, {student_grad, teacher_grad});
  return {loss, by_student, by_teacher};
}

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) {
  m.impl("kl_distill", TORCH_BOX(&fastadv::kl_distill));
  m.impl("kd_loss", TORCH_BOX(&fastadv::kd_loss));
  m.impl("js_distill", TORCH_BOX(&fastadv::js_distill));
  m.impl("dkd_loss", TORCH_BOX(&fastadv::dkd_loss));
}
