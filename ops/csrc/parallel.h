// How the CPU kernels share work among threads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace accel_ops {

// About this many multiplications make a piece of work for one thread.
inline int64_t grain(int64_t cost_of_one) {
  return std::max<int64_t>(1, 65536 / std::max<int64_t>(1, cost_of_one));
}

}  // namespace accel_ops
