// residual += attn_out(attn_output) + bias, with the deferred RMS norm of the result (tile/norm.cuh) and its
// contribution to the router's logits (moe/logits.cuh).
//
// Layouts: attn_output [tokens][q_heads][head_dim] bf16; weight [row tile][tile] of hidden rows by q_heads x head_dim,
// bf16; residual [tokens][hidden] float; deferred_rows [tokens][hidden] bf16; square_sums [tokens][hidden / 16] float;
// router_logit_sums [tokens][experts] fixed point. A call computes 2 x hidden x q_heads x head_dim flops per token,
// reads as many bytes of weights, once, and about 2 x hidden x experts bytes of the router's weights: memory bandwidth
// bounds it. At most kMaxTokens tokens.
#include "epilogue/residual.cuh"
#include "moe/logits.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kRowTiles = spec::kHidden / kTileRows;
using Slice = KSlice<spec::kQWidth, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;

struct Shared {
  SharedWeightStages<Bf16Tile, Slice, kWarps, spec::kStages> stages;
  SharedPartials<kWarps, spec::kMaxTokens> partials;
  SharedResidual<spec::kMaxTokens> residual;
  alignas(16) bf16 bias[kTileRows];
  SharedRouterSlice<spec::kExperts, spec::kHidden, spec::kMaxTokens> router;
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AttnOutResidualRouter p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  const u32 first_row = blockIdx.x * kTileRows;
  copy_small<sizeof(shared.bias)>(shared.bias, p.bias + first_row);
  shared.residual.fetch_scale(p.next_norm_scale, first_row);
  shared.router.template fetch<spec::kThreads>(p.router, blockIdx.x);
  auto weights = stream<spec::kPace>(shared.stages, kRowTiles, [&](u32 row_tile) {
    return p.weight + row_tile * Bf16Tile::row_tile_bytes(Slice::kKTiles);
  });
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  load_activations<Slice, spec::kQWidth>(x, activation_row(p.attn_output, spec::kQWidth, p.tokens));
  shared.residual.fetch_before<spec::kHidden>(p.residual, first_row, p.tokens);
  Accumulators accumulators{};
  weights.multiply(accumulators, x);
  shared.partials.store(0, accumulators);
  copy_wait<0>();
  __syncthreads();
  const ResidualEpilogue<spec::kHidden> out{p.residual, p.deferred_rows, p.square_sums};
  Pairs::finish(shared.partials, 0, p.tokens, [&](u32 /*j*/, u32 g, u32 token, float low, float high) {
    const DeferredPair deferred = out.add(shared.residual, first_row, g, token, low + bf16_to_float(shared.bias[g]),
                                          high + bf16_to_float(shared.bias[g + 8]));
    shared.router.rows[token][g] = deferred.low, shared.router.rows[token][g + 8] = deferred.high;
  });
  __syncthreads();
  shared.router.template add<spec::kThreads>(p.router_logit_sums, p.tokens);
}
