// What the CUDA kernels share: the lanes of a warp read channels side by side, several each where they can.
#pragma once

#include "taps.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace accel_ops {

constexpr int kLanes = 32;

template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> read(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

// N values at `cell` of a channels-last map, from channel c on; zeros where the cell is outside (-1).
template <typename T, int N>
__device__ __forceinline__ void read_tap(
    const T* map, int64_t cell, int64_t channels, int64_t c, accumulate_t<T> (&to)[N]) {
  using A = accumulate_t<T>;
  if (cell < 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = A(0);
    return;
  }
  const Pack<T, N> values = read<T, N>(map + cell * channels + c);
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = static_cast<A>(values.at[i]);
}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline dim3 blocks(int64_t x, int64_t y = 1) {
  // Loops inside the kernels take what does not fit.
  return dim3(static_cast<unsigned>(std::min<int64_t>(x, 1 << 30)), static_cast<unsigned>(std::min(y, int64_t{65535})));
}

// Can N values be read at once from each of these?
template <int N, typename... P>
bool fits(int64_t channels, const P*... pointers) {
  return channels % N == 0 && ((reinterpret_cast<uintptr_t>(pointers) % (N * sizeof(P)) == 0) && ...);
}

}  // namespace accel_ops
