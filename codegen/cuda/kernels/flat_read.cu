// Reads memory front to back with eight 16-byte loads per thread in flight, to measure the bandwidth that the memory
// can give.
//
// A call reads 16 x units bytes, each once, and writes none. `out` only keeps the reads from being optimised away.
#include "ptx/memory.cuh"

constexpr u32 kInFlight = 8;

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ FlatRead p) {
  const u64 stride = static_cast<u64>(gridDim.x) * spec::kThreads;
  u32 bits = 0;
  u64 i = static_cast<u64>(blockIdx.x) * spec::kThreads + threadIdx.x;
  for (; i + (kInFlight - 1) * stride < p.units; i += kInFlight * stride) {
    uint4 values[kInFlight];
#pragma unroll
    for (u32 j = 0; j < kInFlight; ++j) values[j] = load_stream(p.data + i + j * stride);
#pragma unroll
    for (u32 j = 0; j < kInFlight; ++j) bits ^= values[j].x ^ values[j].y ^ values[j].z ^ values[j].w;
  }
  for (; i < p.units; i += stride) bits ^= load_stream(p.data + i).x;
  if (bits == 0x5eed) *p.out = bits;
}
