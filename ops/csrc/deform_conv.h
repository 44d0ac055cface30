// accel_ops::deform_conv: what the CPU and the CUDA kernels share. reference/ holds the definition.
#pragma once

#include "taps.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>

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
    const at::Tensor& features, const at::Tensor& offset, const at::Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation) {
  TORCH_CHECK_VALUE(features.dim() == 4, "deform_conv: features must be (B, C, H, W), got ", features.sizes());
  const auto type = features.scalar_type();
  TORCH_CHECK_VALUE(
      type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16,
      "deform_conv: features must be float16, bfloat16, float32 or float64, got ", type);
  TORCH_CHECK_VALUE(
      weight.dim() == 4 && weight.size(1) == features.size(1) && weight.size(2) > 0 && weight.size(3) > 0,
      "deform_conv: weight must be (C', C, kh, kw) for features ", features.sizes(), ", got ", weight.sizes(),
      "; groups of weights are not supported");
  TORCH_CHECK_VALUE(
      weight.scalar_type() == type,
      "deform_conv: weight must be of the features' type ", type, ", got ", weight.scalar_type());
  const auto check_pair = [](const char* name, at::IntArrayRef pair, int64_t least) {
    TORCH_CHECK_VALUE(
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
  TORCH_CHECK_VALUE(
      room[0] >= 0 && room[1] >= 0, "deform_conv: weight ", weight.sizes(), " at dilation ", dilation,
      " is larger than features ", features.sizes(), " with padding ", padding);
  g.out_height = room[0] / stride[0] + 1, g.out_width = room[1] / stride[1] + 1;
  const int64_t of_a_group = 2 * g.taps();
  const bool fits = offset.dim() == 4 && offset.size(0) == g.batch && offset.size(2) == g.out_height &&
                    offset.size(3) == g.out_width && offset.size(1) > 0 && offset.size(1) % of_a_group == 0 &&
                    g.channels % (offset.size(1) / of_a_group) == 0;
  TORCH_CHECK_VALUE(
      fits, "deform_conv: offset must be (", g.batch, ", G * ", of_a_group, ", ", g.out_height, ", ", g.out_width,
      ") with a G that divides the ", g.channels, " channels, got ", offset.sizes());
  g.groups = offset.size(1) / of_a_group;
  TORCH_CHECK_VALUE(
      offset.scalar_type() == type || offset.scalar_type() == at::kFloat,
      "deform_conv: offset must be float32 or of the features' type ", type, ", got ", offset.scalar_type());
  TORCH_CHECK_VALUE(
      offset.device() == features.device(),
      "deform_conv: features are on ", features.device(), " but offset is on ", offset.device());
  TORCH_CHECK_VALUE(
      weight.device() == features.device(),
      "deform_conv: features are on ", features.device(), " but weight is on ", weight.device());
  return g;
}

inline void check_gradient(const at::Tensor& gradient, const at::Tensor& features, const Geometry& g) {
  const bool same = gradient.dim() == 4 && gradient.size(0) == g.batch && gradient.size(1) == g.out_channels &&
                    gradient.size(2) == g.out_height && gradient.size(3) == g.out_width &&
                    gradient.scalar_type() == features.scalar_type() && gradient.device() == features.device();
  TORCH_CHECK_VALUE(
      same, "deform_conv: the gradient must have the result's shape and the features' type and device");
}

// What ATen's functions are called under, in every thread: without autograd, of which a kernel's own threads do not
// know that it is off, and without autocast.
struct PlainTensors {
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

constexpr auto kLayout = at::MemoryFormat::ChannelsLast;  // of all that the kernels read and write

inline at::Tensor empty_result(const at::Tensor& features, const Geometry& g) {
  return at::empty(
      {g.batch, g.out_channels, g.out_height, g.out_width}, features.options().memory_format(kLayout));
}

// A channels-last map (B, C, H, W) as the matrix (B * H * W, C) that it is in memory.
inline at::Tensor rows_of(const at::Tensor& map) { return map.permute({0, 2, 3, 1}).view({-1, map.size(1)}); }

// The weight as the matrix (C', kh * kw * C): a view if it is channels-last.
inline at::Tensor matrix_of(const at::Tensor& weight) { return weight.permute({0, 2, 3, 1}).flatten(1); }

// Zeros to add up the gradient by `like` (B, C, H, W) in: (B, H, W, C), or empty if it is not needed.
inline at::Tensor start_sums(const at::Tensor& like, at::ScalarType type, bool needed) {
  const auto options = like.options().dtype(type);
  if (!needed) return at::empty({0}, options);
  return at::zeros({like.size(0), like.size(2), like.size(3), like.size(1)}, options);
}

// The sums as a gradient of the shape, type and layout of `like`.
inline at::Tensor finish_sums(const at::Tensor& sums, const at::Tensor& like) {
  if (sums.dim() != 4) return sums.to(like.scalar_type());
  return sums.permute({0, 3, 1, 2}).to(like.scalar_type()).contiguous(layout_of(like));
}

}  // namespace accel_ops
