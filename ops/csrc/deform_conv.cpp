// accel_ops::deform_conv on the CPU: a tile of columns at a time, which stays in the cache, and its product with the
// weight, which takes nine tenths of the time. A thread does both for its tiles, so that threads wait for each other
// once: if other work runs on the machine, every such wait is long. Gradients of half types are taken in float32.
#include "convert.h"
#include "deform_conv.h"
#include "parallel.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

// Not every build of PyTorch has oneDNN; the switch that turns it off is not in the stable ABI. So these may be absent.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_cpu__linear_pointwise(
    AtenTensorHandle a, AtenTensorHandle b, AtenTensorHandle* bias, const char* attribute, const double** scalars,
    int64_t count, const char** algorithm, AtenTensorHandle* made);
extern "C" AOTITorchError aoti_torch_cpu_mm_out(AtenTensorHandle out, AtenTensorHandle a, AtenTensorHandle b);
namespace at {
struct Context {
  __attribute__((weak)) bool userEnabledMkldnn() const;
};
__attribute__((weak)) Context& globalContext();
}  // namespace at

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
  const int64_t tile = tile_of(row, kTile), tiles = divide_up(cells, tile);
  const int64_t threads = thread_count();
  if (tiles % threads == 0) return tile;
  const int64_t even = divide_up(cells, divide_up(tiles, threads) * threads);
  return std::clamp(divide_up(even, kMultiple) * kMultiple, kLeast, tile);
}

// A span of time that PyTorch's profiler shows.
struct Recorded {
  AtenRecordFunctionHandle span;
  explicit Recorded(const char* name) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_record_function_start(name, nullptr, nullptr, 0, &span));
  }
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;
  ~Recorded() { aoti_record_function_end(span); }
};

// Is oneDNN there, and has nobody switched it off?
bool has_onednn() {
  if (!aoti_torch_cpu__linear_pointwise) return false;
  return !&at::globalContext || !&at::Context::userEnabledMkldnn || at::globalContext().userEnabledMkldnn();
}

// a (M, K) times the transpose of b (N, K). These are C functions of the kernels themselves: neither autograd nor
// autocast, of which a kernel's own threads do not know that they are off, stand before them.
Tensor product(const Tensor& a, const Tensor& b) {
  const Recorded recorded("accel_ops::product");
  AtenTensorHandle made;
  // oneDNN multiplies float32 at the full rate of AMD's CPUs too, MKL, which the other takes, at half of it.
  if (a.scalar_type() != ScalarType::Double && has_onednn()) {
    const char* algorithm = "";
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_cpu__linear_pointwise(a.get(), b.get(), nullptr, "none", nullptr, 0, &algorithm, &made));
    return Tensor(made);
  }
  const int64_t sizes[] = {b.size(1), b.size(0)}, strides[] = {b.stride(1), b.stride(0)};
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(b.get(), 2, sizes, strides, 0, &made));
  const Tensor transposed(made), out = empty({a.size(0), b.size(0)}, a.scalar_type());
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(out.get(), a.get(), transposed.get()));
  return out;
}

// Zeros to add up the gradient by `like` (B, C, H, W) in, channels innermost, or nothing if it is not needed.
Tensor start_sums(const Tensor& like, ScalarType type, bool needed) {
  return needed ? zeros(like.sizes(), type, kLayout) : empty({0}, type);
}

// The sums as a gradient of the shape, type and layout of `like`.
Tensor finish_sums(const Tensor& sums, const Tensor& like) {
  return in_form(sums, like.scalar_type(), sums.dim() == 4 ? layout_of(like) : MemoryFormat::Contiguous);
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
  parallel_for(0, g.channels, grain(4 * (end - first) * g.taps()), [&](int64_t from, int64_t to) {
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
  parallel_for(first, end, grain(2 * g.row()), [&](int64_t from, int64_t to) {
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

Tensor deform_conv_cpu(
    const Tensor& features, const Tensor& offset, const Tensor& weight, Sizes stride, Sizes padding, Sizes dilation) {
  const Geometry g = check_deform_conv(features, offset, weight, stride, padding, dilation);
  const auto type = features.scalar_type();
  const int64_t out_sizes[] = {g.batch, g.out_channels, g.out_height, g.out_width};
  Tensor out = empty(out_sizes, type, kLayout);
  if (out.numel() == 0 || g.row() == 0) return zeros(out_sizes, type, layout_of(features));
  const Tensor from = in_form(features, type, kLayout), where = in_form(offset, accumulate_type(features), kLayout);
  with_floating_type(type, [&](auto zero) {
    using scalar_t = decltype(zero);
    using P = product_t<scalar_t>;
    constexpr auto product_type = torch::headeronly::CppTypeToScalarType<P>::value;
    const auto* f = from.const_data_ptr<scalar_t>();
    const auto* w = where.const_data_ptr<accumulate_t<scalar_t>>();
    auto* o = out.mutable_data_ptr<scalar_t>();
    const Tensor channels_last = in_form(weight, product_type, kLayout);
    const Tensor matrix = matrix_at(channels_last.const_data_ptr<P>(), g.out_channels, g.row(), g.row(), 1);
    const int64_t tile = tile_of_each(g.row() * sizeof(P), g.cells());
    parallel_for(0, divide_up(g.cells(), tile), 1, [&](int64_t begin, int64_t end) {
      const Tensor columns = empty({std::min(tile, g.cells()), g.row()}, product_type);
      auto* c = columns.mutable_data_ptr<P>();
      for (int64_t first = begin * tile; first < std::min(end * tile, g.cells()); first += tile) {
        const int64_t count = std::min(tile, g.cells() - first);
        sample(f, w, c, first, first + count, g);
        const Tensor rows = product(matrix_at(c, count, g.row(), g.row(), 1), matrix);
        std::transform(
            rows.const_data_ptr<P>(), rows.const_data_ptr<P>() + rows.numel(), o + first * g.out_channels,
            [](P value) { return narrow<scalar_t>(widen<accumulate_t<scalar_t>>(value)); });
      }
    });
  });
  return in_form(out, type, layout_of(features));
}

std::tuple<Tensor, Tensor, Tensor> deform_conv_backward_cpu(
    const Tensor& gradient, const Tensor& features, const Tensor& offset, const Tensor& weight, Sizes stride,
    Sizes padding, Sizes dilation, const std::vector<bool>& needs) {
  const Geometry g = check_deform_conv(features, offset, weight, stride, padding, dilation);
  check_gradient(gradient, features, g);
  const auto type = features.scalar_type(), wide = accumulate_type(features);
  const Tensor to_features = start_sums(features, wide, needs[0]);
  const Tensor to_offset = start_sums(offset, wide, needs[1]);
  const Tensor to_weight = start_sums(weight, wide, needs[2]);
  const auto finish = [&] {
    return std::tuple(
        finish_sums(to_features, features), finish_sums(to_offset, offset), finish_sums(to_weight, weight));
  };
  if (gradient.numel() == 0 || g.row() == 0) return finish();
  const Tensor from = in_form(features, type, kLayout), slopes = in_form(gradient, type, kLayout);
  const Tensor where = in_form(offset, wide, kLayout), channels_last = in_form(weight, wide, kLayout);
  with_floating_type(type, [&](auto zero) {
    using scalar_t = decltype(zero);
    using A = accumulate_t<scalar_t>;
    const int64_t row = g.row(), out = g.out_channels;
    const auto* f = from.const_data_ptr<scalar_t>();
    const auto* w = where.const_data_ptr<A>();
    const auto* s = slopes.const_data_ptr<scalar_t>();
    const Tensor transposed = matrix_at(channels_last.const_data_ptr<A>(), row, out, 1, row);
    const int64_t tile = std::min(tile_of(row * sizeof(A), kBackwardTile), g.cells());
    const Tensor columns = empty({needs[2] ? tile : 0, row}, wide);
    for (int64_t first = 0; first < g.cells(); first += tile) {
      const int64_t end = std::min(first + tile, g.cells()), count = end - first;
      const Tensor slope = in_form(matrix_at(s + first * out, count, out, out, 1), wide);
      if (needs[2]) {
        auto* c = columns.mutable_data_ptr<A>();
        parallel_for(first, end, grain(row), [&](int64_t from, int64_t to) {
          sample(f, w, c + (from - first) * row, from, to, g);
        });
        const Tensor part = product(
            matrix_at(slope.const_data_ptr<A>(), out, count, 1, out), matrix_at(c, row, count, 1, row));
        const A* more = part.const_data_ptr<A>();
        A* sum = to_weight.mutable_data_ptr<A>();
#pragma omp simd
        for (int64_t i = 0; i < out * row; ++i) sum[i] += more[i];
      }
      if (!needs[0] && !needs[1]) continue;
      const Tensor to_columns = product(slope, transposed);
      const auto* c = to_columns.const_data_ptr<A>();
      if (needs[0]) scatter(c, w, to_features.mutable_data_ptr<A>(), first, end, g);
      if (needs[1]) slope_of_offset(c, f, w, to_offset.mutable_data_ptr<A>(), first, end, g);
    }
  });
  return finish();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(accel_ops, CPU, library) {
  library.impl("deform_conv", TORCH_BOX(&deform_conv_cpu));
  library.impl("deform_conv_backward", TORCH_BOX(&deform_conv_backward_cpu));
}

}  // namespace accel_ops
