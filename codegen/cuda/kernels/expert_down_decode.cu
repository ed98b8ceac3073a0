// residual[token] += sum over the token's experts of weight * (down[expert](hidden[slot]) + bias), with what the next
// norm needs of it (tile/norm.cuh).
//
// A block owns 16 rows for every chosen expert and all tokens, and adds the experts in the order of the route's
// list, so the sum needs no atomics and does not depend on timing. A column is a slot: as many experts as have at
// most eight slots together share one load of hidden rows, and of each product only the expert's own columns count.
#include "epilogue/residual.cuh"
#include "moe/route.cuh"
#include "ptx/launch.cuh"
#include "tile/gemv.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kStrips = spec::kHidden / kTileRows;
constexpr u32 kColumns = 8;
constexpr bool kOneToken = spec::kMaxTokens == 1 && spec::kTopK <= kColumns;  // whose choices are the columns
using Slice = Share<spec::kInter, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;
using Route = SharedRoute<spec::kExperts, spec::kTopK, spec::kMaxTokens>;

struct Shared {
  SharedTiles<Mxfp4Tile, Slice, kWarps, spec::kRing> ring;
  SharedSums<kWarps, spec::kMaxTokens> sums;
  Route route;
  // Of each row pair: the residual before with the bias, and the next norm's scales. Registers are short here.
  FloatPair start[8 * spec::kMaxTokens];
  u32 scale[8 * spec::kMaxTokens];
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

// Experts of the route's list, up to `end`, whose slots fill the columns of one load.
struct Group {
  u32 end, first_slot, slots;

  __device__ __forceinline__ Group(const Route& route, u32 first) : end(spec::kTopK), first_slot(0), slots(spec::kTopK) {
    if (kOneToken) return;
    end = first + 1, first_slot = route.start[first];
    while (end < route.distinct && route.start[end + 1] - first_slot <= kColumns) ++end;
    slots = route.start[end] - first_slot;
  }

  // The hidden row of this lane's column, or null.
  __device__ __forceinline__ const bf16* row(const ExpertDown& p, const Route& route) const {
    const u32 column = lane_id() / 4;
    if (column >= slots) return nullptr;
    const u64 slot = kOneToken ? column : route.slots[first_slot + column];
    return p.hidden + slot * spec::kInter;
  }

  // Keeps those of a product's columns that are slots of the expert at `place`.
  __device__ __forceinline__ void keep(Sums& kept, const Sums& product, const Route& route, u32 place) const {
    const u32 low = kOneToken ? place : route.start[place] - first_slot;
    const u32 high = kOneToken ? place + 1 : route.start[place + 1] - first_slot;
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
      const u32 column = lane_id() % 4 * 2 + i;
      if (column >= low && column < high) kept.s[i] = product.s[i], kept.s[2 + i] = product.s[2 + i];
    }
  }

  // Adds each column, times its slot's weight, to this warp's sums of its token: of one token at once, of more one
  // column after another.
  __device__ __forceinline__ void add(SharedSums<kWarps, spec::kMaxTokens>& sums, const Sums& kept,
                                      const Route& route) const {
    if (kOneToken) return sums.put(0, joined(kept, route));
    auto& of_warp = sums.partial[0][warp_id()];
    const u32 g = lane_id() / 4;
    for (u32 column = 0; column < slots; ++column) {
      const u32 slot = route.slots[first_slot + column], token = slot / spec::kTopK;
      if (lane_id() % 4 == column / 2) {
        const float weight = route.weights[token][slot % spec::kTopK];
        of_warp[g][token] += weight * (column % 2 == 0 ? kept.s[0] : kept.s[1]);
        of_warp[g + 8][token] += weight * (column % 2 == 0 ? kept.s[2] : kept.s[3]);
      }
      __syncwarp();
    }
  }

 private:
  // One token's columns added up, in column 0.
  __device__ __forceinline__ static Sums joined(const Sums& kept, const Route& route) {
    const u32 column = lane_id() % 4 * 2;
    const float weight0 = column < spec::kTopK ? route.weights[0][column] : 0.0f;
    const float weight1 = column + 1 < spec::kTopK ? route.weights[0][column + 1] : 0.0f;
    Sums sums{};
#pragma unroll
    for (u32 row = 0; row < 4; row += 2) {
      float sum = weight0 * kept.s[row] + weight1 * kept.s[row + 1];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sums.s[row] = sum + __shfl_xor_sync(~0u, sum, 2);
    }
    return sums;
  }
};

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

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ ExpertDown p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  // The router's logits are two kernels old and complete: the kernel between waited for them before it let this
  // one start. So the experts' weights can be on their way before that kernel's hidden rows are.
  shared.route.template build<kWarps>(p.logits, p.tokens);
  auto weights = stream<Strips::kAll>(shared.ring, shared.route.distinct, [&](u32 place) {
    const u64 expert = shared.route.experts[place];
    return p.weight + (expert * kStrips + blockIdx.x) * Mxfp4Tile::strip_bytes(Slice::kKTiles);
  });
  const ResidualOut<spec::kHidden> out{p.residual, p.scaled, p.squares, p.next_scale};
  const u32 first_row = blockIdx.x * kTileRows;
  Pairs::visit(p.tokens, [&](u32 /*j*/, u32 g, u32 token) {
    shared.start[token * 8 + g] = weighted_bias(p, shared.route, token, first_row + g);
    shared.scale[token * 8 + g] = out.next_scale_pair(first_row + g);
  });
  wait_for_inputs();
  start_next_kernel();

  ActivationTile x[Slice::kTiles];
  if (!kOneToken) shared.sums.put(0, Sums{});
  __syncwarp();
  for (u32 place = 0; place < shared.route.distinct;) {
    const Group group(shared.route, place);
    load_activations<Slice, spec::kInter>(x, group.row(p, shared.route));
    if (place == 0)
      Pairs::visit(p.tokens, [&](u32 /*j*/, u32 g, u32 token) {
        out.add_before(shared.start[token * 8 + g], first_row + g, token);
      });
    Sums kept{};
    for (; place < group.end; ++place) {
      Sums product{};
      weights.multiply(product, x);
      group.keep(kept, product, shared.route, place);
    }
    group.add(shared.sums, kept, shared.route);
  }
  __syncthreads();
  Pairs::finish(shared.sums, 0, p.tokens, [&](u32 /*j*/, u32 g, u32 token, float low, float high) {
    const u32 pair = token * 8 + g;
    const FloatPair start = shared.start[pair];
    out.store(first_row + g, token, shared.scale[pair], start.low + low * p.weight_scale,
              start.high + high * p.weight_scale);
  });
}
