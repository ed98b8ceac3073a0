// Samples the next token of each row from the row tiles of the unembedding that can hold it, by the bounds of
// unembed_shadow_decode.cu. Their logits are computed as unembed_decode.cu does, in the same order, so a token is the
// one that is sampled from all logits: greedily, or by temperature alone.
//
// Each block computes the tiles among every gridDim.x-th that one of the rows needs. The last block to finish has all
// of them: it finds the largest logit of each row, and then, at a temperature, the largest score with noise. Afterwards
// `lower_bounds`, `candidate_count` and `arrival_counter` are zero again.
//
// Layouts: as unembed_decode.cu and unembed_shadow_decode.cu; logits [count][vocab] float, of which the candidates' are
// written; candidates [row tiles]; sampled [count]; last_sampled [sequence slots]. A call reads 2 x 16 x hidden bytes
// for each tile that is needed: some dozens, unless logits lie so close together that the shadow cannot tell them
// apart.
#include "facts.cuh"
#include "ptx/launch.cuh"
#include "sample/candidate.cuh"
#include "sample/noise.cuh"
#include "tile/gemv.cuh"
#include "tile/norm.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr u32 kRowTiles = ceil_div(spec::kVocab, kTileRows);
using Slice = KSlice<spec::kHidden, kWarps>;
using Pairs = RowPairs<kWarps, spec::kMaxTokens>;

struct Shared {
  SharedPartials<kWarps, spec::kMaxTokens> partials;
  u64 best[2][spec::kMaxTokens];  // by logit, by score with noise
  SharedInverseRms<spec::kMaxTokens> inverse_rms;
  float least[2][spec::kMaxTokens];  // bounds that a tile must reach
  u32 is_last;
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

// NaN counts as minus infinity, and minus zero as zero, as in sample/row.cuh.
__device__ __forceinline__ float canonical(float v) { return fmaxf(v + 0.0f, kMinusInfinity); }

// What a tile's bounds must reach. Scores are relative to the largest logit and rounded, which moves a sum by a few
// units in the last place of the largest number that takes part.
__device__ __forceinline__ void load_least(Shared& shared, const SampleShadow& p) {
  const u32 i = threadIdx.x;
  if (i >= p.count) return;
  constexpr float kUnits = 1.0f / (1 << 20);
  const float inverse_temperature = p.sampling[i].inverse_temperature;
  const float logit = key_to_float(load_bypass_l1(&p.lower_bounds[i].logit));
  const float magnitude = key_to_float(load_bypass_l1(&p.lower_bounds[i].magnitude));
  const float sum = key_to_float(load_bypass_l1(&p.lower_bounds[i].sum));
  shared.least[0][i] = logit - kUnits * magnitude;
  const float least_sum = sum - kUnits * (magnitude * inverse_temperature + 64.0f);
  shared.least[1][i] = inverse_temperature == 0.0f ? -kMinusInfinity : least_sum;
}

// Whether a row may take its token from a row tile. Bounds that are not numbers exclude nothing.
__device__ __forceinline__ bool is_candidate(const Shared& shared, const SampleShadow& p, u32 row_tile) {
  bool candidate = false;
  for (u32 i = 0; i < p.count; ++i) {
    const ShadowTileBound bound = p.tile_bounds[static_cast<u64>(i) * kRowTiles + row_tile];
    candidate |= !(bound.logit < shared.least[0][i]);
    candidate |= p.sampling[i].inverse_temperature != 0.0f && !(bound.sum < shared.least[1][i]);
  }
  return candidate;
}

// Adds a row tile's weights times the activations, as `WeightStream::multiply` does.
__device__ __forceinline__ void multiply_row_tile(Accumulators& accumulators, const u8* row_tile,
                                                  const ActivationTile (&x)[Slice::kTiles]) {
  Bf16Tile tiles[Slice::kTiles];
#pragma unroll
  for (u32 i = 0; i < Slice::kTiles; ++i) {
    if (!Slice::exists(i)) continue;
    const u8* tile = row_tile + Slice::k_tile(i) * Bf16Tile::kBytes;
#pragma unroll
    for (u32 j = 0; j < kTileSteps; ++j) tiles[i].steps[j] = load_stream(tile + (j * kWarpSize + lane_id()) * 16);
  }
#pragma unroll
  for (u32 i = 0; i < Slice::kTiles; ++i)
    if (Slice::exists(i)) multiply_tile(accumulators, tiles[i], x[i]);
}

// Each thread's best of all candidates of each row, by `score_of(row, logit, token)`, goes to `best`.
template <class ScoreOf>
__device__ __forceinline__ void keep_best(u64* best, const SampleShadow& p, u32 tiles, ScoreOf score_of) {
  for (u32 i = 0; i < p.count; ++i) {
    Rank rank = 0;
    for (u32 at = threadIdx.x; at < tiles * kTileRows; at += spec::kThreads) {
      const u32 token = load_bypass_l1(&p.candidates[at / kTileRows]) * kTileRows + at % kTileRows;
      if (token >= spec::kVocab) continue;
      const float logit = canonical(load_bypass_l1(&p.logits[static_cast<u64>(i) * spec::kVocab + token]));
      const Rank other = rank_of(Candidate{score_of(i, logit, token), token});
      rank = rank > other ? rank : other;
    }
    if (rank > 0) atomicMax(&best[i], rank);
  }
  __syncthreads();
}

// Samples from the candidates, and leaves everything as the next step needs it.
__device__ __forceinline__ void sample_candidates(Shared& shared, const SampleShadow& p) {
  const u32 tiles = load_bypass_l1(p.candidate_count);
  keep_best(shared.best[0], p, tiles, [](u32, float logit, u32) { return logit; });
  keep_best(shared.best[1], p, tiles, [&](u32 i, float logit, u32 token) {
    const SampleRow& row = p.sampling[i];
    const Scores score_of{candidate_of(shared.best[0][i]).score, row.inverse_temperature};
    const u64 stream = noise_stream(static_cast<u64>(row.seed_high) << 32 | row.seed_low, row.position);
    return row.inverse_temperature == 0.0f ? logit : score_of(logit) + gumbel_of_bits(noise_bits(stream, token));
  });
  if (threadIdx.x == 0) *p.candidate_count = *p.arrival_counter = 0;
  const u32 i = threadIdx.x;
  if (i >= p.count) return;
  // As from all logits, nothing is sampled if the largest is not finite.
  const bool finite = is_finite(candidate_of(shared.best[0][i]).score);
  const u32 token = finite ? candidate_of(shared.best[1][i]).token : kNothingSampled;
  p.sampled[i] = token;
  p.last_sampled[p.sampling[i].seq_slot] = finite ? token : 0;
  p.lower_bounds[i] = {};
}

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ SampleShadow p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  const u32 column = min(lane_id() / 4, p.count - 1);
  const u64 row = p.rows ? p.rows[column] : column;
  if (threadIdx.x < spec::kMaxTokens) shared.best[0][threadIdx.x] = shared.best[1][threadIdx.x] = 0;
  wait_for_inputs();
  start_next_kernel();

  load_least(shared, p);
  ActivationTile x[Slice::kTiles];
  load_activations<Slice, spec::kHidden>(x, p.input + row * spec::kHidden);
  shared.inverse_rms.template load<spec::kHidden, kWarps>(p.square_sums, p.rows, p.count, spec::kRmsEps);
  __syncthreads();
  u32 parity = 0;
  // A lane of every warp looks at one of 32 tiles, so that all warps know the same candidates.
  for (u32 first = blockIdx.x; first < kRowTiles; first += kWarpSize * gridDim.x) {
    const u32 own = first + lane_id() * gridDim.x;
    u32 candidates = __ballot_sync(~0u, own < kRowTiles && is_candidate(shared, p, own));
    for (; candidates; candidates &= candidates - 1, parity ^= 1) {
      const u32 row_tile = first + (__ffs(candidates) - 1) * gridDim.x;
      Accumulators accumulators{};
      const u8* weights = p.weight + static_cast<u64>(row_tile) * Bf16Tile::row_tile_bytes(Slice::kKTiles);
      multiply_row_tile(accumulators, weights, x);
      shared.partials.store(parity, accumulators);
      __syncthreads();
      Pairs::finish(shared.partials, parity, p.count, [&](u32 /*j*/, u32 g, u32 i, float low, float high) {
        const u32 token = row_tile * kTileRows + g;
        float* logits = p.logits + static_cast<u64>(i) * spec::kVocab + token;
        const float inverse = shared.inverse_rms.per_token[i];
        if (token < spec::kVocab) logits[0] = low * inverse;
        if (token + 8 < spec::kVocab) logits[8] = high * inverse;
      });
      if (threadIdx.x == 0) p.candidates[atomicAdd(p.candidate_count, 1)] = row_tile;
    }
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) shared.is_last = arrive(p.arrival_counter) == gridDim.x - 1;
  __syncthreads();
  if (shared.is_last) sample_candidates(shared, p);
}
