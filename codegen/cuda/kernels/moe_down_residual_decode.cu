// residual[token] += sum over the token's experts of weight * (down[expert](expert_act[route]) + bias), with the
// deferred RMS norm of the result (tile/norm.cuh).
//
// A block has 16 rows for every selected expert and all tokens. A column is a route: as many experts as have at most
// eight routes together share one load of expert_act rows, and of each expert's result only its own columns are used.
// Results stay apart by route until the end, where a token's experts are added in the order of its ranks, so the sum
// needs no atomics and does not depend on timing or on the other tokens.
//
// Layouts: expert_act [tokens][top_k][inter] bf16; weight [expert][row tile][tile] of hidden rows by inter, MXFP4;
// residual [tokens][hidden] float; deferred_rows [tokens][hidden] bf16; square_sums [tokens][hidden / 16] float. A call
// computes 2 x hidden x inter flops per route and reads hidden x inter x 17 / 32 bytes per selected expert, once:
// memory bandwidth bounds it. At most kMaxTokens tokens; tokens x top_k is below 256.
#include "epilogue/residual.cuh"
#include "moe/logits.cuh"
#include "moe/routing.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kRowTiles = spec::kHidden / kTileRows;
constexpr u32 kColumns = 8;
constexpr bool kOneToken = spec::kMaxTokens == 1 && spec::kTopK <= kColumns;  // its routes are the columns
using Slice = KSlice<spec::kInter, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;
using Routing = SharedRouting<spec::kExperts, spec::kTopK, spec::kMaxTokens>;
constexpr u32 kRoutes = spec::kMaxTokens * spec::kTopK;

// The experts of the list, up to `end`, whose routes share the columns of one load.
struct RouteColumns {
  u32 end, first_route, routes;

  __device__ __forceinline__ RouteColumns(const Routing& routing, u32 first)
      : end(spec::kTopK), first_route(0), routes(spec::kTopK) {
    if (kOneToken) return;
    end = first + 1, first_route = routing.start[first];
    while (end < routing.distinct && routing.start[end + 1] - first_route <= kColumns) ++end;
    routes = routing.start[end] - first_route;
  }

  // The route of a column, which must be below `routes`.
  __device__ __forceinline__ u32 route(const Routing& routing, u32 column) const {
    return kOneToken ? column : routing.routes[first_route + column];
  }

  // The row of expert_act of this lane's column, or null.
  __device__ __forceinline__ const bf16* row(const MoeDownResidual& p, const Routing& routing) const {
    const u32 column = lane_id() / 4;
    if (column >= routes) return nullptr;
    return p.expert_act + static_cast<u64>(route(routing, column)) * spec::kInter;
  }

  // Takes the columns that are routes of the expert at `entry` from its result.
  __device__ __forceinline__ void take(Accumulators& columns, const Accumulators& result, const Routing& routing,
                                       u32 entry) const {
    const u32 low = kOneToken ? entry : routing.start[entry] - first_route;
    const u32 high = kOneToken ? entry + 1 : routing.start[entry + 1] - first_route;
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
      const u32 column = lane_id() % 4 * 2 + i;
      if (column < low || column >= high) continue;
      columns.c[i] = result.c[i], columns.c[2 + i] = result.c[2 + i];
    }
  }
};

// The sums of a row tile by route: each warp's split-K partials, and then what the route adds to its token.
struct SharedRouteSums {
  static constexpr u32 kStride = kTileRows + 4;  // the columns of a store are in different banks
  float partial[kWarps][kRoutes][kStride];
  alignas(16) bf16 bias[kRoutes][kTileRows];

  // Copies the bias of every route's expert.
  __device__ __forceinline__ void fetch_biases(const bf16* biases, const Routing& routing, u32 first_row, u32 tokens) {
    constexpr u32 kHalf = kTileRows / 2;  // 16 bytes
#pragma unroll
    for (u32 j = 0; j < ceil_div(2 * kRoutes, spec::kThreads); ++j) {
      const u32 i = threadIdx.x + j * spec::kThreads, route = i / 2, half = i % 2 * kHalf;
      if (route >= tokens * spec::kTopK) return;
      const u64 expert = routing.ids[route / spec::kTopK][route % spec::kTopK];
      copy_async(&bias[route][half], biases + expert * spec::kHidden + first_row + half, true);
    }
  }

  // Stores this warp's results of a load's columns.
  __device__ __forceinline__ void store(const Accumulators& results, const RouteColumns& columns,
                                        const Routing& routing) {
    const u32 g = lane_id() / 4;
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
      const u32 column = lane_id() % 4 * 2 + i;
      if (column >= columns.routes) continue;
      float* rows = partial[warp_id()][columns.route(routing, column)];
      rows[g] = results.c[i], rows[g + 8] = results.c[2 + i];
    }
  }

  // Reduces the partials of every route and applies its bias and its weight. A barrier comes before and after.
  __device__ __forceinline__ void reduce(const Routing& routing, u32 tokens, float weight_scale) {
    for (u32 i = threadIdx.x; i < tokens * spec::kTopK * kTileRows; i += spec::kThreads) {
      const u32 route = i / kTileRows, row = i % kTileRows;
      float sum = 0.0f;
#pragma unroll
      for (u32 w = 0; w < kWarps; ++w) sum += partial[w][route][row];
      const float weight = routing.weights[route / spec::kTopK][route % spec::kTopK];
      partial[0][route][row] = weight * (weight_scale * sum + bf16_to_float(bias[route][row]));
    }
  }

  // What all routes of a token add to a row.
  __device__ __forceinline__ float of_token(u32 token, u32 row) const {
    float sum = 0.0f;
#pragma unroll
    for (u32 k = 0; k < spec::kTopK; ++k) sum += partial[0][token * spec::kTopK + k][row];
    return sum;
  }
};

struct Shared {
  SharedWeightStages<Mxfp4Tile, Slice, kWarps, spec::kStages> stages;
  SharedRouteSums sums;
  Routing routing;
  SharedResidual<spec::kMaxTokens> residual;
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ MoeDownResidual p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  // The router's sums and the residual were written two kernels ago and are complete, because the kernel between waited
  // for them before it let this one start. So the experts' weights are requested before expert_act is complete.
  const RouterLogits<spec::kExperts, spec::kHidden> logits{p.router_logit_sums, p.router_square_sums, p.router_bias,
                                                           spec::kRmsEps};
  shared.routing.template build<kWarps>(logits, p.tokens, nullptr);
  const u32 first_row = blockIdx.x * kTileRows;
  shared.sums.fetch_biases(p.bias, shared.routing, first_row, p.tokens);
  shared.residual.fetch_scale(p.next_norm_scale, first_row);
  auto weights = stream<spec::kPace, RowTiles::kAll>(shared.stages, shared.routing.distinct, [&](u32 entry) {
    const u64 expert = shared.routing.experts[entry];
    return p.weight + (expert * kRowTiles + blockIdx.x) * Mxfp4Tile::row_tile_bytes(Slice::kKTiles);
  });
  shared.residual.fetch_before<spec::kHidden>(p.residual, first_row, p.tokens);
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  for (u32 entry = 0; entry < shared.routing.distinct;) {
    const RouteColumns columns(shared.routing, entry);
    load_activations<Slice, spec::kInter>(x, columns.row(p, shared.routing));
    Accumulators results{};
    for (; entry < columns.end; ++entry) {
      Accumulators accumulators{};
      weights.multiply(accumulators, x);
      columns.take(results, accumulators, shared.routing, entry);
    }
    shared.sums.store(results, columns, shared.routing);
  }
  copy_wait<0>();
  __syncthreads();
  shared.sums.reduce(shared.routing, p.tokens, p.weight_scale);
  __syncthreads();
  const ResidualEpilogue<spec::kHidden> out{p.residual, p.deferred_rows, p.square_sums};
  Pairs::visit(p.tokens, [&](u32 /*j*/, u32 g, u32 token) {
    out.add(shared.residual, first_row, g, token, shared.sums.of_token(token, g), shared.sums.of_token(token, g + 8));
  });
}
