// accel_ops::upsample_argmax on CUDA GPUs, in one pass. A warp takes a patch: first its lanes share the classes and
// find those that can win; then each lane has an equal part of the pixels (8 of the 256, at stride 16: every second one
// of a column), so that the warp writes whole rows of the patch at a time. Patches of less than 32 pixels leave lanes
// idle. Warps need neither each other nor shared memory.
#include "upsample_argmax.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

namespace accel_ops {
namespace {

constexpr int kLanes = 32;
constexpr int kWarps = 4;  // hence patches, in a block
constexpr unsigned kAll = 0xFFFFFFFFu;
constexpr int64_t kMostBlocks = 65535;  // along y and z

struct Shape {
  int64_t batch, height, width;  // of the scores
  int classes;
  int64_t strides[4];               // of the scores
  int64_t full_height, full_width;
  int64_t rows, columns;  // of patches
  bool zero_border;
  Shape(const at::Tensor& t, at::IntArrayRef size, std::string_view border, int64_t stride)
      : batch(t.size(0)), height(t.size(2)), width(t.size(3)), classes(static_cast<int>(t.size(1))),
        full_height(size[0]), full_width(size[1]), rows(patches_of(size[0], stride)),
        columns(patches_of(size[1], stride)), zero_border(border == "zero") {
    std::copy_n(t.strides().begin(), 4, strides);
  }
};

template <typename A>
__device__ __forceinline__ A higher(A a, A b) {
  return a < b ? b : a;
}

template <typename A>
__device__ __forceinline__ A lower(A a, A b) {
  return b < a ? b : a;
}

// The cells upper left, upper right, lower left, lower right of a patch.
template <typename T>
struct Cells {
  using A = accumulate_t<T>;
  const T* at[4];  // class 0, or null for a cell that counts as zero
  const A* bias;   // may be null
  int64_t step;    // from class to class

  __device__ Cells(const T* scores, const A* bias, const Shape& s, int64_t image, int64_t row, int64_t column)
      : bias(bias), step(s.strides[1]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t y = row - 1 + i / 2, x = column - 1 + i % 2;
      const int64_t near_y = y < 0 ? 0 : lower(y, s.height - 1), near_x = x < 0 ? 0 : lower(x, s.width - 1);
      const bool outside = y != near_y || x != near_x;
      const int64_t offset = image * s.strides[0] + near_y * s.strides[2] + near_x * s.strides[3];
      at[i] = outside && s.zero_border ? nullptr : scores + offset;
    }
  }

  __device__ __forceinline__ void read(int k, A (&to)[4]) const {
    const A offset = bias == nullptr ? A(0) : bias[k];
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = (at[i] == nullptr ? A(0) : static_cast<A>(at[i][k * step])) + offset;
  }
};

// What a class must reach somewhere in the patch to be among the `places` highest: the highest (second highest) of
// the classes' lower bounds. -infinity where bounds do not hold. The same for all lanes, which share the work.
template <int places, typename T>
__device__ accumulate_t<T> floor_of(const Cells<T>& cells, int classes) {
  using A = accumulate_t<T>;
  constexpr A least = -std::numeric_limits<A>::infinity();
  A first = least, second = least;
  bool ordinary = true;
  for (int k = threadIdx.x; k < classes; k += kLanes) {
    A v[4];
    cells.read(k, v);
#pragma unroll
    for (int i = 0; i < 4; ++i) ordinary = ordinary && is_ordinary(v[i]);
    const A bottom = lower(lower(v[0], v[1]), lower(v[2], v[3])), bound = bottom - rounding(bottom);
    second = higher(second, lower(first, bound));
    first = higher(first, bound);
  }
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const A other_first = __shfl_xor_sync(kAll, first, distance);
    const A other_second = __shfl_xor_sync(kAll, second, distance);
    second = higher(lower(first, other_first), higher(second, other_second));
    first = higher(first, other_first);
  }
  if (!__all_sync(kAll, ordinary)) return least;
  return places == 1 ? first : second;
}

template <int stride, int places, typename T>
__device__ void upsample_patch(
    const T* scores, const accumulate_t<T>* bias, uint8_t* labels, float* margins, const Shape& s, int64_t image,
    int64_t row, int64_t column) {
  using A = accumulate_t<T>;
  constexpr int kRows = kLanes / stride;                        // that the warp has at a time
  constexpr int kPixels = stride > kRows ? stride / kRows : 1;  // of a lane
  const Cells<T> cells(scores, bias, s, image, row, column);
  const A floor = floor_of<places>(cells, s.classes);

  const int lane = threadIdx.x, x = lane % stride, line = lane / stride;
  const A right = fraction<stride, A>(x), left = A(1) - right;
  A best[kPixels], second[kPixels];
  int winner[kPixels];
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    best[i] = second[i] = -std::numeric_limits<A>::infinity();
    winner[i] = 0;
  }
  for (int base = 0; base < s.classes; base += kLanes) {
    A v[4] = {};
    bool wanted = base + lane < s.classes;
    if (wanted) {
      cells.read(base + lane, v);
      const A top = higher(higher(v[0], v[1]), higher(v[2], v[3]));
      wanted = !(top + rounding(top) < floor);  // true for NaN
    }
    for (unsigned rest = __ballot_sync(kAll, wanted); rest != 0; rest &= rest - 1) {
      const int from = __ffs(rest) - 1, label = base + from;
      const A v0 = __shfl_sync(kAll, v[0], from), v1 = __shfl_sync(kAll, v[1], from);
      const A v2 = __shfl_sync(kAll, v[2], from), v3 = __shfl_sync(kAll, v[3], from);
      const A above = left * v0 + right * v1, below = left * v2 + right * v3;
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        const A down = fraction<stride, A>(line) + A(kRows * i) / A(stride);  // fraction(kRows * i + line)
        const A value = (A(1) - down) * above + down * below;
        // As argmax: ties to the lower class, the first NaN before all else.
        const bool better = !(value <= best[i]) && best[i] == best[i];
        if constexpr (places == 2) second[i] = better ? best[i] : higher(second[i], value);
        best[i] = better ? value : best[i];
        winner[i] = better ? label : winner[i];
      }
    }
  }

  if (line >= stride) return;
  const int64_t full_x = column * stride - stride / 2 + x;
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    const int64_t full_y = row * stride - stride / 2 + kRows * i + line;
    if (full_x >= 0 && full_x < s.full_width && full_y >= 0 && full_y < s.full_height) {
      const int64_t to = (image * s.full_height + full_y) * s.full_width + full_x;
      labels[to] = static_cast<uint8_t>(winner[i]);
      if constexpr (places == 2) margins[to] = static_cast<float>(best[i] - second[i]);
    }
  }
}

// places: how many of the highest logits are wanted; 1 for labels, 2 for labels and margins.
template <int stride, int places, typename T>
__global__ void __launch_bounds__(kLanes * kWarps) upsample_argmax(
    const T* scores, const accumulate_t<T>* bias, uint8_t* labels, float* margins, Shape s) {
  // All lanes of a warp have the same patch, so they take the same turns and meet at the votes and shuffles.
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t image = blockIdx.z; image < s.batch; image += gridDim.z) {
    for (int64_t row = blockIdx.y; row < s.rows; row += gridDim.y) {
      for (int64_t column = first; column < s.columns; column += step) {
        upsample_patch<stride, places>(scores, bias, labels, margins, s, image, row, column);
      }
    }
  }
}

template <int stride, int places, typename T>
void launch(const T* scores, const accumulate_t<T>* bias, uint8_t* labels, float* margins, const Shape& s) {
  // Loops in the kernel take what does not fit.
  const auto fit = [](int64_t blocks, int64_t most) { return static_cast<unsigned>(std::min(blocks, most)); };
  const int64_t across = (s.columns + kWarps - 1) / kWarps;
  const dim3 grid(fit(across, 1 << 30), fit(s.rows, kMostBlocks), fit(s.batch, kMostBlocks));
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  upsample_argmax<stride, places><<<grid, dim3(kLanes, kWarps), 0, stream>>>(scores, bias, labels, margins, s);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<at::Tensor, at::Tensor> run(
    const at::Tensor& scores, at::IntArrayRef size, const std::optional<at::Tensor>& bias, std::string_view border,
    int64_t stride, bool with_margin) {
  check_upsample_argmax(scores, size, bias, border, stride);
  const c10::cuda::CUDAGuard guard(scores.device());
  const Shape shape(scores, size, border, stride);
  at::Tensor labels = at::empty({shape.batch, size[0], size[1]}, scores.options().dtype(at::kByte)), margin;
  if (with_margin) margin = at::empty(labels.sizes(), scores.options().dtype(at::kFloat));
  if (labels.numel() == 0) return {labels, margin};
  if (shape.classes == 1) {
    labels.zero_();
    if (with_margin) margin.fill_(std::numeric_limits<float>::infinity());
    return {labels, margin};
  }
  at::Tensor offset;
  if (bias.has_value()) offset = bias->to(accumulate_type(scores)).contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, scores.scalar_type(), "upsample_argmax", [&] {
    using A = accumulate_t<scalar_t>;
    const auto* from = scores.const_data_ptr<scalar_t>();
    const A* b = offset.defined() ? offset.const_data_ptr<A>() : nullptr;
    auto* to = labels.mutable_data_ptr<uint8_t>();
    auto* to_margins = with_margin ? margin.mutable_data_ptr<float>() : nullptr;
    with_stride(stride, [&](auto known) {
      constexpr int S = decltype(known)::value;
      if (with_margin) {
        launch<S, 2>(from, b, to, to_margins, shape);
      } else {
        launch<S, 1>(from, b, to, to_margins, shape);
      }
    });
  });
  return {labels, margin};
}

at::Tensor upsample_argmax_cuda(
    const at::Tensor& scores, at::IntArrayRef size, const std::optional<at::Tensor>& bias, std::string_view border,
    int64_t stride) {
  return std::get<0>(run(scores, size, bias, border, stride, false));
}

std::tuple<at::Tensor, at::Tensor> upsample_argmax_margin_cuda(
    const at::Tensor& scores, at::IntArrayRef size, const std::optional<at::Tensor>& bias, std::string_view border,
    int64_t stride) {
  return run(scores, size, bias, border, stride, true);
}

}  // namespace

TORCH_LIBRARY_IMPL(accel_ops, CUDA, library) {
  library.impl("upsample_argmax", &upsample_argmax_cuda);
  library.impl("upsample_argmax_margin", &upsample_argmax_margin_cuda);
}

}  // namespace accel_ops
