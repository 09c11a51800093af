// square_propose in CUDA; its front: ../common/ops/square.h.
//
// A block a sample. linf reads and writes the image once. l2 and l1 sum it up before, and for each channel what lies in
// its windows, twice, which a block of this size finds in its caches.
#include "../common/ops/square.h"

#include "block.h"

namespace fastadv {
namespace {

// Calls `f(row, column, at)` for every pixel of a channel.
template <class T, class A, class F>
DEVICE void each_pixel(const Proposals<T, A>& all, int64_t channel, const F& f) {
  for (int64_t pixel = threadIdx.x; pixel < all.pixels(); pixel += blockDim.x) {
    const int64_t row = pixel / all.width, column = pixel % all.width;
    f(row, column, all.offset(channel, row, column));
  }
}

template <class T, class A>
KERNEL linf_windows(Proposals<T, A> all) {
  const int64_t n = blockIdx.x, size = all.channels * all.pixels();
  const T *x = all.x + n * size, *x0 = all.x0 + n * size;
  T* out = all.out + n * size;
  const Query<T, A> query = Query<T, A>::of(all, n);
  Ball<A> ball = all.ball;
  ball.eps = all.eps[n];
  for (int64_t channel = 0; channel < all.channels; ++channel) {
    const A step = 2 * ball.eps * all.sign_of(n, channel);
    each_pixel(all, channel, [&](int64_t row, int64_t column, int64_t at) {
      const A moved = project_linf<A>(static_cast<A>(x[at]) + step, static_cast<A>(x0[at]), ball);
      out[at] = query.first.holds(row, column) ? static_cast<T>(moved) : x[at];
    });
  }
}

template <Norm norm, class T, class A>
KERNEL other_windows(Proposals<T, A> all) {
  const int64_t n = blockIdx.x, size = all.channels * all.pixels();
  const T *x = all.x + n * size, *x0 = all.x0 + n * size;
  T* out = all.out + n * size;
  const Query<T, A> query = Query<T, A>::of(all, n);
  const auto delta = [&](int64_t at) { return static_cast<A>(x[at]) - static_cast<A>(x0[at]); };
  A whole = 0;
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) whole += norm_term<norm>(delta(i));
  whole = norm_of<norm>(combined<Sum>(BlockTeam(), whole));
  for (int64_t channel = 0; channel < all.channels; ++channel) {
    const A sign = all.sign_of(n, channel);
    A held[2] = {0, 0};
    each_pixel(all, channel, [&](int64_t row, int64_t column, int64_t at) {
      const bool inside = query.first.holds(row, column);
      const A term = norm_term<norm>(delta(at));
      if (inside) held[0] += term;
      if (inside || query.second.holds(row, column)) held[1] += term;
    });
    BlockTeam().combine<Sum>(held);
    const A over = norm_of<norm>(held[0]) + A(1e-12);
    const auto patch = [&](int64_t row, int64_t column, int64_t at) {
      return sign * query.bump_at(row, column) + delta(at) / over;
    };
    A length = 0;
    each_pixel(all, channel, [&](int64_t row, int64_t column, int64_t at) {
      if (query.first.holds(row, column)) length += norm_term<norm>(patch(row, column, at));
    });
    length = norm_of<norm>(combined<Sum>(BlockTeam(), length));
    const A stretch = patch_length<norm>(all.eps[n], whole, norm_of<norm>(held[1]), all.channels) / (length + A(1e-12));
    each_pixel(all, channel, [&](int64_t row, int64_t column, int64_t at) {
      if (query.first.holds(row, column)) {
        const A moved = static_cast<A>(x0[at]) + patch(row, column, at) * stretch;
        out[at] = static_cast<T>(norm == Norm::kL2 ? clamp<A>(moved, all.ball.low, all.ball.high) : moved);
      } else {
        out[at] = query.second.holds(row, column) ? x0[at] : x[at];
      }
    });
  }
}

template <class T, class A>
void propose_windows(const Proposals<T, A>& proposals, const Tensor& like) {
  const Device device(like);
  const int threads = block_threads(proposals.pixels());
  switch (proposals.norm) {
    case Norm::kLinf: LAUNCH((linf_windows<T, A>), proposals.samples, threads, device, proposals); break;
    case Norm::kL2: LAUNCH((other_windows<Norm::kL2, T, A>), proposals.samples, threads, device, proposals); break;
    case Norm::kL1: LAUNCH((other_windows<Norm::kL1, T, A>), proposals.samples, threads, device, proposals); break;
  }
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("square_propose", TORCH_BOX(&fastadv::square_propose)); }
