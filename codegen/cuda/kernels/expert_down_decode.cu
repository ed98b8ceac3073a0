// residual[token] += sum over the token's experts of weight * (down[expert](hidden[slot]) + bias), with what the next
// norm needs of it (tile/norm.cuh).
//
// A block owns 16 rows for every chosen expert and all tokens, and adds the experts in the order of the route's
// list, so the sum needs no atomics and does not depend on timing. A column is a token, which has weight 0 where it
// did not choose the expert at hand; of a single token, a column is a choice, so its hidden rows are loaded once.
#include "epilogue/residual.cuh"
#include "moe/route.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kStrips = spec::kHidden / kTileRows;
constexpr bool kColumnsAreChoices = spec::kMaxTokens == 1 && spec::kTopK <= 8;
using Slice = Share<spec::kInter, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;
using Route = SharedRoute<spec::kExperts, spec::kTopK, spec::kMaxTokens>;

struct Shared {
  SharedTiles<Mxfp4Tile, kWarps, spec::kRing> ring;
  SharedSums<kWarps, spec::kMaxTokens> sums;
  Route route;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

// The hidden row of this lane's column for the expert at `place`; null if the token did not choose it.
__device__ __forceinline__ const bf16* hidden_row(const ExpertDown& p, const Route& route, u32 place) {
  const u32 column = lane_id() / 4;
  if (kColumnsAreChoices) return column < spec::kTopK ? p.hidden + column * spec::kInter : nullptr;
  if (column >= p.tokens || route.rank[place][column] == Route::kNotChosen) return nullptr;
  return p.hidden + static_cast<u64>(column * spec::kTopK + route.rank[place][column]) * spec::kInter;
}

__device__ __forceinline__ float column_weight(const Route& route, u32 place, u32 column, u32 tokens) {
  if (!kColumnsAreChoices) return route.weight(place, column, tokens);
  return column == route.rank[place][0] ? route.weights[0][column] : 0.0f;
}

// The weighted sum of the chosen experts' biases for rows `row` and `row + 8` of a token.
__device__ __forceinline__ FloatPair weighted_bias(const ExpertDown& p, const Route& route, u32 token, u32 row) {
  FloatPair sum{};
#pragma unroll 2
  for (u32 place = 0; place < route.distinct; ++place) {
    const float weight = route.weight(place, token, p.tokens);
    const FloatPair bias = bf16_pair(p.bias + static_cast<u64>(route.experts[place]) * spec::kHidden, row);
    sum.low += weight * bias.low, sum.high += weight * bias.high;
  }
  return sum;
}

// Adds a single token's columns together, into column 0.
__device__ __forceinline__ void join_columns(Sums& sums) {
#pragma unroll
  for (u32 row = 0; row < 4; row += 2) {
    float sum = sums.s[row] + sums.s[row + 1];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sums.s[row] = sum + __shfl_xor_sync(~0u, sum, 2);
  }
}

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ ExpertDown p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  // The router's logits are two kernels old and complete: the kernel between waited for them before it let this
  // one start. So the experts' weights can be on their way before that kernel's hidden rows are.
  shared.route.template build<kWarps>(p.logits, p.tokens);
  auto weights = stream<Mxfp4Tile, Slice>(shared.ring, shared.route.distinct * kStrips, [&](u32 strip) {
    const u64 expert = shared.route.experts[strip / kStrips];
    return p.weight + (expert * kStrips + strip % kStrips) * Mxfp4Tile::strip_bytes(Slice::kKTiles);
  });
  const ResidualOut<spec::kHidden> out{p.residual, p.scaled, p.squares, p.next_scale};
  const u32 first_row = blockIdx.x * kTileRows;
  FloatPair start[Pairs::kEach], scale[Pairs::kEach];  // start: the residual before, and the bias
  Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 token) {
    start[j] = weighted_bias(p, shared.route, token, first_row + g);
    scale[j] = bf16_pair(p.next_scale, first_row + g);
  });
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  if (kColumnsAreChoices) load_activations<Slice, spec::kInter>(x, hidden_row(p, shared.route, 0));
  Pairs::visit(p.tokens, [&](u32 j, u32 g, u32 token) { out.add_before(start[j], first_row + g, token); });
  Sums total{};
  const u32 column = lane_id() % 4 * 2;
  for (u32 place = 0; place < shared.route.distinct; ++place) {
    if (!kColumnsAreChoices) load_activations<Slice, spec::kInter>(x, hidden_row(p, shared.route, place));
    Sums sums{};
    weights.multiply(sums, x);
    const float weight0 = column_weight(shared.route, place, column, p.tokens);
    const float weight1 = column_weight(shared.route, place, column + 1, p.tokens);
    total.s[0] += weight0 * sums.s[0], total.s[1] += weight1 * sums.s[1];
    total.s[2] += weight0 * sums.s[2], total.s[3] += weight1 * sums.s[3];
  }
  if (kColumnsAreChoices) join_columns(total);
  shared.sums.put(0, total);
  __syncthreads();
  Pairs::finish(shared.sums, 0, p.tokens, [&](u32 j, u32 g, u32 token, float low, float high) {
    out.store(first_row + g, token, scale[j], start[j].low + low * p.weight_scale,
              start[j].high + high * p.weight_scale);
  });
}
