// Programmatic dependent launch (sm_90 and later). On older devices kernels run one after another and both functions do
// nothing.
#pragma once
#include "ptx/types.cuh"

// Blocks until every kernel that this one depends on has finished and its writes are visible.
// Before this call a kernel may only read what is constant for the whole step, such as weights, and what was written by
// kernels before its predecessor: the predecessor lets this kernel start only after its own wait.
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel's blocks start as soon as blocks of this kernel leave an SM. It is called after
// `wait_for_inputs`, so that the next kernel may rely on everything before this kernel being complete.
__device__ __forceinline__ void start_next_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
