// The allocator of simulated ops, which the build puts in the place of aoti_torch_empty_strided: an output lies inside
// a larger buffer, all of it NaN, and what was written around it is found out afterwards.
#include <algorithm>
#include <cstring>
#include <vector>

#include "../../csrc/common/tensor.h"

namespace {

struct Output {
  torch::stable::Tensor buffer;
  int64_t margin;
  int64_t bytes;
};

std::vector<Output>& outputs() {
  static std::vector<Output> all;
  return all;
}

constexpr unsigned char kUntouched = 0xff;
// Keeps the alignment that PyTorch's own allocators give.
constexpr int64_t kMargin = 512;

}  // namespace

extern "C" {

AOTITorchError simulator_empty_strided(int64_t dim, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                       int32_t device_type, int32_t device_index, AtenTensorHandle* result) {
  const int64_t item = static_cast<int64_t>(aoti_torch_dtype_element_size(dtype));
  int64_t count = 1;
  for (int64_t d = 0; d < dim; ++d) count += (sizes[d] - 1) * strides[d];
  if (std::find(sizes, sizes + dim, 0) != sizes + dim) count = 0;
  const int64_t margin = kMargin / item, total = 2 * margin + count, one = 1;
  AtenTensorHandle handle;
  const AOTITorchError error = aoti_torch_empty_strided(1, &total, &one, dtype, device_type, device_index, &handle);
  if (error) return error;
  outputs().push_back({torch::stable::Tensor(handle), margin * item, count * item});
  std::memset(outputs().back().buffer.mutable_data_ptr(), kUntouched, total * item);
  return aoti_torch__reinterpret_tensor(handle, dim, sizes, strides, margin, result);
}

// How many outputs since the last call have been written past their ends.
__attribute__((visibility("default"))) int64_t simulator_overruns() {
  const auto overrun = [](const Output& output) {
    const auto* bytes = static_cast<const unsigned char*>(output.buffer.const_data_ptr());
    const auto touched = [](unsigned char byte) { return byte != kUntouched; };
    return std::any_of(bytes, bytes + output.margin, touched) ||
           std::any_of(bytes + output.margin + output.bytes, bytes + 2 * output.margin + output.bytes, touched);
  };
  const int64_t count = std::count_if(outputs().begin(), outputs().end(), overrun);
  outputs().clear();
  return count;
}

}  // extern "C"
