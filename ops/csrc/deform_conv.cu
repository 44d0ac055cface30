// accel_ops::deform_conv on CUDA GPUs: samples to columns, and cuBLAS's matrix product with the weight. The lanes of
// a warp share one cell of the result and have its channels side by side. The gradient by features is summed with
// atomics in float32 (float64 for float64), so in no fixed order.
#include "deform_conv.h"
#include "lanes.h"

#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <tuple>

namespace accel_ops {
namespace {

// What ATen's functions are called under: neither autograd nor autocast.
struct PlainTensors {
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

Tensor empty_result(const Tensor& features, const Geometry& g) {
  return at::empty(
      {g.batch, g.out_channels, g.out_height, g.out_width}, features.options().memory_format(kLayout));
}

// A channels-last map (B, C, H, W) as the matrix (B * H * W, C) that it is in memory.
Tensor rows_of(const Tensor& map) { return map.permute({0, 2, 3, 1}).view({-1, map.size(1)}); }

// The weight as the matrix (C', kh * kw * C): a view if it is channels-last.
Tensor matrix_of(const Tensor& weight) { return weight.permute({0, 2, 3, 1}).flatten(1); }

// Zeros to add up the gradient by `like` (B, C, H, W) in: (B, H, W, C), or empty if it is not needed.
Tensor start_sums(const Tensor& like, ScalarType type, bool needed) {
  const auto options = like.options().dtype(type);
  if (!needed) return at::empty({0}, options);
  return at::zeros({like.size(0), like.size(2), like.size(3), like.size(1)}, options);
}

// The sums as a gradient of the shape, type and layout of `like`.
Tensor finish_sums(const Tensor& sums, const Tensor& like) {
  if (sums.dim() != 4) return sums.to(like.scalar_type());
  return sums.permute({0, 3, 1, 2}).to(like.scalar_type()).contiguous(layout_of(like));
}

constexpr int kThreads = 64;             // in a block
constexpr int64_t kBusy = 1 << 18;       // threads that fill the largest GPUs
constexpr int64_t kColumns = 256 << 20;  // bytes of columns to make at once

// Columns (count, kh * kw * C) of the cells from `first` on. The lanes are threadIdx.x.
template <typename T, int N>
__global__ void sample_columns(
    const T* __restrict__ features, const accumulate_t<T>* __restrict__ offset, T* __restrict__ columns, int64_t first,
    int64_t count, Geometry g) {
  using A = accumulate_t<T>;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t cell = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; cell < count; cell += stride) {
    T* row = columns + cell * g.row();
    for_each_sample(first + cell, offset, g, [&](const Sample<A>& s) {
      for (int64_t c = threadIdx.x * N; c < g.group_channels(); c += blockDim.x * N) {
        A sum[N] = {};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          A value[N];
          read_tap<T, N>(features + s.map, s.taps.cell[k], g.channels, c, value);
#pragma unroll
          for (int i = 0; i < N; ++i) sum[i] += s.taps.weight[k] * value[i];
        }
        Pack<T, N> result;
#pragma unroll
        for (int i = 0; i < N; ++i) result.at[i] = static_cast<T>(sum[i]);
        *reinterpret_cast<Pack<T, N>*>(row + s.column + c) = result;
      }
    }, blockIdx.y, gridDim.y);
  }
}

// From the gradient by columns, (count, kh * kw * C). to_features (B, H, W, C) and to_offset (B, H', W', G, kh, kw, 2)
// may be null: that gradient is not wanted. to_features is summed into; to_offset holds zeros. blockDim.x is kLanes.
template <typename T, int N>
__global__ void backward_columns(
    const T* __restrict__ to_columns, const T* __restrict__ features, const accumulate_t<T>* __restrict__ offset,
    accumulate_t<T>* to_features, accumulate_t<T>* to_offset, int64_t first, int64_t count, Geometry g) {
  using A = accumulate_t<T>;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.y;
  // All lanes of a warp have the same cell, so they take the same turns and meet at the shuffles.
  for (int64_t cell = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; cell < count; cell += stride) {
    const T* row = to_columns + cell * g.row();
    for_each_sample(first + cell, offset, g, [&](const Sample<A>& s) {
      const Taps<A>& taps = s.taps;
      if (is_nowhere(taps)) return;
      const A right = taps.right, left = A(1) - right, lower = taps.lower, upper = A(1) - lower;
      A dy = 0, dx = 0;
      for (int64_t c = threadIdx.x * N; c < g.group_channels(); c += kLanes * N) {
        const Pack<T, N> slopes = read<T, N>(row + s.column + c);
        A slope[N];
#pragma unroll
        for (int i = 0; i < N; ++i) slope[i] = static_cast<A>(slopes.at[i]);
        if (to_features != nullptr) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            A* sum = to_features + s.map + taps.cell[k] * g.channels + c;
#pragma unroll
            for (int i = 0; i < N; ++i) atomicAdd(sum + i, taps.weight[k] * slope[i]);
          }
        }
        if (to_offset != nullptr) {
          A v[4][N];
#pragma unroll
          for (int k = 0; k < 4; ++k) read_tap<T, N>(features + s.map, taps.cell[k], g.channels, c, v[k]);
#pragma unroll
          for (int i = 0; i < N; ++i) {
            dy += slope[i] * (left * (v[2][i] - v[0][i]) + right * (v[3][i] - v[1][i]));
            dx += slope[i] * (upper * (v[1][i] - v[0][i]) + lower * (v[3][i] - v[2][i]));
          }
        }
      }
      if (to_offset == nullptr) return;
#pragma unroll
      for (int distance = kLanes / 2; distance > 0; distance /= 2) {
        dy += __shfl_down_sync(0xFFFFFFFFu, dy, distance);
        dx += __shfl_down_sync(0xFFFFFFFFu, dx, distance);
      }
      if (threadIdx.x == 0) {
        to_offset[s.move] = dy;
        to_offset[s.move + 1] = dx;
      }
    }, blockIdx.y, gridDim.y);
  }
}

// For `count` cells, each with so many lanes. If they are too few to keep a GPU busy, several rows of lanes share the
// samples of a cell: parts of them are blockIdx.y.
dim3 grid_of(int64_t count, const dim3& block, const Geometry& g) {
  const int64_t parts = std::max<int64_t>(1, kBusy / (count * block.x));
  return blocks(divide_up(count, block.y), std::min(parts, g.groups * g.taps()));
}

template <typename T, int N>
void launch_sample(
    const T* features, const accumulate_t<T>* offset, T* columns, int64_t first, int64_t count, const Geometry& g) {
  unsigned lanes = kLanes;  // fewer where there are too few channels for all
  while (lanes > 1 && lanes / 2 * N >= g.group_channels()) lanes /= 2;
  const dim3 block(lanes, kThreads / lanes), grid = grid_of(count, block, g);
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  sample_columns<T, N><<<grid, block, 0, stream>>>(features, offset, columns, first, count, g);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void sample(
    const T* features, const accumulate_t<T>* offset, T* columns, int64_t first, int64_t count, const Geometry& g) {
  constexpr int N = 16 / sizeof(T);
  if (fits<N>(g.group_channels(), features, columns)) {
    launch_sample<T, N>(features, offset, columns, first, count, g);
  } else {
    launch_sample<T, 1>(features, offset, columns, first, count, g);
  }
}

template <typename T>
void backward(
    const T* to_columns, const T* features, const accumulate_t<T>* offset, accumulate_t<T>* to_features,
    accumulate_t<T>* to_offset, int64_t first, int64_t count, const Geometry& g) {
  constexpr int N = 16 / sizeof(T);
  const dim3 block(kLanes, kThreads / kLanes), grid = grid_of(count, block, g);
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  const auto kernel =
      fits<N>(g.group_channels(), features, to_columns) ? &backward_columns<T, N> : &backward_columns<T, 1>;
  kernel<<<grid, block, 0, stream>>>(to_columns, features, offset, to_features, to_offset, first, count, g);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// How many cells' columns to make at once.
int64_t chunk_of(const Geometry& g, int64_t value) {
  return std::min(std::max<int64_t>(1, kColumns / (g.row() * value)), g.cells());
}

at::Tensor deform_conv_cuda(
    const at::Tensor& features, const at::Tensor& offset, const at::Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation) {
  const Geometry g = check_deform_conv(features, offset, weight, stride, padding, dilation);
  const c10::cuda::CUDAGuard guard(features.device());
  const PlainTensors plain;
  at::Tensor out = empty_result(features, g);
  if (out.numel() == 0 || g.row() == 0) return out.zero_().contiguous(layout_of(features));
  const at::Tensor from = features.contiguous(kLayout);
  const at::Tensor where = offset.to(accumulate_type(features)).contiguous(kLayout);
  const at::Tensor matrix = matrix_of(weight), rows = rows_of(out);
  const int64_t chunk = chunk_of(g, features.element_size());
  const at::Tensor columns = at::empty({chunk, g.row()}, features.options());
  for (int64_t first = 0; first < g.cells(); first += chunk) {
    const int64_t count = std::min(chunk, g.cells() - first);
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, features.scalar_type(), "deform_conv", [&] {
      sample(
          from.const_data_ptr<scalar_t>(), where.const_data_ptr<accumulate_t<scalar_t>>(),
          columns.mutable_data_ptr<scalar_t>(), first, count, g);
    });
    at::Tensor result = rows.narrow(0, first, count);
    at::mm_out(result, columns.narrow(0, 0, count), matrix.t());
  }
  return out.contiguous(layout_of(features));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> deform_conv_backward_cuda(
    const at::Tensor& gradient, const at::Tensor& features, const at::Tensor& offset, const at::Tensor& weight,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, std::array<bool, 3> needs) {
  const Geometry g = check_deform_conv(features, offset, weight, stride, padding, dilation);
  check_gradient(gradient, features, g);
  if (needs[0]) at::globalContext().alertNotDeterministic("accel_ops::deform_conv_backward on CUDA");
  const c10::cuda::CUDAGuard guard(features.device());
  const PlainTensors plain;
  const auto wide = accumulate_type(features);
  const at::Tensor to_features = start_sums(features, wide, needs[0]);
  const at::Tensor to_offset = start_sums(offset, wide, needs[1]);
  const at::Tensor to_weight = start_sums(weight, wide, needs[2]);
  if (gradient.numel() != 0 && g.row() != 0) {
    const at::Tensor from = features.contiguous(kLayout);
    const at::Tensor where = offset.to(wide).contiguous(kLayout);
    const at::Tensor slopes = rows_of(gradient.contiguous(kLayout)), matrix = matrix_of(weight);
    const int64_t chunk = chunk_of(g, features.element_size());
    at::Tensor columns = at::empty({chunk, g.row()}, features.options());
    for (int64_t first = 0; first < g.cells(); first += chunk) {
      const int64_t count = std::min(chunk, g.cells() - first);
      const at::Tensor slope = slopes.narrow(0, first, count);
      at::Tensor part = columns.narrow(0, 0, count);
      AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, features.scalar_type(), "deform_conv_backward", [&] {
        using A = accumulate_t<scalar_t>;
        const auto* f = from.const_data_ptr<scalar_t>();
        const auto* w = where.const_data_ptr<A>();
        auto* c = part.mutable_data_ptr<scalar_t>();
        if (needs[2]) {
          sample(f, w, c, first, count, g);
          to_weight.view(matrix.sizes()).add_(at::mm(slope.t(), part, wide));
        }
        if (!needs[0] && !needs[1]) return;
        at::mm_out(part, slope, matrix);  // the columns are no longer needed
        backward<scalar_t>(
            c, f, w, needs[0] ? to_features.mutable_data_ptr<A>() : nullptr,
            needs[1] ? to_offset.mutable_data_ptr<A>() : nullptr, first, count, g);
      });
    }
  }
  return {finish_sums(to_features, features), finish_sums(to_offset, offset), finish_sums(to_weight, weight)};
}

}  // namespace

TORCH_LIBRARY_IMPL(accel_ops, CUDA, library) {
  library.impl("deform_conv", &deform_conv_cuda);
  library.impl("deform_conv_backward", &deform_conv_backward_cuda);
}

}  // namespace accel_ops
