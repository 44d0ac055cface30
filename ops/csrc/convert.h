// Conversions that g++ vectorises inside loops over channels; c10's bfloat16 rounding has a branch and is not.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <bit>
#include <cstdint>
#include <type_traits>

namespace accel_ops {

template <typename A, typename T>
inline A widen(T value) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    return std::bit_cast<float>(static_cast<uint32_t>(value.x) << 16);
  } else {
    return static_cast<A>(value);
  }
}

// To the nearest, ties to even, as PyTorch rounds.
template <typename T, typename A>
inline T narrow(A value) {
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
    return c10::BFloat16(static_cast<uint16_t>(nan ? 0x7FC0u : rounded), c10::BFloat16::from_bits());
  } else {
    return static_cast<T>(value);
  }
}

}  // namespace accel_ops
