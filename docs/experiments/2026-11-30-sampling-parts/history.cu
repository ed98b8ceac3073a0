// Writes the tokens of sequences so far into the histories of their slots, before the first sample that has penalties.
//
// Layouts: histories [sequence slots][vocab] u16; starts [gridDim.y]; entries [entries of all starts]. A call writes
// 2 x vocab bytes of each slot; gridDim.x blocks share a slot, each with its own part of the vocabulary.
#include "ptx/launch.cuh"

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ History p) {
  const HistoryStart start = p.starts[blockIdx.y];
  const u32 width = ceil_div(ceil_div(spec::kVocab, gridDim.x), 2) * 2;
  const u32 first = min(blockIdx.x * width, spec::kVocab), end = min(first + width, spec::kVocab);
  u16* histories = p.histories + static_cast<u64>(start.slot) * spec::kVocab;
  wait_for_inputs();
  start_next_kernel();
  for (u32 token = first + threadIdx.x; token < end; token += spec::kThreads) histories[token] = 0;
  __syncthreads();
  for (u32 i = threadIdx.x; i < start.count; i += spec::kThreads) {
    const HistoryEntry entry = p.entries[start.first + i];
    if (entry.token >= first && entry.token < end) histories[entry.token] = static_cast<u16>(entry.history);
  }
}
