// Draws the next token of each row: greedy at temperature 0, else the largest logit / temperature + Gumbel noise
// among the tokens that top-k, top-p and min-p keep (the Gumbel-max trick: exactly a draw from their softmax).
//
// Rows without filters are split among gridDim.x blocks, the last of which to finish compares their candidates;
// filters need the whole row, which one block takes. The noise depends on seed, position and token alone, so a draw
// depends on neither batch nor timing.
//
// Layouts: logits [rows][vocab] float; candidates [rows][gridDim.x]; sampled [rows] u32; last_sampled [seq_slots] u32.
// A call reads a row's 4 x vocab bytes once, or, with filters, twice (the largest logit, the draw), four times more for
// top-k and five for top-p, and takes one Gumbel number for each kept token.
#include "ptx/launch.cuh"
#include "sample/candidate.cuh"
#include "sample/select.cuh"
#include "scalar.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
constexpr float kFixedPoint = 1099511627776.0f;  // 2^40: probabilities as integers, summed without rounding

struct Shared {
  Candidate best[kWarps];
  SharedSelect select;
  u64 mass;
};
static_assert(sizeof(Shared) <= spec::kSharedBytes, "the launch reserves too little shared memory");

// A logit's key; what is not a number comes last.
__device__ __forceinline__ u32 logit_key(float logit) { return order_key(logit == logit ? logit : kMinusInfinity); }

// What the filters keep.
__device__ __forceinline__ Kept kept_tokens(Shared& shared, const float* logits, const SampleRow& row, float largest) {
  const auto key_of = [&](u32 i) { return logit_key(logits[i]); };
  Kept kept{0, ~0u};
  if (row.top_k > 0 && row.top_k < spec::kVocab)
    kept = keep_best<spec::kThreads>(shared.select, spec::kVocab, kept, row.top_k, key_of, [](u32) { return u64{1}; });
  if (row.top_p < 1.0f) {
    const float scale = kLog2e / row.temperature;
    const auto weight_of = [&](u32 key) {
      return static_cast<u64>(exp2_fast((float_of_key(key) - largest) * scale) * kFixedPoint);
    };
    if (threadIdx.x == 0) shared.mass = 0;
    __syncthreads();
    u64 mass = 0;
    for (u32 i = threadIdx.x; i < spec::kVocab; i += spec::kThreads) {
      const u32 key = key_of(i);
      if (kept.holds(key, i)) mass += weight_of(key);
    }
    atomicAdd(&shared.mass, mass);
    __syncthreads();
    const u64 wanted = max(static_cast<u64>(static_cast<double>(shared.mass) * row.top_p), u64{1});
    kept = keep_best<spec::kThreads>(shared.select, spec::kVocab, kept, wanted, key_of, weight_of);
  }
  if (row.min_p > 0.0f) {
    const u32 least = order_key(largest + row.temperature * __logf(row.min_p));
    if (least > kept.key) kept = {least, ~0u};
  }
  return kept;
}

// A draw by this block alone.
__device__ __forceinline__ Candidate draw_filtered(Shared& shared, const float* logits, const SampleRow& row,
                                                   u64 seed) {
  const Slice all{0, spec::kVocab};
  const Candidate largest = block_best<kWarps>(shared.best, all, [&](u32 token) { return logits[token]; });
  const Kept kept = kept_tokens(shared, logits, row, largest.score);
  return block_best<kWarps>(shared.best, all, [&](u32 token) {
    if (!kept.holds(logit_key(logits[token]), token)) return kMinusInfinity;
    return logits[token] / row.temperature + gumbel(seed, row.position, token);
  });
}

// The best of this block's slice.
__device__ __forceinline__ Candidate draw_slice(Shared& shared, const float* logits, const SampleRow& row, u64 seed) {
  const u32 width = ceil_div(spec::kVocab, gridDim.x), first = min(blockIdx.x * width, spec::kVocab);
  const Slice slice{first, min(first + width, spec::kVocab)};
  if (row.temperature == 0.0f) return block_best<kWarps>(shared.best, slice, [&](u32 token) { return logits[token]; });
  const float inverse = 1.0f / row.temperature;
  return block_best<kWarps>(shared.best, slice,
                            [&](u32 token) { return logits[token] * inverse + gumbel(seed, row.position, token); });
}

extern "C" __global__ void __launch_bounds__(spec::kThreads, spec::kBlocksPerSm)
    KERNEL_NAME(const __grid_constant__ Sample p) {
  extern __shared__ __align__(16) u8 storage[];
  Shared& shared = *reinterpret_cast<Shared*>(storage);
  const SampleRow row = p.rows[blockIdx.y];
  wait_for_inputs();
  start_next_kernel();
  const float* logits = p.logits + static_cast<u64>(blockIdx.y) * spec::kVocab;
  const u64 seed = static_cast<u64>(row.seed_high) << 32 | row.seed_low;
  const bool filtered = row.temperature > 0.0f && (row.top_k > 0 || row.top_p < 1.0f || row.min_p > 0.0f);
  if (filtered && blockIdx.x > 0) return;

  Candidate drawn = filtered ? draw_filtered(shared, logits, row, seed) : draw_slice(shared, logits, row, seed);
  if (warp_id() != 0) return;
  if (!filtered) {
    Candidate* candidates = static_cast<Candidate*>(p.candidates) + blockIdx.y * gridDim.x;
    u32 earlier = 0;
    if (lane_id() == 0) candidates[blockIdx.x] = drawn, earlier = arrive(&p.arrival_counters[blockIdx.y]);
    if (__shfl_sync(~0u, earlier, 0) != gridDim.x - 1) return;
    for (u32 i = lane_id(); i < gridDim.x; i += kWarpSize) drawn.keep_better(candidates[i]);
    drawn = warp_best(drawn);
  }
  if (lane_id() != 0) return;
  if (!filtered) p.arrival_counters[blockIdx.y] = 0;
  // As on the host, nothing is drawn if the largest logit is no finite number; the next step, which may wait for the
  // token already, needs one of the vocabulary all the same.
  const bool found = drawn.token < spec::kVocab && (is_finite(drawn.score) || is_finite(logits[drawn.token]));
  p.sampled[blockIdx.y] = found ? drawn.token : ~0u;
  p.last_sampled[row.seq_slot] = found ? drawn.token : 0;
}
