// accel_ops::warp on the CPU. No atomics: every sum is taken in a fixed order, so results repeat exactly.
#include "convert.h"
#include "parallel.h"
#include "warp.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

namespace accel_ops {
namespace {

struct Shape {
  int64_t batch, channels, height, width;
  explicit Shape(const Tensor& t) : batch(t.size(0)), channels(t.size(1)), height(t.size(2)), width(t.size(3)) {}
  int64_t cells() const { return height * width; }
  int64_t pixels() const { return batch * cells(); }
};

// Rows of channels at the four taps. Taps outside point at a row of zeros, so that inner loops have no branches.
template <typename T>
std::array<const T*, 4> rows_at(const Taps<accumulate_t<T>>& taps, const T* map, int64_t channels, const T* zeros) {
  std::array<const T*, 4> rows;
  for (int k = 0; k < 4; ++k) rows[k] = taps.cell[k] < 0 ? zeros : map + taps.cell[k] * channels;
  return rows;
}

// The taps of every pixel, for loops whose channels are outside.
template <typename A>
std::vector<Taps<A>> all_taps(const A* flow, const Shape& s) {
  std::vector<Taps<A>> taps(s.pixels());
  parallel_for(0, s.pixels(), grain(16), [&](int64_t begin, int64_t end) {
    for (int64_t pixel = begin; pixel < end; ++pixel) taps[pixel] = taps_of(flow, pixel, s.height, s.width);
  });
  return taps;
}

template <typename T>
void forward_channels_last(const T* features, const accumulate_t<T>* flow, T* out, const Shape& s) {
  using A = accumulate_t<T>;
  const int64_t channels = s.channels;
  const std::vector<T> zeros(channels, T(0));
  parallel_for(0, s.pixels(), grain(channels), [&](int64_t begin, int64_t end) {
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      const Taps<A> taps = taps_of(flow, pixel, s.height, s.width);
      const T* map = features + pixel / s.cells() * s.cells() * channels;
      const auto rows = rows_at(taps, map, channels, zeros.data());
      const T *f0 = rows[0], *f1 = rows[1], *f2 = rows[2], *f3 = rows[3];
      const A w0 = taps.weight[0], w1 = taps.weight[1], w2 = taps.weight[2], w3 = taps.weight[3];
      T* to = out + pixel * channels;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        to[c] = narrow<T>(w0 * widen<A>(f0[c]) + w1 * widen<A>(f1[c]) + w2 * widen<A>(f2[c]) +
                               w3 * widen<A>(f3[c]));
      }
    }
  });
}

template <typename T>
void forward_contiguous(const T* features, const accumulate_t<T>* flow, T* out, const Shape& s) {
  using A = accumulate_t<T>;
  const int64_t cells = s.cells();
  const std::vector<Taps<A>> taps = all_taps(flow, s);
  parallel_for(0, s.batch * s.channels, grain(4 * cells), [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* map = features + plane * cells;
      const Taps<A>* image = taps.data() + plane / s.channels * cells;
      for (int64_t cell = 0; cell < cells; ++cell) {
        const Taps<A>& t = image[cell];
        A sum = 0;
        for (int k = 0; k < 4; ++k) {
          if (t.cell[k] >= 0) sum += t.weight[k] * widen<A>(map[t.cell[k]]);
        }
        out[plane * cells + cell] = narrow<T>(sum);
      }
    }
  });
}

// Each thread owns blocks of channels of one image and adds up in a buffer that stays in its cache.
template <typename T>
void backward_features_channels_last(const T* gradient, const accumulate_t<T>* flow, T* to, const Shape& s) {
  using A = accumulate_t<T>;
  const int64_t cells = s.cells(), channels = s.channels;
  const int64_t block = s.batch * channels >= 64 * thread_count() ? 64 : 16;
  const int64_t blocks = (channels + block - 1) / block;
  parallel_for(0, s.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<A> buffer(cells * block);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / blocks, first = task % blocks * block, count = std::min(block, channels - first);
      std::fill(buffer.begin(), buffer.end(), A(0));
      for (int64_t cell = 0; cell < cells; ++cell) {
        const int64_t pixel = image * cells + cell;
        const Taps<A> taps = taps_of(flow, pixel, s.height, s.width);
        const T* from = gradient + pixel * channels + first;
        for (int k = 0; k < 4; ++k) {
          if (taps.cell[k] < 0) continue;
          A* sum = buffer.data() + taps.cell[k] * block;
          const A weight = taps.weight[k];
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) sum[c] += weight * widen<A>(from[c]);
        }
      }
      for (int64_t cell = 0; cell < cells; ++cell) {
        T* row = to + (image * cells + cell) * channels + first;
        const A* sum = buffer.data() + cell * block;
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) row[c] = narrow<T>(sum[c]);
      }
    }
  });
}

template <typename T>
void backward_features_contiguous(const T* gradient, const accumulate_t<T>* flow, T* to, const Shape& s) {
  using A = accumulate_t<T>;
  const int64_t cells = s.cells();
  const std::vector<Taps<A>> taps = all_taps(flow, s);
  parallel_for(0, s.batch * s.channels, grain(8 * cells), [&](int64_t begin, int64_t end) {
    std::vector<A> buffer(cells);
    for (int64_t plane = begin; plane < end; ++plane) {
      const Taps<A>* image = taps.data() + plane / s.channels * cells;
      std::fill(buffer.begin(), buffer.end(), A(0));
      for (int64_t cell = 0; cell < cells; ++cell) {
        const Taps<A>& t = image[cell];
        const A g = widen<A>(gradient[plane * cells + cell]);
        for (int k = 0; k < 4; ++k) {
          if (t.cell[k] >= 0) buffer[t.cell[k]] += t.weight[k] * g;
        }
      }
      for (int64_t cell = 0; cell < cells; ++cell) to[plane * cells + cell] = narrow<T>(buffer[cell]);
    }
  });
}

template <typename T>
void backward_flow_channels_last(
    const T* gradient, const T* features, const accumulate_t<T>* flow, accumulate_t<T>* to, const Shape& s) {
  using A = accumulate_t<T>;
  const int64_t cells = s.cells(), channels = s.channels;
  const std::vector<T> zeros(channels, T(0));
  parallel_for(0, s.pixels(), grain(2 * channels), [&](int64_t begin, int64_t end) {
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      const Taps<A> taps = taps_of(flow, pixel, s.height, s.width);
      const int64_t image = pixel / cells;
      const auto rows = rows_at(taps, features + image * cells * channels, channels, zeros.data());
      const T *f0 = rows[0], *f1 = rows[1], *f2 = rows[2], *f3 = rows[3], *g = gradient + pixel * channels;
      const A right = taps.right, left = 1 - right, lower = taps.lower, upper = 1 - lower;
      A dx = 0, dy = 0;
#pragma omp simd reduction(+ : dx, dy)
      for (int64_t c = 0; c < channels; ++c) {
        const A v0 = widen<A>(f0[c]), v1 = widen<A>(f1[c]);
        const A v2 = widen<A>(f2[c]), v3 = widen<A>(f3[c]);
        const A slope = widen<A>(g[c]);
        dx += slope * (upper * (v1 - v0) + lower * (v3 - v2));
        dy += slope * (left * (v2 - v0) + right * (v3 - v1));
      }
      // A position that is nowhere has no slope, not even where the incoming gradient is not finite.
      const bool nowhere = is_nowhere(taps);
      A* here = to + image * 2 * cells + pixel % cells;
      here[0] = nowhere ? A(0) : dx;
      here[cells] = nowhere ? A(0) : dy;
    }
  });
}

template <typename T>
void backward_flow_contiguous(
    const T* gradient, const T* features, const accumulate_t<T>* flow, accumulate_t<T>* to, const Shape& s) {
  using A = accumulate_t<T>;
  const int64_t cells = s.cells(), channels = s.channels, width = s.width;
  // A row of the map at a time: channels outside, pixels inside, so that memory is read along its rows.
  parallel_for(0, s.batch * s.height, grain(8 * channels * width), [&](int64_t begin, int64_t end) {
    std::vector<Taps<A>> taps(width);
    std::vector<A> dx(width), dy(width);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t image = row / s.height, first = row % s.height * width;
      for (int64_t x = 0; x < width; ++x) taps[x] = taps_of(flow, row * width + x, s.height, width);
      std::fill(dx.begin(), dx.end(), A(0));
      std::fill(dy.begin(), dy.end(), A(0));
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t plane = (image * channels + c) * cells;
        for (int64_t x = 0; x < width; ++x) {
          const Taps<A>& t = taps[x];
          A v[4];
          bool nowhere = true;
          for (int k = 0; k < 4; ++k) {
            v[k] = t.cell[k] < 0 ? A(0) : widen<A>(features[plane + t.cell[k]]);
            nowhere = nowhere && t.cell[k] < 0;
          }
          if (nowhere) continue;
          const A slope = widen<A>(gradient[plane + first + x]);
          dx[x] += slope * ((1 - t.lower) * (v[1] - v[0]) + t.lower * (v[3] - v[2]));
          dy[x] += slope * ((1 - t.right) * (v[2] - v[0]) + t.right * (v[3] - v[1]));
        }
      }
      std::copy(dx.begin(), dx.end(), to + image * 2 * cells + first);
      std::copy(dy.begin(), dy.end(), to + image * 2 * cells + cells + first);
    }
  });
}

Tensor warp_cpu(const Tensor& features, const Tensor& flow) {
  check_warp(features, flow);
  const Shape shape(features);
  const bool channels_last = is_channels_last(features);
  const Tensor from = in_form(features, features.scalar_type(), layout_of(features));
  const Tensor where = in_form(flow, accumulate_type(features));
  Tensor out = empty(features.sizes(), features.scalar_type(), layout_of(features));
  if (out.numel() == 0) return out;
  with_floating_type(features.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    const auto* f = from.const_data_ptr<scalar_t>();
    const auto* w = where.const_data_ptr<accumulate_t<scalar_t>>();
    auto* o = out.mutable_data_ptr<scalar_t>();
    channels_last ? forward_channels_last(f, w, o, shape) : forward_contiguous(f, w, o, shape);
  });
  return out;
}

std::tuple<Tensor, Tensor> warp_backward_cpu(
    const Tensor& gradient, const Tensor& features, const Tensor& flow, const std::vector<bool>& needs) {
  check_warp_backward(gradient, features, flow);
  const Shape shape(features);
  const bool channels_last = is_channels_last(features);
  const auto layout = layout_of(features);
  const auto type = features.scalar_type();
  const Tensor from = in_form(features, type, layout), slope = in_form(gradient, type, layout);
  const Tensor where = in_form(flow, accumulate_type(features));
  // An empty tensor stands for a gradient that nobody asked for.
  Tensor to_features = needs[0] ? empty(features.sizes(), type, layout) : empty({0}, type);
  if (features.numel() == 0) {
    return {to_features, needs[1] ? zeros(flow.sizes(), flow.scalar_type()) : empty({0}, flow.scalar_type())};
  }
  Tensor to_flow = needs[1] ? empty(flow.sizes(), where.scalar_type()) : empty({0}, where.scalar_type());
  with_floating_type(features.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using A = accumulate_t<scalar_t>;
    const auto* g = slope.const_data_ptr<scalar_t>();
    const auto* f = from.const_data_ptr<scalar_t>();
    const auto* w = where.const_data_ptr<A>();
    if (needs[0]) {
      auto* to = to_features.mutable_data_ptr<scalar_t>();
      channels_last ? backward_features_channels_last(g, w, to, shape) : backward_features_contiguous(g, w, to, shape);
    }
    if (needs[1]) {
      auto* to = to_flow.mutable_data_ptr<A>();
      channels_last ? backward_flow_channels_last(g, f, w, to, shape) : backward_flow_contiguous(g, f, w, to, shape);
    }
  });
  return {to_features, in_form(to_flow, flow.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(accel_ops, CPU, library) {
  library.impl("warp", TORCH_BOX(&warp_cpu));
  library.impl("warp_backward", TORCH_BOX(&warp_backward_cpu));
}

}  // namespace accel_ops
