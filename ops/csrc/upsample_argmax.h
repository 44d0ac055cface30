// accel_ops::upsample_argmax: what the CPU and the CUDA kernels share. reference/ holds the definition.
//
// Both work in patches: the stride x stride pixels between the centres of four cells, its corners. Patch (row, column)
// lies between the cells row - 1 and row, column - 1 and column, and begins at pixel stride * row - stride / 2,
// stride * column - stride / 2; its pixel j of an axis has the weights 1 - fraction(j) and fraction(j). So it needs four values of a class, and they
// bound the class: where its highest corner is below the lowest corner of another class, it never wins.
#pragma once

#include "accumulate.h"

#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <type_traits>

namespace accel_ops {

constexpr int kMostClasses = 255;  // the label 255 is "ignored"

template <int stride, typename A>
ACCEL_HOST_DEVICE constexpr A fraction(int pixel) {
  return A(2 * pixel + 1) / A(2 * stride);
}

// How many patches an axis of so many pixels has a part in.
ACCEL_HOST_DEVICE int64_t patches_of(int64_t pixels, int64_t stride) { return (pixels - 1 + stride / 2) / stride + 1; }

// Call a function with the stride as a number that the compiler knows.
template <typename F>
void with_stride(int64_t stride, F&& function) {
  switch (stride) {
    case 2: return function(std::integral_constant<int, 2>());
    case 4: return function(std::integral_constant<int, 4>());
    case 8: return function(std::integral_constant<int, 8>());
    case 16: return function(std::integral_constant<int, 16>());
    case 32: return function(std::integral_constant<int, 32>());
  }
}

// A logit as computed lies within this of its highest and lowest corner. Interpolation rounds, but every step of it,
// rounding included, is monotone in every corner, so no logit of a patch is above what four corners equal to the
// highest would give; and that is a mean of equal values, off by at most four roundings of eps / 2 (or, for
// products under the smallest normal number, by six such numbers). So a class that these bounds exclude cannot win
// or tie by rounding. They are twice as wide as needed, because they are rounded themselves.
template <typename A>
ACCEL_HOST_DEVICE A rounding(A value) {
  return 4 * std::numeric_limits<A>::epsilon() * (value < 0 ? -value : value) + 8 * std::numeric_limits<A>::min();
}

// The bounds hold for values that are neither NaN nor infinite and do not overflow on the way.
template <typename A>
ACCEL_HOST_DEVICE bool is_ordinary(A value) {
  constexpr A most = std::numeric_limits<A>::max() / 4;
  return value > -most && value < most;
}

inline void check_upsample_argmax(
    const Tensor& scores, Sizes size, const std::optional<Tensor>& bias, std::string_view border,
    int64_t stride) {
  ACCEL_CHECK(scores.dim() == 4, "upsample_argmax: scores must be (B, K, h, w), got ", scores.sizes());
  ACCEL_CHECK(
      is_floating(scores.scalar_type()), "upsample_argmax: scores must be float16, bfloat16, float32 or float64, got ",
      scores.scalar_type());
  const int64_t classes = scores.size(1), height = scores.size(2), width = scores.size(3);
  ACCEL_CHECK(
      classes >= 1 && classes <= kMostClasses, "upsample_argmax: uint8 labels hold 1 to 255 classes, got ", classes);
  ACCEL_CHECK(
      border == "replicate" || border == "zero", "upsample_argmax: border must be 'replicate' or 'zero', got '",
      border, "'");
  ACCEL_CHECK(
      stride == 2 || stride == 4 || stride == 8 || stride == 16 || stride == 32,
      "upsample_argmax: stride must be 2, 4, 8, 16 or 32, got ", stride);
  if (bias.has_value()) {
    ACCEL_CHECK(
        bias->dim() == 1 && bias->size(0) == classes, "upsample_argmax: bias must be (K,) = [", classes, "], got ",
        bias->sizes());
    ACCEL_CHECK(
        is_floating(bias->scalar_type()), "upsample_argmax: bias must be float16, bfloat16, float32 or float64, got ",
        bias->scalar_type());
    ACCEL_CHECK(
        bias->device() == scores.device(), "upsample_argmax: scores are on ", scores.device(), " but bias is on ",
        bias->device());
  }
  ACCEL_CHECK(size.size() == 2, "upsample_argmax: size must be (H, W), got ", size);
  const auto belong = [stride](int64_t cells, int64_t pixels) {
    const int64_t expected = (pixels + stride - 1) / stride;
    return pixels > 0 && cells > 0 && cells >= expected - 1 && cells <= expected + 1;
  };
  ACCEL_CHECK(
      belong(height, size[0]) && belong(width, size[1]), "a score map of (", height, ", ", width,
      ") cells does not belong to the frame size (", size[0], ", ", size[1],
      "): each side must be ceil(pixels / ", stride, ") cells, give or take one");
}

}  // namespace accel_ops
