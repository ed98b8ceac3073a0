// The epilogue of the query/key/value GEMM: bias, rotary embedding, and the write to queries or cache.
#pragma once
#include "epilogue/cache.cuh"
#include "ptx/math.cuh"
#include "scalar.cuh"

struct QkvOutputs {
  bf16* queries;  // [token][q head][dim]
  KvCache cache;
  const u32* positions;  // [token]
  const u32* seq_slots;  // [token]
  const bf16* bias;      // [q, k, v rows]
};

// The values of a pair's epilogue that are constant for the step and loaded in advance.
struct QkvConstants {
  bf16 bias_low, bias_high;
  u32 position;
  u32 page;  // of keys and values
};

// Rotates dims `dim` and `dim + kHeadDim / 2` of a token's fused head `head` (query heads first, then keys, then
// values) and stores them to the queries or the cache.
template <u32 kHeadDim, u32 kQHeads, u32 kKvHeads>
struct QkvPair {
  static constexpr u32 kHalf = kHeadDim / 2;
  bf16* low_out;
  u32 high_offset;
  float bias_low, bias_high, cos, sin;

  QkvPair() = default;

  __device__ __forceinline__ static QkvConstants fetch(const QkvOutputs& out, u32 head, u32 dim, u32 token) {
    QkvConstants constants = fetch_bias(out, head, dim);
    constants.position = out.positions[token];
    if (head >= kQHeads) constants.page = out.cache.page(out.seq_slots[token], constants.position);
    return constants;
  }

  // Loads the part that is the same for every token.
  __device__ __forceinline__ static QkvConstants fetch_bias(const QkvOutputs& out, u32 head, u32 dim) {
    return {out.bias[head * kHeadDim + dim], out.bias[head * kHeadDim + dim + kHalf], 0, 0};
  }

  __device__ __forceinline__ QkvPair(const QkvOutputs& out, const QkvConstants& constants, u32 head, u32 dim, u32 token,
                                     float inv_freq, float concentration) {
    bias_low = bf16_to_float(constants.bias_low);
    bias_high = bf16_to_float(constants.bias_high);
    const u32 position = constants.position;
    const auto rotation = cos_sin(rope_angle(position, inv_freq));
    const bool is_value = head >= kQHeads + kKvHeads;
    cos = is_value ? 1.0f : rotation.v[0] * concentration;
    sin = is_value ? 0.0f : rotation.v[1] * concentration;
    const u32 page_bits = out.cache.page_bits;
    high_offset = is_value ? kHalf << page_bits : kHalf;
    if (head < kQHeads) {
      low_out = out.queries + (token * kQHeads + head) * kHeadDim + dim;
      return;
    }
    const u64 page_head = static_cast<u64>(constants.page) * kKvHeads + (head - kQHeads) % kKvHeads;
    const u32 in_page = position & ((1 << page_bits) - 1);
    low_out = is_value ? out.cache.values + ((page_head * kHeadDim + dim) << page_bits) + in_page
                       : out.cache.keys + ((page_head << page_bits) + in_page) * kHeadDim + dim;
  }

  __device__ __forceinline__ void store(float low, float high) const {
    const auto rotated = rotate(low + bias_low, high + bias_high, cos, sin);
    low_out[0] = to_bf16(rotated.v[0]);
    low_out[high_offset] = to_bf16(rotated.v[1]);
  }
};
