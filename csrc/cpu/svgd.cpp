// svgd_step in C++; its front: ../common/ops/svgd.h. Pairwise distances, then the update, image by image; no entry ever
// joins two images.
#include "../common/ops/svgd.h"

#include <algorithm>

#include "../common/step.h"
#include "ball.h"

namespace fastadv {
namespace {

// Particles are taken in runs of this many elements, all of an image's together, so that what is computed of them stays
// in the nearest caches.
constexpr int64_t kRun = 1024;

// Rows of working memory lie this far apart: multiples of 4 KiB apart, as the particles of an image often are, all
// would compete for the same few lines of the cache.
constexpr int64_t kStride = kRun + 16;

// Particles act on each other in groups of this many, so that a number is loaded once for as many products. The sums of
// two groups, a cache line each, take half of the registers of AVX-512.
constexpr int64_t kGroup = 4;

// Sums over the particles that are taken this many at a time read as many numbers beyond the last.
constexpr int64_t kBeyond = 16;

// A run of each of an image's particles, or of their scores.
template <class A>
struct Rows {
  const A* first;
  int64_t stride;

  FASTADV_INLINE const A* operator[](int64_t j) const { return first + j * stride; }
};

// The same in the accumulation precision: in place, or converted into `buffer`.
template <class A, class T>
FASTADV_INLINE Rows<A> converted_rows(const T* x, int64_t n, int64_t size, int64_t count, A* buffer) {
  if constexpr (std::is_same_v<T, A>) {
    return {x, size};
  } else {
    for (int64_t j = 0; j < n; ++j) converted<A>(x + j * size, count, buffer + j * kStride);
    return {buffer, kStride};
  }
}

// Adds term(x, y), summed over the numbers x and y of two rows, for all pairs of the `kRows` rows from `first` on.
template <int kRows, class A, class Term>
FASTADV_INLINE void add_own_pairs(const Rows<A>& rows, int64_t first, int64_t n, int64_t count, A* sums,
                                  const Term& term) {
  const A* x[kRows];
  for (int m = 0; m < kRows; ++m) x[m] = rows[first + m];
  constexpr int kPairs = kRows * (kRows + 1) / 2;
  A own[kPairs];
  sum_all<kPairs, A, (kRows > 2 ? 1 : 2)>(count, own, [&](int64_t k, A (&terms)[kPairs]) FASTADV_LAMBDA {
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
      for (int l = 0; l <= m; ++l) terms[m * (m + 1) / 2 + l] = term(x[m][k], x[l][k]);
    }
  });
  for (int m = 0; m < kRows; ++m) {
    for (int l = 0; l <= m; ++l) sums[(first + m) * n + first + l] += own[m * (m + 1) / 2 + l];
  }
}

// The same for all pairs of n rows, into the n x n sums on and below the diagonal.
template <class A, class Term>
FASTADV_INLINE void add_pairs(const Rows<A>& rows, int64_t n, int64_t count, A* sums, const Term& term) {
  for (int64_t i = 0; i < n; i += kGroup) {
    const int64_t here = smaller(n - i, kGroup);
    const A* x[kGroup];
    for (int64_t m = 0; m < kGroup; ++m) x[m] = rows[i + smaller(m, here - 1)];
    for (int64_t j = 0; j < i; j += kGroup) {
      const A* y[kGroup];
      for (int64_t l = 0; l < kGroup; ++l) y[l] = rows[j + l];
      A cross[kGroup * kGroup];
      sum_all<kGroup * kGroup, A, 1>(count, cross, [&](int64_t k, A (&terms)[kGroup * kGroup]) FASTADV_LAMBDA {
        for (int64_t m = 0; m < kGroup; ++m) {
          for (int64_t l = 0; l < kGroup; ++l) terms[m * kGroup + l] = term(x[m][k], y[l][k]);
        }
      });
      for (int64_t m = 0; m < here; ++m) {
        for (int64_t l = 0; l < kGroup; ++l) sums[(i + m) * n + j + l] += cross[m * kGroup + l];
      }
    }
    switch (here) {
      case 1: add_own_pairs<1>(rows, i, n, count, sums, term); break;
      case 2: add_own_pairs<2>(rows, i, n, count, sums, term); break;
      case 3: add_own_pairs<3>(rows, i, n, count, sums, term); break;
      default: add_own_pairs<4>(rows, i, n, count, sums, term);
    }
  }
}

template <class A>
FASTADV_INLINE void mirror(A* square, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) square[j * n + i] = square[i * n + j];
  }
}

// Squared distances of all pairs, n x n, symmetric.
template <class T, class A>
FASTADV_INLINE void compare_pairs(const T* particles, int64_t n, int64_t size, A* distance, A* buffer) {
  for (int64_t k = 0; k < n * n; ++k) distance[k] = 0;
  for (int64_t begin = 0; begin < size; begin += kRun) {
    const int64_t count = smaller(size - begin, kRun);
    add_pairs<A>(converted_rows<A>(particles + begin, n, size, count, buffer), n, count, distance,
                 [](A x, A y) FASTADV_LAMBDA { return (x - y) * (x - y); });
  }
  mirror(distance, n);
}

// The inner products of all pairs of scores, n x n, symmetric, and the power of two that the scores were multiplied by,
// which is returned: 1, unless the products would underflow or overflow.
template <class T, class A>
FASTADV_INLINE A multiply_pairs(const T* score, int64_t n, int64_t size, A* product, A* buffer) {
  A scale = 1;
  while (true) {
    for (int64_t k = 0; k < n * n; ++k) product[k] = 0;
    for (int64_t begin = 0; begin < size; begin += kRun) {
      const int64_t count = smaller(size - begin, kRun);
      Rows<A> rows{buffer, kStride};
      if (scale == 1) {
        rows = converted_rows<A>(score + begin, n, size, count, buffer);
      } else {
        for (int64_t j = 0; j < n; ++j) {
          const T* row = score + j * size + begin;
          A* scaled = buffer + j * kStride;
          for (int64_t k = 0; k < count; ++k) scaled[k] = scale * static_cast<A>(row[k]);
        }
      }
      add_pairs<A>(rows, n, count, product, [](A x, A y) FASTADV_LAMBDA { return x * y; });
    }
    A most = 0;
    for (int64_t i = 0; i < n; ++i) most = product[i * n + i] > most ? product[i * n + i] : most;
    if (scale != 1 || keeps_its_digits(most)) break;
    const auto magnitude = [&](int64_t k) FASTADV_LAMBDA { return absolute<A>(static_cast<A>(score[k])); };
    scale = to_one(maximum<A>(n * size, magnitude));
    if (scale == 1) break;
  }
  mirror(product, n);
  return scale;
}

// 1 / sigma^2; zero, a flat kernel without repulsion, where the median distance is zero, a distance is NaN or there is
// no pair.
template <class A>
A inverse_variance(const A* distance, int64_t n, A bandwidth, A* buffer) {
  if (bandwidth > 0) return 1 / (bandwidth * bandwidth);
  if (n < 2) return 0;
  A* end = buffer;
  for (int64_t i = 0; i < n; ++i) end = std::copy(distance + i * n, distance + i * n + i, end);
  // NaN has no place in an order.
  if (std::any_of(buffer, end, [](A d) { return d != d; })) return 0;
  A* median = buffer + (end - buffer - 1) / 2;
  std::nth_element(buffer, median, end);
  return *median > 0 ? 2 * std::log(A(n + 1)) / *median : A(0);
}

// phi_i = sum_j kernel_ij (score_scale s_j + precision (x_i - x_j)), with the scores s. A group that is alone takes the
// differences one by one. Of more particles they would take twice the time, and phi_i is
//   own_offset_i o_i + kernel_ii score_scale s_i + sum_{j != i} kernel_ij (score_scale s_j - precision o_j),
// with the offsets o from the image's first particle. Where all particles coincide in a coordinate either is exactly
// without repulsion: a step by sign would make a whole step of the rounding that offsets from x0 leave. A particle does
// not repel itself: ones on the diagonal would leave their rounding where all else is tiny.
template <class A>
struct Coefficients {
  const A* kernel;      // n x n, 1/n on the diagonal
  const A* own_offset;  // n
  A score_scale;
  A precision;
};

// The scale at which attraction and repulsion have equal squared lengths, summed over the particles: the attraction's
// from the products of the scores times `scale`, the repulsion's from the distances, since
// (x_i - x_j).(x_i - x_k) = (d_ij + d_ik - d_jk) / 2 for squared distances d. What is read beyond a square is dropped.
template <class A>
FASTADV_INLINE A equal_rms_scale(const A* kernel, const A* distance, const A* product, A scale, int64_t n,
                                 A precision) {
  double pull = 0, push = 0;
  for (int64_t i = 0; i < n; ++i) {
    const A *weight = kernel + i * n, *apart = distance + i * n;
    for (int64_t first = 0; first < n; first += kBeyond) {
      double pulled[kBeyond] = {}, pushed[kBeyond] = {};
      for (int64_t j = 0; j < n; ++j) {
        const double w = weight[j], d = apart[j];
        for (int64_t k = 0; k < kBeyond; ++k) {
          pulled[k] += w * product[j * n + first + k];
          pushed[k] += w * ((d + apart[first + k]) - distance[j * n + first + k]);
        }
      }
      for (int64_t k = 0; k < smaller(n - first, kBeyond); ++k) {
        pull += weight[first + k] * pulled[k];
        push += weight[first + k] * pushed[k];
      }
    }
  }
  push *= 0.5 * precision * precision;
  return pull > 0 && push > 0 ? finite<A>(std::sqrt(push / pull) * scale) : A(1);
}

// `product` is that of the scores times `product_scale`. `buffer` is room for n^2 + n numbers, the first of which the
// result points to.
template <class A>
FASTADV_INLINE Coefficients<A> coefficients(const A* distance, const A* product, A product_scale, int64_t n,
                                            const Stein<A>& stein, A* buffer) {
  const A precision = inverse_variance<A>(distance, n, stein.bandwidth, buffer);
  A *kernel = buffer, *own_offset = kernel + n * n;
  for (int64_t k = 0; k < n * n; ++k) kernel[k] = exp_nonpositive(A(-0.5) * distance[k] * precision) / n;
  for (int64_t i = 0; i < n; ++i) own_offset[i] = 0;
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < n; ++i) own_offset[i] += i == j ? A(0) : kernel[j * n + i] * precision;
  }
  const A scale = stein.equal_rms ? equal_rms_scale<A>(kernel, distance, product, product_scale, n, precision)
                                  : stein.score_scale;
  return {kernel, own_offset, scale, precision};
}

// The particles of a run, and x0. Beyond the last particle lie zeros: x0 and no score.
template <class A>
struct Run {
  Rows<A> x;
  Rows<A> score;
  const A* centre;
  const A* zeros;
  int64_t n;
  int64_t count;
};

// What the kernel adds of each particle to the others, into rows.
template <class A>
FASTADV_INLINE void share(const Run<A>& run, const Coefficients<A>& c, A* shared) {
  const A *origin = run.x[0], score_scale = c.score_scale, precision = c.precision;
  for (int64_t j = 0; j < run.n; ++j) {
    const A *x = run.x[j], *score = run.score[j];
    A* row = shared + j * kStride;
    for (int64_t k = 0; k < run.count; ++k) row[k] = score_scale * score[k] - precision * (x[k] - origin[k]);
  }
}

// A group of particles, which begins with particle `first`.
template <class A>
class Group {
 public:
  FASTADV_INLINE Group(const Run<A>& run, const Coefficients<A>& c, int64_t first)
      : centre_(run.centre), origin_(run.x[0]), score_scale_(c.score_scale), precision_(c.precision) {
    for (int64_t m = 0; m < kGroup; ++m) {
      const int64_t i = first + m;
      const bool there = i < run.n;
      x_[m] = there ? run.x[i] : run.centre;
      score_[m] = there ? run.score[i] : run.zeros;
      own_offset_[m] = there ? c.own_offset[i] : A(0);
      for (int64_t l = 0; l < kGroup; ++l) {
        kernel_[m][l] = there && first + l < run.n ? c.kernel[i * run.n + first + l] : A(0);
        attract_[m][l] = kernel_[m][l] * score_scale_;
        repel_[m][l] = kernel_[m][l] * precision_;
      }
    }
  }

  // phi at index k of a group that is alone.
  FASTADV_INLINE void alone(int64_t k, A (&point)[kGroup], A& x0, A (&phi)[kGroup]) const {
    A score[kGroup];
    x0 = centre_[k];
#pragma GCC unroll 4
    for (int64_t m = 0; m < kGroup; ++m) {
      point[m] = x_[m][k];
      score[m] = score_[m][k];
    }
#pragma GCC unroll 4
    for (int64_t m = 0; m < kGroup; ++m) {
      A terms[kGroup];
#pragma GCC unroll 4
      for (int64_t l = 0; l < kGroup; ++l) terms[l] = attract_[m][l] * score[l];
      phi[m] = (terms[0] + terms[1]) + (terms[2] + terms[3]);
    }
#pragma GCC unroll 4
    for (int64_t m = 1; m < kGroup; ++m) {
#pragma GCC unroll 4
      for (int64_t l = 0; l < m; ++l) {
        const A push = repel_[m][l] * (point[m] - point[l]);
        phi[m] += push;
        phi[l] -= push;
      }
    }
  }

  // What one of several groups makes of phi at index k.
  FASTADV_INLINE void within(int64_t k, A (&phi)[kGroup]) const {
    A offset[kGroup], pull[kGroup], shared[kGroup];
    const A origin = origin_[k];
#pragma GCC unroll 4
    for (int64_t m = 0; m < kGroup; ++m) {
      offset[m] = x_[m][k] - origin;
      pull[m] = score_scale_ * score_[m][k];
      shared[m] = pull[m] - precision_ * offset[m];
    }
#pragma GCC unroll 4
    for (int64_t m = 0; m < kGroup; ++m) {
      A terms[kGroup];
#pragma GCC unroll 4
      for (int64_t l = 0; l < kGroup; ++l) terms[l] = kernel_[m][l] * (l == m ? pull[l] : shared[l]);
      phi[m] = own_offset_[m] * offset[m] + ((terms[0] + terms[1]) + (terms[2] + terms[3]));
    }
  }

  FASTADV_INLINE A x(int64_t m, int64_t k) const { return x_[m][k]; }

 private:
  const A *x_[kGroup], *score_[kGroup], *centre_, *origin_;
  A kernel_[kGroup][kGroup], attract_[kGroup][kGroup], repel_[kGroup][kGroup], own_offset_[kGroup];
  A score_scale_, precision_;
};

// phi of the group that begins with particle `first`, at the `kWidth` indices from `begin` on, kept in registers while
// all the other particles add to it.
template <int64_t kWidth, class A, class Leave>
FASTADV_INLINE void directions_at(const Group<A>& group, const Run<A>& run, const A* kernel, int64_t first,
                                  const A* shared, int64_t begin, const Leave& leave) {
  A phi[kGroup][kWidth];
#pragma GCC ivdep
  for (int64_t w = 0; w < kWidth; ++w) {
    A own[kGroup];
    group.within(begin + w, own);
#pragma GCC unroll 4
    for (int64_t m = 0; m < kGroup; ++m) phi[m][w] = own[m];
  }
  const auto add = [&](int64_t from, int64_t to) FASTADV_LAMBDA {
    const A *row = shared + from * kStride + begin, *weight = kernel + from * run.n + first;
    for (int64_t j = from; j < to; ++j, row += kStride, weight += run.n) {
#pragma GCC ivdep
      for (int64_t w = 0; w < kWidth; ++w) {
#pragma GCC unroll 4
        for (int64_t m = 0; m < kGroup; ++m) phi[m][w] += weight[m] * row[w];
      }
    }
  };
  add(0, first);
  add(first + kGroup, run.n);
#pragma GCC ivdep
  for (int64_t w = 0; w < kWidth; ++w) {
    A x[kGroup], p[kGroup];
#pragma GCC unroll 4
    for (int64_t m = 0; m < kGroup; ++m) {
      x[m] = group.x(m, begin + w);
      p[m] = phi[m][w];
    }
    leave(begin + w, x, run.centre[begin + w], p);
  }
}

// phi of a run of the group that begins with particle `first`: `leave(k, x, x0, phi)` is given what each of its
// particles has at index k. `shared`: rows of share().
template <class A, class Leave>
FASTADV_INLINE void directions(const Run<A>& run, const Coefficients<A>& c, int64_t first, const A* shared,
                               const Leave& leave) {
  const Group<A> group(run, c, first);
  int64_t k = 0;
  if (run.n <= kGroup) {
#pragma GCC ivdep
    for (; k < run.count; ++k) {
      A x[kGroup], x0, phi[kGroup];
      group.alone(k, x, x0, phi);
      leave(k, x, x0, phi);
    }
  }
  for (; k + kLanes<A> <= run.count; k += kLanes<A>) {
    directions_at<kLanes<A>>(group, run, c.kernel, first, shared, k, leave);
  }
  for (; k < run.count; ++k) directions_at<1>(group, run, c.kernel, first, shared, k, leave);
}

// Moves `count` numbers of a particle along phi, which becomes where they are then.
template <class A, class T>
FASTADV_INLINE void move(const T* x, A* phi, int64_t count, Update update, A step) {
  if (update == Update::kSign) {
    for (int64_t k = 0; k < count; ++k) phi[k] = move_by_sign<A>(static_cast<A>(x[k]), phi[k], step);
  } else if (update == Update::kL2) {
    const UnitStep<A> unit(norm<A>(count, [&](int64_t k) FASTADV_LAMBDA { return phi[k]; }), step);
    for (int64_t k = 0; k < count; ++k) phi[k] = static_cast<A>(x[k]) + unit(phi[k]);
  } else {
    for (int64_t k = 0; k < count; ++k) phi[k] = static_cast<A>(x[k]) + step * phi[k];
  }
}

// Working memory for an image of n particles: rows of a run, n x n numbers, and what only some updates need of a whole
// sample.
template <class A>
struct Room {
  A *phi, *shared, *x, *score, *centre, *zeros, *unused;
  A *distance, *product, *coefficients;
  A *points, *whole_centre, *projection;

  static int64_t numbers(int64_t n, int64_t size, bool by_run) {
    return (4 * n + 3) * kStride + 3 * n * n + n + kBeyond + (by_run ? 0 : (n + 3) * size);
  }

  FASTADV_INLINE Room(A* memory, int64_t n, int64_t size) {
    const auto take = [&](int64_t count) {
      A* taken = memory;
      memory += count;
      return taken;
    };
    for (A** rows : {&phi, &shared, &x, &score}) *rows = take(n * kStride);
    for (A** row : {&centre, &zeros, &unused}) *row = take(kStride);
    for (A** square : {&distance, &product}) *square = take(n * n);
    coefficients = take(n * n + n + kBeyond);
    points = take(n * size);
    whole_centre = take(size);
    projection = take(2 * size);
    std::fill(zeros, zeros + kRun, A(0));
  }
};

// Steps of a run by sign, projected onto a linf ball, all in one loop. `shared` as for directions().
template <class T, class A>
FASTADV_INLINE void step_by_sign(const Run<A>& run, const Coefficients<A>& c, A step, const Ball<A>& ball,
                                 const Room<A>& room, T* out, int64_t size) {
  for (int64_t first = 0; first < run.n; first += kGroup) {
    const int64_t here = smaller(run.n - first, kGroup);
    A* moved[kGroup];
    for (int64_t m = 0; m < kGroup; ++m) {
      if constexpr (std::is_same_v<T, A>) {
        moved[m] = m < here ? out + (first + m) * size : room.unused;
      } else {
        moved[m] = m < here ? room.phi + m * kStride : room.unused;
      }
    }
    directions<A>(run, c, first, room.shared,
                  [&](int64_t k, const A(&x)[kGroup], A x0, const A(&phi)[kGroup]) FASTADV_LAMBDA {
#pragma GCC unroll 4
                    for (int64_t m = 0; m < kGroup; ++m) {
                      moved[m][k] = project_linf<A>(move_by_sign<A>(x[m], phi[m], step), x0, ball);
                    }
                  });
    if constexpr (!std::is_same_v<T, A>) {
      for (int64_t m = 0; m < here; ++m) {
        write<A>(out + (first + m) * size, run.count, [&](int64_t k) FASTADV_LAMBDA { return moved[m][k]; });
      }
    }
  }
}

// `memory`: room for Room::numbers.
template <class T, class A>
FASTADV_CLONES void move_images(SteinStep<T, A> step, A* memory, int64_t begin, int64_t end) {
  const int64_t n = step.count, size = step.size;
  const Stein<A> stein = step.stein;
  const bool by_run = step.by_coordinate(), by_length = stein.update == Update::kL2;
  const Room<A> room(memory, n, size);
  Ball<A> ball = step.ball;
  // It always is; here the compiler sees it.
  ball.exact = true;
  for (int64_t i = begin; i < end; ++i) {
    const T *image = step.particles + i * n * size, *score = step.score + i * n * size, *x0 = step.x0 + i * size;
    T* result = step.out + i * n * size;
    compare_pairs<T, A>(image, n, size, room.distance, room.x);
    const A product_scale = stein.equal_rms ? multiply_pairs<T, A>(score, n, size, room.product, room.score) : A(1);
    const Coefficients<A> c =
        coefficients<A>(room.distance, room.product, product_scale, n, stein, room.coefficients);
    ball.eps = step.eps[i];
    const A length = step.step_size[i];
    for (int64_t first = 0; first < size; first += kRun) {
      const int64_t count = smaller(size - first, kRun);
      const Run<A> run{converted_rows<A>(image + first, n, size, count, room.x),
                       converted_rows<A>(score + first, n, size, count, room.score),
                       converted<A>(x0 + first, count, room.centre),
                       room.zeros,
                       n,
                       count};
      if (n > kGroup) share<A>(run, c, room.shared);
      if (by_run && stein.update == Update::kSign) {
        step_by_sign<T, A>(run, c, length, ball, room, result + first, size);
        continue;
      }
      for (int64_t j = 0; j < n; j += kGroup) {
        A* phi[kGroup];
        for (int64_t m = 0; m < kGroup; ++m) phi[m] = j + m < n ? room.phi + (j + m) * kStride : room.unused;
        const auto leave = [&](int64_t k, const A(&)[kGroup], A, const A(&p)[kGroup]) FASTADV_LAMBDA {
#pragma GCC unroll 4
          for (int64_t m = 0; m < kGroup; ++m) phi[m][k] = p[m];
        };
        directions<A>(run, c, j, room.shared, leave);
      }
      for (int64_t j = 0; j < n; ++j) {
        const int64_t at = j * size + first;
        A* point = room.phi + j * kStride;
        if (!by_length) move<A>(run.x[j], point, count, stein.update, length);
        if (by_run) {
          write<A>(result + at, count, [&](int64_t k) FASTADV_LAMBDA {
            return project_linf<A>(point[k], run.centre[k], ball);
          });
        } else {
          std::copy(point, point + count, room.points + at);
        }
      }
    }
    if (by_run) continue;
    const A* centre = converted<A>(x0, size, room.whole_centre);
    for (int64_t j = 0; j < n; ++j) {
      A* point = room.points + j * size;
      if (by_length) move<A>(image + j * size, point, size, stein.update, length);
      T* o = result + j * size;
      if (step.norm == Norm::kLinf) {
        write<A>(o, size, [&](int64_t k) FASTADV_LAMBDA { return project_linf<A>(point[k], centre[k], ball); });
      } else {
        project_sample<A>(step.norm, [&](int64_t k) FASTADV_LAMBDA { return point[k]; }, centre, size, ball,
                          room.projection, o);
      }
    }
  }
}

template <class T, class A>
void move_particles(const SteinStep<T, A>& step, const Tensor&) {
  const int64_t n = step.count;
  parallel(step.images, n * n * step.size, [&](int64_t begin, int64_t end) {
    A* memory = scratch<A>(Room<A>::numbers(n, step.size, step.by_coordinate()));
    move_images<T, A>(step, memory, begin, end);
  });
}

}  // namespace
}  // namespace fastadv

REGISTER_OPS(m) { m.impl("svgd_step", TORCH_BOX(&fastadv::svgd_step)); }
