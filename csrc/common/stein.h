// What svgd_step is given: the particles of each image, and what makes one step differ from another.
#pragma once

#include "tensor.h"

namespace fastadv {

// `images` runs of `count` particles of `size` elements each.
struct Particles {
  int64_t images;
  int64_t count;
  int64_t size;

  Particles(const Tensor& particles, const Tensor& score, const Tensor& x0) {
    require_alike(particles, score);
    require(particles.is_contiguous() && x0.is_contiguous() && particles.dim() >= 3, "expected contiguous tensors");
    require(x0.scalar_type() == particles.scalar_type(), "expected tensors of one dtype");
    images = particles.size(0);
    count = particles.size(1);
    require(x0.dim() == particles.dim() - 1 && x0.size(0) == images && x0.numel() * count == particles.numel(),
            "expected x0 [N, ...] for particles [N, n, ...]");
    size = images ? x0.numel() / images : 0;
  }
};

enum class Update : int64_t { kSign = 0, kL2 = 1, kRaw = 2 };

template <class A>
struct Stein {
  A bandwidth;  // 0: the median rule
  A score_scale;
  bool equal_rms;
  Update update;

  Stein(std::optional<double> bandwidth, std::optional<double> score_scale, int64_t update)
      : bandwidth(static_cast<A>(bandwidth.value_or(0))),
        score_scale(static_cast<A>(score_scale.value_or(1))),
        equal_rms(!score_scale.has_value()),
        update(static_cast<Update>(update)) {
    require(update >= 0 && update <= 2, "update must be 0 (sign), 1 (l2) or 2 (raw)");
  }
};

}  // namespace fastadv
