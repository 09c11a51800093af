// scale_grad in CUDA; its front: ../common/ops/loss.h. A thread multiplies 16 bytes of the stored gradient. One
// incoming gradient for the whole batch makes it a single row.
#include "../common/ops/loss.h"

#include "memory.h"

namespace fastadv {
namespace {

constexpr int kThreads = 256;

// `size`: elements that share a factor; `total`: N D.
template <int kWidth, class T, class A>
KERNEL scale_rows(Scaling<T, A> scaling, int64_t size, int64_t total) {
  const int64_t first = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kWidth;
  if (first >= total) return;
  const A factor = scaling.factor[size == total ? 0 : first / size];
  A grad[kWidth];
  load(scaling.grad + first, grad);
#pragma unroll
  for (int e = 0; e < kWidth; ++e) grad[e] *= factor;
  store(scaling.out + first, grad);
}

template <class T, class A>
void scale_samples(const Scaling<T, A>& scaling, const Tensor& like) {
  const Device device(like);
  const int64_t total = scaling.samples * scaling.size, size = scaling.per_sample ? scaling.size : total;
  with_width<A>(size % kVector<A> == 0 && aligned<kVector<A>>(scaling.grad, scaling.out), [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    LAUNCH((scale_rows<kWidth, T, A>), divide_up(total, kWidth * kThreads), kThreads, device, scaling, size, total);
  });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("scale_grad", TORCH_BOX(&fastadv::scale_grad)); }
