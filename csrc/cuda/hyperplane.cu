// project_hyperplane in CUDA; its front: ../common/ops/hyperplane.h.
//
// A block a sample reads x and the normal once a pass, from its caches, and writes the result once: a handful of passes
// for linf and l2, one a bit of a weight for l1.
#include "../common/ops/hyperplane.h"

#include "block.h"

namespace fastadv {
namespace {

// The sample of a block.
template <class T, class A>
struct Row {
  const T* x;
  const T* normal;
  A scale;
  double wide_gap;  // a difference of sums near each other
  A gap;
  A low;
  A high;
  int64_t size;

  DEVICE A point(int64_t i) const { return clamp<A>(static_cast<A>(x[i]), low, high); }

  DEVICE Leg<A> way(int64_t i) const {
    return leg_of<A>(point(i), static_cast<A>(normal[i]), scale, gap, low, high);
  }

  // Sums over the sample of K terms each, `term(leg, terms)`.
  template <int K, class S, class Term>
  DEVICE void sums(S (&total)[K], const Term& term) const {
#pragma unroll
    for (int k = 0; k < K; ++k) total[k] = 0;
    for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
      S terms[K];
      term(way(i), terms);
#pragma unroll
      for (int k = 0; k < K; ++k) total[k] += terms[k];
    }
    BlockTeam().combine<Sum>(total);
  }
};

template <Norm norm, class T, class A>
DEVICE A arrival(const Row<T, A>& row) {
  const A far = absolute<A>(row.gap);
  A t = 0;
  for (int pass = 0; pass < kHyperplanePasses; ++pass) {
    A sums[2];
    row.sums(sums, [&](const Leg<A>& leg, A(&terms)[2]) { hyperplane_terms<norm>(leg, t, terms[0], terms[1]); });
    const A next = next_time(t, far, sums[0], sums[1]);
    if (!(next > t)) break;
    t = next;
  }
  return t;
}

// The largest weight of which all coordinates from it on close the gap, found bit by bit; 0 where none does.
template <class T, class A>
DEVICE Last<A> last_of(const Row<T, A>& row) {
  using Bits = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
  const double far = absolute(row.wide_gap);
  Bits found = 0;
  for (int bit = 8 * sizeof(A) - 2; bit >= 0; --bit) {
    const A least = bits<A>(found | (Bits{1} << bit));
    double gain[1];
    row.sums(gain, [&](const Leg<A>& leg, double(&terms)[1]) { terms[0] = leg.weight >= least ? gain_of(leg) : A(0); });
    // A pattern above infinity is no weight.
    if (gain[0] >= far && least <= 1) found |= Bits{1} << bit;
  }
  const A least = bits<A>(found);
  double sums[3];
  row.sums(sums, [&](const Leg<A>& leg, double(&terms)[3]) {
    const bool last = leg.weight == least;
    terms[0] = leg.weight > least ? gain_of(leg) : A(0);
    terms[1] = last ? gain_of(leg) : A(0);
    terms[2] = last & (leg.weight > 0) & is_endless(leg.room) ? 1 : 0;
  });
  return {least, static_cast<A>(far - sums[0]), static_cast<A>(sums[1]), static_cast<A>(sums[2])};
}

template <Norm norm, class T, class A>
KERNEL onto_planes(Planes<T, A> planes) {
  const int64_t n = blockIdx.x, size = planes.size;
  Row<T, A> row{planes.x + n * size, planes.normal + n * size, 1, 0, 0, planes.low, planes.high, size};
  A largest = 0;
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
    largest = Larger()(largest, absolute<A>(static_cast<A>(row.normal[i])));
  }
  largest = combined<Larger>(BlockTeam(), largest);
  if (largest > 0 && largest <= std::numeric_limits<A>::max()) row.scale = largest;
  double gap = 0;
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
    gap += static_cast<double>(static_cast<A>(row.normal[i]) / row.scale) * static_cast<double>(row.point(i));
  }
  row.wide_gap = combined<Sum>(BlockTeam(), gap) - static_cast<double>(planes.offset[n]) / row.scale;
  row.gap = static_cast<A>(row.wide_gap);
  T* out = planes.out + n * size;
  const auto move = [&](const auto& until) {
    for (int64_t i = threadIdx.x; i < size; i += blockDim.x) {
      const Leg<A> leg = row.way(i);
      out[i] = static_cast<T>(clamp<A>(row.point(i) + leg.direction * until(leg), row.low, row.high));
    }
  };
  // A gap of NaN or infinity asks for nothing, and neither does one of zero; one that A does not reach asks for all.
  if (!(absolute(row.wide_gap) <= std::numeric_limits<double>::max()) || row.gap == 0) {
    for (int64_t i = threadIdx.x; i < size; i += blockDim.x) out[i] = static_cast<T>(row.point(i));
  } else if constexpr (norm == Norm::kL1) {
    const Last<A> last = last_of(row);
    move([&](const Leg<A>& leg) { return length_at(leg, last); });
  } else {
    const A t = arrival<norm>(row);
    move([&](const Leg<A>& leg) { return length_at<norm>(leg, t); });
  }
}

template <class T, class A>
void project_onto_planes(const Planes<T, A>& planes, const Tensor& like) {
  const Device device(like);
  const int threads = block_threads(planes.size);
  switch (planes.norm) {
    case Norm::kLinf: LAUNCH((onto_planes<Norm::kLinf, T, A>), planes.samples, threads, device, planes); break;
    case Norm::kL2: LAUNCH((onto_planes<Norm::kL2, T, A>), planes.samples, threads, device, planes); break;
    case Norm::kL1: LAUNCH((onto_planes<Norm::kL1, T, A>), planes.samples, threads, device, planes); break;
  }
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("project_hyperplane", TORCH_BOX(&fastadv::project_hyperplane)); }
