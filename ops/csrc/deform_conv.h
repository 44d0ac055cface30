// accel_ops::deform_conv: what the CPU and the CUDA kernels share. reference/ holds the definition.
#pragma once

#include "taps.h"

#include <cstdint>

namespace accel_ops {

// The convolution is a matrix product: a row of *columns* for every cell of the result, C values for every tap of
// the kernel in it, times the weight. Features, columns, result and weight have their channels innermost.
struct Geometry {
  int64_t batch, channels, height, width;        // of the features
  int64_t out_channels, out_height, out_width;   // of the result
  int64_t groups, kernel_height, kernel_width;   // of the offsets; of the weight
  int64_t stride[2], padding[2], dilation[2];    // vertical, horizontal

  ACCEL_HOST_DEVICE int64_t taps() const { return kernel_height * kernel_width; }
  ACCEL_HOST_DEVICE int64_t row() const { return taps() * channels; }
  ACCEL_HOST_DEVICE int64_t group_channels() const { return channels / groups; }
  ACCEL_HOST_DEVICE int64_t image_cells() const { return out_height * out_width; }
  ACCEL_HOST_DEVICE int64_t cells() const { return batch * image_cells(); }
};

// Outside 0 <= y < height, 0 <= x < width no cell counts; beyond the centre of the last row or column the position
// moves back to that centre.
template <typename A>
ACCEL_HOST_DEVICE Taps<A> taps_within(A y, A x, int64_t height, int64_t width) {
  Taps<A> taps;
  // Compared as floating-point numbers, so that NaN, infinities and positions that no integer holds are outside too.
  const bool inside = y >= A(0) && y < A(height) && x >= A(0) && x < A(width);
  if (!inside) {
    for (int k = 0; k < 4; ++k) {
      taps.cell[k] = -1;
      taps.weight[k] = A(0);
    }
    taps.right = taps.lower = A(0);
    return taps;
  }
  const int64_t last_row = height - 1, last_column = width - 1;
  y = y < A(last_row) ? y : A(last_row);
  x = x < A(last_column) ? x : A(last_column);
  const int64_t row = static_cast<int64_t>(y), column = static_cast<int64_t>(x);
  taps.lower = y - A(row);
  taps.right = x - A(column);
  const int64_t below = row < last_row ? row + 1 : row, beside = column < last_column ? column + 1 : column;
  for (int k = 0; k < 4; ++k) {
    taps.cell[k] = ((k >> 1) ? below : row) * width + ((k & 1) ? beside : column);
    taps.weight[k] = ((k >> 1) ? taps.lower : A(1) - taps.lower) * ((k & 1) ? taps.right : A(1) - taps.right);
  }
  return taps;
}

// What one tap samples for one cell of the result, and for one group of offsets.
template <typename A>
struct Sample {
  Taps<A> taps;
  int64_t map;     // where the group's channels of the image begin in the features (B, H, W, C)
  int64_t column;  // where those of the tap begin in a row of columns (kh, kw, C)
  int64_t move;    // where the tap's own offset is in offset (B, H', W', G, kh, kw, 2)
};

// Calls `use` with each Sample of the cell that is number `number` of the batch; if several share them, with every
// `parts`-th.
template <typename A, typename Use>
ACCEL_HOST_DEVICE void for_each_sample(
    int64_t number, const A* offset, const Geometry& g, const Use& use, int64_t part = 0, int64_t parts = 1) {
  const int64_t image = number / g.image_cells(), cell = number - image * g.image_cells();
  const int64_t y = cell / g.out_width, x = cell - y * g.out_width;
  const int64_t top = y * g.stride[0] - g.padding[0], left = x * g.stride[1] - g.padding[1];
  const int64_t channels = g.group_channels();
  Sample<A> sample;
  sample.map = image * g.height * g.width * g.channels;
  sample.move = number * g.groups * g.taps() * 2;
  for (int64_t group = 0; group < g.groups; ++group) {
    sample.column = group * channels;
    for (int64_t i = 0; i < g.kernel_height; ++i) {
      for (int64_t j = 0; j < g.kernel_width; ++j) {
        if (part-- == 0) {
          const A* move = offset + sample.move;
          sample.taps = taps_within(
              A(top + i * g.dilation[0]) + move[0], A(left + j * g.dilation[1]) + move[1], g.height, g.width);
          use(sample);
          part = parts - 1;
        }
        sample.column += g.channels;
        sample.move += 2;
      }
    }
    sample.map += channels;
  }
}

inline Geometry check_deform_conv(
    const Tensor& features, const Tensor& offset, const Tensor& weight, Sizes stride,
    Sizes padding, Sizes dilation) {
  ACCEL_CHECK(features.dim() == 4, "deform_conv: features must be (B, C, H, W), got ", features.sizes());
  const auto type = features.scalar_type();
  ACCEL_CHECK(
      is_floating(type),
      "deform_conv: features must be float16, bfloat16, float32 or float64, got ", type);
  ACCEL_CHECK(
      weight.dim() == 4 && weight.size(1) == features.size(1) && weight.size(2) > 0 && weight.size(3) > 0,
      "deform_conv: weight must be (C', C, kh, kw) for features ", features.sizes(), ", got ", weight.sizes(),
      "; groups of weights are not supported");
  ACCEL_CHECK(
      weight.scalar_type() == type,
      "deform_conv: weight must be of the features' type ", type, ", got ", weight.scalar_type());
  const auto check_pair = [](const char* name, Sizes pair, int64_t least) {
    ACCEL_CHECK(
        pair.size() == 2 && pair[0] >= least && pair[1] >= least,
        "deform_conv: ", name, " must be two integers, ", least, " or more, got ", pair);
  };
  check_pair("stride", stride, 1);
  check_pair("padding", padding, 0);
  check_pair("dilation", dilation, 1);
  Geometry g;
  g.batch = features.size(0), g.channels = features.size(1), g.height = features.size(2), g.width = features.size(3);
  g.out_channels = weight.size(0), g.kernel_height = weight.size(2), g.kernel_width = weight.size(3);
  int64_t room[2];
  for (int k = 0; k < 2; ++k) {
    g.stride[k] = stride[k], g.padding[k] = padding[k], g.dilation[k] = dilation[k];
    room[k] = features.size(2 + k) + 2 * padding[k] - dilation[k] * (weight.size(2 + k) - 1) - 1;
  }
  ACCEL_CHECK(
      room[0] >= 0 && room[1] >= 0, "deform_conv: weight ", weight.sizes(), " at dilation ", dilation,
      " is larger than features ", features.sizes(), " with padding ", padding);
  g.out_height = room[0] / stride[0] + 1, g.out_width = room[1] / stride[1] + 1;
  const int64_t of_a_group = 2 * g.taps();
  const bool fits = offset.dim() == 4 && offset.size(0) == g.batch && offset.size(2) == g.out_height &&
                    offset.size(3) == g.out_width && offset.size(1) > 0 && offset.size(1) % of_a_group == 0 &&
                    g.channels % (offset.size(1) / of_a_group) == 0;
  ACCEL_CHECK(
      fits, "deform_conv: offset must be (", g.batch, ", G * ", of_a_group, ", ", g.out_height, ", ", g.out_width,
      ") with a G that divides the ", g.channels, " channels, got ", offset.sizes());
  g.groups = offset.size(1) / of_a_group;
  ACCEL_CHECK(
      offset.scalar_type() == type || offset.scalar_type() == ScalarType::Float,
      "deform_conv: offset must be float32 or of the features' type ", type, ", got ", offset.scalar_type());
  ACCEL_CHECK(
      offset.device() == features.device(),
      "deform_conv: features are on ", features.device(), " but offset is on ", offset.device());
  ACCEL_CHECK(
      weight.device() == features.device(),
      "deform_conv: features are on ", features.device(), " but weight is on ", weight.device());
  return g;
}

inline void check_gradient(const Tensor& gradient, const Tensor& features, const Geometry& g) {
  const bool same = gradient.dim() == 4 && gradient.size(0) == g.batch && gradient.size(1) == g.out_channels &&
                    gradient.size(2) == g.out_height && gradient.size(3) == g.out_width &&
                    gradient.scalar_type() == features.scalar_type() && gradient.device() == features.device();
  ACCEL_CHECK(
      same, "deform_conv: the gradient must have the result's shape and the features' type and device");
}

constexpr auto kLayout = MemoryFormat::ChannelsLast;  // of all that the kernels read and write

}  // namespace accel_ops
