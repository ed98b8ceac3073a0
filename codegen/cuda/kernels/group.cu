// Chooses experts and sorts the step's slots (token * top_k + choice) by expert, tokens in order within an expert.
//
// One block: the lists are small and everything after needs them whole. The order is fixed, so results are too.
#include "moe/group.cuh"
#include "ptx/launch.cuh"

struct Shared {
  u32 counts[spec::kExperts];
  u32 starts[spec::kExperts];
  u32 tile_starts[spec::kExperts];
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, 1) KERNEL_NAME(const __grid_constant__ Group p) {
  constexpr u32 kWarps = spec::kThreads / kWarpSize;
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  wait_for_inputs();
  start_next_kernel();

  for (u32 t = warp_id(); t < p.tokens; t += kWarps) {
    Choice<spec::kExperts, spec::kTopK> choice;
    float logits[choice.kEach];
#pragma unroll
    for (u32 i = 0; i < choice.kEach; ++i) {
      const u32 expert = i * kWarpSize + lane_id();
      logits[i] = expert < spec::kExperts ? p.logits[static_cast<u64>(t) * spec::kExperts + expert] : 0.0f;
    }
    choice.choose(logits);
#pragma unroll
    for (u32 k = 0; k < spec::kTopK; ++k) {
      if (lane_id() == k) {
        p.slot_experts[t * spec::kTopK + k] = choice.ids[k];
        p.slot_weights[t * spec::kTopK + k] = choice.weights[k];
      }
    }
  }
  __syncthreads();

  const u32 slots = p.tokens * spec::kTopK;
  for (u32 expert = warp_id(); expert < spec::kExperts; expert += kWarps) {
    const u32 count = count_slots(p.slot_experts, slots, expert);
    if (lane_id() == 0) shared.counts[expert] = count;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    u32 start = 0, tile = 0;
    for (u32 expert = 0; expert < spec::kExperts; ++expert) {
      shared.starts[expert] = start;
      shared.tile_starts[expert] = tile;
      start += shared.counts[expert];
      tile += ceil_div(shared.counts[expert], spec::kTileTokens);
    }
    *p.tile_count = tile;
  }
  __syncthreads();
  for (u32 expert = warp_id(); expert < spec::kExperts; expert += kWarps) {
    list_slots(p.sorted + shared.starts[expert], p.slot_experts, slots, expert);
    list_tiles(p.tiles + shared.tile_starts[expert], expert, shared.starts[expert], shared.counts[expert],
               spec::kTileTokens);
  }
}
