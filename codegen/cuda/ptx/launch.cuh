// Programmatic dependent launch (sm_90 and later; nothing to do before, where kernels run one after another).
#pragma once
#include "ptx/types.cuh"

// Blocks until every kernel this one depends on has finished and its writes are visible.
// What a kernel reads before this call must be constant for the whole step, as weights are, or written by a kernel that
// the one before has waited for: that one lets this kernel start after its own wait.
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel start as blocks of this one leave the multiprocessors. Called after `wait_for_inputs`,
// so whatever runs next knows that everything before this kernel is complete.
__device__ __forceinline__ void start_next_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
