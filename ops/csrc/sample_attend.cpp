// accel_ops::sample_attend on the CPU: the steps without channels, and the operators.
#include "sample_attend_cpu.h"
#include "taps.h"

#include <bit>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

namespace accel_ops {
namespace {

// From displacements to offsets: (rows, D, wide) to (rows, K, wide).
template <typename A>
void mix(const Plan<A>& plan, const Shape& s, const A* scores, A* logits) {
  parallel_for(0, s.rows(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const A* from = scores + row * plan.displacements.size() * s.wide;
      for (int64_t k = 0; k < plan.size(); ++k) {
        A* to = logits + (row * plan.size() + k) * s.wide;
        std::fill(to, to + s.wide, A(0));
        for (int tap = 0; tap < 4; ++tap) {
          if (plan.taps[k][tap] < 0) continue;
          const A share = plan.samples[k].share(tap), *score = from + plan.taps[k][tap] * s.wide;
#pragma omp simd
          for (int64_t x = 0; x < s.wide; ++x) to[x] += share * score[x];
        }
      }
    }
  });
}

// The transpose of `mix`: (rows, K, wide) to (rows, D, wide).
template <typename A>
void spread(const Plan<A>& plan, const Shape& s, const A* shares, A* weights) {
  parallel_for(0, s.rows(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      A* to = weights + row * plan.displacements.size() * s.wide;
      std::fill(to, to + plan.displacements.size() * s.wide, A(0));
      for (int64_t k = 0; k < plan.size(); ++k) {
        const A* from = shares + (row * plan.size() + k) * s.wide;
        for (int tap = 0; tap < 4; ++tap) {
          if (plan.taps[k][tap] < 0) continue;
          const A share = plan.samples[k].share(tap);
          A* sum = to + plan.taps[k][tap] * s.wide;
#pragma omp simd
          for (int64_t x = 0; x < s.wide; ++x) sum[x] += share * from[x];
        }
      }
    }
  });
}

// e**x for x of 0 or less; of float32 in a form that g++ vectorises, off by 2 units in the last place at most
// (Cody and Waite's reduction, Cephes' polynomial).
inline double exponential(double x) { return std::exp(x); }

inline float exponential(float x) {
  constexpr float most = -87.0f, magic = 12582912.0f;  // 1.5 * 2**23: adding it rounds to whole numbers
  const float within = x < most ? most : x;
  const float n = (within * 1.44269504f + magic) - magic;
  const float r = (within - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  for (const float next : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
    p = p * r + next;
  }
  const float power = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return x < most ? 0.0f : (p * r * r + r + 1.0f) * power;
}

// In place, over the offsets of (rows, K, wide).
template <typename A>
void softmax(const Plan<A>& plan, const Shape& s, A* logits) {
  parallel_for(0, s.rows(), 1, [&](int64_t begin, int64_t end) {
    std::vector<A> most(s.wide), total(s.wide);
    for (int64_t row = begin; row < end; ++row) {
      A* first = logits + row * plan.size() * s.wide;
      std::fill(most.begin(), most.end(), -std::numeric_limits<A>::infinity());
      std::fill(total.begin(), total.end(), A(0));
      for (A* here = first; here < first + plan.size() * s.wide; here += s.wide) {
#pragma omp simd
        for (int64_t x = 0; x < s.wide; ++x) most[x] = here[x] > most[x] ? here[x] : most[x];
      }
      for (A* here = first; here < first + plan.size() * s.wide; here += s.wide) {
#pragma omp simd
        for (int64_t x = 0; x < s.wide; ++x) total[x] += here[x] = exponential(here[x] - most[x]);
      }
      for (A* here = first; here < first + plan.size() * s.wide; here += s.wide) {
#pragma omp simd
        for (int64_t x = 0; x < s.wide; ++x) here[x] /= total[x];
      }
    }
  });
}

// In place, from the gradient by the weights to that by the logits, (rows, K, wide).
template <typename A>
void softmax_backward(const Plan<A>& plan, const Shape& s, const A* weights, A* slopes) {
  parallel_for(0, s.rows(), 1, [&](int64_t begin, int64_t end) {
    std::vector<A> mean(s.wide);
    for (int64_t row = begin; row < end; ++row) {
      const A* weight = weights + row * plan.size() * s.wide;
      A* slope = slopes + row * plan.size() * s.wide;
      std::fill(mean.begin(), mean.end(), A(0));
      for (int64_t k = 0; k < plan.size() * s.wide; k += s.wide) {
#pragma omp simd
        for (int64_t x = 0; x < s.wide; ++x) mean[x] += weight[k + x] * slope[k + x];
      }
      for (int64_t k = 0; k < plan.size() * s.wide; k += s.wide) {
#pragma omp simd
        for (int64_t x = 0; x < s.wide; ++x) slope[k + x] = weight[k + x] * (slope[k + x] - mean[x]);
      }
    }
  });
}

// The gathering sum's transpose is one over the reversed displacements, with the weights that the cells they lead to
// have for the way back: (rows, D, wide) to the same.
template <typename A>
void reverse(const Displacements& displacements, const Shape& s, const A* weights, A* reversed) {
  const int64_t count = displacements.size();
  parallel_for(0, s.rows(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t y = row % s.height;
      for (int64_t j = 0; j < count; ++j) {
        const auto [dy, dx] = displacements.list[j];
        A* to = reversed + (row * count + count - 1 - j) * s.wide;
        std::fill(to, to + s.wide, A(0));
        if (y - dy < 0 || y - dy >= s.height) continue;
        const A* from = weights + ((row - dy) * count + j) * s.wide;
        for (int64_t x = std::max(dx, 0); x < std::min<int64_t>(s.width, s.width + dx); ++x) to[x] = from[x - dx];
      }
    }
  });
}

// The gradient by the offsets: how the samples' shares change, times what each share is worth.
template <typename A>
void along_offsets(
    const Plan<A>& plan, const Shape& s, const A* attention, const A* to_weights, const A* to_logits, const A* scores,
    A* to_offsets) {
  const int64_t count = plan.displacements.size(), each = plan.size() * 2;
  std::vector<A> parts(s.rows() * each, A(0));
  parallel_for(0, s.rows(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t k = 0; k < plan.size(); ++k) {
        const int64_t own = (row * plan.size() + k) * s.wide;
        A *part = parts.data() + row * each + 2 * k;
        for (int tap = 0; tap < 4; ++tap) {
          if (plan.taps[k][tap] < 0) continue;
          const int64_t there = (row * count + plan.taps[k][tap]) * s.wide;
          A worth = 0;
#pragma omp simd reduction(+ : worth)
          for (int64_t x = 0; x < s.width; ++x) {
            worth += attention[own + x] * to_weights[there + x] + to_logits[own + x] * scores[there + x];
          }
          part[0] += plan.samples[k].share_dx(tap) * worth;
          part[1] += plan.samples[k].share_dy(tap) * worth;
        }
      }
    }
  });
  for (int64_t i = 0; i < each; ++i) {
    double sum = 0;
    for (int64_t row = 0; row < s.rows(); ++row) sum += parts[row * each + i];
    to_offsets[i] = static_cast<A>(sum);
  }
}

// Both directions begin with these.
template <typename T>
struct Attention {
  using A = accumulate_t<T>;
  Shape shape;
  Plan<A> plan;
  ScalarType type;
  Tensor scores, weights;  // (batch, height, D, wide) and, of the offsets, (batch, height, K, wide)

  Attention(const Tensor& query, const Tensor& key, const Tensor& offsets)
      : shape(query), plan(offsets, shape), type(offsets.scalar_type()), scores(of_displacements()) {
    correlate_images(query, key, scores);
    weights = mixed(scores);
    softmax(plan, shape, weights.mutable_data_ptr<A>());
  }

  Tensor of_displacements() const {
    return empty({shape.batch, shape.height, plan.displacements.size(), shape.wide}, type);
  }

  A* image(const Tensor& of_displacements, int64_t i) const {
    return of_displacements.mutable_data_ptr<A>() + i * of_displacements.stride(0);
  }

  void correlate_images(const Tensor& a, const Tensor& b, Tensor& to) const {
    for (int64_t i = 0; i < shape.batch; ++i) correlate<T>(a, b, plan.displacements, shape, i, image(to, i));
  }

  Tensor mixed(const Tensor& of_displacements) const {
    Tensor made = empty({shape.batch, shape.height, plan.size(), shape.wide}, type);
    mix(plan, shape, of_displacements.const_data_ptr<A>(), made.mutable_data_ptr<A>());
    return made;
  }

  Tensor spread_out(const Tensor& of_offsets) const {
    Tensor made = of_displacements();
    spread(plan, shape, of_offsets.const_data_ptr<A>(), made.mutable_data_ptr<A>());
    return made;
  }

  // Gathering sums over the displacements, or over the reversed ones.
  Tensor gathered(const Tensor& weights, const Tensor& map, bool reversed, MemoryFormat layout) const {
    Tensor made = empty(map.sizes(), map.scalar_type(), layout), turned;
    Displacements displacements = plan.displacements;
    if (reversed) {
      turned = of_displacements();
      reverse(displacements, shape, weights.const_data_ptr<A>(), turned.mutable_data_ptr<A>());
      displacements = displacements.reversed();
    }
    for (int64_t i = 0; i < shape.batch; ++i) {
      gather<T>(image(reversed ? turned : weights, i), map, displacements, shape, i, made);
    }
    return made;
  }
};

Tensor sample_attend_cpu(
    const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& offsets) {
  check_sample_attend(query, key, value, offsets);
  const auto layout = layout_of(value);
  if (value.numel() == 0) return empty(value.sizes(), value.scalar_type(), layout);
  const Tensor positions = in_form(offsets, accumulate_type(query));
  Tensor out;
  with_floating_type(query.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    const Attention<scalar_t> attention(query, key, positions);
    out = attention.gathered(attention.spread_out(attention.weights), value, false, layout);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sample_attend_backward_cpu(
    const Tensor& gradient, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& offsets, const std::vector<bool>& needs) {
  check_sample_attend_backward(gradient, query, key, value, offsets);
  const Tensor positions = in_form(offsets, accumulate_type(query));
  // An empty tensor stands for a gradient that nobody asked for.
  const auto type = query.scalar_type();
  Tensor to_query = empty({0}, type), to_key = empty({0}, type), to_value = empty({0}, type);
  Tensor to_offsets = empty({0}, positions.scalar_type());
  const auto zeros_like = [](const Tensor& like) { return zeros(like.sizes(), like.scalar_type(), layout_of(like)); };
  if (value.numel() == 0) {
    if (needs[0]) to_query = zeros_like(query);
    if (needs[1]) to_key = zeros_like(key);
    if (needs[2]) to_value = zeros_like(value);
    if (needs[3]) to_offsets = zeros(offsets.sizes(), positions.scalar_type());
    return {to_query, to_key, to_value, in_form(to_offsets, offsets.scalar_type())};
  }
  with_floating_type(query.scalar_type(), [&](auto zero) {
    using scalar_t = decltype(zero);
    using A = accumulate_t<scalar_t>;
    const Attention<scalar_t> attention(query, key, positions);
    if (needs[2]) {
      to_value = attention.gathered(attention.spread_out(attention.weights), gradient, true, layout_of(value));
    }
    if (!needs[0] && !needs[1] && !needs[3]) return;
    Tensor to_weights = attention.of_displacements();
    attention.correlate_images(gradient, value, to_weights);
    const Tensor to_logits = attention.mixed(to_weights);
    softmax_backward(
        attention.plan, attention.shape, attention.weights.template const_data_ptr<A>(),
        to_logits.mutable_data_ptr<A>());
    const Tensor to_scores = needs[0] || needs[1] ? attention.spread_out(to_logits) : Tensor();
    if (needs[0]) to_query = attention.gathered(to_scores, key, false, layout_of(query));
    if (needs[1]) to_key = attention.gathered(to_scores, query, true, layout_of(key));
    if (needs[3]) {
      to_offsets = empty(offsets.sizes(), positions.scalar_type());
      along_offsets(
          attention.plan, attention.shape, attention.weights.template const_data_ptr<A>(),
          to_weights.const_data_ptr<A>(), to_logits.const_data_ptr<A>(),
          attention.scores.template const_data_ptr<A>(), to_offsets.mutable_data_ptr<A>());
    }
  });
  return {to_query, to_key, to_value, in_form(to_offsets, offsets.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(accel_ops, CPU, library) {
  library.impl("sample_attend", TORCH_BOX(&sample_attend_cpu));
  library.impl("sample_attend_backward", TORCH_BOX(&sample_attend_backward_cpu));
}

}  // namespace accel_ops
