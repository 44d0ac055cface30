// What every operator computes in, and the mark of functions that the CPU and the CUDA kernels share.
#pragma once

#include "tensor.h"

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

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

inline ScalarType accumulate_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace accel_ops
