// Writes the history of a sequence slot anew, before the first sample that has penalties: each token's word, and 0 for
// every token that the sequence does not hold.
//
// Layouts: history [vocab] u16; entries [count]. A call writes 2 x vocab bytes; each block writes a part of the
// vocabulary and reads all entries.
#include "ptx/launch.cuh"

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ WriteHistory p) {
  const u32 width = ceil_div(p.vocab, gridDim.x);
  const u32 first = min(blockIdx.x * width, p.vocab), end = min(first + width, p.vocab);
  for (u32 token = first + threadIdx.x; token < end; token += spec::kThreads) p.history[token] = 0;
  __syncthreads();
  for (u32 i = threadIdx.x; i < p.count; i += spec::kThreads) {
    const HistoryEntry entry = p.entries[i];
    if (entry.token >= first && entry.token < end) p.history[entry.token] = static_cast<u16>(entry.word);
  }
}
