// accel_ops::warp on CUDA GPUs. Channels-last: the 32 lanes of a warp share one pixel and read its channels side
// by side, 16 bytes each where they can. Contiguous: a thread has one pixel and some channels. The gradient by
// features is summed with atomics in float32 (float64 for float64), so in no fixed order.
#include "lanes.h"
#include "warp.h"

#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <tuple>

namespace accel_ops {
namespace {

constexpr int kRows = 8;              // warps, hence pixels, in a block (channels-last)
constexpr int kThreads = 256;         // pixels in a block (contiguous)
constexpr int64_t kChannels = 16;     // channels of a thread (contiguous)

struct Shape {
  int64_t batch, channels, height, width;
  explicit Shape(const at::Tensor& t) : batch(t.size(0)), channels(t.size(1)), height(t.size(2)), width(t.size(3)) {}
  __host__ __device__ int64_t cells() const { return height * width; }
  __host__ __device__ int64_t pixels() const { return batch * cells(); }
};

template <typename T, int N>
__global__ void forward_channels_last(const T* features, const accumulate_t<T>* flow, T* out, Shape s) {
  using A = accumulate_t<T>;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kRows;
  for (int64_t pixel = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.y; pixel < s.pixels(); pixel += stride) {
    const Taps<A> taps = taps_of(flow, pixel, s.height, s.width);
    const T* map = features + pixel / s.cells() * s.cells() * s.channels;
    const int64_t step = static_cast<int64_t>(gridDim.y) * kLanes * N;
    for (int64_t c = (static_cast<int64_t>(blockIdx.y) * kLanes + threadIdx.x) * N; c < s.channels; c += step) {
      A sum[N] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        A value[N];
        read_tap<T, N>(map, taps.cell[k], s.channels, c, value);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += taps.weight[k] * value[i];
      }
      Pack<T, N> result;
#pragma unroll
      for (int i = 0; i < N; ++i) result.at[i] = static_cast<T>(sum[i]);
      *reinterpret_cast<Pack<T, N>*>(out + pixel * s.channels + c) = result;
    }
  }
}

template <typename T>
__global__ void forward_contiguous(const T* features, const accumulate_t<T>* flow, T* out, Shape s) {
  using A = accumulate_t<T>;
  const int64_t cells = s.cells(), stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t pixel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; pixel < s.pixels(); pixel += stride) {
    const Taps<A> taps = taps_of(flow, pixel, s.height, s.width);
    const int64_t image = pixel / cells, cell = pixel % cells;
    for (int64_t block = blockIdx.y * kChannels; block < s.channels; block += gridDim.y * kChannels) {
      for (int64_t c = block; c < block + kChannels && c < s.channels; ++c) {
        const int64_t plane = (image * s.channels + c) * cells;
        A sum = 0;
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (taps.cell[k] >= 0) sum += taps.weight[k] * static_cast<A>(features[plane + taps.cell[k]]);
        }
        out[plane + cell] = static_cast<T>(sum);
      }
    }
  }
}

// to_features and to_flow may be null: that gradient is not wanted. to_features is summed into.
template <typename T, int N>
__global__ void backward_channels_last(
    const T* gradient, const T* features, const accumulate_t<T>* flow, accumulate_t<T>* to_features,
    accumulate_t<T>* to_flow, Shape s) {
  using A = accumulate_t<T>;
  const int64_t cells = s.cells(), stride = static_cast<int64_t>(gridDim.x) * kRows;
  // All lanes of a warp have the same pixel, so they take the same turns and meet at the shuffles.
  for (int64_t pixel = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.y; pixel < s.pixels(); pixel += stride) {
    const Taps<A> taps = taps_of(flow, pixel, s.height, s.width);
    const int64_t image = pixel / cells, offset = image * cells * s.channels;
    const A right = taps.right, left = A(1) - right, lower = taps.lower, upper = A(1) - lower;
    A dx = 0, dy = 0;
    if (!is_nowhere(taps)) {
      for (int64_t c = static_cast<int64_t>(threadIdx.x) * N; c < s.channels; c += kLanes * N) {
        A slope[N];
        read_tap<T, N>(gradient, pixel, s.channels, c, slope);
        if (to_features != nullptr) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            if (taps.cell[k] < 0) continue;
            A* sum = to_features + offset + taps.cell[k] * s.channels + c;
#pragma unroll
            for (int i = 0; i < N; ++i) atomicAdd(sum + i, taps.weight[k] * slope[i]);
          }
        }
        if (to_flow != nullptr) {
          A v[4][N];
#pragma unroll
          for (int k = 0; k < 4; ++k) read_tap<T, N>(features + offset, taps.cell[k], s.channels, c, v[k]);
#pragma unroll
          for (int i = 0; i < N; ++i) {
            dx += slope[i] * (upper * (v[1][i] - v[0][i]) + lower * (v[3][i] - v[2][i]));
            dy += slope[i] * (left * (v[2][i] - v[0][i]) + right * (v[3][i] - v[1][i]));
          }
        }
      }
    }
    if (to_flow != nullptr) {
#pragma unroll
      for (int distance = kLanes / 2; distance > 0; distance /= 2) {
        dx += __shfl_down_sync(0xFFFFFFFFu, dx, distance);
        dy += __shfl_down_sync(0xFFFFFFFFu, dy, distance);
      }
      if (threadIdx.x == 0) {
        A* here = to_flow + image * 2 * cells + pixel % cells;
        here[0] = dx;
        here[cells] = dy;
      }
    }
  }
}

// As above; here to_flow is summed into as well, for several blocks have channels of one pixel.
template <typename T>
__global__ void backward_contiguous(
    const T* gradient, const T* features, const accumulate_t<T>* flow, accumulate_t<T>* to_features,
    accumulate_t<T>* to_flow, Shape s) {
  using A = accumulate_t<T>;
  const int64_t cells = s.cells(), stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t pixel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; pixel < s.pixels(); pixel += stride) {
    const Taps<A> taps = taps_of(flow, pixel, s.height, s.width);
    if (is_nowhere(taps)) continue;
    const int64_t image = pixel / cells, cell = pixel % cells;
    A dx = 0, dy = 0;
    for (int64_t block = blockIdx.y * kChannels; block < s.channels; block += gridDim.y * kChannels) {
      for (int64_t c = block; c < block + kChannels && c < s.channels; ++c) {
        const int64_t plane = (image * s.channels + c) * cells;
        const A slope = static_cast<A>(gradient[plane + cell]);
        if (to_features != nullptr) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            if (taps.cell[k] >= 0) atomicAdd(to_features + plane + taps.cell[k], taps.weight[k] * slope);
          }
        }
        if (to_flow != nullptr) {
          A v[4];
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            v[k] = taps.cell[k] < 0 ? A(0) : static_cast<A>(features[plane + taps.cell[k]]);
          }
          dx += slope * ((A(1) - taps.lower) * (v[1] - v[0]) + taps.lower * (v[3] - v[2]));
          dy += slope * ((A(1) - taps.right) * (v[2] - v[0]) + taps.right * (v[3] - v[1]));
        }
      }
    }
    if (to_flow != nullptr) {
      A* here = to_flow + image * 2 * cells + cell;
      atomicAdd(here, dx);
      atomicAdd(here + cells, dy);
    }
  }
}

template <typename T>
void forward(const T* features, const accumulate_t<T>* flow, T* out, const Shape& s, bool channels_last) {
  constexpr int N = 16 / sizeof(T);
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  if (!channels_last) {
    const dim3 grid = blocks(divide_up(s.pixels(), kThreads), divide_up(s.channels, kChannels));
    forward_contiguous<T><<<grid, kThreads, 0, stream>>>(features, flow, out, s);
  } else if (fits<N>(s.channels, features, out)) {
    const dim3 grid = blocks(divide_up(s.pixels(), kRows), divide_up(s.channels, kLanes * N));
    forward_channels_last<T, N><<<grid, dim3(kLanes, kRows), 0, stream>>>(features, flow, out, s);
  } else {
    const dim3 grid = blocks(divide_up(s.pixels(), kRows), divide_up(s.channels, kLanes));
    forward_channels_last<T, 1><<<grid, dim3(kLanes, kRows), 0, stream>>>(features, flow, out, s);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void backward(
    const T* gradient, const T* features, const accumulate_t<T>* flow, accumulate_t<T>* to_features,
    accumulate_t<T>* to_flow, const Shape& s, bool channels_last) {
  constexpr int N = 16 / sizeof(T);
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  if (!channels_last) {
    const dim3 grid = blocks(divide_up(s.pixels(), kThreads), divide_up(s.channels, kChannels));
    backward_contiguous<T><<<grid, kThreads, 0, stream>>>(gradient, features, flow, to_features, to_flow, s);
  } else {
    const dim3 grid = blocks(divide_up(s.pixels(), kRows)), block(kLanes, kRows);
    if (fits<N>(s.channels, gradient, features)) {
      backward_channels_last<T, N><<<grid, block, 0, stream>>>(gradient, features, flow, to_features, to_flow, s);
    } else {
      backward_channels_last<T, 1><<<grid, block, 0, stream>>>(gradient, features, flow, to_features, to_flow, s);
    }
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor warp_cuda(const at::Tensor& features, const at::Tensor& flow) {
  check_warp(features, flow);
  const c10::cuda::CUDAGuard guard(features.device());
  const at::Tensor from = features.contiguous(layout_of(features));
  const at::Tensor where = flow.to(accumulate_type(features)).contiguous();
  at::Tensor out = at::empty(features.sizes(), features.options().memory_format(layout_of(features)));
  if (out.numel() == 0) return out;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, features.scalar_type(), "warp", [&] {
    forward<scalar_t>(
        from.const_data_ptr<scalar_t>(), where.const_data_ptr<accumulate_t<scalar_t>>(),
        out.mutable_data_ptr<scalar_t>(), Shape(features), is_channels_last(features));
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> warp_backward_cuda(
    const at::Tensor& gradient, const at::Tensor& features, const at::Tensor& flow, std::array<bool, 2> needs) {
  check_warp_backward(gradient, features, flow);
  const bool channels_last = is_channels_last(features);
  if (needs[0] || !channels_last) at::globalContext().alertNotDeterministic("accel_ops::warp_backward on CUDA");
  const c10::cuda::CUDAGuard guard(features.device());
  const auto layout = layout_of(features);
  const at::Tensor from = features.contiguous(layout), slope = gradient.contiguous(layout);
  const at::Tensor where = flow.to(accumulate_type(features)).contiguous();
  const auto options = where.options();
  // An empty tensor stands for a gradient that nobody asked for.
  at::Tensor to_features = at::empty({0}, options), to_flow = at::empty({0}, options);
  if (needs[0]) to_features = at::empty(features.sizes(), options.memory_format(layout)).zero_();
  if (needs[1]) to_flow = at::zeros(flow.sizes(), options);
  if (features.numel() != 0) {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, features.scalar_type(), "warp_backward", [&] {
      using A = accumulate_t<scalar_t>;
      backward<scalar_t>(
          slope.const_data_ptr<scalar_t>(), from.const_data_ptr<scalar_t>(), where.const_data_ptr<A>(),
          needs[0] ? to_features.mutable_data_ptr<A>() : nullptr, needs[1] ? to_flow.mutable_data_ptr<A>() : nullptr,
          Shape(features), channels_last);
    });
  }
  return {to_features.to(features.scalar_type()), to_flow.to(flow.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(accel_ops, CUDA, library) {
  library.impl("warp", &warp_cuda);
  library.impl("warp_backward", &warp_backward_cuda);
}

}  // namespace accel_ops
