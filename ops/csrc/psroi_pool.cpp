// accel_ops::psroi_pool on the CPU. The maps of one bin are laid side by side, cell by cell, so that the inner loops
// run over outputs. No atomics: every sum is taken in a fixed order, so results repeat exactly.
#include "convert.h"
#include "parallel.h"
#include "psroi_pool.h"

#include <algorithm>
#include <vector>

namespace accel_ops {
namespace {

struct Shape {
  int64_t batch, outputs, group, height, width, pooled, regions;
  int64_t planes() const { return group * group; }
  int64_t cells() const { return height * width; }
  int64_t plane_of(int64_t i, int64_t j) const { return i * group / pooled * group + j * group / pooled; }
};

// maps: (B, group * group, H, W, outputs). out: (R, outputs, pooled, pooled).
template <typename T>
void forward(const T* maps, const float* rois, T* out, const Shape& s, float scale) {
  using A = accumulate_t<T>;
  const int64_t bins = s.pooled * s.pooled;
  parallel_for(0, s.regions, grain(bins * s.outputs * 8), [&](int64_t begin, int64_t end) {
    std::vector<A> sums(s.outputs);
    for (int64_t r = begin; r < end; ++r) {
      const Region region = region_of(rois + r * 5, s.batch, s.pooled, scale);
      T* to = out + r * s.outputs * bins;
      if (region.image < 0) {
        std::fill(to, to + s.outputs * bins, T(0));
        continue;
      }
      for (int64_t i = 0; i < s.pooled; ++i) {
        const Range rows = cells_of(region.rows, i, s.height);
        for (int64_t j = 0; j < s.pooled; ++j) {
          const Range columns = cells_of(region.columns, j, s.width);
          const T* map = maps + (region.image * s.planes() + s.plane_of(i, j)) * s.cells() * s.outputs;
          std::fill(sums.begin(), sums.end(), A(0));
          A* sum = sums.data();
          for (int64_t y = rows.first; y < rows.end; ++y) {
            for (int64_t x = columns.first; x < columns.end; ++x) {
              const T* from = map + (y * s.width + x) * s.outputs;
#pragma omp simd
              for (int64_t k = 0; k < s.outputs; ++k) sum[k] += widen<A>(from[k]);
            }
          }
          const A count = static_cast<A>(std::max<int64_t>(1, rows.count() * columns.count()));
          for (int64_t k = 0; k < s.outputs; ++k) to[k * bins + i * s.pooled + j] = narrow<T>(sum[k] / count);
        }
      }
    }
  });
}

// gradient: (R, pooled, pooled, outputs). maps: (B, group * group, H, W, outputs). A thread owns planes of images.
template <typename T>
void backward(const T* gradient, const float* rois, T* maps, const Shape& s, float scale) {
  using A = accumulate_t<T>;
  std::vector<Region> regions(s.regions);
  for (int64_t r = 0; r < s.regions; ++r) regions[r] = region_of(rois + r * 5, s.batch, s.pooled, scale);
  parallel_for(0, s.batch * s.planes(), 1, [&](int64_t begin, int64_t end) {
    std::vector<A> sums(s.cells() * s.outputs), shares(s.outputs);
    for (int64_t plane = begin; plane < end; ++plane) {
      std::fill(sums.begin(), sums.end(), A(0));
      for (int64_t i = 0; i < s.pooled; ++i) {
        for (int64_t j = 0; j < s.pooled; ++j) {
          if (s.plane_of(i, j) != plane % s.planes()) continue;
          for (int64_t r = 0; r < s.regions; ++r) {
            const Region& region = regions[r];
            if (region.image != plane / s.planes()) continue;
            const Range rows = cells_of(region.rows, i, s.height), columns = cells_of(region.columns, j, s.width);
            const A count = static_cast<A>(std::max<int64_t>(1, rows.count() * columns.count()));
            const T* from = gradient + ((r * s.pooled + i) * s.pooled + j) * s.outputs;
            A* share = shares.data();
            for (int64_t k = 0; k < s.outputs; ++k) share[k] = widen<A>(from[k]) / count;
            for (int64_t y = rows.first; y < rows.end; ++y) {
              for (int64_t x = columns.first; x < columns.end; ++x) {
                A* sum = sums.data() + (y * s.width + x) * s.outputs;
#pragma omp simd
                for (int64_t k = 0; k < s.outputs; ++k) sum[k] += share[k];
              }
            }
          }
        }
      }
      T* to = maps + plane * s.cells() * s.outputs;
      for (int64_t n = 0; n < s.cells() * s.outputs; ++n) to[n] = narrow<T>(sums[n]);
    }
  });
}

// features (B, C, H, W), in any layout, as (B, group * group, H, W, outputs) in a row.
template <typename T>
Tensor to_maps(const Tensor& features, const Shape& s) {
  const Sizes step = features.strides();
  const Tensor view = tensor_at(
      features.const_data_ptr<T>(), {s.batch, s.planes(), s.height, s.width, s.outputs},
      {step[0], step[1], step[2], step[3], step[1] * s.planes()});
  return in_form(view, features.scalar_type());
}

// And back: (B, C, H, W), contiguous.
template <typename T>
void from_maps(const Tensor& maps, const Tensor& features, const Shape& s) {
  const int64_t plane = s.cells(), output = s.planes() * plane;
  const Tensor view = tensor_at(
      features.mutable_data_ptr<T>(), {s.batch, s.planes(), s.height, s.width, s.outputs},
      {s.outputs * output, plane, s.width, 1, output});
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(view.get(), maps.get(), 0));
}

// gradient (R, outputs, pooled, pooled), in any layout, as (R, pooled, pooled, outputs) in a row.
template <typename T>
Tensor outputs_last(const Tensor& gradient, const Shape& s) {
  const Sizes step = gradient.strides();
  const Tensor view = tensor_at(
      gradient.const_data_ptr<T>(), {s.regions, s.pooled, s.pooled, s.outputs}, {step[0], step[2], step[3], step[1]});
  return in_form(view, gradient.scalar_type());
}

Tensor psroi_pool_cpu(
    const Tensor& features, const Tensor& rois, int64_t outputs, int64_t pooled, int64_t group, double scale) {
  check_psroi_pool(features, rois, outputs, pooled, group, scale);
  const Shape shape{features.size(0), outputs, group, features.size(2), features.size(3), pooled, rois.size(0)};
  const auto type = features.scalar_type();
  if (features.numel() == 0) return zeros({shape.regions, outputs, pooled, pooled}, type);
  Tensor out = empty({shape.regions, outputs, pooled, pooled}, type);
  if (out.numel() == 0) return out;
  const Tensor where = in_form(rois, ScalarType::Float);
  with_floating_type(type, [&](auto zero) {
    using scalar_t = decltype(zero);
    const Tensor maps = to_maps<scalar_t>(features, shape);
    forward(
        maps.const_data_ptr<scalar_t>(), where.const_data_ptr<float>(), out.mutable_data_ptr<scalar_t>(), shape,
        static_cast<float>(scale));
  });
  return out;
}

Tensor psroi_pool_backward_cpu(
    const Tensor& gradient, const Tensor& rois, Sizes sizes, int64_t group, double scale) {
  check_psroi_pool_backward(gradient, rois, sizes, group);
  const Shape shape{sizes[0], gradient.size(1), group, sizes[2], sizes[3], gradient.size(2), rois.size(0)};
  const auto type = gradient.scalar_type();
  if (gradient.numel() == 0) return zeros(sizes, type);
  Tensor out = empty(sizes, type);
  if (out.numel() == 0) return out;
  const Tensor where = in_form(rois, ScalarType::Float);
  with_floating_type(type, [&](auto zero) {
    using scalar_t = decltype(zero);
    const Tensor from = outputs_last<scalar_t>(gradient, shape);
    const Tensor maps = empty({shape.batch, shape.planes(), shape.height, shape.width, shape.outputs}, type);
    backward(
        from.const_data_ptr<scalar_t>(), where.const_data_ptr<float>(), maps.mutable_data_ptr<scalar_t>(), shape,
        static_cast<float>(scale));
    from_maps<scalar_t>(maps, out, shape);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(accel_ops, CPU, library) {
  library.impl("psroi_pool", TORCH_BOX(&psroi_pool_cpu));
  library.impl("psroi_pool_backward", TORCH_BOX(&psroi_pool_backward_cpu));
}

}  // namespace accel_ops
