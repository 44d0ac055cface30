// How the CPU kernels share work among threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace accel_ops {

// PyTorch's own: its threads, and their number as it was set.
using torch::stable::parallel_for;

inline int64_t thread_count() { return torch::stable::get_num_threads(); }

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// About this many multiplications make a piece of work for one thread.
inline int64_t grain(int64_t cost_of_one) {
  return std::max<int64_t>(1, 65536 / std::max<int64_t>(1, cost_of_one));
}

}  // namespace accel_ops
