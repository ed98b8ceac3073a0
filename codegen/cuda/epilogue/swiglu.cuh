// What follows an expert's first product: bias and the clamped SwiGLU.
#pragma once
#include "ptx/math.cuh"
#include "scalar.cuh"

// `bias` holds the gate's and the up's bias as the checkpoint lays them side by side; `weight_scale` undoes the power
// of two that the packer took out of the weights (1 unless a block scale did not fit).
__device__ __forceinline__ float biased_swiglu(float gate, float up, u32 bias, float weight_scale, float limit,
                                               float alpha) {
  return swiglu(gate * weight_scale + bf16_low(bias), up * weight_scale + bf16_high(bias), limit, alpha);
}
