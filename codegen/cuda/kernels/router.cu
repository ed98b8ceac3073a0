// normed = rmsnorm(residual) * scale, in bf16; logits = router(normed) + bias
//
// A block has one strip of experts and eight tokens, whose rows it norms itself: a warp a row. Its warps then split the
// sum over k, with weights that were on their way before the residual was complete.
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kColumns = 8;
using Slice = Share<spec::kHidden, kWarps>;
using Pairs = RowPairs<kWarps, kColumns>;

struct Shared {
  SharedTiles<Bf16Tile, Slice, kWarps, spec::kRing> ring;
  SharedSums<kWarps, kColumns> sums;
  // 16 bytes of padding a row keep the eight columns of a load in different banks.
  alignas(16) bf16 rows[kColumns][spec::kHidden + 8];
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Router p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  auto weights = stream<Strips::kAll>(
      shared.ring, 1, [&](u32) { return p.weight + blockIdx.x * Bf16Tile::strip_bytes(Slice::kKTiles); });
  wait_for_inputs();
  start_next_kernel();

  const u32 first = blockIdx.y * kColumns, columns = min(kColumns, p.tokens - first);
  for (u32 column = warp_id(); column < columns; column += kWarps) {
    const u64 at = static_cast<u64>(first + column) * spec::kHidden;
    norm_by_warp<spec::kHidden>(shared.rows[column], blockIdx.x == 0 ? p.normed + at : nullptr, p.residual + at,
                                p.scale, spec::kRmsEps);
  }
  __syncthreads();
  ActivationTile x[Slice::kTiles];
  load_activations<Slice, spec::kHidden>(x, lane_id() / 4 < columns ? shared.rows[lane_id() / 4] : nullptr);
  Sums sums{};
  weights.multiply(sums, x);
  shared.sums.put(0, sums);
  __syncthreads();
  const u32 first_expert = blockIdx.x * kTileRows;
  Pairs::finish(shared.sums, 0, columns, [&](u32 /*j*/, u32 g, u32 column, float low, float high) {
    const u32 expert = first_expert + g;
    float* logits = p.logits + static_cast<u64>(first + column) * spec::kExperts;
    if (expert < spec::kExperts) logits[expert] = low + bf16_to_float(p.bias[expert]);
    if (expert + 8 < spec::kExperts) logits[expert + 8] = high + bf16_to_float(p.bias[expert + 8]);
  });
}
