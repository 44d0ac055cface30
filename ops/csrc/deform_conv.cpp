// accel_ops::deform_conv on the CPU: a tile of columns at a time, which stays in the cache, and its product with the
// weight, which takes nine tenths of the time. A thread does both for its tiles, so that threads wait for each other
// once: if other work runs on the machine, every such wait is long. Gradients of half types are taken in float32.
#include "convert.h"
#include "deform_conv.h"
#include "parallel.h"

#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>

namespace accel_ops {
namespace {

#if defined(__AVX512BF16__) || defined(__AMX_BF16__)
constexpr bool kMultipliesBfloat16 = true;
#else
constexpr bool kMultipliesBfloat16 = false;  // there float32 is faster
#endif

// What columns and weight are held in for the product.
template <typename T>
using product_t =
    std::conditional_t<std::is_same_v<T, c10::BFloat16> && kMultipliesBfloat16, c10::BFloat16, accumulate_t<T>>;

// How many cells' columns, of `row` bytes each, to make at once: about this many bytes of them, but no fewer than the
// product is fast for.
constexpr int64_t kTile = 5 << 19, kBackwardTile = 1 << 24;

int64_t tile_of(int64_t row, int64_t bytes) { return std::max<int64_t>(1, bytes / row / 128) * 128; }

// Smaller tiles, if every thread would not have as many of those: a product of 32 cells takes 1.4 times as long for
// each of them as one of 128, which four times as many threads outweigh. They are never larger, so a thread's memory
// is the same.
int64_t tile_of_each(int64_t row, int64_t cells) {
  constexpr int64_t kLeast = 32, kMultiple = 16;
  const int64_t tile = tile_of(row, kTile), tiles = at::divup(cells, tile);
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  if (tiles % threads == 0) return tile;
  const int64_t even = at::divup(cells, at::divup(tiles, threads) * threads);
  return std::clamp(at::divup(even, kMultiple) * kMultiple, kLeast, tile);
}

// a (M, K) times the transpose of b (N, K).
at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  // oneDNN multiplies float32 at the full rate of AMD's CPUs too, MKL, which at::mm takes, at half of it. This is the
  // one way to it, and no public one, so at::mm stands in where it is missing or has changed.
  using Linear = at::Tensor(
      const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::string_view,
      c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);
  static const auto linear = []() -> std::optional<c10::TypedOperatorHandle<Linear>> {
    const auto found = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!found || !at::hasMKLDNN()) return std::nullopt;
    try {
      return found->typed<Linear>();
    } catch (const c10::Error&) {
      return std::nullopt;
    }
  }();
  if (linear && a.scalar_type() != at::kDouble && at::globalContext().userEnabledMkldnn()) {
    return linear->call(a, b, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
  }
  return at::mm(a, b.t());
}

// The channels of the sample's group at its four cells.
template <typename T>
std::array<const T*, 4> rows_at(const Sample<accumulate_t<T>>& s, const T* features, const Geometry& g) {
  std::array<const T*, 4> rows;
  for (int k = 0; k < 4; ++k) rows[k] = features + s.map + s.taps.cell[k] * g.channels;
  return rows;
}

// Rows of columns, (cells, kh * kw * C), for the cells from `first` to `end`.
template <typename T, typename P>
void sample(
    const T* features, const accumulate_t<T>* offset, P* columns, int64_t first, int64_t end, const Geometry& g) {
  using A = accumulate_t<T>;
  const int64_t channels = g.group_channels();
  for (int64_t number = first; number < end; ++number, columns += g.row()) {
    for_each_sample(number, offset, g, [&](const Sample<A>& s) {
      P* out = columns + s.column;
      if (is_nowhere(s.taps)) {
        std::fill(out, out + channels, P(0));
        return;
      }
      const auto& [f0, f1, f2, f3] = rows_at(s, features, g);
      const A w0 = s.taps.weight[0], w1 = s.taps.weight[1], w2 = s.taps.weight[2], w3 = s.taps.weight[3];
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        out[c] = narrow<P>(w0 * widen<A>(f0[c]) + w1 * widen<A>(f1[c]) + w2 * widen<A>(f2[c]) + w3 * widen<A>(f3[c]));
      }
    });
  }
}

// The gradient by features, (B, H, W, C), added up from that by columns. Every thread has its own channels and takes
// cells and taps in order, so the sums do not depend on the number of threads.
template <typename A>
void scatter(const A* to_columns, const A* offset, A* to_features, int64_t first, int64_t end, const Geometry& g) {
  const int64_t channels = g.group_channels();
  at::parallel_for(0, g.channels, grain(4 * (end - first) * g.taps()), [&](int64_t from, int64_t to) {
    for (int64_t number = first; number < end; ++number) {
      const A* row = to_columns + (number - first) * g.row();
      for_each_sample(number, offset, g, [&](const Sample<A>& s) {
        const int64_t group = s.column % g.channels;  // its first channel
        const int64_t begin = std::max(from - group, int64_t{0}), stop = std::min(to - group, channels);
        if (is_nowhere(s.taps)) return;
        for (int k = 0; k < 4; ++k) {
          A* sum = to_features + s.map + s.taps.cell[k] * g.channels;
          const A weight = s.taps.weight[k];
#pragma omp simd
          for (int64_t c = begin; c < stop; ++c) sum[c] += weight * row[s.column + c];
        }
      });
    }
  });
}

// The gradient by offset, (B, H', W', G, kh, kw, 2), of the cells from `first` to `end`.
template <typename T, typename A>
void slope_of_offset(
    const A* to_columns, const T* features, const A* offset, A* to_offset, int64_t first, int64_t end,
    const Geometry& g) {
  const int64_t channels = g.group_channels();
  at::parallel_for(first, end, grain(2 * g.row()), [&](int64_t from, int64_t to) {
    for (int64_t number = from; number < to; ++number) {
      const A* row = to_columns + (number - first) * g.row();
      for_each_sample(number, offset, g, [&](const Sample<A>& s) {
        if (is_nowhere(s.taps)) return;
        const A* slope = row + s.column;
        const auto& [f0, f1, f2, f3] = rows_at(s, features, g);
        const A right = s.taps.right, left = 1 - right, lower = s.taps.lower, upper = 1 - lower;
        A dy = 0, dx = 0;
#pragma omp simd reduction(+ : dy, dx)
        for (int64_t c = 0; c < channels; ++c) {
          const A v0 = widen<A>(f0[c]), v1 = widen<A>(f1[c]), v2 = widen<A>(f2[c]), v3 = widen<A>(f3[c]);
          dy += slope[c] * (left * (v2 - v0) + right * (v3 - v1));
          dx += slope[c] * (upper * (v1 - v0) + lower * (v3 - v2));
        }
        to_offset[s.move] = dy;
        to_offset[s.move + 1] = dx;
      });
    }
  });
}

at::Tensor deform_conv_cpu(
    const at::Tensor& features, const at::Tensor& offset, const at::Tensor& weight, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation) {
  const Geometry g = check_deform_conv(features, offset, weight, stride, padding, dilation);
  const PlainTensors plain;
  at::Tensor out = empty_result(features, g);
  if (out.numel() == 0 || g.row() == 0) return out.zero_().contiguous(layout_of(features));
  const at::Tensor from = features.contiguous(kLayout);
  const at::Tensor where = offset.to(accumulate_type(features)).contiguous(kLayout);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, features.scalar_type(), "deform_conv", [&] {
    using P = product_t<scalar_t>;
    const auto* f = from.const_data_ptr<scalar_t>();
    const auto* w = where.const_data_ptr<accumulate_t<scalar_t>>();
    auto* o = out.mutable_data_ptr<scalar_t>();
    const at::Tensor matrix = matrix_of(weight).to(c10::CppTypeToScalarType<P>::value);
    const int64_t tile = tile_of_each(g.row() * sizeof(P), g.cells());
    at::parallel_for(0, at::divup(g.cells(), tile), 1, [&](int64_t begin, int64_t end) {
      const PlainTensors plain;
      const at::Tensor columns = at::empty({std::min(tile, g.cells()), g.row()}, matrix.options());
      for (int64_t first = begin * tile; first < std::min(end * tile, g.cells()); first += tile) {
        const int64_t count = std::min(tile, g.cells() - first);
        sample(f, w, columns.mutable_data_ptr<P>(), first, first + count, g);
        const at::Tensor rows = product(columns.narrow(0, 0, count), matrix);
        std::transform(
            rows.const_data_ptr<P>(), rows.const_data_ptr<P>() + rows.numel(), o + first * g.out_channels,
            [](P value) { return narrow<scalar_t>(widen<accumulate_t<scalar_t>>(value)); });
      }
    });
  });
  return out.contiguous(layout_of(features));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> deform_conv_backward_cpu(
    const at::Tensor& gradient, const at::Tensor& features, const at::Tensor& offset, const at::Tensor& weight,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, std::array<bool, 3> needs) {
  const Geometry g = check_deform_conv(features, offset, weight, stride, padding, dilation);
  check_gradient(gradient, features, g);
  const PlainTensors plain;
  const auto wide = accumulate_type(features);
  const at::Tensor to_features = start_sums(features, wide, needs[0]);
  const at::Tensor to_offset = start_sums(offset, wide, needs[1]);
  const at::Tensor to_weight = start_sums(weight, wide, needs[2]);
  const auto finish = [&] {
    return std::tuple(
        finish_sums(to_features, features), finish_sums(to_offset, offset), finish_sums(to_weight, weight));
  };
  if (gradient.numel() == 0 || g.row() == 0) return finish();
  const at::Tensor from = features.contiguous(kLayout);
  const at::Tensor where = offset.to(wide).contiguous(kLayout);
  const at::Tensor slopes = rows_of(gradient.contiguous(kLayout));
  const at::Tensor matrix = matrix_of(weight).to(wide);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, features.scalar_type(), "deform_conv_backward", [&] {
    using A = accumulate_t<scalar_t>;
    const auto* f = from.const_data_ptr<scalar_t>();
    const auto* w = where.const_data_ptr<A>();
    const int64_t tile = std::min(tile_of(g.row() * sizeof(A), kBackwardTile), g.cells());
    const at::Tensor columns = at::empty({needs[2] ? tile : 0, g.row()}, matrix.options());
    for (int64_t first = 0; first < g.cells(); first += tile) {
      const int64_t end = std::min(first + tile, g.cells());
      const at::Tensor slope = slopes.slice(0, first, end).to(wide);
      if (needs[2]) {
        auto* c = columns.mutable_data_ptr<A>();
        at::parallel_for(first, end, grain(g.row()), [&](int64_t from, int64_t to) {
          sample(f, w, c + (from - first) * g.row(), from, to, g);
        });
        to_weight.view(matrix.sizes()).add_(product(slope.t(), columns.narrow(0, 0, end - first).t()));
      }
      if (!needs[0] && !needs[1]) continue;
      const at::Tensor to_columns = product(slope, matrix.t());
      const auto* c = to_columns.const_data_ptr<A>();
      if (needs[0]) scatter(c, w, to_features.mutable_data_ptr<A>(), first, end, g);
      if (needs[1]) slope_of_offset(c, f, w, to_offset.mutable_data_ptr<A>(), first, end, g);
    }
  });
  return finish();
}

}  // namespace

TORCH_LIBRARY_IMPL(accel_ops, CPU, library) {
  library.impl("deform_conv", &deform_conv_cpu);
  library.impl("deform_conv_backward", &deform_conv_backward_cpu);
}

}  // namespace accel_ops
