// accel_ops::upsample_argmax on the CPU. A thread takes rows of patches, and keeps the two rows of cells around them
// in float32 (float64 for float64), a class after the other.
#include "convert.h"
#include "parallel.h"
#include "upsample_argmax.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

namespace accel_ops {
namespace {

using Bytes = std::vector<uint8_t>;

struct Shape {
  int64_t batch, classes, height, width;  // of the scores
  int64_t full_height, full_width;
  int64_t rows, columns;  // of patches
  bool zero_border;
  Shape(const Tensor& t, Sizes size, std::string_view border, int64_t stride)
      : batch(t.size(0)), classes(t.size(1)), height(t.size(2)), width(t.size(3)), full_height(size[0]),
        full_width(size[1]), rows(patches_of(size[0], stride)), columns(patches_of(size[1], stride)),
        zero_border(border == "zero") {}
};

// A row of cells, bias added: the corners above or below a row of patches, with those beyond the map.
template <typename A>
struct Corners {
  std::vector<A> values;  // (classes, columns + 1)
  bool ordinary;          // all of them, as is_ordinary says
};

template <typename T, typename A>
void read_corners(
    const T* scores, Sizes strides, const A* bias, const Shape& s, int64_t image, int64_t row,
    Corners<A>& to) {
  const int64_t cells = s.columns + 1, inside = std::min(s.width, s.columns), step = strides[3];
  const bool nothing = s.zero_border && (row < 0 || row >= s.height);
  const T* from = scores + image * strides[0] + std::clamp<int64_t>(row, 0, s.height - 1) * strides[2];
  to.values.resize(s.classes * cells);
  bool ordinary = true;
  for (int64_t k = 0; k < s.classes; ++k) {
    A* values = to.values.data() + k * cells;
    const T* line = from + k * strides[1];
    if (nothing) {
      std::fill_n(values, cells, bias[k]);
    } else {
      for (int64_t x = 0; x < inside; ++x) values[x + 1] = widen<A>(line[x * step]) + bias[k];
      values[0] = s.zero_border ? bias[k] : values[1];
      std::fill_n(values + inside + 1, cells - inside - 1, s.zero_border ? bias[k] : values[inside]);
    }
    for (int64_t x = 0; x < cells; ++x) ordinary &= is_ordinary(values[x]);
  }
  to.ordinary = ordinary;
}

// Of every patch of a row, the classes that can be among the `places` highest of some pixel, in ascending order:
// list (columns, classes), count (columns).
template <int places, typename A>
struct Candidates {
  Bytes list, count;
  std::vector<A> ceiling, floor, second_floor;

  explicit Candidates(const Shape& s)
      : list(s.columns * s.classes), count(s.columns), ceiling(s.classes * s.columns), floor(s.columns),
        second_floor(s.columns) {}

  void find(const Corners<A>& upper, const Corners<A>& lower, const Shape& s) {
    const int64_t columns = s.columns, cells = columns + 1;
    // The highest and the second highest of the classes' lower bounds; where bounds do not hold, what excludes none.
    std::fill(floor.begin(), floor.end(), -std::numeric_limits<A>::infinity());
    std::fill(second_floor.begin(), second_floor.end(), -std::numeric_limits<A>::infinity());
    for (int64_t k = 0; k < s.classes && upper.ordinary && lower.ordinary; ++k) {
      const A *u = upper.values.data() + k * cells, *l = lower.values.data() + k * cells;
      A *high = ceiling.data() + k * columns, *first = floor.data(), *second = second_floor.data();
#pragma omp simd
      for (int64_t x = 0; x < columns; ++x) {
        const A most = std::max(std::max(u[x], u[x + 1]), std::max(l[x], l[x + 1]));
        const A least = std::min(std::min(u[x], u[x + 1]), std::min(l[x], l[x + 1]));
        high[x] = most + rounding(most);
        const A low = least - rounding(least);
        if constexpr (places == 2) second[x] = std::max(second[x], std::min(first[x], low));
        first[x] = std::max(first[x], low);
      }
    }
    const A* needed = places == 1 ? floor.data() : second_floor.data();
    std::fill(count.begin(), count.end(), uint8_t(0));
    for (int64_t k = 0; k < s.classes; ++k) {
      const A* high = ceiling.data() + k * columns;
      for (int64_t x = 0; x < columns; ++x) {
        list[x * s.classes + count[x]] = static_cast<uint8_t>(k);
        count[x] += !(high[x] < needed[x]);
      }
    }
  }
};

template <int stride, typename A>
struct Weights {
  A first[stride] = {}, second[stride] = {};
  constexpr Weights() {
    for (int i = 0; i < stride; ++i) {
      second[i] = fraction<stride, A>(i);
      first[i] = 1 - second[i];
    }
  }
};

// One patch: labels, and margins if places is 2, both with `step` from row to row. upper and lower point at its left
// corners of class 0; the next class's are `cells` further.
template <int stride, int places, typename A>
void interpolate(
    const A* upper, const A* lower, int64_t cells, const uint8_t* classes, int count, uint8_t* labels, float* margins,
    int64_t step) {
  static constexpr Weights<stride, A> weights;
  constexpr A least = -std::numeric_limits<A>::infinity();
  A best[stride][stride], winner[stride][stride], second[stride][stride];
  for (int y = 0; y < stride; ++y) {
    for (int x = 0; x < stride; ++x) best[y][x] = second[y][x] = least, winner[y][x] = 0;
  }
  for (int c = 0; c < count; ++c) {
    const A *u = upper + classes[c] * cells, *l = lower + classes[c] * cells, label = classes[c];
    A top[stride], bottom[stride];
    for (int x = 0; x < stride; ++x) {
      top[x] = weights.first[x] * u[0] + weights.second[x] * u[1];
      bottom[x] = weights.first[x] * l[0] + weights.second[x] * l[1];
    }
    for (int y = 0; y < stride; ++y) {
      const A above = weights.first[y], below = weights.second[y];
#pragma omp simd
      for (int x = 0; x < stride; ++x) {
        const A value = above * top[x] + below * bottom[x], held = best[y][x];
        // As argmax: ties to the lower class, the first NaN before all else.
        const bool better = !(value <= held) && held == held;
        if constexpr (places == 2) {
          const A next = second[y][x];
          second[y][x] = better ? held : value > next ? value : next;
        }
        best[y][x] = better ? value : held;
        winner[y][x] = better ? label : winner[y][x];
      }
    }
  }
  for (int y = 0; y < stride; ++y) {
    for (int x = 0; x < stride; ++x) labels[y * step + x] = static_cast<uint8_t>(static_cast<int>(winner[y][x]));
    if constexpr (places == 2) {
      for (int x = 0; x < stride; ++x) margins[y * step + x] = static_cast<float>(best[y][x] - second[y][x]);
    }
  }
}

// places: 1 for labels, 2 for labels and margins.
template <int stride, int places, typename T>
void upsample_argmax(
    const T* scores, Sizes strides, const accumulate_t<T>* bias, const Shape& s, uint8_t* labels,
    float* margins) {
  using A = accumulate_t<T>;
  const int64_t cells = s.columns + 1, wide = s.columns * stride;
  // Not less than 16384 pixels for a thread: 64 patches at stride 16.
  const int64_t grain = std::max<int64_t>(1, 64 * 256 / (stride * wide));
  parallel_for(0, s.batch * s.rows, grain, [&](int64_t begin, int64_t end) {
    Corners<A> upper, lower;
    Candidates<places, A> candidates(s);
    // A row of patches, whole; what of it belongs to the frame is copied.
    Bytes label_rows(stride * wide);
    std::vector<float> margin_rows(places == 2 ? stride * wide : 0);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / s.rows, row = task % s.rows;
      std::swap(upper, lower);
      if (task == begin || row == 0) read_corners(scores, strides, bias, s, image, row - 1, upper);
      read_corners(scores, strides, bias, s, image, row, lower);
      candidates.find(upper, lower, s);
      for (int64_t column = 0; column < s.columns; ++column) {
        const uint8_t* classes = candidates.list.data() + column * s.classes;
        uint8_t* to = label_rows.data() + column * stride;
        float* to_margins = places == 2 ? margin_rows.data() + column * stride : nullptr;
        if (places == 1 && candidates.count[column] == 1) {
          for (int y = 0; y < stride; ++y) std::memset(to + y * wide, classes[0], stride);
        } else {
          interpolate<stride, places>(
              upper.values.data() + column, lower.values.data() + column, cells, classes, candidates.count[column], to,
              to_margins, wide);
        }
      }
      const int64_t first = row * stride - stride / 2;
      for (int64_t y = std::max<int64_t>(first, 0); y < std::min(first + stride, s.full_height); ++y) {
        const int64_t from = (y - first) * wide + stride / 2, to = (image * s.full_height + y) * s.full_width;
        std::copy_n(label_rows.data() + from, s.full_width, labels + to);
        if (places == 2) std::copy_n(margin_rows.data() + from, s.full_width, margins + to);
      }
    }
  });
}

std::tuple<Tensor, Tensor> run(
    const Tensor& scores, Sizes size, const std::optional<Tensor>& bias, std::string_view border,
    int64_t stride, bool with_margin) {
  check_upsample_argmax(scores, size, bias, border, stride);
  const Shape shape(scores, size, border, stride);
  Tensor labels = empty({shape.batch, size[0], size[1]}, ScalarType::Byte);
  Tensor margin;
  if (with_margin) margin = empty(labels.sizes(), ScalarType::Float);
  if (shape.classes == 1) {
    std::fill_n(labels.mutable_data_ptr<uint8_t>(), labels.numel(), uint8_t(0));
    if (with_margin) {
      std::fill_n(margin.mutable_data_ptr<float>(), margin.numel(), std::numeric_limits<float>::infinity());
    }
    return {labels, margin};
  }
  const auto type = accumulate_type(scores);
  const Tensor offset =
      bias.has_value() ? in_form(*bias, type) : zeros({shape.classes}, type);
  with_floating_type(scores.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    const auto* from = scores.const_data_ptr<scalar_t>();
    const auto* b = offset.const_data_ptr<accumulate_t<scalar_t>>();
    auto* l = labels.mutable_data_ptr<uint8_t>();
    auto* m = with_margin ? margin.mutable_data_ptr<float>() : nullptr;
    with_stride(stride, [&](auto known) {
      constexpr int S = decltype(known)::value;
      if (with_margin) {
        upsample_argmax<S, 2>(from, scores.strides(), b, shape, l, m);
      } else {
        upsample_argmax<S, 1>(from, scores.strides(), b, shape, l, m);
      }
    });
  });
  return {labels, margin};
}

Tensor upsample_argmax_cpu(
    const Tensor& scores, Sizes size, const std::optional<Tensor>& bias, std::string_view border,
    int64_t stride) {
  return std::get<0>(run(scores, size, bias, border, stride, false));
}

std::tuple<Tensor, Tensor> upsample_argmax_margin_cpu(
    const Tensor& scores, Sizes size, const std::optional<Tensor>& bias, std::string_view border,
    int64_t stride) {
  return run(scores, size, bias, border, stride, true);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(accel_ops, CPU, library) {
  library.impl("upsample_argmax", TORCH_BOX(&upsample_argmax_cpu));
  library.impl("upsample_argmax_margin", TORCH_BOX(&upsample_argmax_margin_cpu));
}

}  // namespace accel_ops
