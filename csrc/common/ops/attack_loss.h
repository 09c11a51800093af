// attack_loss: arguments, checks and kinds. A backend brings, as members of one class, a functor for each kind:
// Divergence and the templates LogOdds<kCrossEntropy> and Gap<kRanks>.
#pragma once

#include "../loss.h"

namespace fastadv {

template <class Losses>
std::tuple<Tensor, Gradient> attack_loss(const Tensor& logits, const std::optional<Tensor>& target, int64_t kind,
                                         double scale, bool reduce, bool grad, const std::optional<Tensor>& reference,
                                         const std::optional<Tensor>& weight) {
  const ScaleAndReduce scale_and_reduce{scale, reduce, weight};
  if (kind == 1) {
    require(reference.has_value(), "reference must be given for kind='kl'");
    const typename Losses::Divergence loss{};
    auto [value, grad_logits, none] = loss_rows<2>(loss, {&logits, &*reference}, scale_and_reduce, {grad, false});
    return {value, grad_logits};
  }
  require(target.has_value(), "target must be given for every kind but 'kl'");
  const Targets classes(*target, logits);
  const auto rows = [&](const auto& loss) { return loss_rows<1>(loss, {&logits}, scale_and_reduce, {grad}); };
  const auto ranked = [&]<int kRanks>(std::integral_constant<int, kRanks>, const Targets& truth) {
    require(logits.size(1) >= kRanks, "logits have fewer classes than this kind ranks");
    return rows(typename Losses::template Gap<kRanks>{classes, truth});
  };
  switch (kind) {
    case 0: return rows(typename Losses::template LogOdds<true>{classes});
    case 2: return ranked(std::integral_constant<int, 3>(), classes);
    case 3:
      require(reference.has_value(), "reference must be given for kind='dlr' with targeted=True");
      return ranked(std::integral_constant<int, 4>(), Targets(*reference, logits, "reference"));
    case 4: return ranked(std::integral_constant<int, 2>(), classes);
    case 5:
      require(logits.size(1) > 1, "logits have no other class than the target");
      return rows(typename Losses::template LogOdds<false>{classes});
    default: throw std::invalid_argument("unknown kind of attack_loss");
  }
}

}  // namespace fastadv
