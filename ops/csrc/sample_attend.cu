// accel_ops::sample_attend on CUDA GPUs. What is the same at every cell, the distinct displacements and each offset's
// part in them, is worked out on the GPU too, so that nothing waits for the CPU. Maps are channels-last: the 32 lanes
// of a warp share one cell and read channels side by side, 16 bytes each where they can; the warps of a block have
// neighbouring cells, which lead to the same ones. No atomics on floating-point numbers, so results repeat exactly.
#include "lanes.h"
#include "sample_attend.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/_softmax.h>
#include <ATen/ops/_softmax_backward_data.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

namespace accel_ops {
namespace {

constexpr int kWarps = 8;       // hence cells, in a block
constexpr int kThreads = 256;   // of kernels without channels
constexpr int kPlanners = 512;  // threads that work out the plan
constexpr int kShares = 4;      // of a cell's displacements, for as many blocks

struct Shape {
  int64_t batch, height, width;
  explicit Shape(const at::Tensor& t) : batch(t.size(0)), height(t.size(2)), width(t.size(3)) {}
  __host__ __device__ int64_t cells() const { return height * width; }
  __host__ __device__ int64_t pixels() const { return batch * cells(); }
};

struct alignas(8) Displacement {
  int dx, dy;
  __device__ bool operator==(const Displacement& o) const { return dx == o.dx && dy == o.dy; }
  __device__ bool operator<(const Displacement& o) const { return dy < o.dy || (dy == o.dy && dx < o.dx); }
};

// A sample is one of the four of an offset: sample 4 * k + tap is offset k's. Arrays have room for a displacement of
// its own for every sample.
template <typename A>
struct Plan {
  int offsets, samples;
  Displacement* places;         // of every sample
  Displacement* displacements;  // the distinct ones, in ascending order
  int* count;                   // of the distinct ones
  int* index;                   // of every sample, in the displacements; -1 where it never meets the map
  int* first;                   // of every sample, the first one of the same place; -1 as above
  int* starts;                  // of every displacement, and one more: where its samples begin in
  int* members;                 // samples, ordered by displacement
  A *share, *share_dx, *share_dy;  // of every sample
};

template <typename A>
__global__ void __launch_bounds__(kPlanners) make_plan(const A* offsets, Plan<A> plan, Shape s) {
  __shared__ int distinct, alive;
  if (threadIdx.x == 0) distinct = alive = 0;
  for (int i = threadIdx.x; i < plan.samples; i += kPlanners) {
    const Samples<A> samples = samples_at(offsets[i / 4 * 2], offsets[i / 4 * 2 + 1], s.height, s.width);
    const Displacement place = {samples.dx(i % 4), samples.dy(i % 4)};
    plan.places[i] = place;
    plan.index[i] = samples.somewhere && reaches(place.dx, place.dy, s.height, s.width) ? 0 : -1;
    plan.share[i] = samples.share(i % 4);
    plan.share_dx[i] = samples.share_dx(i % 4);
    plan.share_dy[i] = samples.share_dy(i % 4);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < plan.samples; i += kPlanners) {
    int first = -1;
    if (plan.index[i] >= 0) {
      first = 0;
      while (plan.index[first] < 0 || !(plan.places[first] == plan.places[i])) ++first;  // i itself at the latest
      atomicAdd(&alive, 1);
      if (first == i) atomicAdd(&distinct, 1);
    }
    plan.first[i] = first;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < plan.samples; i += kPlanners) {
    if (plan.first[i] < 0) continue;
    const Displacement place = plan.places[i];
    int rank = 0, before = 0;  // displacements before this one; samples before this one
    for (int j = 0; j < plan.samples; ++j) {
      if (plan.first[j] < 0) continue;
      const bool lower = plan.places[j] < place;
      rank += lower && plan.first[j] == j;
      before += lower || (plan.first[j] == plan.first[i] && j < i);
    }
    plan.index[i] = rank;
    plan.members[before] = i;
    if (plan.first[i] == i) {
      plan.displacements[rank] = place;
      plan.starts[rank] = before;
    }
  }
  if (threadIdx.x == 0) {
    *plan.count = distinct;
    plan.starts[distinct] = alive;
  }
}

// The pixel, of B * height * width, that is displaced by sign * (dx, dy) from `pixel`; -1 outside the map.
__device__ __forceinline__ int64_t displaced(int64_t pixel, Displacement d, int sign, const Shape& s) {
  const int64_t x = pixel % s.width + sign * d.dx, y = pixel / s.width % s.height + sign * d.dy;
  return x >= 0 && x < s.width && y >= 0 && y < s.height ? pixel + sign * (d.dy * s.width + d.dx) : -1;
}

// scores(p, d) = <a(p), b(p + d)>; scores (pixels, samples), of which the first *count are written.
template <typename T, int N>
__global__ void __launch_bounds__(kLanes * kWarps) correlate(
    const T* a, const T* b, int64_t channels, Plan<accumulate_t<T>> plan, accumulate_t<T>* scores, Shape s) {
  using A = accumulate_t<T>;
  const int count = *plan.count;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  // All lanes of a warp have the same pixel and displacement, so they take the same turns and meet at the shuffles.
  for (int64_t pixel = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y; pixel < s.pixels(); pixel += step) {
    for (int j = blockIdx.y; j < count; j += gridDim.y) {
      const int64_t there = displaced(pixel, plan.displacements[j], 1, s);
      A sum = 0;
      if (there >= 0) {
        for (int64_t c = static_cast<int64_t>(threadIdx.x) * N; c < channels; c += kLanes * N) {
          const Pack<T, N> own = read<T, N>(a + pixel * channels + c), other = read<T, N>(b + there * channels + c);
#pragma unroll
          for (int i = 0; i < N; ++i) sum += static_cast<A>(own.at[i]) * static_cast<A>(other.at[i]);
        }
#pragma unroll
        for (int distance = kLanes / 2; distance > 0; distance /= 2) {
          sum += __shfl_down_sync(0xFFFFFFFFu, sum, distance);
        }
      }
      if (threadIdx.x == 0) scores[pixel * plan.samples + j] = sum;
    }
  }
}

// From displacements to offsets: (pixels, samples) to (pixels, offsets).
template <typename A>
__global__ void __launch_bounds__(kThreads) mix(const A* scores, Plan<A> plan, A* logits, int64_t size) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < size; i += step) {
    const int64_t pixel = i / plan.offsets;
    const int k = static_cast<int>(i % plan.offsets);
    A sum = 0;
#pragma unroll
    for (int tap = 0; tap < 4; ++tap) {
      const int j = plan.index[4 * k + tap];
      if (j >= 0) sum += plan.share[4 * k + tap] * scores[pixel * plan.samples + j];
    }
    logits[i] = sum;
  }
}

// The transpose of `mix`: (pixels, offsets) to (pixels, samples), of which the first *count are written.
template <typename A>
__global__ void __launch_bounds__(kThreads) spread(const A* shares, Plan<A> plan, A* weights, int64_t size) {
  const int count = *plan.count;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < size; i += step) {
    const int64_t pixel = i / plan.samples;
    const int j = static_cast<int>(i % plan.samples);
    if (j >= count) continue;
    A sum = 0;
    for (int m = plan.starts[j]; m < plan.starts[j + 1]; ++m) {
      const int sample = plan.members[m];
      sum += plan.share[sample] * shares[pixel * plan.offsets + sample / 4];
    }
    weights[i] = sum;
  }
}

// out(p) = sum of weights(p, d) * map(p + d); with sign -1 the transpose, sum of weights(p - d, d) * map(p - d).
template <typename T, int N, int sign>
__global__ void __launch_bounds__(kLanes * kWarps) gather(
    const accumulate_t<T>* weights, const T* map, int64_t channels, Plan<accumulate_t<T>> plan, T* out, Shape s) {
  using A = accumulate_t<T>;
  const int count = *plan.count;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps, next = static_cast<int64_t>(gridDim.y) * kLanes * N;
  for (int64_t pixel = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y; pixel < s.pixels(); pixel += step) {
    for (int64_t c = (static_cast<int64_t>(blockIdx.y) * kLanes + threadIdx.x) * N; c < channels; c += next) {
      A sum[N] = {};
      for (int j = 0; j < count; ++j) {
        const int64_t there = displaced(pixel, plan.displacements[j], sign, s);
        if (there < 0) continue;
        const A weight = weights[(sign < 0 ? there : pixel) * plan.samples + j];
        const Pack<T, N> values = read<T, N>(map + there * channels + c);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += weight * static_cast<A>(values.at[i]);
      }
      Pack<T, N> result;
#pragma unroll
      for (int i = 0; i < N; ++i) result.at[i] = static_cast<T>(sum[i]);
      *reinterpret_cast<Pack<T, N>*>(out + pixel * channels + c) = result;
    }
  }
}

// The gradient by the offsets, a block for each: how its samples' shares change, times what each share is worth.
template <typename A>
__global__ void __launch_bounds__(kThreads) along_offsets(
    const A* attention, const A* to_weights, const A* to_logits, const A* scores, Plan<A> plan, A* to_offsets,
    int64_t pixels) {
  __shared__ double parts[2][kThreads];
  for (int k = blockIdx.x; k < plan.offsets; k += gridDim.x) {
    double dx = 0, dy = 0;
    for (int64_t pixel = threadIdx.x; pixel < pixels; pixel += kThreads) {
      const A weight = attention[pixel * plan.offsets + k], to_logit = to_logits[pixel * plan.offsets + k];
#pragma unroll
      for (int tap = 0; tap < 4; ++tap) {
        const int j = plan.index[4 * k + tap];
        if (j < 0) continue;
        const A worth = weight * to_weights[pixel * plan.samples + j] + to_logit * scores[pixel * plan.samples + j];
        dx += plan.share_dx[4 * k + tap] * worth;
        dy += plan.share_dy[4 * k + tap] * worth;
      }
    }
    parts[0][threadIdx.x] = dx;
    parts[1][threadIdx.x] = dy;
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) {
        parts[0][threadIdx.x] += parts[0][threadIdx.x + half];
        parts[1][threadIdx.x] += parts[1][threadIdx.x + half];
      }
    }
    if (threadIdx.x == 0) {
      to_offsets[2 * k] = static_cast<A>(parts[0][0]);
      to_offsets[2 * k + 1] = static_cast<A>(parts[1][0]);
    }
    __syncthreads();  // before the next offset's parts
  }
}

at::Tensor channels_last(const at::Tensor& map) { return map.contiguous(at::MemoryFormat::ChannelsLast); }

// Both directions begin with these. Maps are channels-last.
template <typename T>
struct Attention {
  using A = accumulate_t<T>;
  static constexpr int N = 16 / sizeof(T);
  Shape shape;
  cudaStream_t stream;
  at::TensorOptions options;
  at::Tensor integers, numbers;  // the plan's memory
  Plan<A> plan;
  at::Tensor scores, weights;  // (pixels, samples) and, of the offsets, (pixels, offsets)

  Attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& offsets)
      : shape(query), stream(c10::cuda::getCurrentCUDAStream().stream()), options(offsets.options()) {
    plan.offsets = static_cast<int>(offsets.size(0));
    plan.samples = 4 * plan.offsets;
    const int64_t n = plan.samples;
    integers = at::empty({8 * n + 2}, options.dtype(at::kInt));
    numbers = at::empty({3 * n}, options);
    int* next = integers.mutable_data_ptr<int>();
    const auto take = [&](int64_t size) { return std::exchange(next, next + size); };
    plan.places = reinterpret_cast<Displacement*>(take(2 * n));
    plan.displacements = reinterpret_cast<Displacement*>(take(2 * n));
    plan.index = take(n);
    plan.first = take(n);
    plan.members = take(n);
    plan.starts = take(n + 1);
    plan.count = take(1);
    plan.share = numbers.mutable_data_ptr<A>();
    plan.share_dx = plan.share + n;
    plan.share_dy = plan.share_dx + n;
    make_plan<<<1, kPlanners, 0, stream>>>(offsets.const_data_ptr<A>(), plan, shape);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    scores = correlated(query, key);
    weights = at::_softmax(mixed(scores), 1, false);
  }

  static dim3 threads_for(int64_t size) { return blocks(divide_up(size, kThreads), 1); }

  at::Tensor correlated(const at::Tensor& a, const at::Tensor& b) const {
    at::Tensor made = at::empty({shape.pixels(), plan.samples}, options);
    const int64_t channels = a.size(1);
    const T *from = a.const_data_ptr<T>(), *other = b.const_data_ptr<T>();
    const dim3 grid = blocks(divide_up(shape.pixels(), kWarps), kShares), block(kLanes, kWarps);
    A* to = made.mutable_data_ptr<A>();
    if (fits<N>(channels, from, other)) {
      correlate<T, N><<<grid, block, 0, stream>>>(from, other, channels, plan, to, shape);
    } else {
      correlate<T, 1><<<grid, block, 0, stream>>>(from, other, channels, plan, to, shape);
    }
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return made;
  }

  at::Tensor mixed(const at::Tensor& of_displacements) const {
    at::Tensor made = at::empty({shape.pixels(), plan.offsets}, options);
    mix<A><<<threads_for(made.numel()), kThreads, 0, stream>>>(
        of_displacements.const_data_ptr<A>(), plan, made.mutable_data_ptr<A>(), made.numel());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return made;
  }

  at::Tensor spread_out(const at::Tensor& of_offsets) const {
    at::Tensor made = at::empty({shape.pixels(), plan.samples}, options);
    spread<A><<<threads_for(made.numel()), kThreads, 0, stream>>>(
        of_offsets.const_data_ptr<A>(), plan, made.mutable_data_ptr<A>(), made.numel());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return made;
  }

  // Gathering sums over the displacements, or with sign -1 their transpose.
  template <int sign>
  at::Tensor gathered(const at::Tensor& weights, const at::Tensor& map, at::MemoryFormat layout) const {
    at::Tensor made = at::empty(map.sizes(), map.options().memory_format(at::MemoryFormat::ChannelsLast));
    const int64_t channels = map.size(1);
    if (channels == 0) return made;
    const A* shares = weights.const_data_ptr<A>();
    const T* from = map.const_data_ptr<T>();
    T* to = made.mutable_data_ptr<T>();
    const int64_t across = divide_up(shape.pixels(), kWarps);
    const dim3 block(kLanes, kWarps);
    if (fits<N>(channels, from, to)) {
      const dim3 grid = blocks(across, divide_up(channels, kLanes * N));
      gather<T, N, sign><<<grid, block, 0, stream>>>(shares, from, channels, plan, to, shape);
    } else {
      const dim3 grid = blocks(across, divide_up(channels, kLanes));
      gather<T, 1, sign><<<grid, block, 0, stream>>>(shares, from, channels, plan, to, shape);
    }
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return made.contiguous(layout);
  }

  at::Tensor gradient_of_offsets(const at::Tensor& to_weights, const at::Tensor& to_logits) const {
    at::Tensor made = at::empty({plan.offsets, 2}, options);
    along_offsets<A><<<blocks(plan.offsets, 1), kThreads, 0, stream>>>(
        weights.const_data_ptr<A>(), to_weights.const_data_ptr<A>(), to_logits.const_data_ptr<A>(),
        scores.const_data_ptr<A>(), plan, made.mutable_data_ptr<A>(), shape.pixels());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return made;
  }
};

at::Tensor sample_attend_cuda(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& offsets) {
  check_sample_attend(query, key, value, offsets);
  const c10::cuda::CUDAGuard guard(query.device());
  const auto layout = layout_of(value);
  if (value.numel() == 0) return at::empty(value.sizes(), value.options().memory_format(layout));
  const at::Tensor positions = offsets.to(accumulate_type(query)).contiguous();
  at::Tensor out;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, query.scalar_type(), "sample_attend", [&] {
    const Attention<scalar_t> attention(channels_last(query), channels_last(key), positions);
    const at::Tensor shares = attention.spread_out(attention.weights);
    out = attention.template gathered<1>(shares, channels_last(value), layout);
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> sample_attend_backward_cuda(
    const at::Tensor& gradient, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
    const at::Tensor& offsets, std::array<bool, 4> needs) {
  check_sample_attend_backward(gradient, query, key, value, offsets);
  const c10::cuda::CUDAGuard guard(query.device());
  const at::Tensor positions = offsets.to(accumulate_type(query)).contiguous();
  // An empty tensor stands for a gradient that nobody asked for.
  at::Tensor to_query = at::empty({0}, query.options()), to_key = to_query.clone(), to_value = to_query.clone();
  at::Tensor to_offsets = at::empty({0}, positions.options());
  const auto zeros = [](const at::Tensor& like) {
    return at::empty(like.sizes(), like.options().memory_format(layout_of(like))).zero_();
  };
  if (value.numel() == 0) {
    if (needs[0]) to_query = zeros(query);
    if (needs[1]) to_key = zeros(key);
    if (needs[2]) to_value = zeros(value);
    if (needs[3]) to_offsets = at::zeros(offsets.sizes(), positions.options());
    return {to_query, to_key, to_value, to_offsets.to(offsets.scalar_type())};
  }
  const at::Tensor q = channels_last(query), k = channels_last(key), slope = channels_last(gradient);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, query.scalar_type(), "sample_attend_backward", [&] {
    const Attention<scalar_t> attention(q, k, positions);
    if (needs[2]) {
      const at::Tensor shares = attention.spread_out(attention.weights);
      to_value = attention.template gathered<-1>(shares, slope, layout_of(value));
    }
    if (!needs[0] && !needs[1] && !needs[3]) return;
    const at::Tensor to_weights = attention.correlated(slope, channels_last(value));
    const at::Tensor to_logits = at::_softmax_backward_data(
        attention.mixed(to_weights), attention.weights, 1, attention.weights.scalar_type());
    const at::Tensor to_scores = needs[0] || needs[1] ? attention.spread_out(to_logits) : at::Tensor();
    if (needs[0]) to_query = attention.template gathered<1>(to_scores, k, layout_of(query));
    if (needs[1]) to_key = attention.template gathered<-1>(to_scores, q, layout_of(key));
    if (needs[3]) to_offsets = attention.gradient_of_offsets(to_weights, to_logits);
  });
  return {to_query, to_key, to_value, to_offsets.to(offsets.scalar_type())};
}

}  // namespace

TORCH_LIBRARY_IMPL(accel_ops, CUDA, library) {
  library.impl("sample_attend", &sample_attend_cuda);
  library.impl("sample_attend_backward", &sample_attend_backward_cuda);
}

}  // namespace accel_ops
