// Tensors as the kernels see them. The CPU library knows PyTorch through its stable ABI alone, so that one library
// runs with every version from 2.11 on (TORCH_TARGET_VERSION, compilers.py). The CUDA library is compiled where it
// runs, and uses ATen. Headers that both include use what both definitions here have.
#pragma once

#ifdef TORCH_TARGET_VERSION

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

#include <algorithm>
#include <cstdint>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace accel_ops {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

// As PyTorch prints them.
inline std::ostream& print(std::ostream& out, Sizes sizes) {
  const char* before = "[";
  for (const int64_t size : sizes) {
    out << before << size;
    before = ", ";
  }
  return out << (sizes.empty() ? "[]" : "]");
}

inline std::ostream& print(std::ostream& out, const torch::stable::Device& device) {
  if (device.is_cpu()) return out << "cpu";
  return out << (device.is_cuda() ? "cuda:" : "device ") << device.index();
}

template <typename T>
std::ostream& print(std::ostream& out, const T& value) {
  return out << value;
}

// Python makes a ValueError of it.
template <typename... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (print(text, parts), ...);
  throw std::invalid_argument(text.str());
}

#define ACCEL_CHECK(condition, ...) \
  do {                              \
    if (!(condition)) ::accel_ops::refuse(__VA_ARGS__); \
  } while (false)

// Calls a function with a zero of the type that the tensor's type stands for; the checks let no other type through.
template <typename Function>
void with_floating_type(ScalarType type, Function&& function) {
  switch (type) {
    case ScalarType::Float: return function(float());
    case ScalarType::Double: return function(double());
    case ScalarType::Half: return function(c10::Half());
    case ScalarType::BFloat16: return function(c10::BFloat16());
    default: refuse("expected a floating-point type, got ", type);
  }
}

inline int32_t number_of(ScalarType type) {
  return torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
}

inline std::vector<int64_t> strides_of(Sizes sizes, MemoryFormat layout) {
  std::vector<int64_t> strides(sizes.size());
  if (layout == MemoryFormat::ChannelsLast) {  // of (B, C, H, W)
    strides = {sizes[1] * sizes[2] * sizes[3], 1, sizes[1] * sizes[3], sizes[1]};
  } else {
    int64_t step = 1;
    for (size_t i = sizes.size(); i-- > 0; step *= std::max<int64_t>(sizes[i], 1)) strides[i] = step;
  }
  return strides;
}

// A new tensor on the CPU, uninitialised.
inline Tensor empty(Sizes sizes, ScalarType type, MemoryFormat layout = MemoryFormat::Contiguous) {
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides_of(sizes, layout).data(), number_of(type),
      aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

inline Tensor zeros(Sizes sizes, ScalarType type, MemoryFormat layout = MemoryFormat::Contiguous) {
  Tensor made = empty(sizes, type, layout);
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(made.get()));
  return made;
}

// The tensor in this type and layout: itself, if it has them.
inline Tensor in_form(const Tensor& tensor, ScalarType type, MemoryFormat layout = MemoryFormat::Contiguous) {
  const Sizes sizes = tensor.sizes(), strides = tensor.strides();
  const std::vector<int64_t> wanted = strides_of(sizes, layout);
  bool fits = tensor.scalar_type() == type;
  for (size_t i = 0; i < sizes.size(); ++i) fits = fits && (sizes[i] == 1 || strides[i] == wanted[i]);
  if (fits) return tensor;
  Tensor made = empty(sizes, type, layout);
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(made.get(), tensor.get(), 0));
  return made;
}

// A tensor that is there in memory; whoever takes it keeps that.
template <typename T>
Tensor tensor_at(T* data, Sizes sizes, Sizes strides) {
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(
      const_cast<std::remove_const_t<T>*>(data), static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), 0,
      number_of(torch::headeronly::CppTypeToScalarType<std::remove_const_t<T>>::value), aoti_torch_device_type_cpu(), 0,
      &made));
  return Tensor(made);
}

template <typename T>
Tensor matrix_at(T* data, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step) {
  return tensor_at(data, {rows, columns}, {row_step, column_step});
}

}  // namespace accel_ops

#else

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>

namespace accel_ops {

using at::MemoryFormat;
using at::ScalarType;
using at::Tensor;
using Sizes = at::IntArrayRef;

#define ACCEL_CHECK(condition, ...) TORCH_CHECK_VALUE(condition, __VA_ARGS__)

}  // namespace accel_ops

#endif
