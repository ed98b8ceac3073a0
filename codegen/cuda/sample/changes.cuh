// What a request changes about its logits before it is sampled, in the order of the host (`runtime/src/sampling`):
// biases, penalties for earlier tokens, forbidden tokens, a mask.
#pragma once
#include "sample/candidate.cuh"
#include "sample/row.cuh"

// A token's word in the history of its sequence: whether the prompt holds it, and how often it was generated.
constexpr u16 kCount = kInPrompt - 1;
constexpr u32 kMaskWords = ceil_div(spec::kVocab, 32);

// Where a row's changed values are kept: in shared memory with the row, else in a row of global memory.
struct ChangedRow {
  float4* vectors;  // of the slice

  __device__ __forceinline__ float& at(u32 offset) const { return reinterpret_cast<float*>(vectors)[offset]; }
};

// Calls `visit(values, load(first token))` for this thread's vectors in the vocabulary, several loads in flight at once.
template <class Load, class Visit>
__device__ __forceinline__ void each_vector_with(const Row& row, const ChangedRow& changed, Load load, Visit visit) {
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
      if (exists(n)) visit(changed.vectors[first + n * spec::kThreads], loaded[n]);
  }
}

// Each step is rounded, as on the host, where nothing is fused.
__device__ __forceinline__ float penalized(float logit, u16 history, const SampleChanges& changes) {
  if (history == 0) return logit;
  const float repeated = logit > 0.0f ? __fdiv_rn(logit, changes.repetition_penalty)
                                      : __fmul_rn(logit, changes.repetition_penalty);
  const u32 count = history & kCount;
  if (count == 0) return canonical(repeated);
  const float taken = __fmul_rn(changes.frequency_penalty, static_cast<float>(count));
  return canonical(__fsub_rn(repeated, __fadd_rn(taken, changes.presence_penalty)));
}

// The history of four consecutive tokens. A row of them begins at any even address.
__device__ __forceinline__ uint2 load_history(const u16* history) {
  if constexpr (spec::kVocab % 4 == 0) return *reinterpret_cast<const uint2*>(history);
  return {history[0] | u32{history[1]} << 16, history[2] | u32{history[3]} << 16};
}

// Applies the changes, and returns the row to sample from.
__device__ __forceinline__ Row change_row(const Row& row, const Sample& p, const SampleRow& settings,
                                          const SampleChanges& changes) {
  Row result = row;
  ChangedRow changed{row.values};
  if constexpr (!kRowInShared) {
    float* scratch = p.scratch + static_cast<u64>(blockIdx.y) * spec::kScratchStride;
    changed.vectors = reinterpret_cast<float4*>(scratch + row.first);
    each_vector(row, [&](const float4& v, u32 first) { changed.vectors[(first - row.first) / 4] = v; });
    result.logits = scratch;
  }
  const auto in_slice = [&](u32 token) { return token - row.first < kSlice && token < spec::kVocab; };
  // A biased or forbidden token may be changed by another thread than the one that owns it. Each is named once.
  if (changes.biases > 0) {
    __syncthreads();
    for (u32 i = threadIdx.x; i < changes.biases; i += spec::kThreads) {
      const SampleEdit edit = p.edits[changes.first_edit + i];
      if (!in_slice(edit.token)) continue;
      float& value = changed.at(edit.token - row.first);
      value = canonical(value + edit.bias);
    }
    __syncthreads();
  }
  if (settings.counts_history) {
    const u16* history = p.histories + static_cast<u64>(settings.seq_slot) * spec::kVocab;
    const auto load = [&](u32 token) { return load_history(history + token); };
    each_vector_with(row, changed, load, [&](float4& v, uint2 four) {
      if ((four.x | four.y) == 0) return;
#pragma unroll
      for (u32 e = 0; e < 4; ++e)
        element(v, e) = penalized(element(v, e), static_cast<u16>((e < 2 ? four.x : four.y) >> e % 2 * 16), changes);
    });
  }
  if (changes.forbidden > 0) {
    __syncthreads();
    for (u32 i = threadIdx.x; i < changes.forbidden; i += spec::kThreads) {
      const u32 token = p.edits[changes.first_edit + changes.biases + i].token;
      if (in_slice(token)) changed.at(token - row.first) = kMinusInfinity;
    }
    __syncthreads();
  }
  if (changes.mask != kNoMask) {
    const u32* mask = p.masks + static_cast<u64>(changes.mask) * kMaskWords;
    const auto load = [&](u32 token) { return mask[token / 32] >> token % 32; };
    each_vector_with(row, changed, load, [&](float4& v, u32 four) {
#pragma unroll
      for (u32 e = 0; e < 4; ++e)
        if ((four >> e & 1) == 0) element(v, e) = kMinusInfinity;
    });
  }
  return result;
}
