// svgd_step: pairwise distances, then the update, image by image; no entry ever joins two images.
#include <algorithm>

#include "../common/stein.h"
#include "../common/step.h"
#include "ball.h"

namespace fastadv {
namespace {

// Particles are taken in runs of this many elements, so that all of an image's stay in the first-level cache.
constexpr int64_t kRun = 512;

// Squared distances of all pairs and, where wanted, the inner products of their scores; n x n each, symmetric.
template <class A>
FASTADV_INLINE void pairs(const A* offsets, const A* score, int64_t n, int64_t size, A* distance, A* product) {
  std::fill(distance, distance + n * n, A(0));
  if (product) std::fill(product, product + n * n, A(0));
  for (int64_t begin = 0; begin < size; begin += kRun) {
    const int64_t count = size - begin < kRun ? size - begin : kRun;
    for (int64_t i = 0; i < n; ++i) {
      const A *oi = offsets + i * size + begin, *si = score + i * size + begin;
      for (int64_t j = 0; j <= i; ++j) {
        const A *oj = offsets + j * size + begin, *sj = score + j * size + begin;
        if (j < i) {
          distance[i * n + j] += sum<A>(count, [&](int64_t k) FASTADV_LAMBDA {
            const A d = oi[k] - oj[k];
            return d * d;
          });
        }
        if (product) product[i * n + j] += sum<A>(count, [&](int64_t k) FASTADV_LAMBDA { return si[k] * sj[k]; });
      }
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) {
      distance[j * n + i] = distance[i * n + j];
      if (product) product[j * n + i] = product[i * n + j];
    }
  }
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

// phi_i, four particles at a time, so that it is loaded and stored once for eight products.
template <class A>
FASTADV_INLINE void direction(const A* attract, const A* repel, const A* score, const A* offsets, int64_t n,
                              int64_t size, A* phi) {
  for (int64_t begin = 0; begin < size; begin += kRun) {
    const int64_t count = size - begin < kRun ? size - begin : kRun;
    A* p = phi + begin;
    for (int64_t k = 0; k < count; ++k) p[k] = 0;
    for (int64_t j = 0; j < n; j += 4) {
      const A *s[4], *o[4];
      A a[4], r[4];
      for (int64_t l = 0; l < 4; ++l) {
        const int64_t other = j + l < n ? j + l : n - 1;
        s[l] = score + other * size + begin;
        o[l] = offsets + other * size + begin;
        a[l] = j + l < n ? attract[other] : A(0);
        r[l] = j + l < n ? repel[other] : A(0);
      }
      for (int64_t k = 0; k < count; ++k) {
        p[k] += ((a[0] * s[0][k] + a[1] * s[1][k]) + (a[2] * s[2][k] + a[3] * s[3][k])) +
                ((r[0] * o[0][k] + r[1] * o[1][k]) + (r[2] * o[2][k] + r[3] * o[3][k]));
      }
    }
  }
}

template <class T, class A>
FASTADV_CLONES void move_particles(const T* particles, const T* score, const T* x0, PerSample<A> eps,
                                   PerSample<A> step_size, Ball<A> ball, Norm norm_kind, Stein<A> stein, T* out,
                                   int64_t n, int64_t size, A* buffer, int64_t begin, int64_t end) {
  A *offsets = buffer, *converted_score = offsets + n * size, *phi = converted_score + n * size;
  A *centre_buffer = phi + size, *delta = centre_buffer + size, *point = delta + size;
  A *repel = point + size, *attract = repel + n * n, *small = attract + n * n;
  for (int64_t image = begin; image < end; ++image) {
    const A* centre = converted<A>(x0 + image * size, size, centre_buffer);
    const A* s = converted<A>(score + image * n * size, n * size, converted_score);
    const T* x = particles + image * n * size;
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t k = 0; k < size; ++k) offsets[j * size + k] = static_cast<A>(x[j * size + k]) - centre[k];
    }
    pairs<A>(offsets, s, n, size, repel, stein.equal_rms ? attract : nullptr);
    coefficients<A>(repel, attract, n, stein, small);
    ball.eps = eps[image];
    for (int64_t i = 0; i < n; ++i) {
      direction<A>(attract + i * n, repel + i * n, s, offsets, n, size, phi);
      const A step = step_size[image];
      const T* xi = x + i * size;
      if (stein.update == Update::kSign) {
        for (int64_t k = 0; k < size; ++k) point[k] = move_by_sign<A>(static_cast<A>(xi[k]), phi[k], step);
      } else if (stein.update == Update::kL2) {
        const UnitStep<A> unit(norm<A>(size, [&](int64_t k) FASTADV_LAMBDA { return phi[k]; }), step);
        for (int64_t k = 0; k < size; ++k) point[k] = static_cast<A>(xi[k]) + unit(phi[k]);
      } else {
        for (int64_t k = 0; k < size; ++k) point[k] = static_cast<A>(xi[k]) + step * phi[k];
      }
      T* o = out + (image * n + i) * size;
      if (norm_kind == Norm::kLinf) {
        for (int64_t k = 0; k < size; ++k) o[k] = static_cast<T>(project_linf<A>(point[k], centre[k], ball));
      } else {
        project_sample<A>(norm_kind, [&](int64_t k) FASTADV_LAMBDA { return point[k]; }, centre, size, ball, delta,
                          [&](int64_t k, A z) FASTADV_LAMBDA { o[k] = static_cast<T>(z); });
      }
    }
  }
}

Tensor svgd_step(const Tensor& particles, const Tensor& score, const Tensor& x0, double eps,
                 const std::optional<Tensor>& eps_n, double step_size, const std::optional<Tensor>& step_size_n,
                 int64_t norm, double low, double high, std::optional<double> bandwidth, int64_t update,
                 std::optional<double> score_scale) {
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
      A* buffer = scratch<A>((2 * n + 4) * size + 4 * n * n);
      move_particles<T, A>(x, s, centre, radius, length, ball, kind, stein, result, n, size, buffer,
                           begin, end);
    });
  });
  return out;
}

}  // namespace
}  // namespace fastadv

STABLE_TORCH_LIBRARY_IMPL(fastadv, CPU, m) { m.impl("svgd_step", TORCH_BOX(&fastadv::svgd_step)); }
