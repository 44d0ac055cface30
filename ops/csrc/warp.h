// accel_ops::warp: what the CPU and the CUDA kernels share. reference/ holds the definition.
#pragma once

#include "taps.h"

#include <cmath>
#include <cstdint>

namespace accel_ops {

template <typename A>
ACCEL_HOST_DEVICE Taps<A> make_taps(A x, A y, int64_t height, int64_t width) {
  Taps<A> taps;
  // Compared as floating-point numbers, so that NaN, infinities and positions that no integer holds are
  // outside too.
  const bool near = x >= A(-1) && x < A(width) && y >= A(-1) && y < A(height);
  if (!near) {
    for (int k = 0; k < 4; ++k) {
      taps.cell[k] = -1;
      taps.weight[k] = A(0);
    }
    taps.right = taps.lower = A(0);
    return taps;
  }
  const A left = std::floor(x), upper = std::floor(y);
  taps.right = x - left;
  taps.lower = y - upper;
  const int64_t column = static_cast<int64_t>(left), row = static_cast<int64_t>(upper);
  for (int k = 0; k < 4; ++k) {
    const int64_t r = row + (k >> 1), c = column + (k & 1);
    taps.cell[k] = r >= 0 && r < height && c >= 0 && c < width ? r * width + c : -1;
    taps.weight[k] = ((k >> 1) ? taps.lower : A(1) - taps.lower) * ((k & 1) ? taps.right : A(1) - taps.right);
  }
  return taps;
}

// The taps of output pixel `pixel` of B * height * width; flow is a contiguous (B, 2, height, width).
template <typename A>
ACCEL_HOST_DEVICE Taps<A> taps_of(const A* flow, int64_t pixel, int64_t height, int64_t width) {
  const int64_t cells = height * width;
  const int64_t image = pixel / cells, cell = pixel % cells;
  const A* here = flow + image * 2 * cells + cell;
  return make_taps<A>(A(cell % width) + here[0], A(cell / width) + here[cells], height, width);
}

inline void check_warp(const Tensor& features, const Tensor& flow) {
  ACCEL_CHECK(features.dim() == 4, "warp: features must be (B, C, H, W), got ", features.sizes());
  ACCEL_CHECK(
      flow.dim() == 4 && flow.size(0) == features.size(0) && flow.size(1) == 2 &&
          flow.size(2) == features.size(2) && flow.size(3) == features.size(3),
      "warp: flow must be (B, 2, H, W) for features ", features.sizes(), ", got ", flow.sizes());
  const auto type = features.scalar_type();
  ACCEL_CHECK(
      is_floating(type),
      "warp: features must be float16, bfloat16, float32 or float64, got ", type);
  ACCEL_CHECK(
      flow.scalar_type() == type || flow.scalar_type() == ScalarType::Float,
      "warp: flow must be float32 or of the features' type ", type, ", got ", flow.scalar_type());
  ACCEL_CHECK(
      flow.device() == features.device(),
      "warp: features are on ", features.device(), " but flow is on ", flow.device());
}

inline void check_warp_backward(const Tensor& gradient, const Tensor& features, const Tensor& flow) {
  check_warp(features, flow);
  ACCEL_CHECK(
      gradient.sizes().equals(features.sizes()) && gradient.scalar_type() == features.scalar_type() &&
          gradient.device() == features.device(),
      "warp: the gradient must have the features' shape, type and device");
}

}  // namespace accel_ops
