// The random words of each sample, and where they belong: what the ops that draw share.
#pragma once

#include "philox.h"
#include "tensor.h"

namespace fastadv {

// Key and counter of each sample's stream. A seed in a tensor is read where the noise is drawn.
class Noise {
 public:
  Noise(int64_t seed, const std::optional<Tensor>& seed_t, const std::optional<Tensor>& sample_ids, const Tensor& x)
      : seed_(seed),
        seed_t_(seed_t ? data<int64_t>(*seed_t) : nullptr),
        ids_(sample_ids ? data<int64_t>(*sample_ids) : nullptr) {
    require_beside(x, seed_t, "seed_t");
    require_beside(x, sample_ids, "sample_ids");
    require(!seed_t || (seed_t->scalar_type() == ScalarType::Long && seed_t->numel() == 1), "expected an int64 seed");
    require(!sample_ids || (sample_ids->scalar_type() == ScalarType::Long && sample_ids->is_contiguous() &&
                            sample_ids->numel() == x.size(0)),
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

// Whether a sample's elements lie pixel by pixel, as in a channels_last tensor, or in their logical order.
inline bool channels_last(const Tensor& x) {
  if (x.is_contiguous()) return false;
  const auto sizes = x.sizes(), strides = x.strides();
  bool fits = x.dim() > 2;
  int64_t stride = 1;
  const auto take = [&](size_t d) {
    fits = fits && (sizes[d] == 1 || strides[d] == stride);
    stride *= sizes[d];
  };
  take(1);
  for (size_t d = sizes.size() - 1; d > 1; --d) take(d);
  require(fits, "expected a contiguous or channels_last tensor");
  return true;
}

// Noise is numbered in logical (channels, pixels) order: where in memory an element of a sample lies.
struct Order {
  int64_t channels = 1;
  int64_t pixels;

  Order(const Tensor& x, int64_t size) : pixels(size) {
    if (!channels_last(x)) return;
    channels = x.size(1);
    pixels = size / channels;
  }

  FASTADV_INLINE int64_t offset(int64_t logical) const {
    return channels == 1 ? logical : (logical % pixels) * channels + logical / pixels;
  }
};

}  // namespace fastadv
