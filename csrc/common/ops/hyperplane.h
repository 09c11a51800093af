// project_hyperplane: arguments, checks and output. A backend brings `project_onto_planes`.
#pragma once

#include "../hyperplane.h"
#include "../tensor.h"

namespace fastadv {

template <class T, class A>
struct Planes {
  const T* x;       // [N, D]
  const T* normal;  // [N, D]
  const A* offset;  // [N]
  T* out;           // [N, D]
  Norm norm;
  A low;
  A high;
  int64_t samples;  // N
  int64_t size;     // D
};

namespace {

template <class T, class A>
void project_onto_planes(const Planes<T, A>& planes, const Tensor& like);

}  // namespace

inline Tensor project_hyperplane(const Tensor& x, const Tensor& normal, const Tensor& offset, int64_t norm, double low,
                                 double high) {
  require_alike(x, normal);
  const Samples shape(x);
  const Norm kind = norm_of_code(norm);
  require_beside(x, offset, "offset");
  require(offset.scalar_type() == accumulated(x.scalar_type()) && offset.is_contiguous() && offset.dim() == 1 &&
              offset.numel() == shape.samples,
          "expected contiguous offsets [N] in the accumulation precision");
  Tensor out = empty_as(x);
  with_dtype(x.scalar_type(), [&]<class T, class A>() {
    const Planes<T, A> planes{data<T>(x),
                              data<T>(normal),
                              data<A>(offset),
                              mutable_data<T>(out),
                              kind,
                              static_cast<A>(low),
                              static_cast<A>(high),
                              shape.samples,
                              shape.size};
    if (shape.samples * shape.size > 0) project_onto_planes(planes, x);
  });
  return out;
}

}  // namespace fastadv
