// The random words of each sample, and where they belong: what the ops that draw share.
#pragma once

#include "philox.h"
#include "tensor.h"

namespace fastadv {

// Key and counter of each sample's stream. A seed in a tensor is read where the noise is drawn.
class Noise {
 public:
  Noise(int64_t seed, const std::optional<Tensor>& seed_t, const std::optional<Tensor>& sample_ids, int64_t samples)
      : seed_(seed),
        seed_t_(seed_t ? data<int64_t>(*seed_t) : nullptr),
        ids_(sample_ids ? data<int64_t>(*sample_ids) : nullptr) {
    require(!seed_t || (seed_t->scalar_type() == ScalarType::Long && seed_t->numel() == 1), "expected an int64 seed");
    require(!sample_ids || (sample_ids->scalar_type() == ScalarType::Long && sample_ids->is_contiguous() &&
                            sample_ids->numel() == samples),
            "expected contiguous int64 sample_ids [N]");
  }

  // Four words a block of a sample, for `count` blocks from `block` on.
  FASTADV_INLINE void words(int64_t sample, uint64_t block, int64_t count, uint32_t* words) const {
    philox(static_cast<uint64_t>(seed_t_ ? *seed_t_ : seed_), block,
           static_cast<uint64_t>(ids_ ? ids_[sample] : sample), count, words);
  }

 private:
  int64_t seed_;
  const int64_t* seed_t_;  // []
  const int64_t* ids_;     // [N]
};

// Noise is numbered in logical (channels, pixels) order: where in memory an element of a sample lies.
struct Order {
  int64_t channels = 1;
  int64_t pixels;

  Order(const Tensor& x, int64_t size) : pixels(size) {
    if (x.is_contiguous() || x.dim() < 3) return;
    channels = x.size(1);
    pixels = size / channels;
  }

  FASTADV_INLINE int64_t offset(int64_t logical) const {
    return channels == 1 ? logical : (logical % pixels) * channels + logical / pixels;
  }
};

}  // namespace fastadv
