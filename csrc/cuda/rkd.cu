// rkd_loss in CUDA; its front: ../common/ops/rkd.h; formulas: ../common/rkd.h. Memory of order B^2; every sum in a
// fixed order. Launches, one after the other:
//
//   squared_distances   a block a tile of pairs of a network, features by way of shared memory
//   row_lengths         a block a row of a network: the sum of its lengths
//   change_unit         a block a row of a network: from the features' unit to the mean length
//   compare             a block a point, a warp a pair of it and a later one, a lane a third point: all triangles of a
//                       pair, each for one corner's loss and for the derivative by the pair's squared distance
//   add_up              one block: the loss
//   gradient            a block a few points and a run of features, where it is needed
#include "../common/ops/rkd.h"

#include "block.h"

namespace fastadv {
namespace {

constexpr int kTile = 16;
constexpr int kTileRun = 32;
constexpr int kGradientRows = 8;
constexpr int kGradientThreads = 128;

template <class T, class A>
struct Network {
  const T* x;       // [B, D]
  int64_t size;     // D
  double* square;   // [B, B], symmetric
  A* inverse;       // [B, B]
  double* lengths;  // [B], the sum of the lengths of each row
  double* mean;     // [], the mean length

  DEVICE Unit unit() const { return {*mean}; }
};

template <class T, class A>
struct Workspace {
  int64_t count;  // B
  RkdWeights weights;
  Network<T, A> network[2];
  A* by_square;           // [B, B], right of the diagonal: derivatives by squared distances at a fixed mean length
  double* losses;         // [B], what each row adds to the loss
  double* by_mean;        // [B], what it adds to the derivative by the student's mean length
  double* by_mean_total;  // [], the sum of the latter

  // The factor of the derivative of a distance's loss by its squared distance.
  DEVICE A by_length() const {
    const double length = *network[0].mean;
    return static_cast<A>(weights.distance / (length * length));
  }
};

template <class T, class A>
KERNEL squared_distances(Workspace<T, A> work) {
  SHARED_ARRAY(double, a, kTile * (kTileRun + 1));
  SHARED_ARRAY(double, b, kTile * (kTileRun + 1));
  const int64_t count = work.count, tiles = (count + kTile - 1) / kTile;
  const Network<T, A>& points = work.network[blockIdx.x % 2];
  const int64_t first = blockIdx.x / 2 / tiles * kTile, second = blockIdx.x / 2 % tiles * kTile;
  // The tile on the other side of the diagonal writes this one's too.
  if (first < second) return;
  const int row = threadIdx.x / kTile, column = threadIdx.x % kTile;
  double total = 0;
  for (int64_t begin = 0; begin < points.size; begin += kTileRun) {
    for (int entry = threadIdx.x; entry < kTile * kTileRun; entry += blockDim.x) {
      const int64_t point = entry / kTileRun, d = begin + entry % kTileRun;
      const int at = entry / kTileRun * (kTileRun + 1) + entry % kTileRun;
      const bool inside = d < points.size;
      a[at] = inside && first + point < count ? static_cast<double>(points.x[(first + point) * points.size + d]) : 0;
      b[at] = inside && second + point < count ? static_cast<double>(points.x[(second + point) * points.size + d]) : 0;
    }
    __syncthreads();
    for (int d = 0; d < kTileRun; ++d) {
      const double difference = a[row * (kTileRun + 1) + d] - b[column * (kTileRun + 1) + d];
      total = std::fma(difference, difference, total);
    }
    __syncthreads();
  }
  const int64_t i = first + row, j = second + column;
  if (i >= count || j >= count) return;
  points.square[i * count + j] = total;
  points.square[j * count + i] = total;
}

template <class T, class A>
KERNEL row_lengths(Workspace<T, A> work) {
  const Network<T, A>& points = work.network[blockIdx.x % 2];
  const int64_t i = blockIdx.x / 2, count = work.count;
  double total = 0;
  for (int64_t k = threadIdx.x; k < count; k += blockDim.x) {
    if (k != i) total += length_of(points.square[i * count + k], Unit().least());
  }
  total = combined<Sum>(BlockTeam(), total);
  if (threadIdx.x == 0) points.lengths[i] = total;
}

template <class T, class A>
KERNEL change_unit(Workspace<T, A> work) {
  const Network<T, A>& points = work.network[blockIdx.x % 2];
  const int64_t i = blockIdx.x / 2, count = work.count;
  double total = 0;
  for (int64_t k = threadIdx.x; k < count; k += blockDim.x) total += points.lengths[k];
  // Every row holds every length of its point, so each is in the sum twice.
  const Unit unit{combined<Sum>(BlockTeam(), total) / (2 * work.weights.pairs)};
  if (i == 0 && threadIdx.x == 0) *points.mean = unit.length;
  for (int64_t k = threadIdx.x; k < count; k += blockDim.x) {
    double& square = points.square[i * count + k];
    points.inverse[i * count + k] = static_cast<A>(unit.inverse(square));
    square = unit.square(square);
  }
}

// The sides from a point to all others, in the networks of student (s, p) and teacher (t, q).
template <class A>
struct Sides {
  const double* s;
  const double* t;
  const A* p;
  const A* q;

  template <class T>
  DEVICE Sides(const Workspace<T, A>& work, int64_t i)
      : s(work.network[0].square + i * work.count),
        t(work.network[1].square + i * work.count),
        p(work.network[0].inverse + i * work.count),
        q(work.network[1].inverse + i * work.count) {}
};

template <class T, class A>
KERNEL compare(Workspace<T, A> work) {
  const int64_t j = blockIdx.x, count = work.count;
  const int lane = threadIdx.x % kWarp;
  const Unit units[2] = {work.network[0].unit(), work.network[1].unit()};
  const A by_angle = static_cast<A>(2 * work.weights.angle / (units[0].length * units[0].length));
  const Sides<A> of_j(work, j);
  double losses[2] = {0, 0}, by_mean = 0;
  for (int64_t k = j + 1 + threadIdx.x / kWarp; k < count; k += blockDim.x / kWarp) {
    const Sides<A> of_k(work, k);
    const double s_jk = of_j.s[k], t_jk = of_j.t[k];
    const A p_jk = of_j.p[k], q_jk = of_j.q[k];
    A sums[2] = {0, 0};
    for (int64_t i = lane; i < count; i += kWarp) {
      if (i == j || i == k) continue;
      const double s = of_j.s[i] - of_k.s[i], t = of_j.t[i] - of_k.t[i];
      const Corner<A> at_j(s_jk + s, p_jk, of_j.p[i], t_jk + t, q_jk, of_j.q[i]);
      const Corner<A> at_k(s_jk - s, p_jk, of_k.p[i], t_jk - t, q_jk, of_k.q[i]);
      const Corner<A> at_i((of_j.s[i] - s_jk) + of_k.s[i], of_j.p[i], of_k.p[i], (of_j.t[i] - t_jk) + of_k.t[i],
                           of_j.q[i], of_k.q[i]);
      sums[0] += by_side(at_j, at_k, at_i, p_jk);
      sums[1] += at_i.loss;
    }
    WarpTeam().combine<Sum>(sums);
    if (lane > 0) continue;
    const double length = length_of(s_jk, units[0].least()), gap = length - length_of(t_jk, units[1].least());
    const double slope = slope_of(gap);
    losses[0] += smooth_l1(gap, slope);
    // A direction that only one of the networks has differs from none by one, from either end.
    losses[1] += static_cast<double>(sums[1]) + ((p_jk == 0) == (q_jk == 0) ? 0.0 : 0.5);
    by_mean += slope * length;
    const A held = s_jk < units[0].least() ? A(0) : static_cast<A>(slope) * p_jk;
    work.by_square[j * count + k] = std::fma(by_angle, sums[0], work.by_length() * held);
  }
  double of_row[2] = {work.weights.distance * losses[0] + work.weights.angle * losses[1], by_mean};
  BlockTeam().combine<Sum>(of_row);
  if (threadIdx.x > 0) return;
  work.losses[j] = of_row[0];
  work.by_mean[j] = of_row[1];
}

template <class T, class A>
KERNEL add_up(Workspace<T, A> work, A* loss /* [] */) {
  double sums[2] = {0, 0};
  for (int64_t i = threadIdx.x; i < work.count; i += blockDim.x) {
    sums[0] += work.losses[i];
    sums[1] += work.by_mean[i];
  }
  BlockTeam().combine<Sum>(sums);
  if (threadIdx.x > 0) return;
  *loss = static_cast<A>(sums[0]);
  *work.by_mean_total = sums[1];
}

// sum_j by_ij (x_i - x_j).
template <class T, class A>
KERNEL gradient(Workspace<T, A> work, A* grad /* [B, D] */) {
  SHARED_ARRAY(A, by, kGradientRows * kWarp);
  const Network<T, A>& points = work.network[0];
  const int64_t count = work.count, size = points.size, runs = (size + blockDim.x - 1) / blockDim.x;
  const int64_t first = blockIdx.x / runs * kGradientRows, d = blockIdx.x % runs * blockDim.x + threadIdx.x;
  const double least = points.unit().least();
  const A by_mean = work.by_length() * static_cast<A>(*work.by_mean_total / work.weights.pairs);
  A own[kGradientRows], sum[kGradientRows];
#pragma unroll
  for (int r = 0; r < kGradientRows; ++r) {
    own[r] = d < size && first + r < count ? static_cast<A>(points.x[(first + r) * size + d]) : A(0);
    sum[r] = 0;
  }
  for (int64_t begin = 0; begin < count; begin += kWarp) {
    for (int entry = threadIdx.x; entry < kGradientRows * kWarp; entry += blockDim.x) {
      const int64_t i = first + entry / kWarp, j = begin + entry % kWarp;
      by[entry] = 0;
      if (i == j || i >= count || j >= count) continue;
      const int64_t at = i < j ? i * count + j : j * count + i;
      by[entry] = work.by_square[at] - (points.square[at] < least ? A(0) : by_mean * points.inverse[at]);
    }
    __syncthreads();
    const int64_t others = count - begin < kWarp ? count - begin : kWarp;
    for (int j = 0; d < size && j < others; ++j) {
      const A other = static_cast<A>(points.x[(begin + j) * size + d]);
#pragma unroll
      for (int r = 0; r < kGradientRows; ++r) sum[r] = std::fma(by[r * kWarp + j], own[r] - other, sum[r]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < kGradientRows; ++r) {
    if (d < size && first + r < count) grad[(first + r) * size + d] = sum[r];
  }
}

// One block writes the loss, and all the gradient, of a batch without pairs.
template <class A>
KERNEL nothing_to_compare(A* loss, A* grad, int64_t size) {
  if (threadIdx.x == 0) *loss = 0;
  for (int64_t d = threadIdx.x; d < size; d += blockDim.x) grad[d] = 0;
}

template <class T, class A>
void relate(const Relations<T, A>& relations, const Tensor& like) {
  const Device device(like);
  const int64_t count = relations.count, size = relations.size[0], pairs = count * count;
  if (count < 2) {
    const int64_t numbers = relations.grad ? size * count : 0;
    LAUNCH((nothing_to_compare<A>), 1, kWarp, device, relations.loss, relations.grad, numbers);
    return;
  }
  const Tensor doubles = empty_vector(like, 2 * pairs + 4 * count + 3, ScalarType::Double);
  const Tensor numbers = empty_vector(like, 3 * pairs, accumulated(like.scalar_type()));
  double* const square = mutable_data<double>(doubles);
  double *const rows = square + 2 * pairs, *const three = rows + 4 * count;
  A* const inverse = mutable_data<A>(numbers);
  const auto network = [&](int64_t k) {
    return Network<T, A>{relations.x[k], relations.size[k], square + k * pairs, inverse + k * pairs,
                         rows + k * count, three + k};
  };
  const Workspace<T, A> work{count,
                             relations.weights,
                             {network(0), network(1)},
                             inverse + 2 * pairs,
                             rows + 2 * count,
                             rows + 3 * count,
                             three + 2};
  const int64_t tiles = divide_up(count, kTile);
  const int threads = block_threads(count);
  LAUNCH((squared_distances<T, A>), 2 * tiles * tiles, kTile * kTile, device, work);
  LAUNCH((row_lengths<T, A>), 2 * count, threads, device, work);
  LAUNCH((change_unit<T, A>), 2 * count, threads, device, work);
  LAUNCH((compare<T, A>), count, block_threads(kWarp * count), device, work);
  LAUNCH((add_up<T, A>), 1, threads, device, work, relations.loss);
  if (!relations.grad) return;
  const int64_t blocks = divide_up(count, kGradientRows) * divide_up(size, kGradientThreads);
  LAUNCH((gradient<T, A>), blocks, kGradientThreads, device, work, relations.grad);
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("rkd_loss", TORCH_BOX(&fastadv::rkd_loss)); }
