// logits = router(rmsnorm(residual)) + bias
//
// A block owns 16 experts. `input` holds scaled rows: their products are divided by the rms at the end.
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kStrips = ceil_div(spec::kExperts, kTileRows);
using Slice = Share<spec::kHidden, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;

struct Shared {
  SharedTiles<Bf16Tile, Slice, kWarps, spec::kRing> ring;
  SharedSums<kWarps, spec::kMaxTokens> sums;
  SharedInverse<spec::kMaxTokens> inverse;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Router p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  auto weights = stream(
      shared.ring, kStrips, [&](u32 strip) { return p.weight + strip * Bf16Tile::strip_bytes(Slice::kKTiles); });
  const u32 first_row = blockIdx.x * kTileRows;
  FloatPair bias[Pairs::kEach];
  Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 /*token*/) {
    const u32 row = first_row + g;
    bias[j] = {row < spec::kExperts ? bf16_to_float(p.bias[row]) : 0.0f,
               row + 8 < spec::kExperts ? bf16_to_float(p.bias[row + 8]) : 0.0f};
  });
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  load_activations<Slice, spec::kHidden>(x, column_row(p.input, spec::kHidden, p.tokens));
  shared.inverse.template load<spec::kHidden, kWarps>(p.squares, nullptr, p.tokens, spec::kRmsEps);
  Sums sums{};
  weights.multiply(sums, x);
  shared.sums.put(0, sums);
  __syncthreads();
  Pairs::finish(shared.sums, 0, p.tokens, [&](u32 j, u32 g, u32 token, float low, float high) {
    const float inverse = shared.inverse.of_token[token];
    float* logits = p.logits + token * spec::kExperts + first_row;
    if (first_row + g < spec::kExperts) logits[g] = low * inverse + bias[j].low;
    if (first_row + g + 8 < spec::kExperts) logits[g + 8] = high * inverse + bias[j].high;
  });
}
