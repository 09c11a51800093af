// rkd_loss in C++; its front: ../common/ops/rkd.h. Squared distances, then the triangles of the batch, each visited
// once for its three corners, then the gradient. Formulas: ../common/rkd.h.
#include "../common/ops/rkd.h"

#include <algorithm>
#include <memory>

#include "tensor.h"

namespace fastadv {
namespace {

// A loop over the points after any other runs on to a multiple of this, so that it has no scalar tail: rows have room
// for as many points beyond the batch. Their inverse lengths are zero, and so is what they add to anything.
constexpr int64_t kWhole = 16;
// Transposed features that a pass over all pairs takes at a time, which stay in the cache.
constexpr int64_t kRun = 4096;
// Features of the gradient that a pass over all pairs takes at a time.
constexpr int64_t kGradientRun = 256;

FASTADV_INLINE int64_t whole(int64_t count) { return (count + kWhole - 1) / kWhole * kWhole; }

// A network's points; of its matrices, B rows of `width`, only what lies right of the diagonal is used.
template <class A>
struct Points {
  int64_t size;
  // A feature a row.
  double* transposed;
  // Squared distances and inverse lengths, in this unit.
  double* square;
  A* inverse;
  Unit unit;
};

// Work is divided into `shares`, whatever the number of threads. Share c has the rows c, c + shares and so on; its sums
// are its own, and are added up in order.
template <class A>
struct Workspace {
  int64_t count;
  int64_t width;
  int64_t shares;
  Points<A> student;
  Points<A> teacher;
  // B x width: at first the derivatives of the distances' smooth L1 losses, in the end the loss's by squared distances.
  A* slope;
  // For each share B x width: the derivatives of the angles' losses by squared distances.
  A* by_square;

  template <class F>
  FASTADV_INLINE void rows(int64_t share, const F& f) const {
    for (int64_t i = share; i < count; i += shares) f(i);
  }
};

template <class T, class A>
FASTADV_CLONES void transpose(const T* x, Points<A> points, int64_t count, int64_t width, int64_t begin, int64_t end) {
  for (int64_t d = begin; d < end; ++d) {
    double* row = points.transposed + d * width;
    for (int64_t i = 0; i < count; ++i) row[i] = static_cast<double>(x[i * points.size + d]);
    for (int64_t i = count; i < width; ++i) row[i] = 0;
  }
}

// Squared distances of a share, and the sum of the lengths of each of its rows.
template <class A>
FASTADV_CLONES void measure(const Workspace<A>& work, const Points<A>& points, int64_t share, double* lengths) {
  const int64_t width = work.width, run = kRun / width / 4 * 4 + 4;
  work.rows(share, [&](int64_t i) FASTADV_LAMBDA { std::fill_n(points.square + i * width, width, 0.0); });
  for (int64_t first = 0; first < points.size; first += run) {
    const int64_t last = smaller(first + run, points.size);
    work.rows(share, [&](int64_t i) FASTADV_LAMBDA {
      const int64_t after = whole(work.count - i - 1);
      double* square = points.square + i * width + i + 1;
      // Four features at a time, so that a distance is loaded and stored once for eight operations.
      int64_t d = first;
      for (; d + 4 <= last; d += 4) {
        const double *a = points.transposed + d * width + i, *b = a + width, *c = b + width, *e = c + width;
#pragma GCC ivdep
        for (int64_t k = 0; k < after; ++k) {
          const double p = a[k + 1] - *a, q = b[k + 1] - *b, r = c[k + 1] - *c, s = e[k + 1] - *e;
          square[k] += (p * p + q * q) + (r * r + s * s);
        }
      }
      for (; d < last; ++d) {
        const double* a = points.transposed + d * width + i;
        for (int64_t k = 0; k < after; ++k) square[k] += (a[k + 1] - *a) * (a[k + 1] - *a);
      }
    });
  }
  work.rows(share, [&](int64_t i) FASTADV_LAMBDA {
    const double *square = points.square + i * width + i + 1, least = Unit().least();
    lengths[i] = sum<double>(work.count - i - 1,
                             [&](int64_t k) FASTADV_LAMBDA { return length_of(square[k], least); });
  });
}

template <class A>
FASTADV_INLINE void change_unit(const Workspace<A>& work, const Points<A>& points, int64_t i) {
  double* square = points.square + i * work.width;
  A* inverse = points.inverse + i * work.width;
  for (int64_t k = i + 1; k < work.count; ++k) {
    inverse[k] = static_cast<A>(points.unit.inverse(square[k]));
    square[k] = points.unit.square(square[k]);
  }
  for (int64_t k = work.count; k < work.width; ++k) square[k] = inverse[k] = 0;
}

// Terms of a row in the loss, and to the derivative by the student's mean length.
struct RowSums {
  double distance;
  double angle;
  double by_mean;
};

// The distances of a row, and the directions that only one of the networks has.
template <class A>
FASTADV_INLINE RowSums compare_lengths(const Workspace<A>& work, int64_t i) {
  const int64_t begin = i * work.width + i + 1, after = work.count - i - 1;
  const double *s = work.student.square + begin, *t = work.teacher.square + begin;
  const A *p = work.student.inverse + begin, *q = work.teacher.inverse + begin;
  const double s_least = work.student.unit.least(), t_least = work.teacher.unit.least();
  A* slope = work.slope + begin;
  RowSums sums;
  double both[2];
  sum_all<2, double>(after, both, [&](int64_t k, double(&terms)[2]) FASTADV_LAMBDA {
    const double length = length_of(s[k], s_least), gap = length - length_of(t[k], t_least), d = slope_of(gap);
    slope[k] = static_cast<A>(d);
    terms[0] = smooth_l1(gap, d);
    terms[1] = d * length;
  });
  sums.distance = both[0];
  sums.by_mean = both[1];
  const A alone = sum<A>(after, [&](int64_t k) FASTADV_LAMBDA { return (p[k] == 0) == (q[k] == 0) ? A(0) : A(0.5); });
  sums.angle = static_cast<double>(alone);
  return sums;
}

// The squared distances of a share in units of the mean lengths, and what its rows add to the loss but for triangles.
template <class A>
FASTADV_CLONES void compare(const Workspace<A>& work, int64_t share, RowSums* sums) {
  work.rows(share, [&](int64_t i) FASTADV_LAMBDA {
    change_unit(work, work.student, i);
    change_unit(work, work.teacher, i);
    sums[i] = compare_lengths(work, i);
  });
}

// All triangles i < j < k of a share's rows i.
template <class A>
FASTADV_CLONES void compare_angles(const Workspace<A>& work, int64_t share, RowSums* sums, A* buffer) {
  const int64_t width = work.width;
  A *by_square = work.by_square + share * work.count * width, *loss = buffer, *by_ij = buffer + width;
  std::fill_n(by_square, work.count * width, A(0));
  work.rows(share, [&](int64_t i) FASTADV_LAMBDA {
    std::fill_n(loss, width, A(0));
    for (int64_t j = i + 1; j < work.count; ++j) {
      const int64_t ik = i * width + j + 1, jk = j * width + j + 1, after = whole(work.count - j - 1);
      const double *s_ik = work.student.square + ik, *s_jk = work.student.square + jk;
      const double *t_ik = work.teacher.square + ik, *t_jk = work.teacher.square + jk;
      const A *p_ik = work.student.inverse + ik, *p_jk = work.student.inverse + jk;
      const A *q_ik = work.teacher.inverse + ik, *q_jk = work.teacher.inverse + jk;
      const double s_ij = s_ik[-1], t_ij = t_ik[-1];
      const A p_ij = p_ik[-1], q_ij = q_ik[-1];
      A *by_ik = by_square + ik, *by_jk = by_square + jk;
      // Rows i and j are apart, which the compiler cannot see, nor can it check at run time for so many pointers.
#pragma GCC ivdep
      for (int64_t k = 0; k < after; ++k) {
        const double s = s_ik[k] - s_jk[k], t = t_ik[k] - t_jk[k];
        const Corner<A> at_i(s_ij + s, p_ij, p_ik[k], t_ij + t, q_ij, q_ik[k]);
        const Corner<A> at_j(s_ij - s, p_ij, p_jk[k], t_ij - t, q_ij, q_jk[k]);
        const Corner<A> at_k((s_ik[k] - s_ij) + s_jk[k], p_ik[k], p_jk[k], (t_ik[k] - t_ij) + t_jk[k], q_ik[k],
                             q_jk[k]);
        loss[k] += at_i.loss + at_j.loss + at_k.loss;
        by_ij[k] = by_side(at_i, at_j, at_k, p_ij);
        by_ik[k] += by_side(at_i, at_k, at_j, p_ik[k]);
        by_jk[k] += by_side(at_j, at_k, at_i, p_jk[k]);
      }
      by_ik[-1] += sum<A>(after, [&](int64_t k) FASTADV_LAMBDA { return by_ij[k]; });
    }
    sums[i].angle += sum<double>(width, [&](int64_t k) FASTADV_LAMBDA { return static_cast<double>(loss[k]); });
  });
}

// The derivatives of the loss by the squared distances of a row, for the gradient sum_j by_ij (x_i - x_j).
template <class A>
FASTADV_CLONES void differentiate(const Workspace<A>& work, RkdWeights weights, double by_mean, int64_t begin,
                                  int64_t end) {
  const Unit unit = work.student.unit;
  const double least = unit.least(), factor = 2 / (unit.length * unit.length);
  const A by_angle = static_cast<A>(factor * weights.angle), by_length = static_cast<A>(factor * weights.distance / 2);
  const A mean = static_cast<A>(by_mean / weights.pairs);
  for (int64_t i = begin; i < end; ++i) {
    const double* square = work.student.square + i * work.width;
    const A* inverse = work.student.inverse + i * work.width;
    A* by = work.slope + i * work.width;
    for (int64_t k = i + 1; k < work.count; ++k) {
      by[k] = square[k] < least ? A(0) : by_length * (by[k] - mean) * inverse[k];
    }
    for (int64_t share = 0; share < work.shares; ++share) {
      const A* angles = work.by_square + (share * work.count + i) * work.width;
      for (int64_t k = i + 1; k < work.count; ++k) by[k] += by_angle * angles[k];
    }
  }
}

// The gradient by the points from begin to end.
template <class A>
FASTADV_CLONES void gradient(const Workspace<A>& work, const A* x, A* grad, int64_t begin, int64_t end) {
  const int64_t size = work.student.size, count = work.count;
  for (int64_t first = 0; first < size; first += kGradientRun) {
    const int64_t length = smaller(kGradientRun, size - first);
    for (int64_t i = begin; i < end; ++i) {
      const A* own = x + i * size + first;
      A* g = grad + i * size + first;
      std::fill_n(g, length, A(0));
      for (int64_t j = 0; j < count; j += 4) {
        const A* other[4];
        A by[4];
        for (int64_t l = 0; l < 4; ++l) {
          const int64_t k = j + l < count ? j + l : i;
          other[l] = x + k * size + first;
          by[l] = k == i ? A(0) : work.slope[k < i ? k * work.width + i : i * work.width + k];
        }
#pragma GCC ivdep
        for (int64_t d = 0; d < length; ++d) {
          g[d] += (by[0] * (own[d] - other[0][d]) + by[1] * (own[d] - other[1][d])) +
                  (by[2] * (own[d] - other[2][d]) + by[3] * (own[d] - other[3][d]));
        }
      }
    }
  }
}

template <class T, class A>
void place(const T* x, Points<A>& points, int64_t count, int64_t width) {
  parallel(points.size, width, [&](int64_t begin, int64_t end) { transpose(x, points, count, width, begin, end); });
}

// The loss of at least two points; writes the gradient where it is needed.
template <class T, class A>
A compare_networks(const Relations<T, A>& relations) {
  const int64_t count = relations.count, *sizes = relations.size;
  const RkdWeights& weights = relations.weights;
  const int64_t width = count + kWhole;
  const int64_t shares = std::clamp<int64_t>(count / 16, 1, 32), matrix = count * width;
  const auto doubles = std::make_unique_for_overwrite<double[]>((sizes[0] + sizes[1] + 2 * count) * width + 2 * count);
  const auto numbers = std::make_unique_for_overwrite<A[]>((3 + shares) * matrix);
  const auto sums = std::make_unique_for_overwrite<RowSums[]>(count);
  double *square = doubles.get(), *lengths = square + 2 * matrix, *transposed = lengths + 2 * count;
  A* inverse = numbers.get();
  Workspace<A> work{count, width, shares,
                 {sizes[0], transposed, square, inverse, {}},
                 {sizes[1], transposed + sizes[0] * width, square + matrix, inverse + matrix, {}},
                 inverse + 2 * matrix, inverse + 3 * matrix};
  place(relations.x[0], work.student, count, width);
  place(relations.x[1], work.teacher, count, width);
  parallel(2 * shares, matrix / shares * (sizes[0] + sizes[1]) / 4, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      measure(work, k % 2 ? work.teacher : work.student, k / 2, lengths + k % 2 * count);
    }
  });
  const auto total = [&](auto&& term) {
    double result = 0;
    for (int64_t i = 0; i < count; ++i) result += term(i);
    return result;
  };
  work.student.unit.length = total([&](int64_t i) { return lengths[i]; }) / weights.pairs;
  work.teacher.unit.length = total([&](int64_t i) { return lengths[count + i]; }) / weights.pairs;
  parallel(shares, 4 * matrix / shares, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; ++share) compare(work, share, sums.get());
  });
  parallel(shares, matrix * count / shares, [&](int64_t begin, int64_t end) {
    A* buffer = scratch<A>(2 * width);
    for (int64_t share = begin; share < end; ++share) compare_angles(work, share, sums.get(), buffer);
  });
  if (relations.grad) {
    const double by_mean = total([&](int64_t i) { return sums[i].by_mean; });
    parallel(count, width * shares, [&](int64_t begin, int64_t end) {
      differentiate(work, weights, by_mean, begin, end);
    });
    const auto copy = std::make_unique_for_overwrite<A[]>(std::is_same_v<T, A> ? 0 : count * sizes[0]);
    const A* x = converted<A>(relations.x[0], count * sizes[0], copy.get());
    parallel(count, count * sizes[0], [&](int64_t begin, int64_t end) {
      gradient(work, x, relations.grad, begin, end);
    });
  }
  return static_cast<A>(weights.distance * total([&](int64_t i) { return sums[i].distance; }) +
                        weights.angle * total([&](int64_t i) { return sums[i].angle; }));
}

template <class T, class A>
void relate(const Relations<T, A>& relations, const Tensor&) {
  if (relations.count < 2) {
    *relations.loss = 0;
    if (relations.grad) std::fill_n(relations.grad, relations.count * relations.size[0], A(0));
  } else {
    *relations.loss = compare_networks<T, A>(relations);
  }
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("rkd_loss", TORCH_BOX(&fastadv::rkd_loss)); }
