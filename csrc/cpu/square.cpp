// square_propose in C++; its front: ../common/ops/square.h. An image is copied, and its windows are written over.
#include "../common/ops/square.h"

#include <cmath>

#include "tensor.h"

namespace fastadv {
namespace {

// Calls `f(row, column)` for every pixel of a window.
template <class F>
FASTADV_INLINE void each_pixel(const Window& window, const F& f) {
  for (int64_t row = window.top; row < window.top + window.side; ++row) {
    for (int64_t column = window.left; column < window.left + window.side; ++column) f(row, column);
  }
}

template <class T, class A>
FASTADV_INLINE void propose_linf(const Proposals<T, A>& all, int64_t n, const T* x, const T* x0, T* out) {
  const Query<T, A> query = Query<T, A>::of(all, n);
  Ball<A> ball = all.ball;
  ball.eps = all.eps[n];
  for (int64_t channel = 0; channel < all.channels; ++channel) {
    const A step = 2 * ball.eps * all.sign_of(n, channel);
    each_pixel(query.first, [&](int64_t row, int64_t column) FASTADV_LAMBDA {
      const int64_t at = all.offset(channel, row, column);
      out[at] = static_cast<T>(project_linf<A>(static_cast<A>(x[at]) + step, static_cast<A>(x0[at]), ball));
    });
  }
}

template <Norm norm, class T, class A>
FASTADV_INLINE void propose_other(const Proposals<T, A>& all, int64_t n, const T* x, const T* x0, T* out) {
  const Query<T, A> query = Query<T, A>::of(all, n);
  const A eps = all.eps[n];
  const auto delta = [&](int64_t at) FASTADV_LAMBDA { return static_cast<A>(x[at]) - static_cast<A>(x0[at]); };
  const A whole = norm_of<norm>(sum<A>(all.channels * all.pixels(), [&](int64_t i) FASTADV_LAMBDA {
    return norm_term<norm>(static_cast<A>(x[i]) - static_cast<A>(x0[i]));
  }));
  for (int64_t channel = 0; channel < all.channels; ++channel) {
    const A sign = all.sign_of(n, channel);
    // Added up one by one, over as many pixels as a window has.
    double inside = 0, windows = 0, length = 0;
    each_pixel(query.first, [&](int64_t row, int64_t column) FASTADV_LAMBDA {
      inside += norm_term<norm>(delta(all.offset(channel, row, column)));
    });
    windows = inside;
    each_pixel(query.second, [&](int64_t row, int64_t column) FASTADV_LAMBDA {
      const int64_t at = all.offset(channel, row, column);
      if (!query.first.holds(row, column)) {
        windows += norm_term<norm>(delta(at));
        out[at] = x0[at];
      }
    });
    const A over = norm_of<norm>(static_cast<A>(inside)) + A(1e-12);
    const auto patch = [&](int64_t row, int64_t column) FASTADV_LAMBDA {
      return sign * query.bump_at(row, column) + delta(all.offset(channel, row, column)) / over;
    };
    each_pixel(query.first, [&](int64_t row, int64_t column) FASTADV_LAMBDA {
      length += norm_term<norm>(patch(row, column));
    });
    const A wanted = patch_length<norm>(eps, whole, norm_of<norm>(static_cast<A>(windows)), all.channels);
    const A stretch = wanted / (norm_of<norm>(static_cast<A>(length)) + A(1e-12));
    each_pixel(query.first, [&](int64_t row, int64_t column) FASTADV_LAMBDA {
      const int64_t at = all.offset(channel, row, column);
      const A moved = static_cast<A>(x0[at]) + patch(row, column) * stretch;
      out[at] = static_cast<T>(norm == Norm::kL2 ? clamp<A>(moved, all.ball.low, all.ball.high) : moved);
    });
  }
}

template <class T, class A>
FASTADV_CLONES FASTADV_EXACT void propose(Proposals<T, A> all, int64_t begin, int64_t end) {
  const int64_t size = all.channels * all.pixels();
  for (int64_t n = begin; n < end; ++n) {
    const T *x = all.x + n * size, *x0 = all.x0 + n * size;
    T* out = all.out + n * size;
    for (int64_t i = 0; i < size; ++i) out[i] = x[i];
    switch (all.norm) {
      case Norm::kLinf: propose_linf(all, n, x, x0, out); break;
      case Norm::kL2: propose_other<Norm::kL2>(all, n, x, x0, out); break;
      case Norm::kL1: propose_other<Norm::kL1>(all, n, x, x0, out); break;
    }
  }
}

template <class T, class A>
void propose_windows(const Proposals<T, A>& proposals, const Tensor&) {
  parallel(proposals.samples, 2 * proposals.channels * proposals.pixels(),
           [&](int64_t begin, int64_t end) { propose<T, A>(proposals, begin, end); });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("square_propose", TORCH_BOX(&fastadv::square_propose)); }
