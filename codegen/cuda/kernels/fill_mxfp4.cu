// Seeded random bf16 weights, made where and in the order in which they will lie.
//
// The value at a checkpoint index is the same as on the host; padding is zero.
#include "scalar.cuh"
