// residual += attn_out(heads) + bias
//
// A block owns 16 rows of the projection for all tokens of the step.
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kKTiles = ceil_div(spec::kQWidth, kTileK);

using Pairs = RowPairs<kWarps, spec::kMaxTokens>;

struct Shared {
  SharedRows<spec::kMaxTokens, kKTiles> x;
  SharedSums<kWarps> sums;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AttnOut p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  StripShare<Bf16Tile, kKTiles, kWarps, spec::kHeldTiles> weights;
  weights.load(p.weight + static_cast<u64>(blockIdx.x) * Bf16Tile::strip_bytes(kKTiles));
  const u32 first_row = blockIdx.x * kTileRows;
  FloatPair bias[Pairs::kEach], before[Pairs::kEach];
  Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 /*token*/) { bias[j] = bias_pair(p.bias, first_row + g); });
  wait_for_inputs();
  start_next_kernel();

  Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 token) {
    const float* residual = p.residual + token * spec::kHidden + first_row;
    before[j] = {residual[g], residual[g + 8]};
  });
  copy_rows<spec::kQWidth, kKTiles * kTileK, kWarps>(shared.x.rows[0], shared.x.kStride, p.heads, p.tokens);
  shared.sums.put(weights.multiply(shared.x));
  __syncthreads();
  Pairs::finish(shared.sums, p.tokens, [&](u32 j, u32 g, u32 token, float low, float high) {
    float* residual = p.residual + token * spec::kHidden + first_row;
    residual[g] = before[j].low + low + bias[j].low;
    residual[g + 8] = before[j].high + high + bias[j].high;
  });
}
