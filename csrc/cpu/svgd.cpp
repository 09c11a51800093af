// svgd_step: pairwise distances, then the update, image by image; no entry ever joins two images.
#include <algorithm>

#include "../common/stein.h"
#include "../common/step.h"
#include "ball.h"

namespace fastadv {
namespace {

// Particles are taken in runs of this many elements, all of an image's together, so that what is computed of them stays
// in the first-level cache.
constexpr int64_t kRun = 512;

// Rows of a run, kRun numbers each, are worked on in groups; rows of zeros fill the last of them.
constexpr int64_t kGroup = 4;

inline int64_t grouped(int64_t n) { return (n + kGroup - 1) / kGroup * kGroup; }

// The n particles of one image, a run of which is copied into rows in the accumulation precision.
template <class T>
struct Image {
  const T* particles;
  const T* score;
  const T* centre;
  int64_t n;
  int64_t size;

  // particles - x0
  template <class A>
  FASTADV_INLINE void offsets(int64_t begin, int64_t count, A* rows) const {
    const T* c = centre + begin;
    for (int64_t j = 0; j < n; ++j) {
      const T* x = particles + j * size + begin;
      A* row = rows + j * kRun;
#pragma GCC ivdep
      for (int64_t k = 0; k < count; ++k) row[k] = static_cast<A>(x[k]) - static_cast<A>(c[k]);
    }
  }

  template <class A>
  FASTADV_INLINE void scores(int64_t begin, int64_t count, A* rows) const {
    for (int64_t j = 0; j < n; ++j) {
      const T* s = score + j * size + begin;
      A* row = rows + j * kRun;
#pragma GCC ivdep
      for (int64_t k = 0; k < count; ++k) row[k] = static_cast<A>(s[k]);
    }
  }
};

// Adds term(x, y), summed over the numbers x and y of two rows, to the n x n sums, on and below the diagonal; above it
// some are set too. Two rows by two, so that a number is loaded once for two terms.
template <class A, class Term>
FASTADV_INLINE void add_pairs(const A* rows, int64_t n, int64_t count, A* sums, const Term& term) {
  for (int64_t i = 0; i < n; i += 2) {
    for (int64_t j = 0; j <= i; j += 2) {
      const A *x = rows + i * kRun, *y = rows + j * kRun;
      A pairs[4];
      sum_all(count, pairs, [&](int64_t k, A (&terms)[4]) FASTADV_LAMBDA {
        for (int l = 0; l < 4; ++l) terms[l] = term(x[l / 2 * kRun + k], y[l % 2 * kRun + k]);
      });
      for (int64_t l = 0; l < 4; ++l) {
        const int64_t row = i + l / 2, column = j + l % 2;
        if (row < n && column < n) sums[row * n + column] += pairs[l];
      }
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
FASTADV_INLINE void compare_pairs(const Image<T>& image, A* distance, A* product, A* rows) {
  const int64_t n = image.n;
  for (int64_t k = 0; k < n * n; ++k) distance[k] = 0;
  for (int64_t k = 0; product && k < n * n; ++k) product[k] = 0;
  for (int64_t begin = 0; begin < image.size; begin += kRun) {
    const int64_t count = smaller(image.size - begin, kRun);
    image.offsets(begin, count, rows);
    add_pairs<A>(rows, n, count, distance, [](A x, A y) FASTADV_LAMBDA { return (x - y) * (x - y); });
    if (!product) continue;
    image.scores(begin, count, rows);
    add_pairs<A>(rows, n, count, product, [](A x, A y) FASTADV_LAMBDA { return x * y; });
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

// Coefficients of  phi_i = sum_j attract_ij score_j + repel_ij (x_j - x0), both n x n, written over the inputs.
template <class A>
void coefficients(A* distance, A* product, int64_t n, const Stein<A>& stein, A* buffer) {
  const A precision = inverse_variance<A>(distance, n, stein.bandwidth, buffer);
  A *kernel = buffer, *repel = buffer + n * n;
  for (int64_t k = 0; k < n * n; ++k) {
    kernel[k] = std::exp(A(-0.5) * distance[k] * precision) / n;
    repel[k] = kernel[k] * precision;
  }
  // A particle does not repel itself; on the diagonal, ones would leave their rounding where all else is tiny.
  for (int64_t i = 0; i < n; ++i) repel[i * n + i] = 0;
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
  for (int64_t k = 0; k < n * n; ++k) {
    product[k] = scale * kernel[k];
    distance[k] = -repel[k];
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) distance[i * n + i] += repel[i * n + j];
  }
}

// phi of a run from its scores and offsets. For two particles at a time, so that a number is loaded once for two
// products, and a group of others, so that phi is loaded and stored once for eight.
template <class A>
FASTADV_INLINE void directions(const A* attract, const A* repel, const A* score, const A* offset, int64_t n,
                               int64_t count, A* phi) {
  for (int64_t i = 0; i < n; i += 2) {
    for (int64_t j = 0; j < n; j += kGroup) {
      const A *s = score + j * kRun, *o = offset + j * kRun;
      A a[2][kGroup], r[2][kGroup];
      for (int64_t m = 0; m < 2; ++m) {
        for (int64_t l = 0; l < kGroup; ++l) {
          const bool there = i + m < n && j + l < n;
          a[m][l] = there ? attract[(i + m) * n + j + l] : A(0);
          r[m][l] = there ? repel[(i + m) * n + j + l] : A(0);
        }
      }
      const auto dot = [](const A(&c)[kGroup], const A* x) FASTADV_LAMBDA {
        return (c[0] * x[0] + c[1] * x[kRun]) + (c[2] * x[2 * kRun] + c[3] * x[3 * kRun]);
      };
      const auto products = [&](int m, int64_t k) FASTADV_LAMBDA { return dot(a[m], s + k) + dot(r[m], o + k); };
      A* p = phi + i * kRun;
      if (j == 0) {
#pragma GCC ivdep
        for (int64_t k = 0; k < count; ++k) {
          p[k] = products(0, k);
          p[kRun + k] = products(1, k);
        }
      } else {
#pragma GCC ivdep
        for (int64_t k = 0; k < count; ++k) {
          p[k] += products(0, k);
          p[kRun + k] += products(1, k);
        }
      }
    }
  }
}

// Moves `count` numbers of a particle along phi, which becomes where they are then.
template <class T, class A>
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

// Whether a projection takes each number by itself, and a run can be projected as soon as it has moved.
inline bool run_by_run(Norm norm, Update update) { return norm == Norm::kLinf && update != Update::kL2; }

// Numbers of working memory of move_particles.
inline int64_t room(int64_t n, int64_t size, bool run_by_run) {
  return (3 * grouped(n) + 1) * kRun + 4 * n * n + (run_by_run ? 0 : (n + 2) * size);
}

template <class T, class A>
FASTADV_CLONES void move_particles(const T* particles, const T* score, const T* x0, PerSample<A> eps,
                                   PerSample<A> step_size, Ball<A> ball, Norm norm_kind, Stein<A> stein, T* out,
                                   int64_t n, int64_t size, A* buffer, int64_t begin, int64_t end) {
  const bool by_run = run_by_run(norm_kind, stein.update), by_length = stein.update == Update::kL2;
  const int64_t rows = grouped(n) * kRun;
  A *offset = buffer, *s = offset + rows, *phi = s + rows, *centre_run = phi + rows;
  A *repel = centre_run + kRun, *attract = repel + n * n, *small = attract + n * n, *points = small + 2 * n * n;
  A *whole_centre = points + n * size, *delta = whole_centre + size;
  for (int64_t k = n * kRun; k < rows; ++k) offset[k] = s[k] = 0;
  for (int64_t i = begin; i < end; ++i) {
    const Image<T> image{particles + i * n * size, score + i * n * size, x0 + i * size, n, size};
    T* result = out + i * n * size;
    compare_pairs<T, A>(image, repel, stein.equal_rms ? attract : nullptr, offset);
    coefficients<A>(repel, attract, n, stein, small);
    ball.eps = eps[i];
    const A step = step_size[i];
    for (int64_t first = 0; first < size; first += kRun) {
      const int64_t count = smaller(size - first, kRun);
      image.offsets(first, count, offset);
      image.scores(first, count, s);
      directions<A>(attract, repel, s, offset, n, count, phi);
      const A* centre = converted<A>(image.centre + first, count, centre_run);
      for (int64_t j = 0; j < n; ++j) {
        const int64_t at = j * size + first;
        A* point = phi + j * kRun;
        if (!by_length) move<T, A>(image.particles + at, point, count, stein.update, step);
        if (by_run) {
          write<A>(result + at, count, [&](int64_t k) FASTADV_LAMBDA {
            return project_linf<A>(point[k], centre[k], ball);
          });
        } else {
          std::copy(point, point + count, points + at);
        }
      }
    }
    if (by_run) continue;
    const A* centre = converted<A>(image.centre, size, whole_centre);
    for (int64_t j = 0; j < n; ++j) {
      A* point = points + j * size;
      if (by_length) move<T, A>(image.particles + j * size, point, size, stein.update, step);
      T* o = result + j * size;
      if (norm_kind == Norm::kLinf) {
        write<A>(o, size, [&](int64_t k) FASTADV_LAMBDA { return project_linf<A>(point[k], centre[k], ball); });
      } else {
        project_sample<A>(norm_kind, [&](int64_t k) FASTADV_LAMBDA { return point[k]; }, centre, size, ball, delta, o);
      }
    }
  }
}

Tensor svgd_step(const Tensor& particles, const Tensor& score, const Tensor& x0, double eps, double step_size,
                 int64_t norm, double low, double high, std::optional<double> bandwidth, int64_t update,
                 std::optional<double> score_scale, const std::optional<Tensor>& eps_n,
                 const std::optional<Tensor>& step_size_n) {
  const Particles shape(particles, score, x0);
  const int64_t images = shape.images, n = shape.count, size = shape.size;
  const Norm kind = norm_of_code(norm);
  Tensor out = empty_as(particles);
  with_type(particles.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulated<T>;
    const Ball<A> ball{A(0), static_cast<A>(low), static_cast<A>(high), true};
    const Stein<A> stein(bandwidth, score_scale, update);
    const PerSample<A> radius(eps, eps_n, images), length(step_size, step_size_n, images);
    const T *x = data<T>(particles), *s = data<T>(score), *centre = data<T>(x0);
    T* result = mutable_data<T>(out);
    parallel(images, n * n * size, [&](int64_t begin, int64_t end) {
      A* buffer = scratch<A>(room(n, size, run_by_run(kind, stein.update)));
      move_particles<T, A>(x, s, centre, radius, length, ball, kind, stein, result, n, size, buffer,
                           begin, end);
    });
  });
  return out;
}

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) { m.impl("svgd_step", TORCH_BOX(&fastadv::svgd_step)); }
