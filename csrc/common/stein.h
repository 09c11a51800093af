// What makes one svgd_step differ from another.
#pragma once

#include <cstdint>

namespace fastadv {

enum class Update : int64_t { kSign = 0, kL2 = 1, kRaw = 2 };

template <class A>
struct Stein {
  A bandwidth;  // 0: the median rule
  A score_scale;
  bool equal_rms;
  Update update;
};

}  // namespace fastadv
