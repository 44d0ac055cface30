// accel_ops::psroi_pool on the CPU. The maps of one bin are laid side by side, cell by cell, so that the inner loops
// run over outputs. No atomics: every sum is taken in a fixed order, so results repeat exactly.
#include "convert.h"
#include "parallel.h"
#include "psroi_pool.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

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
  at::parallel_for(0, s.regions, grain(bins * s.outputs * 8), [&](int64_t begin, int64_t end) {
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
  at::parallel_for(0, s.batch * s.planes(), 1, [&](int64_t begin, int64_t end) {
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

at::Tensor psroi_pool_cpu(
    const at::Tensor& features, const at::Tensor& rois, int64_t outputs, int64_t pooled, int64_t group, double scale) {
  check_psroi_pool(features, rois, outputs, pooled, group, scale);
  const Shape shape{features.size(0), outputs, group, features.size(2), features.size(3), pooled, rois.size(0)};
  at::Tensor out = at::empty({shape.regions, outputs, pooled, pooled}, features.options());
  if (features.numel() == 0) return out.zero_();
  if (out.numel() == 0) return out;
  const at::Tensor maps = features.unflatten(1, {outputs, group * group}).permute({0, 2, 3, 4, 1}).contiguous();
  const at::Tensor where = rois.contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, features.scalar_type(), "psroi_pool", [&] {
    forward<scalar_t>(
        maps.const_data_ptr<scalar_t>(), where.const_data_ptr<float>(), out.mutable_data_ptr<scalar_t>(), shape,
        static_cast<float>(scale));
  });
  return out;
}

at::Tensor psroi_pool_backward_cpu(
    const at::Tensor& gradient, const at::Tensor& rois, at::IntArrayRef sizes, int64_t group, double scale) {
  check_psroi_pool_backward(gradient, rois, sizes, group);
  const Shape shape{sizes[0], gradient.size(1), group, sizes[2], sizes[3], gradient.size(2), rois.size(0)};
  at::Tensor maps =
      at::empty({shape.batch, shape.planes(), shape.height, shape.width, shape.outputs}, gradient.options());
  if (maps.numel() != 0) {
    const at::Tensor from = gradient.permute({0, 2, 3, 1}).contiguous(), where = rois.contiguous();
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, gradient.scalar_type(), "psroi_pool_backward", [&] {
      backward<scalar_t>(
          from.const_data_ptr<scalar_t>(), where.const_data_ptr<float>(), maps.mutable_data_ptr<scalar_t>(), shape,
          static_cast<float>(scale));
    });
  }
  return maps.permute({0, 4, 1, 2, 3}).contiguous().view(sizes);
}

}  // namespace

TORCH_LIBRARY_IMPL(accel_ops, CPU, library) {
  library.impl("psroi_pool", &psroi_pool_cpu);
  library.impl("psroi_pool_backward", &psroi_pool_backward_cpu);
}

}  // namespace accel_ops
