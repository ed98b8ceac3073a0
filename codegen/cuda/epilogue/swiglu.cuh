// What follows an expert's first product: bias and the clamped SwiGLU.
#pragma once
#include "ptx/math.cuh"
#include "scalar.cuh"

// `bias` holds the gate's and the up's bias side by side, as the checkpoint does; `weight_scale` undoes the power
// of two that the packer took out of the weights (1 unless a block scale did not fit).
__device__ __forceinline__ float biased_swiglu(float gate, float up, const bf16* bias, float weight_scale, float limit,
                                               float alpha) {
  const u32 pair = *reinterpret_cast<const u32*>(bias);
  return swiglu(gate * weight_scale + bf16_low(pair), up * weight_scale + bf16_high(pair), limit, alpha);
}
