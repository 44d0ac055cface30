// accel_ops::psroi_pool on CUDA GPUs. A thread has one bin of one output of one region, and reads the features where
// they lie, in any layout: in channels-last, neighbouring threads read neighbouring channels. The gradient is summed
// with atomics in float32 (float64 for float64), so in no fixed order.
#include "lanes.h"
#include "psroi_pool.h"

#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

namespace accel_ops {
namespace {

constexpr int kThreads = 256;

struct Shape {
  int64_t batch, outputs, group, height, width, pooled, regions;
  int64_t strides[4];  // of the features: image, channel, row, column
  __host__ __device__ int64_t bins() const { return regions * outputs * pooled * pooled; }
};

// What one thread works on: the bin `number` of regions * outputs * pooled * pooled.
struct Bin {
  int64_t first;  // of its map in the features; -1: the region is of no image
  Range rows, columns;

  __device__ Bin(int64_t number, const float* rois, const Shape& s, float scale) {
    const int64_t j = number % s.pooled, i = number / s.pooled % s.pooled;
    const int64_t k = number / (s.pooled * s.pooled) % s.outputs, r = number / (s.pooled * s.pooled * s.outputs);
    const Region region = region_of(rois + r * 5, s.batch, s.pooled, scale);
    rows = cells_of(region.rows, i, s.height);
    columns = cells_of(region.columns, j, s.width);
    const int64_t channel = (k * s.group + i * s.group / s.pooled) * s.group + j * s.group / s.pooled;
    first = region.image < 0 ? -1 : region.image * s.strides[0] + channel * s.strides[1];
  }
  __device__ int64_t count() const {
    const int64_t cells = rows.count() * columns.count();
    return cells > 0 ? cells : 1;
  }
};

template <typename T>
__global__ void forward(const T* features, const float* rois, T* out, Shape s, float scale) {
  using A = accumulate_t<T>;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; n < s.bins(); n += stride) {
    const Bin bin(n, rois, s, scale);
    A sum = 0;
    if (bin.first >= 0) {
      for (int64_t y = bin.rows.first; y < bin.rows.end; ++y) {
        for (int64_t x = bin.columns.first; x < bin.columns.end; ++x) {
          sum += static_cast<A>(features[bin.first + y * s.strides[2] + x * s.strides[3]]);
        }
      }
    }
    out[n] = static_cast<T>(sum / static_cast<A>(bin.count()));
  }
}

// to is summed into; strides are its own.
template <typename T>
__global__ void backward(const T* gradient, const float* rois, accumulate_t<T>* to, Shape s, float scale) {
  using A = accumulate_t<T>;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; n < s.bins(); n += stride) {
    const Bin bin(n, rois, s, scale);
    if (bin.first < 0) continue;
    const A share = static_cast<A>(gradient[n]) / static_cast<A>(bin.count());
    for (int64_t y = bin.rows.first; y < bin.rows.end; ++y) {
      for (int64_t x = bin.columns.first; x < bin.columns.end; ++x) {
        atomicAdd(to + bin.first + y * s.strides[2] + x * s.strides[3], share);
      }
    }
  }
}

at::Tensor psroi_pool_cuda(
    const at::Tensor& features, const at::Tensor& rois, int64_t outputs, int64_t pooled, int64_t group, double scale) {
  check_psroi_pool(features, rois, outputs, pooled, group, scale);
  const c10::cuda::CUDAGuard guard(features.device());
  const Shape shape{features.size(0), outputs, group, features.size(2), features.size(3), pooled, rois.size(0),
                    {features.stride(0), features.stride(1), features.stride(2), features.stride(3)}};
  at::Tensor out = at::empty({shape.regions, outputs, pooled, pooled}, features.options());
  if (features.numel() == 0) return out.zero_();
  if (out.numel() == 0) return out;
  const at::Tensor where = rois.contiguous();
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, features.scalar_type(), "psroi_pool", [&] {
    forward<scalar_t><<<blocks(divide_up(shape.bins(), kThreads)), kThreads, 0, stream>>>(
        features.const_data_ptr<scalar_t>(), where.const_data_ptr<float>(), out.mutable_data_ptr<scalar_t>(), shape,
        static_cast<float>(scale));
  });
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

at::Tensor psroi_pool_backward_cuda(
    const at::Tensor& gradient, const at::Tensor& rois, at::IntArrayRef sizes, int64_t group, double scale) {
  check_psroi_pool_backward(gradient, rois, sizes, group);
  at::globalContext().alertNotDeterministic("accel_ops::psroi_pool_backward on CUDA");
  const c10::cuda::CUDAGuard guard(gradient.device());
  at::Tensor to = at::zeros(sizes, gradient.options().dtype(accumulate_type(gradient)));
  const Shape shape{sizes[0], gradient.size(1), group, sizes[2], sizes[3], gradient.size(2), rois.size(0),
                    {to.stride(0), to.stride(1), to.stride(2), to.stride(3)}};
  if (to.numel() != 0 && gradient.numel() != 0) {
    const at::Tensor from = gradient.contiguous(), where = rois.contiguous();
    const auto stream = c10::cuda::getCurrentCUDAStream().stream();
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, gradient.scalar_type(), "psroi_pool_backward", [&] {
      backward<scalar_t><<<blocks(divide_up(shape.bins(), kThreads)), kThreads, 0, stream>>>(
          from.const_data_ptr<scalar_t>(), where.const_data_ptr<float>(),
          to.mutable_data_ptr<accumulate_t<scalar_t>>(), shape, static_cast<float>(scale));
    });
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return to.to(gradient.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(accel_ops, CUDA, library) {
  library.impl("psroi_pool", &psroi_pool_cuda);
  library.impl("psroi_pool_backward", &psroi_pool_backward_cuda);
}

}  // namespace accel_ops
