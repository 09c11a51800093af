// triplet_margin_loss: arguments and checks. A backend brings a functor, a template of the p-norm.
#pragma once

#include "../loss.h"
#include "../metric.h"

namespace fastadv {

// A number for the whole batch, or one a sample, whose precision only the loop over samples knows.
class Margins {
 public:
  Margins(double value, const std::optional<Tensor>& values, const Tensor& x)
      : value_(value), values_(values ? values->const_data_ptr() : nullptr) {
    require_beside(x, values, "margin_n");
    require(!values || (values->scalar_type() == accumulated(x.scalar_type()) && values->is_contiguous() &&
                        values->numel() == x.size(0)),
            "expected per-sample margins [N] in the accumulation precision");
  }

  template <class A>
  FASTADV_INLINE A of(int64_t sample) const {
    return values_ ? static_cast<const A*>(values_)[sample] : static_cast<A>(value_);
  }

 private:
  double value_;
  const void* values_;  // [N]
};

template <template <class Metric> class Loss>
std::tuple<Tensor, Gradient, Gradient, Gradient> triplet_margin_loss(
    const Tensor& anchor, const Tensor& positive, const Tensor& negative, double margin, double p, double eps,
    bool swap, double scale, bool reduce, bool anchor_grad, bool positive_grad, bool negative_grad,
    const std::optional<Tensor>& margin_n, const std::optional<Tensor>& weight) {
  return with_norm(p, [&]<class Metric>(const Metric& metric) {
    return loss_rows<3>(Loss<Metric>{metric, Margins(margin, margin_n, anchor), eps, swap},
                        {&anchor, &positive, &negative}, {scale, reduce, weight},
                        {anchor_grad, positive_grad, negative_grad});
  });
}

}  // namespace fastadv
