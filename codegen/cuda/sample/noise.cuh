// Gumbel noise of tokens, bounds of it, and the scores that it is added to.
#pragma once
#include "ptx/math.cuh"
#include "scalar.cuh"

struct Scores {
  float largest, inverse_temperature;

  __device__ __forceinline__ float operator()(float logit) const {
    return __fmul_rn(__fsub_rn(logit, largest), inverse_temperature);
  }
};

// An upper bound of `gumbel_of_bits(bits)`: -ln(v) of a v that is rounded down, plus more than the error of the
// logarithm.
__device__ __forceinline__ float gumbel_bound(u32 bits) {
  return fmaf(log2_fast(static_cast<float>(bits)), -0.6931472f, 32 * 0.6931472f + 0.001f);
}
