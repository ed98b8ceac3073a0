// logits[i] = unembedding(input[rows[i]]), in fp32; without `rows`, of every row in order.
//
// `input` holds scaled rows whose products are divided by the rms at the end, or, without `squares`, normed rows.
//
// Layouts: input [tokens][hidden] bf16; square_sums [tokens][hidden / 16] float; weight [strip][tile] of vocab rows by
// hidden, bf16; logits [count][vocab] float. A call computes 2 x vocab x hidden flops a row, reads 2 x vocab x hidden
// bytes of weights, once, and writes 4 x vocab a row: memory bounds it. At most kMaxTokens rows.
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kStrips = ceil_div(spec::kVocab, kTileRows);
using Slice = Share<spec::kHidden, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;

struct Shared {
  SharedTiles<Bf16Tile, Slice, kWarps, spec::kStages> ring;
  SharedSums<kWarps, spec::kMaxTokens> sums;
  SharedInverse<spec::kMaxTokens> inverse;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Unembed p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  auto weights = stream(shared.ring, kStrips, [&](u32 strip) {
    return p.weight + static_cast<u64>(strip) * Bf16Tile::strip_bytes(Slice::kKTiles);
  });
  const u32 column = min(lane_id() / 4, p.count - 1);
  const u64 row = p.rows ? p.rows[column] : column;
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  load_activations<Slice, spec::kHidden>(x, p.input + row * spec::kHidden);
  shared.inverse.template load<spec::kHidden, kWarps>(p.square_sums, p.rows, p.count, spec::kRmsEps);
  u32 turn = 0;
  for (u32 strip = blockIdx.x; strip < kStrips; strip += gridDim.x, turn ^= 1) {
    Sums sums{};
    weights.multiply(sums, x);
    shared.sums.put(turn, sums);
    __syncthreads();
    Pairs::finish(shared.sums, turn, p.count, [&](u32 /*j*/, u32 g, u32 i, float low, float high) {
      const u32 token = strip * kTileRows + g;
      float* logits = p.logits + static_cast<u64>(i) * spec::kVocab + token;
      const float inverse = shared.inverse.of_token[i];
      if (token < spec::kVocab) logits[0] = low * inverse;
      if (token + 8 < spec::kVocab) logits[8] = high * inverse;
    });
  }
}
