// expert_act[route] = swiglu(gate_up[expert of route](rmsnorm(residual)[token]) + bias), in bf16.
//
// The work is a list of strips (8 gates and their 8 ups) of the distinct experts that the step's tokens chose, so an
// expert's weights are read once however many tokens chose it. `input` holds scaled rows: their products are divided
// by the rms at the end.
//
// Layouts: input [tokens][hidden] bf16, scaled, and square_sums [tokens][hidden / 16] float; weight
// [expert][strip][tile] of 2 x inter rows by hidden, MXFP4, a gate and its up in one lane; expert_act
// [tokens][top_k][inter] bf16. A call computes 4 x inter x hidden flops a slot and reads 2 x inter x hidden x 17 / 32
// bytes an expert that was chosen, once: memory bounds it. At most kMaxTokens tokens; tokens x top_k is below 256.
#include "epilogue/swiglu.cuh"
#include "moe/logits.cuh"
#include "moe/route.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kStripsPerExpert = 2 * spec::kInter / kTileRows;
using Slice = Share<spec::kHidden, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;
using Route = SharedRoute<spec::kExperts, spec::kTopK, spec::kMaxTokens>;

struct Shared {
  SharedTiles<Mxfp4Tile, Slice, kWarps, spec::kStages> ring;
  SharedSums<kWarps, spec::kMaxTokens> sums;
  Route route;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeUpSwiglu p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  wait_for_inputs();
  start_next_kernel();
  const SummedLogits<spec::kExperts, spec::kHidden> logits{p.router_logit_sums, p.square_sums, p.router_bias,
                                                           spec::kRmsEps};
  shared.route.template build<kWarps>(logits, p.tokens, blockIdx.x == 0 ? p.logits : nullptr);
  const u32 strips = shared.route.distinct * kStripsPerExpert;
  auto weights = stream(shared.ring, strips, [&](u32 strip) {
    const u64 expert = shared.route.experts[strip / kStripsPerExpert];
    return p.weight + (expert * kStripsPerExpert + strip % kStripsPerExpert) * Mxfp4Tile::strip_bytes(Slice::kKTiles);
  });
  ActivationTile x[Slice::kTiles];
  load_activations<Slice, spec::kHidden>(x, column_row(p.input, spec::kHidden, p.tokens));

  u32 turn = 0;
  for (u32 strip = blockIdx.x; strip < strips; strip += gridDim.x, turn ^= 1) {
    const u32 place = strip / kStripsPerExpert, first_pair = strip % kStripsPerExpert * 8;
    const u32* biases = reinterpret_cast<const u32*>(p.bias) + shared.route.experts[place] * spec::kInter + first_pair;
    u32 bias[Pairs::kEach];
    Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 /*token*/) { bias[j] = biases[g]; });
    Sums sums{};
    weights.multiply(sums, x);
    shared.sums.put(turn, sums);
    __syncthreads();
    Pairs::finish(shared.sums, turn, p.tokens, [&](u32 j, u32 g, u32 token, float gate, float up) {
      const u8 k = shared.route.rank[place][token];
      if (k == Route::kNotChosen) return;
      const float factor = p.weight_scale * shared.route.inverse[token];
      p.expert_act[(token * spec::kTopK + k) * spec::kInter + first_pair + g] =
          to_bf16(biased_swiglu(gate, up, bias[j], factor, spec::kSwigluLimit, spec::kSwigluAlpha));
    });
  }
}
