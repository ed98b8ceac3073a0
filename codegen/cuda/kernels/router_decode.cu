// normed = rmsnorm(residual); logits = router(normed) + bias
//
// A block owns 16 experts; the first one also keeps the normed rows for the experts.
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kKTiles = ceil_div(spec::kHidden, kTileK);

using Pairs = RowPairs<kWarps, spec::kMaxTokens>;

struct Shared {
  SharedRows<spec::kMaxTokens, kKTiles> x;
  SharedSums<kWarps> sums;
  SharedNorm<kWarps, spec::kMaxTokens> norm;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Router p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  StripShare<Bf16Tile, kKTiles, kWarps, spec::kHeldTiles> weights;
  weights.load(p.weight + static_cast<u64>(blockIdx.x) * Bf16Tile::strip_bytes(kKTiles));
  const u32 first_row = blockIdx.x * kTileRows;
  FloatPair bias[Pairs::kEach];
  Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 /*token*/) {
    const u32 row = first_row + g;
    bias[j] = {row < spec::kExperts ? bf16_to_float(p.bias[row]) : 0.0f,
               row + 8 < spec::kExperts ? bf16_to_float(p.bias[row + 8]) : 0.0f};
  });
  wait_for_inputs();
  start_next_kernel();

  rmsnorm_rows<spec::kHidden, kKTiles * kTileK>(shared.x.rows[0], shared.x.kStride, p.residual, p.norm_scale,
                                                spec::kRmsEps, p.tokens, shared.norm);
  if (blockIdx.x == 0) {
    for (u32 t = 0; t < p.tokens; ++t)
      for (u32 i = threadIdx.x; i < spec::kHidden / 8; i += spec::kThreads)
        reinterpret_cast<uint4*>(p.normed + t * spec::kHidden)[i] =
            reinterpret_cast<const uint4*>(shared.x.rows[t])[i];
  }
  shared.sums.put(weights.multiply(shared.x));
  __syncthreads();

  Pairs::finish(shared.sums, p.tokens, [&](u32 j, u32 g, u32 token, float low, float high) {
    float* logits = p.logits + token * spec::kExperts + first_row;
    if (first_row + g < spec::kExperts) logits[g] = low + bias[j].low;
    if (first_row + g + 8 < spec::kExperts) logits[g + 8] = high + bias[j].high;
  });
}
