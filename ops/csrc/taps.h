// Bilinear samples of feature maps: what every operator that takes them shares.
#pragma once

#include "accumulate.h"

#include <cstdint>

namespace accel_ops {

// The four cells around one position: upper left, upper right, lower left, lower right.
template <typename A>
struct Taps {
  int64_t cell[4];  // y * width + x, or -1 for a cell outside the map
  A weight[4];
  A right, lower;  // the fractions that the weights are made of
};

template <typename A>
ACCEL_HOST_DEVICE bool is_nowhere(const Taps<A>& taps) {
  return taps.cell[0] < 0 && taps.cell[1] < 0 && taps.cell[2] < 0 && taps.cell[3] < 0;
}

// The rule for the layout of results, the same as in reference/.
inline bool is_channels_last(const Tensor& features) {
  return features.size(1) > 1 && features.stride(1) == 1 && !features.is_contiguous();
}

inline MemoryFormat layout_of(const Tensor& features) {
  return is_channels_last(features) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

}  // namespace accel_ops
