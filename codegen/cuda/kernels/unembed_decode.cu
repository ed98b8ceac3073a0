// logits[i] = unembedding(input[rows[i]]), in fp32. If `rows` is null, of every row in order.
//
// `input` holds deferred rows, and the results are divided by the rms at the end; or normed rows, if square_sums is
// null.
//
// Layouts: input [tokens][hidden] bf16; square_sums [tokens][hidden / 16] float; weight [row tile][tile] of vocab rows
// by hidden, bf16; logits [count][vocab] float. A call computes 2 x vocab x hidden flops per row, reads 2 x vocab x
// hidden bytes of weights, once, and writes 4 x vocab bytes per row: memory bandwidth bounds it. At most kMaxTokens
// rows.
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kRowTiles = ceil_div(spec::kVocab, kTileRows);
using Slice = KSlice<spec::kHidden, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;

struct Shared {
  SharedWeightStages<Bf16Tile, Slice, kWarps, spec::kStages> stages;
  SharedPartials<kWarps, spec::kMaxTokens> partials;
  SharedInverseRms<spec::kMaxTokens> inverse_rms;
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ UnembedDecode p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  auto weights = stream<spec::kPace>(shared.stages, kRowTiles, [&](u32 row_tile) {
    return p.weight + static_cast<u64>(row_tile) * Bf16Tile::row_tile_bytes(Slice::kKTiles);
  });
  const u32 column = min(lane_id() / 4, p.count - 1);
  const u64 row = p.rows ? p.rows[column] : column;
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  load_activations<Slice, spec::kHidden>(x, p.input + row * spec::kHidden);
  shared.inverse_rms.template load<spec::kHidden, kWarps>(p.square_sums, p.rows, p.count, spec::kRmsEps);
  u32 parity = 0;
  for (u32 row_tile = blockIdx.x; row_tile < kRowTiles; row_tile += gridDim.x, parity ^= 1) {
    Accumulators accumulators{};
    weights.multiply(accumulators, x);
    shared.partials.store(parity, accumulators);
    __syncthreads();
    Pairs::finish(shared.partials, parity, p.count, [&](u32 /*j*/, u32 g, u32 i, float low, float high) {
      const u32 token = row_tile * kTileRows + g;
      float* logits = p.logits + static_cast<u64>(i) * spec::kVocab + token;
      const float inverse = shared.inverse_rms.per_token[i];
      if (token < spec::kVocab) logits[0] = low * inverse;
      if (token + 8 < spec::kVocab) logits[8] = high * inverse;
    });
  }
}
