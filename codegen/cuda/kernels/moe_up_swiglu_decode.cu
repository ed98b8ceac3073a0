// expert_act[route] = swiglu(gate_up[expert of route](rmsnorm(residual)[token]) + bias), in bf16.
//
// The work is a list of row tiles (8 gates and their 8 ups) of the distinct experts that the step's tokens selected, so
// an expert's weights are read once, however many tokens selected it. `input` holds deferred rows, and the results are
// divided by the rms at the end.
//
// Layouts: input [tokens][hidden] bf16 deferred rows, and square_sums [tokens][hidden / 16] float; weight [expert][row
// tile][tile] of 2 x inter rows by hidden, MXFP4, a gate and its up in one lane; expert_act [tokens][top_k][inter]
// bf16. A call computes 4 x inter x hidden flops per route and reads 2 x inter x hidden x 17 / 32 bytes per selected
// expert, once: memory bandwidth bounds it. At most kMaxTokens tokens; tokens x top_k is below 256.
#include "epilogue/swiglu.cuh"
#include "moe/logits.cuh"
#include "moe/routing.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kRowTilesPerExpert = 2 * spec::kInter / kTileRows;
using Slice = KSlice<spec::kHidden, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;
using Routing = SharedRouting<spec::kExperts, spec::kTopK, spec::kMaxTokens>;

struct Shared {
  SharedWeightStages<Mxfp4Tile, Slice, kWarps, spec::kStages> stages;
  SharedPartials<kWarps, spec::kMaxTokens> partials;
  Routing routing;
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ TopkMoeUpSwiglu p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  wait_for_inputs();
  start_next_kernel();
  const RouterLogits<spec::kExperts, spec::kHidden> logits{p.router_logit_sums, p.square_sums, p.router_bias,
                                                           spec::kRmsEps};
  shared.routing.template build<kWarps>(logits, p.tokens, blockIdx.x == 0 ? p.logits : nullptr);
  const u32 row_tiles = shared.routing.distinct * kRowTilesPerExpert;
  auto weights = stream<spec::kPace>(shared.stages, row_tiles, [&](u32 row_tile) {
    const u64 expert = shared.routing.experts[row_tile / kRowTilesPerExpert];
    return p.weight +
           (expert * kRowTilesPerExpert + row_tile % kRowTilesPerExpert) * Mxfp4Tile::row_tile_bytes(Slice::kKTiles);
  });
  ActivationTile x[Slice::kTiles];
  load_activations<Slice, spec::kHidden>(x, activation_row(p.input, spec::kHidden, p.tokens));

  u32 parity = 0;
  for (u32 row_tile = blockIdx.x; row_tile < row_tiles; row_tile += gridDim.x, parity ^= 1) {
    const u32 entry = row_tile / kRowTilesPerExpert, first_pair = row_tile % kRowTilesPerExpert * 8;
    const u32* biases =
        reinterpret_cast<const u32*>(p.bias) + shared.routing.experts[entry] * spec::kInter + first_pair;
    u32 bias[Pairs::kEach];
    Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 /*token*/) { bias[j] = biases[g]; });
    Accumulators accumulators{};
    weights.multiply(accumulators, x);
    shared.partials.store(parity, accumulators);
    __syncthreads();
    Pairs::finish(shared.partials, parity, p.tokens, [&](u32 j, u32 g, u32 token, float gate, float up) {
      const u8 k = shared.routing.rank[entry][token];
      if (k == Routing::kNotSelected) return;
      const float factor = p.weight_scale * shared.routing.inverse_rms[token];
      p.expert_act[(token * spec::kTopK + k) * spec::kInter + first_pair + g] =
          to_bf16(biased_swiglu(gate, up, bias[j], factor, spec::kSwigluLimit, spec::kSwigluAlpha));
    });
  }
}
