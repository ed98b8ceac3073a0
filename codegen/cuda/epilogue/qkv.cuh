// What follows the query/key/value product: bias, rotary embedding, and the write to queries or cache.
#pragma once
#include "epilogue/cache.cuh"
#include "ptx/math.cuh"
#include "scalar.cuh"

struct QkvOut {
  bf16* queries;  // [token][q head][dim]
  Cache cache;
  const u32* positions;  // [token]
  const u32* slots;      // [token]
  const bf16* bias;      // [q, k, v rows]
};

// Stores dims `dim` and `dim + kHeadDim / 2` of fused head `head` (queries first, then keys, then values).
template <u32 kHeadDim, u32 kQHeads, u32 kKvHeads>
__device__ __forceinline__ void store_qkv_pair(const QkvOut& out, u32 head, u32 dim, u32 token, float low, float high,
                                               float inv_freq, float concentration) {
  constexpr u32 kHalf = kHeadDim / 2;
  low += bf16_to_float(out.bias[head * kHeadDim + dim]);
  high += bf16_to_float(out.bias[head * kHeadDim + dim + kHalf]);
  const u32 position = out.positions[token];
  if (head < kQHeads + kKvHeads) {
    const auto turn = cos_sin(rope_angle(position, inv_freq));
    const auto turned = rotate(low, high, turn.v[0] * concentration, turn.v[1] * concentration);
    low = turned.v[0], high = turned.v[1];
  }
  if (head < kQHeads) {
    bf16* query = out.queries + (token * kQHeads + head) * kHeadDim + dim;
    query[0] = to_bf16(low);
    query[kHalf] = to_bf16(high);
    return;
  }
  const u32 kv_head = (head - kQHeads) % kKvHeads;
  const u64 page_head = static_cast<u64>(out.cache.page(out.slots[token], position)) * kKvHeads + kv_head;
  const u32 in_page = position % kPageTokens;
  if (head < kQHeads + kKvHeads) {
    bf16* key = out.cache.keys + (page_head * kPageTokens + in_page) * kHeadDim + dim;
    key[0] = to_bf16(low);
    key[kHalf] = to_bf16(high);
  } else {
    bf16* value = out.cache.values + (page_head * kHeadDim + dim) * kPageTokens + in_page;
    value[0] = to_bf16(low);
    value[kHalf * kPageTokens] = to_bf16(high);
  }
}
