// residual += attn_out(attn_output) + bias, with what the next norm needs of it (tile/norm.cuh) and a share of the
// router's logits (moe/logits.cuh).
//
// Layouts: attn_output [tokens][q_heads][head_dim] bf16; weight [strip][tile] of hidden rows by q_heads x head_dim,
// bf16; residual [tokens][hidden] float; deferred_rows [tokens][hidden] bf16; square_sums [tokens][hidden / 16] float;
// router_logit_sums [tokens][experts] integers. A call computes 2 x hidden x q_heads x head_dim flops a token, reads as
// many bytes of weights, once, and about 2 x hidden x experts bytes of the router's: memory bounds it. At most
// kMaxTokens tokens.
#include "epilogue/residual.cuh"
#include "moe/logits.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kStrips = spec::kHidden / kTileRows;
using Slice = Share<spec::kQWidth, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;

struct Shared {
  SharedTiles<Bf16Tile, Slice, kWarps, spec::kStages> ring;
  SharedSums<kWarps, spec::kMaxTokens> sums;
  SharedResidual<spec::kMaxTokens> residual;
  alignas(16) bf16 bias[kTileRows];
  SharedRouterPart<spec::kExperts, spec::kHidden, spec::kMaxTokens> router;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ AttnOutResidual p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  const u32 first_row = blockIdx.x * kTileRows;
  copy_small<sizeof(shared.bias)>(shared.bias, p.bias + first_row);
  shared.residual.fetch_scale(p.next_norm_scale, first_row);
  shared.router.template fetch<spec::kThreads>(p.router, blockIdx.x);
  auto weights =
      stream(shared.ring, kStrips, [&](u32 strip) { return p.weight + strip * Bf16Tile::strip_bytes(Slice::kKTiles); });
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  load_activations<Slice, spec::kQWidth>(x, column_row(p.attn_output, spec::kQWidth, p.tokens));
  shared.residual.fetch_before<spec::kHidden>(p.residual, first_row, p.tokens);
  Sums sums{};
  weights.multiply(sums, x);
  shared.sums.put(0, sums);
  copy_wait<0>();
  __syncthreads();
  const ResidualOut<spec::kHidden> out{p.residual, p.deferred_rows, p.square_sums};
  Pairs::finish(shared.sums, 0, p.tokens, [&](u32 /*j*/, u32 g, u32 token, float low, float high) {
    const ScaledPair made = out.add(shared.residual, first_row, g, token, low + bf16_to_float(shared.bias[g]),
                                    high + bf16_to_float(shared.bias[g + 8]));
    shared.router.rows[token][g] = made.low, shared.router.rows[token][g + 8] = made.high;
  });
  __syncthreads();
  shared.router.template add<spec::kThreads>(p.router_logit_sums, p.tokens);
}
