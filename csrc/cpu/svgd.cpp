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

// Particles act on each other in groups of this many, so that a number is loaded once for as many products.
constexpr int64_t kGroup = 4;

inline int64_t grouped(int64_t n) { return (n + kGroup - 1) / kGroup * kGroup; }

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

// Adds term(x, y), summed over the numbers x and y of two rows, to the n x n sums on and below the diagonal. Two rows
// by two, so that a number is loaded once for two terms.
template <class A, class Term>
FASTADV_INLINE void add_pairs(const Rows<A>& rows, int64_t n, int64_t count, A* sums, const Term& term) {
  for (int64_t i = 0; i < n; i += 2) {
    const A *x = rows[i], *next_x = rows[smaller(i + 1, n - 1)];
    const bool pair = i + 1 < n;
    A own[3];
    sum_all(count, own, [&](int64_t k, A (&terms)[3]) FASTADV_LAMBDA {
      terms[0] = term(x[k], x[k]);
      terms[1] = term(next_x[k], x[k]);
      terms[2] = term(next_x[k], next_x[k]);
    });
    sums[i * n + i] += own[0];
    if (pair) sums[(i + 1) * n + i] += own[1];
    if (pair) sums[(i + 1) * n + i + 1] += own[2];
    for (int64_t j = 0; j < i; j += 2) {
      const A *y = rows[j], *next_y = rows[j + 1];
      A cross[4];
      sum_all(count, cross, [&](int64_t k, A (&terms)[4]) FASTADV_LAMBDA {
        terms[0] = term(x[k], y[k]);
        terms[1] = term(x[k], next_y[k]);
        terms[2] = term(next_x[k], y[k]);
        terms[3] = term(next_x[k], next_y[k]);
      });
      for (int64_t l = 0; l < (pair ? 4 : 2); ++l) sums[(i + l / 2) * n + j + l % 2] += cross[l];
    }
  }
}

template <class A>
FASTADV_INLINE void mirror(A* square, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) square[j * n + i] = square[i * n + j];
  }
}

// Squared distances of all pairs and, where wanted, the inner products of their scores; n x n each, symmetric.
template <class T, class A>
FASTADV_INLINE void compare_pairs(const T* particles, const T* score, int64_t n, int64_t size, A* distance, A* product,
                                  A* buffer) {
  for (int64_t k = 0; k < n * n; ++k) distance[k] = 0;
  for (int64_t k = 0; product && k < n * n; ++k) product[k] = 0;
  for (int64_t begin = 0; begin < size; begin += kRun) {
    const int64_t count = smaller(size - begin, kRun);
    add_pairs<A>(converted_rows<A>(particles + begin, n, size, count, buffer), n, count, distance,
                 [](A x, A y) FASTADV_LAMBDA { return (x - y) * (x - y); });
    if (!product) continue;
    add_pairs<A>(converted_rows<A>(score + begin, n, size, count, buffer), n, count, product,
                 [](A x, A y) FASTADV_LAMBDA { return x * y; });
  }
  mirror(distance, n);
  if (product) mirror(product, n);
}

// 1 / sigma^2; zero, a flat kernel without repulsion, where the median distance is zero or there is no pair.
template <class A>
A inverse_variance(const A* distance, int64_t n, A bandwidth, A* buffer) {
  if (bandwidth > 0) return 1 / (bandwidth * bandwidth);
  if (n < 2) return 0;
  A* end = buffer;
  for (int64_t i = 0; i < n; ++i) end = std::copy(distance + i * n, distance + i * n + i, end);
  A* median = buffer + (end - buffer - 1) / 2;
  std::nth_element(buffer, median, end);
  return *median > 0 ? 2 * std::log(A(n + 1)) / *median : A(0);
}

// phi_i = own_offset_i o_i + 1/n score_scale s_i + sum_{j != i} kernel_ij (score_scale s_j - precision o_j), with the
// scores s and the offsets o = particle - x0. A particle does not repel itself: ones on the diagonal would leave their
// rounding where all else is tiny.
template <class A>
struct Coefficients {
  const A* kernel;      // n x n, 1/n on the diagonal
  const A* own_offset;  // n
  A score_scale;
  A precision;
};

// `buffer` is room for 2 n^2 + n numbers, the first of which the result points to.
template <class A>
Coefficients<A> coefficients(const A* distance, const A* product, int64_t n, const Stein<A>& stein, A* buffer) {
  const A precision = inverse_variance<A>(distance, n, stein.bandwidth, buffer);
  A *kernel = buffer, *repel = buffer + n * n, *own_offset = repel + n * n;
  for (int64_t k = 0; k < n * n; ++k) {
    kernel[k] = std::exp(A(-0.5) * distance[k] * precision) / n;
    repel[k] = kernel[k] * precision;
  }
  for (int64_t i = 0; i < n; ++i) {
    repel[i * n + i] = own_offset[i] = 0;
    for (int64_t j = 0; j < n; ++j) own_offset[i] += repel[i * n + j];
  }
  A scale = stein.score_scale;
  if (stein.equal_rms) {
    // Squared lengths summed over the particles: the attraction's from the scores' products, the repulsion's from the
    // distances, since (x_i - x_j).(x_i - x_k) = (d_ij + d_ik - d_jk) / 2 for squared distances d.
    double pull = 0, push = 0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        for (int64_t k = 0; k < n; ++k) {
          pull += double(kernel[i * n + j]) * kernel[i * n + k] * product[j * n + k];
          push += 0.5 * repel[i * n + j] * repel[i * n + k] *
                  (double(distance[i * n + j]) + distance[i * n + k] - distance[j * n + k]);
        }
      }
    }
    scale = pull > 0 && push > 0 ? static_cast<A>(std::sqrt(push / pull)) : A(1);
  }
  return {kernel, own_offset, scale, precision};
}

// The kernel between the particles of two groups; zero beyond the last particle.
template <class A>
struct Tile {
  A k[kGroup][kGroup];

  FASTADV_INLINE Tile(const A* kernel, int64_t n, int64_t i, int64_t j) {
    for (int64_t m = 0; m < kGroup; ++m) {
      for (int64_t l = 0; l < kGroup; ++l) k[m][l] = i + m < n && j + l < n ? kernel[(i + m) * n + j + l] : A(0);
    }
  }

  FASTADV_INLINE A row(int64_t m, const A (&u)[kGroup]) const {
    return (k[m][0] * u[0] + k[m][1] * u[1]) + (k[m][2] * u[2] + k[m][3] * u[3]);
  }
};

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

// phi of the group that begins with particle `first`, from this group alone: `leave(k, x, x0, phi, shared)` is given
// what each of its particles has at index k; `shared` is what the kernel adds of it to others.
template <class A, class Leave>
FASTADV_INLINE void within(const Run<A>& run, const Coefficients<A>& c, int64_t first, const Leave& leave) {
  const Tile<A> tile(c.kernel, run.n, first, first);
  const A *x[kGroup], *score[kGroup];
  A own_offset[kGroup];
  for (int64_t m = 0; m < kGroup; ++m) {
    const bool there = first + m < run.n;
    x[m] = there ? run.x[first + m] : run.centre;
    score[m] = there ? run.score[first + m] : run.zeros;
    own_offset[m] = there ? c.own_offset[first + m] : A(0);
  }
  const A *centre = run.centre, score_scale = c.score_scale, precision = c.precision;
#pragma GCC ivdep
  for (int64_t k = 0; k < run.count; ++k) {
    A point[kGroup], pull[kGroup], shared[kGroup], phi[kGroup];
    const A x0 = centre[k];
#pragma GCC unroll 4
    for (int64_t m = 0; m < kGroup; ++m) {
      point[m] = x[m][k];
      pull[m] = score_scale * score[m][k];
      shared[m] = pull[m] - precision * (point[m] - x0);
    }
#pragma GCC unroll 4
    for (int64_t m = 0; m < kGroup; ++m) {
      A terms[kGroup];
#pragma GCC unroll 4
      for (int64_t l = 0; l < kGroup; ++l) terms[l] = l == m ? pull[l] : shared[l];
      phi[m] = own_offset[m] * (point[m] - x0) + tile.row(m, terms);
    }
    leave(k, point, x0, phi, shared);
  }
}

// Adds to phi of a group what the particles of another share.
template <class A>
FASTADV_INLINE void across(const A* shared, const Tile<A>& tile, int64_t count, A* phi) {
#pragma GCC ivdep
  for (int64_t k = 0; k < count; ++k) {
    A u[kGroup], p[kGroup];
#pragma GCC unroll 4
    for (int64_t m = 0; m < kGroup; ++m) u[m] = shared[m * kStride + k];
#pragma GCC unroll 4
    for (int64_t m = 0; m < kGroup; ++m) p[m] = phi[m * kStride + k] + tile.row(m, u);
#pragma GCC unroll 4
    for (int64_t m = 0; m < kGroup; ++m) phi[m * kStride + k] = p[m];
  }
}

// phi of a run of all particles, into rows.
template <class A>
FASTADV_INLINE void directions(const Run<A>& run, const Coefficients<A>& c, A* phi, A* shared) {
  for (int64_t i = 0; i < run.n; i += kGroup) {
    A *p = phi + i * kStride, *u = shared + i * kStride;
    within<A>(run, c, i,
              [&](int64_t k, const A(&)[kGroup], A, const A(&own)[kGroup], const A(&others)[kGroup]) FASTADV_LAMBDA {
#pragma GCC unroll 4
                for (int64_t m = 0; m < kGroup; ++m) {
                  p[m * kStride + k] = own[m];
                  u[m * kStride + k] = others[m];
                }
              });
  }
  for (int64_t i = 0; i < run.n; i += kGroup) {
    for (int64_t j = 0; j < run.n; j += kGroup) {
      if (j == i) continue;
      across<A>(shared + j * kStride, Tile<A>(c.kernel, run.n, i, j), run.count, phi + i * kStride);
    }
  }
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
  A *points, *whole_centre, *delta;

  static int64_t numbers(int64_t n, int64_t size, bool by_run) {
    return (4 * grouped(n) + 3) * kStride + 4 * n * n + n + (by_run ? 0 : (n + 2) * size);
  }

  FASTADV_INLINE Room(A* memory, int64_t n, int64_t size) {
    const auto take = [&](int64_t count) {
      A* taken = memory;
      memory += count;
      return taken;
    };
    for (A** rows : {&phi, &shared, &x, &score}) *rows = take(grouped(n) * kStride);
    for (A** row : {&centre, &zeros, &unused}) *row = take(kStride);
    for (A** square : {&distance, &product}) *square = take(n * n);
    coefficients = take(2 * n * n + n);
    points = take(n * size);
    for (A** sample : {&whole_centre, &delta}) *sample = take(size);
    std::fill(zeros, zeros + kRun, A(0));
  }
};

// Steps by sign of a run of up to kGroup particles, projected onto a linf ball, all in one loop.
template <class T, class A>
FASTADV_INLINE void step_few(const Run<A>& run, const Coefficients<A>& c, A step, const Ball<A>& ball,
                             const Room<A>& room, T* out, int64_t size) {
  A* moved[kGroup];
  for (int64_t m = 0; m < kGroup; ++m) {
    if constexpr (std::is_same_v<T, A>) {
      moved[m] = m < run.n ? out + m * size : room.unused;
    } else {
      moved[m] = room.phi + m * kStride;
    }
  }
  within<A>(run, c, 0,
            [&](int64_t k, const A(&x)[kGroup], A x0, const A(&phi)[kGroup], const A(&)[kGroup]) FASTADV_LAMBDA {
#pragma GCC unroll 4
              for (int64_t m = 0; m < kGroup; ++m) {
                moved[m][k] = project_linf<A>(move_by_sign<A>(x[m], phi[m], step), x0, ball);
              }
            });
  if constexpr (!std::is_same_v<T, A>) {
    for (int64_t m = 0; m < run.n; ++m) {
      write<A>(out + m * size, run.count, [&](int64_t k) FASTADV_LAMBDA { return moved[m][k]; });
    }
  }
}

// `memory`: room for Room::numbers.
template <class T, class A>
FASTADV_CLONES void move_images(SteinStep<T, A> step, A* memory, int64_t begin, int64_t end) {
  const int64_t n = step.count, size = step.size;
  const Stein<A> stein = step.stein;
  const bool by_run = step.by_coordinate(), by_length = stein.update == Update::kL2;
  const bool few = n <= kGroup && by_run && stein.update == Update::kSign;
  const Room<A> room(memory, n, size);
  Ball<A> ball = step.ball;
  // It always is; here the compiler sees it.
  ball.exact = true;
  for (int64_t i = begin; i < end; ++i) {
    const T *image = step.particles + i * n * size, *score = step.score + i * n * size, *x0 = step.x0 + i * size;
    T* result = step.out + i * n * size;
    compare_pairs<T, A>(image, score, n, size, room.distance, stein.equal_rms ? room.product : nullptr, room.x);
    const Coefficients<A> c = coefficients<A>(room.distance, room.product, n, stein, room.coefficients);
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
      if (few) {
        step_few<T, A>(run, c, length, ball, room, result + first, size);
        continue;
      }
      directions<A>(run, c, room.phi, room.shared);
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
        project_sample<A>(step.norm, [&](int64_t k) FASTADV_LAMBDA { return point[k]; }, centre, size, ball, room.delta,
                          o);
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
