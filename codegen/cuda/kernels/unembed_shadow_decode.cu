// Bounds of logits[i] = unembedding(input[rows[i]]) from the 8-bit shadow of the unembedding: which row tiles can hold
// the token that is sampled from row i. sample_shadow_decode.cu computes these and samples.
//
// A row's activations x are a whole number of steps each, so x = s n + d, and a row of the unembedding is w = v + e,
// with the shadow v. So a logit is s (v n), which is computed here, within |v| |d| + |e| |x| by the Cauchy-Schwarz
// inequality. The norms of e and v are known for each row of the unembedding, those of d and x are computed here.
// kRounding is more than what the roundings of either unembedding can add, in units of |v| |x|.
//
// A token is sampled by its logit, or by logit / temperature + noise. For each row tile the largest upper bounds of
// both go to `tile_bounds`, and for each row of logits the largest lower bounds to `lower_bounds`.
//
// Layouts: input [tokens][hidden] bf16 deferred rows; square_sums [tokens][hidden / 16] float; shadow [row tile][tile]
// of vocab rows by hidden, int8 with bf16 scales (tile/int8.cuh); row_bounds [vocab]; tile_bounds [count][row tile];
// lower_bounds [count], zero before. A call computes 4 x vocab x hidden integer operations per row and reads vocab x
// hidden x 66 / 64 bytes of weights, once: memory bandwidth bounds it. At most kMaxTokens rows.
#include "ptx/launch.cuh"
#include "sample/noise.cuh"
#include "tile/gemv.cuh"
#include "tile/int8.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kRowTiles = ceil_div(spec::kVocab, kTileRows);
constexpr u32 kSets = spec::kMaxTokens == 1 ? 1 : 2;
using Slice = KSlice<spec::kHidden, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;

// What a row of activations adds to its bounds, and how its token is sampled.
struct RowState {
  u64 noise_stream;
  float inverse_temperature;
  float scale;          // of a sum of steps, as a logit
  float norm, left_out;  // |x|, and |d| with the roundings, both as logits are scaled
};

// A thread's largest lower bounds so far; that of logit / temperature + noise is known when the noise of `token` is.
struct Leader {
  float logit, magnitude, sum_without_noise;
  float least_sum;  // with the upper bound of the noise
  u32 token;
};

struct Shared {
  SharedWeightStages<Int8Tile, Slice, kWarps, spec::kStages> stages;
  SharedPartials<kWarps, spec::kMaxTokens> partials;
  RowState rows[spec::kMaxTokens];
  Leader leaders[8 * spec::kMaxTokens];
  SharedInverseRms<spec::kMaxTokens> inverse_rms;
  float largest[kWarps][spec::kMaxTokens], squares[kWarps][spec::kMaxTokens], left_out[kWarps][spec::kMaxTokens];
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

__device__ __forceinline__ float quad_reduce(float v, bool sum) {
  const float other = __shfl_xor_sync(~0u, v, 1);
  v = sum ? v + other : fmaxf(v, other);
  const float far = __shfl_xor_sync(~0u, v, 2);
  return sum ? v + far : fmaxf(v, far);
}

// Calls `visit(of, i, token, elements)` for this lane's elements of each k tile of its slice, of each of its tokens.
template <class Visit>
__device__ __forceinline__ void visit_activations(const UnembedShadow& p, Visit visit) {
#pragma unroll
  for (u32 of = 0; of < kSets; ++of) {
    const u32 token = min(kSets == 1 ? 0 : lane_id() / 8 * 2 + of, p.count - 1);
    const bf16* row = p.input + static_cast<u64>(p.rows ? p.rows[token] : token) * spec::kHidden;
#pragma unroll
    for (u32 i = 0; i < Slice::kTiles; ++i) {
      const u32 k = Slice::k_tile(i) * kTileK + lane_id() % 4 * 16;
      uint4 elements[2] = {};
      if (k < spec::kHidden) {
        elements[0] = *reinterpret_cast<const uint4*>(row + k);
        elements[1] = *reinterpret_cast<const uint4*>(row + k + 8);
      }
      visit(of, i, token, elements);
    }
  }
}

__device__ __forceinline__ float element_of(const uint4 (&elements)[2], u32 e) {
  const uint4& v = elements[e / 8];
  const u32 pair = e / 2 % 4 == 0 ? v.x : e / 2 % 4 == 1 ? v.y : e / 2 % 4 == 2 ? v.z : v.w;
  return e % 2 == 0 ? bf16_low(pair) : bf16_high(pair);
}

// Turns this warp's activations into digits, and leaves the norms of its slice in shared memory.
__device__ __forceinline__ void load_digits(DigitTile<kSets> (&x)[Slice::kTiles], Shared& shared,
                                            const UnembedShadow& p) {
  float largest[kSets] = {}, squares[kSets] = {}, left_out[kSets] = {}, inverse_step[kSets], step[kSets];
  visit_activations(p, [&](u32 of, u32 /*i*/, u32 /*token*/, const uint4 (&elements)[2]) {
#pragma unroll
    for (u32 e = 0; e < 16; ++e) {
      const float v = element_of(elements, e);
      largest[of] = fmaxf(largest[of], fabsf(v)), squares[of] = fmaf(v, v, squares[of]);
    }
  });
  // Lanes of one column have all tokens among them; those of columns 2 and further on have others' again.
  const u32 own = kSets == 1 ? 0 : lane_id() / 8 * 2;
  const bool writes = lane_id() % 8 == 0 && own < spec::kMaxTokens;
#pragma unroll
  for (u32 of = 0; of < kSets; ++of) {
    const float most = quad_reduce(largest[of], false), sum = quad_reduce(squares[of], true);
    if (writes) shared.largest[warp_id()][own + of] = most, shared.squares[warp_id()][own + of] = sum;
  }
  __syncthreads();
#pragma unroll
  for (u32 of = 0; of < kSets; ++of) {
    float most = 0.0f;
#pragma unroll
    for (u32 w = 0; w < kWarps; ++w) most = fmaxf(most, shared.largest[w][own + of]);
    const bool usable = most > 1e-30f && most < 1e30f;
    inverse_step[of] = usable ? SHADOW_STEPS / most : 0.0f, step[of] = usable ? most * (1.0f / SHADOW_STEPS) : 0.0f;
  }
  visit_activations(p, [&](u32 of, u32 i, u32 /*token*/, const uint4 (&elements)[2]) {
    x[i].set(of, elements, inverse_step[of]);
#pragma unroll
    for (u32 e = 0; e < 16; ++e) {
      const float v = element_of(elements, e);
      const float rest = fmaf(-static_cast<float>(steps_of_activation(v, inverse_step[of])), step[of], v);
      left_out[of] = fmaf(rest, rest, left_out[of]);
    }
  });
#pragma unroll
  for (u32 of = 0; of < kSets; ++of) {
    const float sum = quad_reduce(left_out[of], true);
    if (writes) shared.left_out[warp_id()][own + of] = sum;
  }
}

// The state of row `i`, from the sums of all warps.
__device__ __forceinline__ RowState row_state(const Shared& shared, const SampleRow& settings, u32 i) {
  float most = 0.0f, squares = 0.0f, left_out = 0.0f;
  for (u32 w = 0; w < kWarps; ++w) {
    most = fmaxf(most, shared.largest[w][i]);
    squares += shared.squares[w][i], left_out += shared.left_out[w][i];
  }
  // kLeast is more than the norm of the elements whose squares are less than any float.
  constexpr float kRoundUp = 1.001f, kLeast = 1e-17f;
  const bool usable = most > 1e-30f && most < 1e30f && squares < 1e30f;
  const float inverse = shared.inverse_rms.per_token[i], norm = sqrtf(squares) * kRoundUp + kLeast;
  RowState state;
  const u64 seed = static_cast<u64>(settings.seed_high) << 32 | settings.seed_low;
  state.noise_stream = noise_stream(seed, settings.position);
  state.inverse_temperature = settings.inverse_temperature;
  state.scale = usable ? most * (1.0f / SHADOW_STEPS) * inverse : 0.0f;
  // Of a row that is not finite nothing is known.
  const bool known = squares < 1e30f && is_finite(inverse);
  state.norm = known ? norm * inverse * kRoundUp : -kMinusInfinity;
  const float rest = sqrtf(left_out) * kRoundUp + kLeast + spec::kRounding * norm;
  state.left_out = known ? rest * inverse * kRoundUp : -kMinusInfinity;
  if (!is_finite(state.scale)) state.scale = 0.0f;
  return state;
}

// The upper bounds of a row tile, as far as this thread knows them.
struct UpperBounds {
  float logit = kMinusInfinity, sum = kMinusInfinity;

  // Adds a token whose sum of steps is `steps`.
  __device__ __forceinline__ void add(Leader& leader, const RowState& row, ShadowRowBound bound, float steps,
                                      u32 token) {
    // Where a bound is infinite, the sum may be no number, which must not hide that nothing is known.
    const bool known = is_finite(bound.error);
    const float approximate = known ? steps * row.scale : 0.0f;
    const float error = known ? fmaf(row.norm, bound.error, row.left_out * bound.norm) : -kMinusInfinity;
    logit = fmaxf(logit, approximate + error);
    leader.logit = fmaxf(leader.logit, approximate - error);
    leader.magnitude = fmaxf(leader.magnitude, fabsf(approximate) + error);
    if (row.inverse_temperature == 0.0f) return;
    const float noise = gumbel_bound(noise_bits(row.noise_stream, token));
    const float upper = (approximate + error) * row.inverse_temperature;
    const float lower = (approximate - error) * row.inverse_temperature;
    sum = fmaxf(sum, upper + noise);
    if (lower + noise > leader.least_sum) {
      leader.least_sum = lower + noise, leader.sum_without_noise = lower;
      leader.token = token;
    }
  }

  // Over the eight lanes that have a row tile's tokens.
  __device__ __forceinline__ void reduce(u32 lanes) {
#pragma unroll
    for (u32 step = 1; step < 8; step *= 2) {
      logit = fmaxf(logit, __shfl_xor_sync(lanes, logit, step));
      sum = fmaxf(sum, __shfl_xor_sync(lanes, sum, step));
    }
  }
};

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ UnembedShadow p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  auto weights = stream<spec::kPace>(shared.stages, kRowTiles, [&](u32 row_tile) {
    return p.shadow + static_cast<u64>(row_tile) * Int8Tile::row_tile_bytes(Slice::kKTiles);
  });
  for (u32 i = threadIdx.x; i < 8 * spec::kMaxTokens; i += spec::kThreads)
    shared.leaders[i] = {kMinusInfinity, 0.0f, kMinusInfinity, kMinusInfinity, 0};
  wait_for_inputs();
  start_next_kernel();

  DigitTile<kSets> x[Slice::kTiles];
  shared.inverse_rms.template load<spec::kHidden, kWarps>(p.square_sums, p.rows, p.count, spec::kRmsEps);
  load_digits(x, shared, p);
  __syncthreads();
  if (threadIdx.x < p.count) shared.rows[threadIdx.x] = row_state(shared, p.sampling[threadIdx.x], threadIdx.x);
  __syncthreads();  // a block without row tiles meets no other barrier before it reads them
  u32 parity = 0;
  for (u32 row_tile = blockIdx.x; row_tile < kRowTiles; row_tile += gridDim.x, parity ^= 1) {
    ShadowRowBound bounds[Pairs::kEach][2];
    Pairs::visit(p.count, [&](u32 j, u32 g, u32 /*i*/) {
      const u32 token = row_tile * kTileRows + g;
      bounds[j][0] = p.row_bounds[min(token, spec::kVocab - 1)];
      bounds[j][1] = p.row_bounds[min(token + 8, spec::kVocab - 1)];
    });
    Accumulators accumulators{};
    weights.multiply(accumulators, x);
    shared.partials.store(parity, accumulators);
    __syncthreads();
    Pairs::finish(shared.partials, parity, p.count, [&](u32 j, u32 g, u32 i, float low, float high) {
      const u32 token = row_tile * kTileRows + g;
      UpperBounds upper;
      Leader& leader = shared.leaders[8 * i + g];
      if (token < spec::kVocab) upper.add(leader, shared.rows[i], bounds[j][0], low, token);
      if (token + 8 < spec::kVocab) upper.add(leader, shared.rows[i], bounds[j][1], high, token + 8);
      upper.reduce(0xffu << lane_id() / 8 * 8);
      if (g == 0) p.tile_bounds[static_cast<u64>(i) * kRowTiles + row_tile] = {upper.logit, upper.sum};
    });
  }
  Pairs::visit(p.count, [&](u32 /*j*/, u32 g, u32 i) {
    const Leader& leader = shared.leaders[8 * i + g];
    const RowState& row = shared.rows[i];
    ShadowLowerBound& lower = p.lower_bounds[i];
    atomicMax(&lower.logit, order_key(leader.logit));
    atomicMax(&lower.magnitude, order_key(leader.magnitude));
    if (row.inverse_temperature != 0.0f) {
      const float noise = gumbel_of_bits(noise_bits(row.noise_stream, leader.token));
      atomicMax(&lower.sum, order_key(leader.sum_without_noise + noise));
    }
  });
}
