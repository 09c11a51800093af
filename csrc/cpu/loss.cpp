// scale_grad in C++; its front: ../common/ops/loss.h.
#include "../common/ops/loss.h"

#include "tensor.h"

namespace fastadv {
namespace {

template <class T, class A>
FASTADV_CLONES void scale_rows(Scaling<T, A> scaling, int64_t begin, int64_t end) {
  const int64_t size = scaling.size;
  for (int64_t n = begin; n < end; ++n) {
    const A factor = scaling.factor[scaling.per_sample ? n : 0];
    const A* grad = scaling.grad + n * size;
    T* out = scaling.out + n * size;
    for (int64_t i = 0; i < size; ++i) out[i] = static_cast<T>(grad[i] * factor);
  }
}

template <class T, class A>
void scale_samples(const Scaling<T, A>& scaling, const Tensor&) {
  parallel(scaling.samples, scaling.size,
           [&](int64_t begin, int64_t end) { scale_rows<T, A>(scaling, begin, end); });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("scale_grad", TORCH_BOX(&fastadv::scale_grad)); }
