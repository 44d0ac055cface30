// accel_ops::sample_attend: what the CPU and the CUDA kernels share. reference/ holds the definition.
//
// All cells have the same offsets, hence the same bilinear fractions. So a sample of any map at p + offset is a mix of
// its cells at p + d for four whole displacements d, with weights that are the same everywhere, and offsets that lie
// close together share displacements. The work with channels is done once for each distinct displacement:
//
//   scores(p, d)  = <query(p), key(p + d)>
//   logit(p, k)   = sum of share(k, d) * scores(p, d) over the four displacements of offset k
//   weights(p, d) = sum of share(k, d) * softmax(logit(p, .))(k) over the offsets that d belongs to
//   out(p)        = sum of weights(p, d) * value(p + d)
//
// and the gradients are made of the same steps: a correlation, a mix, its transpose, a gathering sum.
#pragma once

#include "accumulate.h"

#include <cmath>
#include <cstdint>

namespace accel_ops {

// The whole displacements around an offset: upper left, upper right, lower left, lower right.
template <typename A>
struct Samples {
  bool somewhere;     // false: no cell of the map has any of them inside it; all else is zero then
  int x, y;           // of the first
  A right, lower;     // how far the offset is right of it and below
  ACCEL_HOST_DEVICE int dx(int tap) const { return x + (tap & 1); }
  ACCEL_HOST_DEVICE int dy(int tap) const { return y + (tap >> 1); }
  ACCEL_HOST_DEVICE A share(int tap) const {
    return ((tap >> 1) ? lower : A(1) - lower) * ((tap & 1) ? right : A(1) - right);
  }
  // The slopes of share() along x and y.
  ACCEL_HOST_DEVICE A share_dx(int tap) const {
    return ((tap >> 1) ? lower : A(1) - lower) * ((tap & 1) ? A(1) : A(-1));
  }
  ACCEL_HOST_DEVICE A share_dy(int tap) const {
    return ((tap & 1) ? right : A(1) - right) * ((tap >> 1) ? A(1) : A(-1));
  }
};

template <typename A>
ACCEL_HOST_DEVICE Samples<A> samples_at(A x, A y, int64_t height, int64_t width) {
  // Compared as floating-point numbers, so that NaN, infinities and what no integer holds are nowhere too.
  if (!(x >= -A(width) && x < A(width) && y >= -A(height) && y < A(height))) return {false, 0, 0, A(0), A(0)};
  const A left = std::floor(x), upper = std::floor(y);
  return {true, static_cast<int>(left), static_cast<int>(upper), x - left, y - upper};
}

// Is any cell's displacement by (dx, dy) inside the map?
ACCEL_HOST_DEVICE bool reaches(int dx, int dy, int64_t height, int64_t width) {
  return dx > -width && dx < width && dy > -height && dy < height;
}

inline void check_sample_attend(
    const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& offsets) {
  ACCEL_CHECK(query.dim() == 4, "sample_attend: query must be (B, E, H, W), got ", query.sizes());
  ACCEL_CHECK(
      key.sizes().equals(query.sizes()), "sample_attend: key must have the shape of query ", query.sizes(), ", got ",
      key.sizes());
  ACCEL_CHECK(
      value.dim() == 4 && value.size(0) == query.size(0) && value.size(2) == query.size(2) &&
          value.size(3) == query.size(3),
      "sample_attend: value must be (B, C, H, W) for query ", query.sizes(), ", got ", value.sizes());
  ACCEL_CHECK(
      offsets.dim() == 2 && offsets.size(1) == 2 && offsets.size(0) >= 1,
      "sample_attend: offsets must be (K, 2) with K of 1 or more, got ", offsets.sizes());
  const auto type = query.scalar_type();
  ACCEL_CHECK(
      is_floating(type),
      "sample_attend: query must be float16, bfloat16, float32 or float64, got ", type);
  const auto check_type = [&](const char* name, const Tensor& tensor) {
    ACCEL_CHECK(
        tensor.scalar_type() == type, "sample_attend: ", name, " must be of the query's type ", type, ", got ",
        tensor.scalar_type());
  };
  check_type("key", key);
  check_type("value", value);
  ACCEL_CHECK(
      offsets.scalar_type() == type || offsets.scalar_type() == ScalarType::Float,
      "sample_attend: offsets must be float32 or of the query's type ", type, ", got ", offsets.scalar_type());
  const auto check_device = [&](const char* name, const Tensor& tensor) {
    ACCEL_CHECK(
        tensor.device() == query.device(), "sample_attend: query is on ", query.device(), " but ", name, " is on ",
        tensor.device());
  };
  check_device("key", key);
  check_device("value", value);
  check_device("offsets", offsets);
}

inline void check_sample_attend_backward(
    const Tensor& gradient, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& offsets) {
  check_sample_attend(query, key, value, offsets);
  ACCEL_CHECK(
      gradient.sizes().equals(value.sizes()) && gradient.scalar_type() == value.scalar_type() &&
          gradient.device() == value.device(),
      "sample_attend: the gradient must have the value's shape, type and device");
}

}  // namespace accel_ops
