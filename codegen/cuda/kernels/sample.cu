// Samples the next token of each row: the largest logit at temperature 0, else the largest of logit / temperature +
// Gumbel noise among the tokens that top-k, top-p and min-p keep (the Gumbel-max trick, which samples exactly from
// their softmax).
//
// Rows without filters are split among gridDim.x blocks, and the last block to finish compares their candidates.
// Filters need the whole row, which one block takes. The noise depends on seed, position and token alone, so a sample
// depends on neither batch nor timing.
//
// Layouts: logits [rows][vocab] float; candidates [rows][gridDim.x]; sampled [rows] u32; last_sampled [sequence slots]
// u32. A call reads a row's 4 x vocab bytes once or, with filters, twice (for the largest logit and for the sample),
// four times more for top-k and five times more for top-p, and computes one Gumbel number for each kept token.
#include "ptx/launch.cuh"
#include "sample/candidate.cuh"
#include "sample/select.cuh"
#include "scalar.cuh"

constexpr u32 kWarps = spec::kThreads / kWarpSize;
// Probabilities are integers in units of 2^-40, so that their sum does not depend on the order of additions.
constexpr float kFixedPoint = 1099511627776.0f;

struct Shared {
  Candidate best[kWarps];
  SharedSelect select;
  u64 mass;
};
static_assert(reserves<Shared>(spec::kSharedBytes), "the launch reserves another size of shared memory");

// The key of a logit. NaN has the lowest key.
__device__ __forceinline__ u32 logit_key(float logit) { return order_key(logit == logit ? logit : kMinusInfinity); }

// The tokens that the filters keep.
__device__ __forceinline__ Kept kept_tokens(Shared& shared, const float* logits, const SampleRow& row, float largest) {
  const auto key_of = [&](u32 i) { return logit_key(logits[i]); };
  Kept kept{0, ~0u};
  if (row.top_k > 0 && row.top_k < spec::kVocab)
    kept = keep_best<spec::kThreads>(shared.select, spec::kVocab, kept, row.top_k, key_of, [](u32) { return u64{1}; });
  if (row.top_p < 1.0f) {
    const float scale = kLog2e / row.temperature;
    const auto weight_of = [&](u32 key) {
      return static_cast<u64>(exp2_fast((key_to_float(key) - largest) * scale) * kFixedPoint);
    };
    if (threadIdx.x == 0) shared.mass = 0;
    __syncthreads();
    u64 mass = 0;
    for (u32 i = threadIdx.x; i < spec::kVocab; i += spec::kThreads) {
      const u32 key = key_of(i);
      if (kept.contains(key, i)) mass += weight_of(key);
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

// Samples from the whole row, by this block alone.
__device__ __forceinline__ Candidate sample_filtered(Shared& shared, const float* logits, const SampleRow& row,
                                                     u64 seed) {
  const Slice all{0, spec::kVocab};
  const Candidate largest = block_best<kWarps>(shared.best, all, [&](u32 token) { return logits[token]; });
  const Kept kept = kept_tokens(shared, logits, row, largest.score);
  return block_best<kWarps>(shared.best, all, [&](u32 token) {
    if (!kept.contains(logit_key(logits[token]), token)) return kMinusInfinity;
    return logits[token] / row.temperature + gumbel(seed, row.position, token);
  });
}

// Finds the best token of this block's slice of the row.
__device__ __forceinline__ Candidate sample_slice(Shared& shared, const float* logits, const SampleRow& row, u64 seed) {
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

  Candidate sampled = filtered ? sample_filtered(shared, logits, row, seed) : sample_slice(shared, logits, row, seed);
  if (warp_id() != 0) return;
  if (!filtered) {
    Candidate* candidates = static_cast<Candidate*>(p.candidates) + blockIdx.y * gridDim.x;
    u32 earlier = 0;
    if (lane_id() == 0) candidates[blockIdx.x] = sampled, earlier = arrive(&p.arrival_counters[blockIdx.y]);
    if (__shfl_sync(~0u, earlier, 0) != gridDim.x - 1) return;
    for (u32 i = lane_id(); i < gridDim.x; i += kWarpSize) sampled.keep_better(candidates[i]);
    sampled = warp_best(sampled);
  }
  if (lane_id() != 0) return;
  if (!filtered) p.arrival_counters[blockIdx.y] = 0;
  // As on the host, nothing is sampled if the largest logit is not finite. The next step, which may already wait for
  // the token, still needs one of the vocabulary.
  const bool found = sampled.token < spec::kVocab && (is_finite(sampled.score) || is_finite(logits[sampled.token]));
  p.sampled[blockIdx.y] = found ? sampled.token : kNothingSampled;
  p.last_sampled[row.seq_slot] = found ? sampled.token : 0;
}
