// project_hyperplane in C++; its front: ../common/ops/hyperplane.h.
#include "../common/ops/hyperplane.h"

#include <type_traits>

#include "tensor.h"

namespace fastadv {
namespace {

template <Norm norm, class A, class Way>
FASTADV_INLINE A arrival(const Way& way, A gap, int64_t size) {
  A t = 0;
  for (int pass = 0; pass < kHyperplanePasses; ++pass) {
    A slope, spent;
    sum_both<A>(size, slope, spent, [&](int64_t i, A& a, A& b) FASTADV_LAMBDA {
      hyperplane_terms<norm>(way(i), t, a, b);
    });
    const A next = next_time(t, gap, slope, spent);
    if (!(next > t)) break;
    t = next;
  }
  return t;
}

// The largest weight of which all coordinates from it on close the gap, found bit by bit; 0 where none does.
template <class A, class Way>
FASTADV_INLINE Last<A> last_of(const Way& way, double gap, int64_t size) {
  using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
  Bits found = 0;
  for (int bit = 8 * sizeof(A) - 2; bit >= 0; --bit) {
    const A least = bits<A>(found | (Bits{1} << bit));
    const double gain = sum<double>(size, [&](int64_t i) FASTADV_LAMBDA {
      const Leg<A> leg = way(i);
      return static_cast<double>(leg.weight >= least ? gain_of(leg) : A(0));
    });
    // A pattern above infinity is no weight.
    if (gain >= gap && least <= 1) found |= Bits{1} << bit;
  }
  const A least = bits<A>(found);
  double above, gain;
  sum_both<double>(size, above, gain, [&](int64_t i, double& a, double& b) FASTADV_LAMBDA {
    const Leg<A> leg = way(i);
    a = leg.weight > least ? gain_of(leg) : A(0);
    b = leg.weight == least ? gain_of(leg) : A(0);
  });
  const A endless = sum<A>(size, [&](int64_t i) FASTADV_LAMBDA {
    const Leg<A> leg = way(i);
    return A((leg.weight == least) & (leg.weight > 0) & is_endless(leg.room));
  });
  return {least, static_cast<A>(gap - above), static_cast<A>(gain), endless};
}

// `buffer`: room for 2 D numbers.
template <class T, class A>
FASTADV_CLONES void project_onto(Planes<T, A> planes, A* buffer, int64_t begin, int64_t end) {
  const int64_t size = planes.size;
  const A low = planes.low, high = planes.high;
  for (int64_t n = begin; n < end; ++n) {
    A* x = buffer;
    for (int64_t i = 0; i < size; ++i) x[i] = clamp<A>(static_cast<A>(planes.x[n * size + i]), low, high);
    const A* w = converted<A>(planes.normal + n * size, size, buffer + size);
    const A largest = maximum<A>(size, [&](int64_t i) FASTADV_LAMBDA { return absolute<A>(w[i]); });
    const A scale = (largest > 0) & (largest <= std::numeric_limits<A>::max()) ? largest : A(1);
    // The gap is a difference of sums near each other.
    const double wide = sum<double>(size, [&](int64_t i) FASTADV_LAMBDA {
      return static_cast<double>(w[i] / scale) * static_cast<double>(x[i]);
    }) - static_cast<double>(planes.offset[n]) / static_cast<double>(scale);
    const A gap = static_cast<A>(wide);
    T* out = planes.out + n * size;
    // A gap of NaN or infinity asks for nothing, and neither does one of zero; one that A does not reach asks for all.
    if (!(absolute(wide) <= std::numeric_limits<double>::max()) || gap == 0) {
      write<A>(out, size, [&](int64_t i) FASTADV_LAMBDA { return x[i]; });
      continue;
    }
    const auto way = [&](int64_t i) FASTADV_LAMBDA { return leg_of<A>(x[i], w[i], scale, gap, low, high); };
    const auto move = [&](const auto& until) FASTADV_LAMBDA {
      write<A>(out, size, [&](int64_t i) FASTADV_LAMBDA {
        const Leg<A> leg = way(i);
        return clamp<A>(x[i] + leg.direction * until(leg), low, high);
      });
    };
    const A far = absolute<A>(gap);
    if (planes.norm == Norm::kLinf) {
      const A t = arrival<Norm::kLinf>(way, far, size);
      move([&](const Leg<A>& leg) FASTADV_LAMBDA { return length_at<Norm::kLinf>(leg, t); });
    } else if (planes.norm == Norm::kL2) {
      const A t = arrival<Norm::kL2>(way, far, size);
      move([&](const Leg<A>& leg) FASTADV_LAMBDA { return length_at<Norm::kL2>(leg, t); });
    } else {
      const Last<A> last = last_of<A>(way, absolute(wide), size);
      move([&](const Leg<A>& leg) FASTADV_LAMBDA { return length_at(leg, last); });
    }
  }
}

template <class T, class A>
void project_onto_planes(const Planes<T, A>& planes, const Tensor&) {
  parallel(planes.samples, 16 * planes.size, [&](int64_t begin, int64_t end) {
    project_onto<T, A>(planes, scratch<A>(2 * planes.size), begin, end);
  });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("project_hyperplane", TORCH_BOX(&fastadv::project_hyperplane)); }
