// What a request changes about its logits before it is sampled, in the order of the host (`engine/host_sampling.rs`):
// bias, penalties for earlier tokens, forbidden tokens.
#pragma once
#include "sample/candidate.cuh"
#include "sample/row.cuh"

// A token's history in a sequence: how often it was generated, and whether the prompt holds it.
constexpr u16 kInPrompt = 0x8000;
constexpr u16 kCount = 0x7fff;
constexpr u32 kMaskWords = ceil_div(spec::kVocab, 32);

// Calls `visit(values, load(first token))` for this thread's vectors in the vocabulary, several loads in flight at once.
template <class Load, class Visit>
__device__ __forceinline__ void each_vector_with(const Row& row, Load load, Visit visit) {
  constexpr u32 kLoads = 4;
#pragma unroll 1
  for (u32 first = threadIdx.x; first < kVectors; first += kLoads * spec::kThreads) {
    decltype(load(0u)) loaded[kLoads];
    const auto token_of = [&](u32 n) { return row.first + 4 * (first + n * spec::kThreads); };
    const auto exists = [&](u32 n) { return first + n * spec::kThreads < kVectors && token_of(n) < spec::kVocab; };
#pragma unroll
    for (u32 n = 0; n < kLoads; ++n)
      if (exists(n)) loaded[n] = load(token_of(n));
#pragma unroll
    for (u32 n = 0; n < kLoads; ++n)
      if (exists(n)) visit(row.values[first + n * spec::kThreads], loaded[n]);
  }
}

// Each step is rounded, as on the host, where nothing is fused.
__device__ __forceinline__ float penalized(float logit, u16 history, const SampleChanges& changes) {
  if (history == 0) return logit;
  const float repeated = logit > 0.0f ? __fdiv_rn(logit, changes.repetition_penalty)
                                      : __fmul_rn(logit, changes.repetition_penalty);
  const u32 count = history & kCount;
  if (count == 0) return repeated;
  const float taken = __fmul_rn(changes.frequency_penalty, static_cast<float>(count));
  return __fsub_rn(repeated, __fadd_rn(taken, changes.presence_penalty));
}

// The histories of four consecutive tokens. A row of them begins at any even address.
__device__ __forceinline__ uint2 load_histories(const u16* histories) {
  if constexpr (spec::kVocab % 4 == 0) return *reinterpret_cast<const uint2*>(histories);
  return {histories[0] | u32{histories[1]} << 16, histories[2] | u32{histories[3]} << 16};
}

__device__ __forceinline__ void adjust_row(const Row& row, const Sample& p, const SampleRow& settings,
                                           const SampleChanges& changes) {
  float* values = reinterpret_cast<float*>(row.values);
  const auto in_slice = [&](u32 token) { return token - row.first < kSlice && token < spec::kVocab; };
  if (changes.biases + changes.forbidden > 0) {
    const Edit* edits = p.edits + changes.first_edit;
    __syncthreads();
    // Either list names each token once.
    for (u32 i = threadIdx.x; i < changes.biases; i += spec::kThreads)
      if (in_slice(edits[i].token)) {
        float& value = values[edits[i].token - row.first];
        value = canonical(value + edits[i].bias);
      }
    __syncthreads();
    for (u32 i = threadIdx.x; i < changes.forbidden; i += spec::kThreads)
      if (in_slice(edits[changes.biases + i].token))
        values[edits[changes.biases + i].token - row.first] = kMinusInfinity;
    __syncthreads();
  }
  if (settings.counts_history) {
    const u16* histories = p.histories + static_cast<u64>(settings.seq_slot) * spec::kVocab;
    const auto load = [&](u32 token) { return load_histories(histories + token); };
    each_vector_with(row, load, [&](float4& v, uint2 four) {
      if ((four.x | four.y) == 0) return;
#pragma unroll
      for (u32 e = 0; e < 4; ++e)
        element(v, e) = penalized(element(v, e), static_cast<u16>((e < 2 ? four.x : four.y) >> e % 2 * 16), changes);
    });
  }
  if (changes.mask != ~0u) {
    const u32* mask = p.masks + static_cast<u64>(changes.mask) * kMaskWords;
    const auto load = [&](u32 token) { return mask[token / 32] >> token % 32; };
    each_vector_with(row, load, [&](float4& v, u32 four) {
#pragma unroll
      for (u32 e = 0; e < 4; ++e)
        if ((four >> e & 1) == 0) element(v, e) = kMinusInfinity;
    });
  }
}
