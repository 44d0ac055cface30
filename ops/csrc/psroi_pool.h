// accel_ops::psroi_pool: what the CPU and the CUDA kernels share. reference/ holds the definition.
#pragma once

#include "accumulate.h"

#include <cmath>
#include <cstdint>

namespace accel_ops {

constexpr float kSmallestSide = 0.1f;  // cells

// Rounded to float32 before anything is added to it: a fused multiply-add would shift borders of bins.
ACCEL_HOST_DEVICE float product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  volatile float rounded = a * b;  // or the compiler fuses it
  return rounded;
#endif
}

// A region along one axis, in cells.
struct Extent {
  float start, bin;
};

ACCEL_HOST_DEVICE Extent extent_of(float first, float last, float scale, int64_t pooled) {
  // std::round takes halves away from zero.
  const float start = product(std::round(first), scale), end = product(std::round(last) + 1.0f, scale);
  const float side = end - start;
  return {start, (side > kSmallestSide ? side : kSmallestSide) / static_cast<float>(pooled)};
}

struct Region {
  int64_t image;  // -1: of none
  Extent rows, columns;
};

// roi: image, x1, y1, x2, y2.
ACCEL_HOST_DEVICE Region region_of(const float* roi, int64_t batch, int64_t pooled, float scale) {
  bool known = roi[0] >= 0.0f && roi[0] < static_cast<float>(batch) && roi[0] == std::floor(roi[0]);
  for (int i = 1; i < 5; ++i) known = known && roi[i] - roi[i] == 0.0f;
  if (!known) return {-1, {0, 0}, {0, 0}};
  return {static_cast<int64_t>(roi[0]), extent_of(roi[2], roi[4], scale, pooled),
          extent_of(roi[1], roi[3], scale, pooled)};
}

struct Range {
  int64_t first, end;
  ACCEL_HOST_DEVICE int64_t count() const { return end > first ? end - first : 0; }
};

// Compared as floating-point numbers, so that no number is made an integer that holds it not.
ACCEL_HOST_DEVICE int64_t cell_at(float position, int64_t cells) {
  if (!(position > 0.0f)) return 0;
  return position < static_cast<float>(cells) ? static_cast<int64_t>(position) : cells;
}

// The cells of a map that a bin covers along one axis.
ACCEL_HOST_DEVICE Range cells_of(const Extent& extent, int64_t bin, int64_t cells) {
  const float first = product(static_cast<float>(bin), extent.bin) + extent.start;
  const float end = product(static_cast<float>(bin + 1), extent.bin) + extent.start;
  return {cell_at(std::floor(first), cells), cell_at(std::ceil(end), cells)};
}

inline void check_rois(const Tensor& rois, const Tensor& features) {
  ACCEL_CHECK(rois.dim() == 2 && rois.size(1) == 5, "psroi_pool: rois must be (R, 5), got ", rois.sizes());
  ACCEL_CHECK(
      rois.scalar_type() == ScalarType::Float, "psroi_pool: rois must be float32, got ", rois.scalar_type());
  ACCEL_CHECK(
      rois.device() == features.device(),
      "psroi_pool: features are on ", features.device(), " but rois are on ", rois.device());
}

inline void check_psroi_pool(
    const Tensor& features, const Tensor& rois, int64_t outputs, int64_t pooled, int64_t group, double scale) {
  ACCEL_CHECK(features.dim() == 4, "psroi_pool: features must be (B, C, H, W), got ", features.sizes());
  const auto type = features.scalar_type();
  ACCEL_CHECK(
      is_floating(type), "psroi_pool: features must be float16, bfloat16, float32 or float64, got ", type);
  check_rois(rois, features);
  ACCEL_CHECK(
      outputs >= 1 && pooled >= 1 && group >= 1,
      "psroi_pool: outputs, pooled and group must be 1 or more, got ", outputs, ", ", pooled, ", ", group);
  ACCEL_CHECK(
      features.size(1) == outputs * group * group,
      "psroi_pool: features must have outputs * group * group = ", outputs * group * group, " channels, got ",
      features.size(1));
  ACCEL_CHECK(scale > 0 && std::isfinite(scale), "psroi_pool: scale must be positive, got ", scale);
}

inline void check_psroi_pool_backward(const Tensor& gradient, const Tensor& rois, Sizes shape, int64_t group) {
  ACCEL_CHECK(
      gradient.dim() == 4 && gradient.size(0) == rois.size(0) && gradient.size(2) == gradient.size(3),
      "psroi_pool: the gradient must be (R, outputs, pooled, pooled) for rois ", rois.sizes(), ", got ",
      gradient.sizes());
  ACCEL_CHECK(
      shape.size() == 4 && group >= 1 && shape[1] == gradient.size(1) * group * group,
      "psroi_pool: features ", shape, " and gradient ", gradient.sizes(), " do not belong together");
  const auto type = gradient.scalar_type();
  ACCEL_CHECK(
      is_floating(type), "psroi_pool: the gradient must be float16, bfloat16, float32 or float64, got ", type);
  check_rois(rois, gradient);
}

}  // namespace accel_ops
