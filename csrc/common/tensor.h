// PyTorch's stable ABI as every compiled op uses it: dtypes, pointers, outputs, argument checks.
// The public Python functions have checked shapes and made tensors dense; the checks here guard direct callers.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "scalar.h"

namespace fastadv {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Sums of half, bfloat16 and float are taken in float, of double in double.
template <class T>
using Accumulated = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline ScalarType accumulated(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// std::invalid_argument reaches Python as ValueError.
inline void require(bool condition, const char* message) {
  if (__builtin_expect(!condition, 0)) throw std::invalid_argument(message);
}

// Calls `f.operator()<T, A>()` with the C++ type T of `dtype` and the type A that its sums are taken in.
template <class F>
void with_dtype(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float: return f.template operator()<float, float>();
    case ScalarType::Double: return f.template operator()<double, double>();
    case ScalarType::BFloat16: return f.template operator()<BFloat16, float>();
    case ScalarType::Half: return f.template operator()<Half, float>();
    default: throw std::invalid_argument("expected a float64, float32, bfloat16 or float16 tensor");
  }
}

template <class T>
const T* data(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

template <class T>
T* mutable_data(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// Room for a result on the device of `like`, by the shortest way through the ABI: an empty tensor costs as much as a
// small kernel.
inline Tensor empty(const Tensor& like, const int64_t* sizes, const int64_t* strides, int64_t dim, ScalarType dtype) {
  int32_t device_type;
  // Its namesake with STABLE_ in front came with PyTorch 2.13.
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  const int32_t code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dim, sizes, strides, code, device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

inline Tensor empty_as(const Tensor& x, ScalarType dtype) {
  return empty(x, x.sizes().data(), x.strides().data(), x.dim(), dtype);
}

inline Tensor empty_as(const Tensor& x) { return empty_as(x, x.scalar_type()); }

inline Tensor empty_scalar(const Tensor& like, ScalarType dtype) { return empty(like, nullptr, nullptr, 0, dtype); }

inline Tensor empty_vector(const Tensor& like, int64_t size, ScalarType dtype) {
  const int64_t stride = 1;
  return empty(like, &size, &stride, 1, dtype);
}

// [N, ...] as the ops see it: N samples, each a run of D elements.
struct Samples {
  int64_t samples;  // N
  int64_t size;     // D

  explicit Samples(const Tensor& x)
      : samples(x.dim() ? x.size(0) : 0), size(samples ? x.numel() / samples : 0) {
    require(x.dim() >= 2, "expected a tensor [N, ...]");
    require(size == 0 || ((samples == 1 || x.stride(0) == size) && span(x) == size),
            "expected each sample to be a contiguous run");
  }

 private:
  // Elements from the first to the last of a sample.
  static int64_t span(const Tensor& x) {
    const auto sizes = x.sizes(), strides = x.strides();
    int64_t last = 0;
    for (size_t d = 1; d < sizes.size(); ++d) last += (sizes[d] - 1) * strides[d];
    return last + 1;
  }
};

// Half a dozen calls shorter than the ScalarType it stands for.
inline int32_t dtype_code(const Tensor& x) {
  int32_t code;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &code));
  return code;
}

inline bool on_one_device(const Tensor& x, const Tensor& y) {
  int32_t type, other;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(y.get(), &other));
  return type == other && x.get_device_index() == y.get_device_index();
}

// `y`, which is the argument `name`, lies on the device of `x`: the op of one device would read an address of another.
inline void require_beside(const Tensor& x, const Tensor& y, const char* name) {
  if (__builtin_expect(!on_one_device(x, y), 0)) {
    throw std::invalid_argument(std::string("expected ") + name + " on the device of the samples");
  }
}

inline void require_beside(const Tensor& x, const std::optional<Tensor>& y, const char* name) {
  if (y) require_beside(x, *y, name);
}

// `y` lies in memory as `x` does, element by element.
inline void require_alike(const Tensor& x, const Tensor& y) {
  require(on_one_device(x, y), "expected tensors on one device");
  require(dtype_code(x) == dtype_code(y), "expected tensors of one dtype");
  const auto sizes = x.sizes(), strides = x.strides(), y_sizes = y.sizes(), y_strides = y.strides();
  bool alike = sizes.size() == y_sizes.size();
  for (size_t d = 0; alike && d < sizes.size(); ++d) {
    alike = sizes[d] == y_sizes[d] && (strides[d] == y_strides[d] || sizes[d] == 1 || x.numel() == 0);
  }
  require(alike, "expected tensors of one shape and memory layout");
}

// `samples` indices that must lie in [first, end): ValueError by `name` on a backend that reads them at no cost,
// elsewhere no check at all. Each backend defines it.
inline void require_indices(const char* name, const int64_t* index, int64_t samples, int64_t first, int64_t end);

// A number for the whole batch, or one a sample.
template <class A>
class PerSample {
 public:
  // `name`: that of `values` in the schema; there are as many as samples in `x`.
  PerSample(const char* name, double value, const std::optional<Tensor>& values, const Tensor& x)
      : value_(static_cast<A>(value)), values_(values ? data<A>(*values) : nullptr) {
    if (!values) return;
    require_beside(x, *values, name);
    constexpr ScalarType expected = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
    require(values->scalar_type() == expected && values->is_contiguous() && values->numel() == x.size(0),
            "expected per-sample values [N] in the accumulation precision");
  }

  FASTADV_INLINE A operator[](int64_t sample) const { return values_ ? values_[sample] : value_; }

  FASTADV_INLINE bool varies() const { return values_ != nullptr; }

 private:
  A value_;
  const A* values_;  // [N] or null
};

}  // namespace fastadv
