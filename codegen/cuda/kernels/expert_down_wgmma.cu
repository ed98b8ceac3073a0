// out[slot] = down[expert of slot](hidden[slot]) + bias, in fp32, grouped by expert.
//
// A block computes kWarps strips of one expert for up to kTileTokens of its slots, whose rows are in tile order.
#include "moe/group.cuh"
#include "ptx/launch.cuh"
#include "tile/wgmma.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
using Product = WgmmaProduct<Mxfp4Tile, spec::kInter, kWarps, spec::kTileTokens, spec::kStages>;

struct Shared {
  Product::Ring ring;
  u32 slots[spec::kTileTokens];
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ ExpertDown p) {
  extern __shared__ __align__(1024) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  wait_for_inputs();
  start_next_kernel();
  const ExpertTile tile = load_tile(p.tiles + blockIdx.y);  // at once with the count; beyond it anything
  if (blockIdx.y >= *p.tile_count) return;
  if (threadIdx.x < tile.count) shared.slots[threadIdx.x] = p.sorted[tile.start + threadIdx.x];
  __syncthreads();

  const u32 strip = blockIdx.x * kWarps + warp_id();
  const u64 expert_bytes = static_cast<u64>(spec::kRowTiles) * Mxfp4Tile::strip_bytes(Product::kKTiles);
  Product product;
  product.run(shared.ring, p.weight + tile.expert * expert_bytes, strip, spec::kRowTiles, tile.count,
              [&](u32 n) { return p.hidden + static_cast<u64>(shared.slots[n]) * spec::kInter; });
  if (strip >= spec::kRowTiles) return;

  const u32 row = strip * kTileRows + Product::row();
  const bf16* bias = p.bias + static_cast<u64>(tile.expert) * spec::kHidden + row;
  const float bias_low = bf16_to_float(bias[0]), bias_high = bf16_to_float(bias[8]);
  product.for_each_column(tile.count, [&](u32 column, float low, float high) {
    float* out = p.slot_out + static_cast<u64>(shared.slots[column]) * spec::kHidden + row;
    out[0] = low * p.weight_scale + bias_low;
    out[8] = high * p.weight_scale + bias_high;
  });
}
