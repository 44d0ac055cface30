// accel_ops::sample_attend on the CPU: the steps that work with channels. Maps are packed first: float32 (float64 for
// float64), a block of channels after the other, with zeros between the rows, so that inner loops know neither types
// nor layouts nor borders. No atomics: every sum is taken in a fixed order, so results repeat exactly.
#pragma once

#include "convert.h"
#include "parallel.h"
#include "sample_attend.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>
#include <vector>

namespace accel_ops {

#ifdef __AVX512F__
constexpr int kVectorBytes = 64;
#else
constexpr int kVectorBytes = 32;
#endif

template <typename A, int bytes = kVectorBytes>
struct VectorOf {
  typedef A type __attribute__((vector_size(bytes), may_alias));
};
template <typename A>
using Vector = typename VectorOf<A>::type;

template <typename A>
constexpr int kLanes = kVectorBytes / sizeof(A);
constexpr int kVectors = 4;  // in a block of channels
template <typename A>
constexpr int64_t kBlock = kVectors * kLanes<A>;
constexpr int64_t kBlocks = 4;  // that a correlation packs at once, so that some rows stay in the cache
constexpr int kCells = 4;   // that a gathering sum takes at once
constexpr int kScores = 4;  // that a correlation takes at once

struct Shape {
  int64_t batch, height, width;
  int64_t wide;  // the width of rows of scores and weights, of which the last 0 to 3 mean nothing
  explicit Shape(const Tensor& t)
      : batch(t.size(0)), height(t.size(2)), width(t.size(3)), wide((width + kCells - 1) / kCells * kCells) {}
  int64_t rows() const { return batch * height; }
};

struct Displacement {
  int dy, dx;
  auto operator<=>(const Displacement&) const = default;
};

// Distinct displacements in ascending order.
struct Displacements {
  std::vector<Displacement> list;
  int64_t reach = 0;  // the largest |dx|

  int64_t size() const { return static_cast<int64_t>(list.size()); }

  // Those that lead from row y into the map.
  std::pair<int64_t, int64_t> of_row(int64_t y, int64_t height) const {
    const auto before = [](const Displacement& d, int64_t dy) { return d.dy < dy; };
    const auto first = std::lower_bound(list.begin(), list.end(), -y, before);
    const auto last = std::lower_bound(first, list.end(), height - y, before);
    return {first - list.begin(), last - list.begin()};
  }

  // The rows of the map that those of rows top to bottom - 1 lead to: the first, and the one after the last.
  std::pair<int64_t, int64_t> rows_around(int64_t top, int64_t bottom, int64_t height) const {
    if (list.empty()) return {top, top};
    const auto clamp = [&](int64_t y) { return std::clamp<int64_t>(y, 0, height); };
    return {clamp(top + list.front().dy), clamp(bottom + list.back().dy)};
  }

  Displacements reversed() const {
    Displacements back{{list.rbegin(), list.rend()}, reach};
    for (Displacement& d : back.list) d = {-d.dy, -d.dx};
    return back;
  }
};

// What is the same at every cell: the displacements of all offsets, and the part that each offset has in them.
template <typename A>
struct Plan {
  Displacements displacements;
  std::vector<Samples<A>> samples;           // of every offset
  std::vector<std::array<int64_t, 4>> taps;  // of every offset, in displacements; -1 where there is none

  Plan(const Tensor& offsets, const Shape& s) : samples(offsets.size(0)), taps(offsets.size(0)) {
    const A* offset = offsets.const_data_ptr<A>();
    auto& list = displacements.list;
    const auto each = [&](auto&& function) {
      for (size_t k = 0; k < samples.size(); ++k) {
        for (int tap = 0; tap < 4; ++tap) {
          const Displacement d = {samples[k].dy(tap), samples[k].dx(tap)};
          const bool reached = samples[k].somewhere && reaches(d.dx, d.dy, s.height, s.width);
          function(k, tap, d, reached);
        }
      }
    };
    for (size_t k = 0; k < samples.size(); ++k) {
      samples[k] = samples_at(offset[2 * k], offset[2 * k + 1], s.height, s.width);
    }
    each([&](size_t, int, Displacement d, bool reached) {
      if (reached) list.push_back(d);
    });
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
    each([&](size_t k, int tap, Displacement d, bool reached) {
      taps[k][tap] = reached ? std::lower_bound(list.begin(), list.end(), d) - list.begin() : -1;
    });
    for (const Displacement& d : list) displacements.reach = std::max<int64_t>(displacements.reach, std::abs(d.dx));
  }

  int64_t size() const { return static_cast<int64_t>(samples.size()); }
};

// Rows of one image of a map, some blocks of channels. Row y begins at cell pad + (y - top) * pitch; before, between
// and after the rows are zeros.
template <typename A>
struct Packed {
  int64_t blocks, pad, pitch, plane;  // plane: from block to block
  int64_t top = 0;
  Tensor storage;
  A* data;

  Packed(const Tensor& map, int64_t blocks, int64_t rows, int64_t pad)
      : blocks(blocks), pad(pad), pitch(map.size(3) + pad), plane((pad + rows * pitch + kCells) * kBlock<A>),
        storage(empty({blocks, plane}, accumulate_type(map))),
        data(storage.mutable_data_ptr<A>()) {}

  A* row(int64_t block, int64_t y) const { return data + block * plane + (pad + (y - top) * pitch) * kBlock<A>; }

  // Row y; `block` of this is `channels_block` of the map.
  template <typename T>
  void read_row(const Tensor& map, int64_t image, int64_t y, bool last, int64_t block, int64_t channels_block) {
    const int64_t width = map.size(3), channel = map.stride(1), cell = map.stride(3), first = channels_block * kBlock<A>;
    const int64_t count = std::clamp<int64_t>(map.size(1) - first, 0, kBlock<A>);
    const T* from = map.const_data_ptr<T>() + image * map.stride(0) + y * map.stride(2) + first * channel;
    A* to = row(block, y);
    std::fill(to - pad * kBlock<A>, to, A(0));
    if (count < kBlock<A>) std::fill(to, to + width * kBlock<A>, A(0));
    if (last) std::fill(to + width * kBlock<A>, to + (width + pad + kCells) * kBlock<A>, A(0));
    if (channel == 1) {
      for (int64_t x = 0; x < width; ++x) {
#pragma omp simd
        for (int64_t c = 0; c < count; ++c) to[x * kBlock<A> + c] = widen<A>(from[x * cell + c]);
      }
    } else {
      for (int64_t c = 0; c < count; ++c) {
        for (int64_t x = 0; x < width; ++x) to[x * kBlock<A> + c] = widen<A>(from[c * channel + x * cell]);
      }
    }
  }
};

template <typename A>
int64_t blocks_of(const Tensor& map) {
  return (map.size(1) + kBlock<A> - 1) / kBlock<A>;
}

// Where the displaced cells are in a packed map.
template <typename A>
std::vector<int64_t> steps(const Displacements& displacements, const Packed<A>& map) {
  std::vector<int64_t> steps;
  for (const Displacement& d : displacements.list) steps.push_back((d.dy * map.pitch + d.dx) * kBlock<A>);
  return steps;
}

template <typename A, int bytes = kVectorBytes>
A sum_of(typename VectorOf<A, bytes>::type vector) {
  if constexpr (bytes == sizeof(A)) {
    return vector[0];
  } else {
    typename VectorOf<A, bytes / 2>::type halves[2];
    __builtin_memcpy(halves, &vector, bytes);
    return sum_of<A, bytes / 2>(halves[0] + halves[1]);
  }
}

// <a(p), b(p + d)> of one image; scores (height, D, wide).
template <typename T, typename A>
void correlate(
    const Tensor& a, const Tensor& b, const Displacements& displacements, const Shape& s, int64_t image,
    A* scores) {
  const int64_t count = displacements.size(), all = blocks_of<A>(a), blocks = std::min(all, kBlocks);
  Packed<A> here(a, blocks, s.height, 0), there(b, blocks, s.height, displacements.reach);
  const std::vector<int64_t> step = steps(displacements, there);
  std::fill(scores, scores + s.height * count * s.wide, A(0));
  for (int64_t start = 0; start < all; start += blocks) {
    parallel_for(0, s.height, 1, [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        for (int64_t block = 0; block < blocks; ++block) {
          here.template read_row<T>(a, image, y, y + 1 == s.height, block, start + block);
          there.template read_row<T>(b, image, y, y + 1 == s.height, block, start + block);
        }
      }
    });
    parallel_for(0, s.height, 1, [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) {
        const auto [first, last] = displacements.of_row(y, s.height);
        for (int64_t j = first; j < last; j += kScores) {
          const int64_t size = std::min<int64_t>(kScores, last - j);
          int64_t to[kScores];
          for (int i = 0; i < kScores; ++i) to[i] = step[std::min(j + i, last - 1)];
          for (int64_t x = 0; x < s.width; ++x) {
            Vector<A> sum[kScores] = {};
            for (int64_t block = 0; block < blocks; ++block) {
              const A *from = here.row(block, y) + x * kBlock<A>, *other = there.row(block, y) + x * kBlock<A>;
#pragma GCC unroll 4
              for (int v = 0; v < kVectors; ++v) {
                const auto own = *reinterpret_cast<const Vector<A>*>(from + v * kLanes<A>);
#pragma GCC unroll 4
                for (int i = 0; i < kScores; ++i) {
                  sum[i] += own * *reinterpret_cast<const Vector<A>*>(other + to[i] + v * kLanes<A>);
                }
              }
            }
            A* score = scores + (y * count + j) * s.wide + x;
            for (int64_t i = 0; i < size; ++i) score[i * s.wide] += sum_of<A>(sum[i]);
          }
        }
      }
    });
  }
}

template <typename T, typename A>
void write(const A* row, int64_t width, int64_t count, T* to, int64_t channel, int64_t cell) {
  if (channel == 1) {
    for (int64_t x = 0; x < width; ++x) {
#pragma omp simd
      for (int64_t c = 0; c < count; ++c) to[x * cell + c] = narrow<T>(row[x * kBlock<A> + c]);
    }
  } else {
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t x = 0; x < width; ++x) to[c * channel + x * cell] = narrow<T>(row[x * kBlock<A> + c]);
    }
  }
}

// Sums of weights(p, d) * map(p + d), written to one image of `out`; weights (height, D, wide).
template <typename T, typename A>
void gather(
    const A* weights, const Tensor& map, const Displacements& displacements, const Shape& s, int64_t image,
    Tensor& out) {
  if (map.size(1) == 0) return;
  T* results = out.mutable_data_ptr<T>() + image * out.stride(0);
  // A block of channels is a piece of work; of a few blocks, some rows are.
  const int64_t blocks = blocks_of<A>(map), strips = std::min(s.height, (thread_count() + blocks - 1) / blocks);
  parallel_for(0, blocks * strips, 1, [&](int64_t begin, int64_t end) {
    Packed<A> packed(map, 1, s.height, displacements.reach);
    const std::vector<int64_t> step = steps(displacements, packed);
    std::vector<Vector<A>> made(s.wide * kVectors);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t block = task / strips, strip = task % strips;
      const int64_t top = strip * s.height / strips, bottom = (strip + 1) * s.height / strips;
      const auto [highest, lowest] = displacements.rows_around(top, bottom, s.height);
      packed.top = highest;
      for (int64_t y = highest; y < lowest; ++y) packed.template read_row<T>(map, image, y, y + 1 == lowest, 0, block);
      for (int64_t y = top; y < bottom; ++y) {
        const A *row = packed.row(0, y), *shares = weights + y * displacements.size() * s.wide;
        const auto [first, last] = displacements.of_row(y, s.height);
        for (int64_t x = 0; x < s.wide; x += kCells) {
          Vector<A> sum[kCells][kVectors] = {};
          for (int64_t j = first; j < last; ++j) {
            const A *from = row + x * kBlock<A> + step[j], *share = shares + j * s.wide + x;
#pragma GCC unroll 4
            for (int i = 0; i < kCells; ++i) {
#pragma GCC unroll 4
              for (int v = 0; v < kVectors; ++v) {
                sum[i][v] += share[i] * *reinterpret_cast<const Vector<A>*>(from + i * kBlock<A> + v * kLanes<A>);
              }
            }
          }
          for (int i = 0; i < kCells; ++i) {
            for (int v = 0; v < kVectors; ++v) made[(x + i) * kVectors + v] = sum[i][v];
          }
        }
        const int64_t channel = block * kBlock<A>;
        write(reinterpret_cast<const A*>(made.data()), s.width, std::min(kBlock<A>, map.size(1) - channel),
              results + channel * out.stride(1) + y * out.stride(2), out.stride(1), out.stride(3));
      }
    }
  });
}

}  // namespace accel_ops
