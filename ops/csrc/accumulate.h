// What every operator computes in, and the mark of functions that the CPU and the CUDA kernels share.
#pragma once

#include <ATen/core/Tensor.h>

#include <type_traits>

#ifdef __CUDACC__
#define ACCEL_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ACCEL_HOST_DEVICE inline
#endif

namespace accel_ops {

// Positions, weights and sums are held in float32, for float64 tensors in float64.
template <typename T>
using accumulate_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline at::ScalarType accumulate_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace accel_ops
