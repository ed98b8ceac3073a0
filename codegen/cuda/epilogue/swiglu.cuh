// The epilogue of an expert's first GEMM: bias and the clamped SwiGLU.
#pragma once
#include "ptx/math.cuh"
#include "scalar.cuh"

// `bias` holds the bias of the gate and of the up row side by side, as in the checkpoint. `weight_scale` undoes the
// power of two that the packer took out of the weights (1 unless a block scale did not fit).
__device__ __forceinline__ float biased_swiglu(float gate, float up, u32 bias, float weight_scale, float limit,
                                               float alpha) {
  return swiglu(gate * weight_scale + bf16_low(bias), up * weight_scale + bf16_high(bias), limit, alpha);
}
