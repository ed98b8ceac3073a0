// residual += attn_out(heads) + bias, with what the next norm needs of it (tile/norm.cuh).
#include "epilogue/residual.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kStrips = spec::kHidden / kTileRows;
using Slice = Share<spec::kQWidth, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;

struct Shared {
  SharedTiles<Bf16Tile, Slice, kWarps, spec::kRing> ring;
  SharedSums<kWarps, spec::kMaxTokens> sums;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AttnOut p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  auto weights = stream(
      shared.ring, kStrips, [&](u32 strip) { return p.weight + strip * Bf16Tile::strip_bytes(Slice::kKTiles); });
  const ResidualOut<spec::kHidden> out{p.residual, p.scaled, p.squares, p.next_scale};
  const u32 first_row = blockIdx.x * kTileRows;
  FloatPair start[Pairs::kEach];  // the residual before, and the bias
  u32 scale[Pairs::kEach];
  Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 /*token*/) {
    start[j] = bf16_pair(p.bias, first_row + g);
    scale[j] = out.next_scale_pair(first_row + g);
  });
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  load_activations<Slice, spec::kQWidth>(x, column_row(p.heads, spec::kQWidth, p.tokens));
  Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 token) { out.add_before(start[j], first_row + g, token); });
  Sums sums{};
  weights.multiply(sums, x);
  shared.sums.put(0, sums);
  __syncthreads();
  Pairs::finish(shared.sums, 0, p.tokens, [&](u32 j, u32 g, u32 token, float low, float high) {
    out.store(first_row + g, token, scale[j], start[j].low + low, start[j].high + high);
  });
}
