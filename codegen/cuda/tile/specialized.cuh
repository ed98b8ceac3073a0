// GEMM on Hopper with specialized warps: kGroups warpgroups only multiply, and a further one only copies for them, as
// many stages ahead as the multistage buffer has. It leaves them most of its registers. A block may compute several
// tiles one after another: its copies run ahead into the next while results are stored.
//
// A multiplying warp decodes its own weights from shared memory into fragments, as in `tile/wgmma.cuh`. Weights are
// contiguous and come by bulk copies. Rows of activations, which are in tile order (`tile/order.cuh`), are gathered and
// swizzled by copies of 16 bytes. Both arrive at the barrier of their stage, so no instruction of a multiplying warp
// copies.
//
// Where there are fewer row tiles than blocks that can run at once, the blocks of a cluster split K and reduce their
// partials in the order of their ranks.
#pragma once
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/wgmma.cuh"
#include "tile/weights.cuh"

// A stage has kStageTiles k tiles of all columns and of the weights of each multiplying warp. `full` completes when its
// copies have arrived, `empty` when every multiplying warp has read it.
template <class Tile, u32 kWarps, u32 kTokens, u32 kStageTiles, u32 kStages>
struct BarrierStages {
  alignas(1024) u8 columns[kStages][kStageTiles][kTokens * kColumnBytes];
  alignas(16) u8 weights[kStages][kWarps][kStageTiles * Tile::kBytes];
  Barrier full[kStages], empty[kStages];
};

// A place in a multistage buffer, with the parity of the round.
template <u32 kStages>
struct StageCursor {
  u32 stage = 0, parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

template <class Tile, u32 kK, u32 kGroups, u32 kBlocksPerSm, u32 kTokens, u32 kStageTiles, u32 kStages,
          u32 kSplits = 1>
struct SpecializedGemm {
  static_assert(kK % kTileK == 0, "rows in tile order are whole tiles");
  static constexpr u32 kKTiles = kK / kTileK;
  static constexpr u32 kSplitTiles = ceil_div(kKTiles, kSplits);
  static_assert((kSplits - 1) * kSplitTiles < kKTiles, "every slice of K has tiles");
  // Whether every stage is full, the last one of each block included.
  static constexpr bool kStagesFill = kSplitTiles % kStageTiles == 0 && kKTiles % kSplitTiles % kStageTiles == 0;
  static constexpr u32 kWarps = kGroups * 4;  // that multiply; the warps after them copy
  static constexpr u32 kCopyWarps = 4;
  static constexpr u32 kThreads = (kWarps + kCopyWarps) * kWarpSize;
  static constexpr u32 kColumnTiles = kTokens / 8;
  static constexpr u32 kOwnColumnTiles = ceil_div(kColumnTiles, kSplits);  // column tiles that a block finishes
  // Registers of a thread at launch, and after those that copy have released some.
  static constexpr u32 kLaunchRegisters = 65536 / (kThreads * kBlocksPerSm) / 8 * 8;
  static constexpr u32 kCopyRegisters = kTokens > 128 ? 88 : kTokens > 64 ? 48 : 40;
  static constexpr u32 kReleased = (kLaunchRegisters - kCopyRegisters) * kCopyWarps / kWarps / 8 * 8;
  static constexpr u32 kMultiplyRegisters = kLaunchRegisters + kReleased < 240 ? kLaunchRegisters + kReleased : 240;
  using Stages = BarrierStages<Tile, kWarps, kTokens, kStageTiles, kStages>;
  using Cursor = StageCursor<kStages>;

  Accumulators accumulators[kColumnTiles];
  Cursor cursor;

  // Must be called by all threads before anything else.
  __device__ __forceinline__ static void prepare(Stages& stages) {
    if (threadIdx.x < kStages) {
      // Each copying thread arrives after its copies of rows, and one for each warp's weights.
      stages.full[threadIdx.x].init(kCopyWarps * kWarpSize + kWarps);
      stages.empty[threadIdx.x].init(kWarps);
      fence_barriers();
    }
    __syncthreads();
  }

  // Whether this thread's warp copies.
  __device__ __forceinline__ static bool copies() { return warp_id() >= kWarps; }

  // Called first by threads that copy or multiply: gives registers to those that multiply. What follows must not be
  // shared with the other kind.
  __device__ __forceinline__ static void begin_copying() { decrease_registers<kCopyRegisters>(); }
  __device__ __forceinline__ static void begin_multiplying() { increase_registers<kMultiplyRegisters>(); }

  // The block's slice of K: k tiles first() to end() - 1.
  __device__ __forceinline__ static u32 first() { return kSplits == 1 ? 0 : blockIdx.z * kSplitTiles; }
  __device__ __forceinline__ static u32 end() { return kSplits == 1 ? kKTiles : min(first() + kSplitTiles, kKTiles); }

  // A tile of a dense GEMM: a row tile for each multiplying warp, and tokens from `first` on.
  struct DenseTile {
    u32 first_row_tile, first, columns;

    __device__ __forceinline__ explicit DenseTile(u32 tokens) : DenseTile(tokens, blockIdx.x, blockIdx.y) {}
    __device__ __forceinline__ DenseTile(u32 tokens, u32 row_block, u32 token_tile)
        : first_row_tile(row_block * kWarps),
          first(token_tile * kTokens),
          columns(min(kTokens, tokens - first)) {}

    // A multiplying warp's row tile.
    __device__ __forceinline__ u32 row_tile() const { return first_row_tile + warp_id(); }

    // The weights that this thread copies. A warp without a row tile multiplies the last one, because a warpgroup
    // multiplies together.
    __device__ __forceinline__ const u8* weights(const u8* matrix, u32 row_tiles) const {
      const u32 row_tile = min(first_row_tile + Copier::row_tile(), row_tiles - 1);
      return matrix + static_cast<u64>(row_tile) * Tile::row_tile_bytes(kKTiles);
    }

    // The address of a row of activations, for `Copier::run`.
    __device__ __forceinline__ auto rows(const bf16* input) const {
      return [rows = input + static_cast<u64>(first) * kK](u32 n) { return rows + n * kK; };
    }
  };

  // The same weights of an expert's matrix.
  __device__ __forceinline__ static const u8* expert_weights(const u8* weights, u32 expert, u32 row_block,
                                                             u32 row_tiles) {
    const u32 row_tile = min(row_block * kWarps + Copier::row_tile(), row_tiles - 1);
    return weights + (static_cast<u64>(expert) * row_tiles + row_tile) * Tile::row_tile_bytes(kKTiles);
  }

  // What a copying thread does.
  struct Copier {
    Stages& stages;
    Cursor cursor;
    u32 requested = 0;  // stages whose weights are on their way already

    __device__ __forceinline__ explicit Copier(Stages& stages) : stages(stages) {}

    // The row tile among the block's kWarps whose weights this thread copies, if its lane is below kGroups: bulk copies
    // of one warp are issued one after another, so each warp has as many.
    __device__ __forceinline__ static u32 row_tile() {
      return min(thread() / kWarpSize * kGroups + lane_id(), kWarps - 1);
    }

    // Requests the weights of the first stages of a tile, which are constant: before `wait_for_inputs`.
    __device__ __forceinline__ void start(const u8* weights) {
#pragma unroll 1
      for (; requested < kStages && first() + requested * kStageTiles < end(); ++requested)
        fetch_weights(weights, first() + requested * kStageTiles, requested);
    }

    // Copies all stages of a tile: row tile `row_tile()` at `weights`, and the first `columns` rows of activations;
    // `row(n)` is the address of row n.
    template <class Row>
    __device__ __forceinline__ void run(const u8* weights, u32 columns, Row row) {
      constexpr u32 kApart = kCopyWarps * kWarpSize / kColumnVectors, kCopies = kTokens / kApart;
      static_assert(kApart % 8 == 0, "the swizzle of a thread's columns is the same");
      const u32 first_column = thread() / kColumnVectors, vector = thread() % kColumnVectors;
      const bf16* vectors[kCopies];
#pragma unroll
      for (u32 i = 0; i < kCopies; ++i) {
        const u32 column = first_column + i * kApart;
        if (column < columns) vectors[i] = row(column) + vector * 8;
      }
      u32 k_tile = first();
#pragma unroll 1
      do {
        stages.empty[cursor.stage].wait(cursor.parity ^ 1);
        if (requested > 0)
          --requested;
        else
          fetch_weights(weights, k_tile, cursor.stage);
#pragma unroll
        for (u32 t = 0; t < kStageTiles; ++t) {
          if (!kStagesFill && k_tile + t >= end()) break;
          u8* to = stages.columns[cursor.stage][t] + swizzled(first_column, vector);
#pragma unroll
          for (u32 i = 0; i < kCopies; ++i) {
            if (first_column + i * kApart >= columns) break;
            copy_async(to + i * kApart * kColumnBytes, vectors[i] + (k_tile + t) * kTileK, true);
          }
        }
        stages.full[cursor.stage].arrive_after_copies();
        cursor.advance();
        k_tile += kStageTiles;
      } while (k_tile < end());
    }

   private:
    __device__ __forceinline__ static u32 thread() { return threadIdx.x - kWarps * kWarpSize; }

    __device__ __forceinline__ void fetch_weights(const u8* weights, u32 k_tile, u32 stage) const {
      if (lane_id() >= kGroups) return;
      const u32 count = kStagesFill ? kStageTiles : min(kStageTiles, end() - k_tile);
      Barrier& full = stages.full[stage];
      full.arrive_expecting(count * Tile::kBytes);
      Tile::template fetch_bulk<kStageTiles>(stages.weights[stage][row_tile()], weights, k_tile, count, kKTiles, full);
    }
  };

  // Multiplies this warp's row tile with the first `columns` rows of activations of a tile that a `Copier` copies. All
  // warps of a warpgroup take part.
  __device__ __forceinline__ void run(Stages& stages, u32 columns) {
    if constexpr (kTokens <= 64) {
      if (kTokens > 16 && columns <= 16) return multiply<16>(stages);
      if (kTokens > 32 && columns <= 32) return multiply<32>(stages);
    }
    multiply<kTokens>(stages);
  }

  // This lane's first row of a row tile; its second is eight rows further on.
  __device__ __forceinline__ static u32 row() { return lane_id() / 4; }

  // Calls `epilogue(column, sum of row(), sum of row() + 8)` for those of this lane's columns below `columns` that this
  // block finishes.
  template <class Epilogue>
  __device__ __forceinline__ void for_each_column(u32 columns, Epilogue epilogue) const {
    for_each_column(
        columns, [](u32) { return 0; }, [&](u32 column, float low, float high, int) { epilogue(column, low, high); });
  }

  // The same, with `fetch(column)` as a further argument. The loads of several columns are issued together before any
  // result is used: stores between them would delay the loads that follow.
  template <class Fetch, class Epilogue>
  __device__ __forceinline__ void for_each_column(u32 columns, Fetch fetch, Epilogue epilogue) const {
    constexpr u32 kBatch = kOwnColumnTiles < 4 ? kOwnColumnTiles : 4;
#pragma unroll
    for (u32 first = 0; first < kOwnColumnTiles; first += kBatch) {
      decltype(fetch(0)) fetched[2 * kBatch];
#pragma unroll
      for (u32 i = 0; i < 2 * kBatch; ++i) {
        const u32 column = column_of(first + i / 2, i % 2);
        if (first + i / 2 < kOwnColumnTiles && column < columns) fetched[i] = fetch(column);
      }
#pragma unroll
      for (u32 i = 0; i < 2 * kBatch; ++i) {
        const u32 column = column_of(first + i / 2, i % 2);
        if (first + i / 2 >= kOwnColumnTiles || column >= columns) continue;
        const float (&s)[4] = accumulators[first + i / 2].c;
        epilogue(column, s[i % 2], s[2 + i % 2], fetched[i]);
      }
    }
  }

  // Reduces the split-K partials of a cluster's blocks, each in its own shared memory, in the order of their ranks. All
  // multiplying threads take part, and copying ones by `leave_splits`, when the block has no further tile: what they
  // wrote to shared memory before is visible afterwards.
  __device__ __forceinline__ void reduce_splits(Stages& stages, u32 columns) {
    __syncthreads();  // no warp reads the stages any more, and none copies
    if constexpr (kSplits == 1) return;
    using Partials = float4[kWarps][kColumnTiles][kWarpSize];
    static_assert(sizeof(Partials) <= sizeof(Stages), "the partials reuse the shared memory of the stages");
    Partials& partials = *reinterpret_cast<Partials*>(&stages);
    const u32 column_tiles = ceil_div(columns, 8);
#pragma unroll
    for (u32 n = 0; n < kColumnTiles; ++n) {
      const float (&s)[4] = accumulators[n].c;
      if (n < column_tiles) partials[warp_id()][n][lane_id()] = make_float4(s[0], s[1], s[2], s[3]);
    }
    cluster_barrier();
    // The loads of several column tiles are on their way together.
    constexpr u32 kMaxBatch = ceil_div(8, kSplits);
    constexpr u32 kBatch = kOwnColumnTiles < kMaxBatch ? kOwnColumnTiles : kMaxBatch;
#pragma unroll
    for (u32 first = 0; first < kOwnColumnTiles; first += kBatch) {
      float4 rank_partials[kBatch][kSplits];
#pragma unroll
      for (u32 i = 0; i < kBatch; ++i) {
        // A column tile that the step does not have, or that is another block's, is loaded without being used.
        const u32 tile = min(own_column_tile(first + i), kColumnTiles - 1);
#pragma unroll
        for (u32 rank = 0; rank < kSplits; ++rank)
          rank_partials[i][rank] = load_distributed_shared(&partials[warp_id()][tile][lane_id()], rank);
      }
#pragma unroll
      for (u32 i = 0; i < kBatch && first + i < kOwnColumnTiles; ++i) {
        Accumulators& sum = accumulators[first + i] = {};
#pragma unroll
        for (u32 rank = 0; rank < kSplits; ++rank) {
          const float4 partial = rank_partials[i][rank];
          sum.c[0] += partial.x, sum.c[1] += partial.y, sum.c[2] += partial.z, sum.c[3] += partial.w;
        }
      }
    }
    cluster_barrier();  // no block exits while others read its shared memory
  }

  __device__ __forceinline__ static void leave_splits() {
    __syncthreads();
    if constexpr (kSplits == 1) return;
    cluster_barrier();
    cluster_barrier();
  }

 private:
  // The column tile that accumulators[i] belong to after the reduction: a block finishes every kSplits-th.
  __device__ __forceinline__ static u32 own_column_tile(u32 i) {
    return kSplits == 1 ? i : blockIdx.z + i * kSplits;
  }

  __device__ __forceinline__ static u32 column_of(u32 i, u32 half) {
    return own_column_tile(i) * 8 + lane_id() % 4 * 2 + half;
  }

  // Lets a stage be filled again. The other lanes have read it when they come to the warp's barrier.
  __device__ __forceinline__ static void release(Stages& stages, u32 stage) {
    __syncwarp();
    if (lane_id() == 0) stages.empty[stage].arrive();
  }

  // accumulators += a fragment x kColumns columns.
  template <u32 kColumns>
  __device__ __forceinline__ void multiply_step(const FragmentA& fragment, u64 columns) {
    if constexpr (kColumns == 256)
      wgmma256(accumulators, fragment, columns);
    else if constexpr (kColumns == 128)
      wgmma128(accumulators, fragment, columns);
    else if constexpr (kColumns == 64)
      wgmma64(accumulators, fragment, columns);
    else if constexpr (kColumns == 32)
      wgmma32(accumulators, fragment, columns);
    else
      wgmma16(accumulators, fragment, columns);
  }

  template <u32 kColumns>
  __device__ __forceinline__ void multiply(Stages& stages) {
#pragma unroll
    for (u32 i = 0; i < kColumns / 8; ++i) accumulators[i] = {};
    FragmentA fragments[kTileSteps];
    u32 k_tile = first(), previous = kStages;  // the stage that wgmma instructions may still read
    // A loop that could end before its first round would serialize the wgmma instructions.
#pragma unroll 1
    do {
      stages.full[cursor.stage].wait(cursor.parity);
      fence_async_proxy();
      const u8* weights = stages.weights[cursor.stage][warp_id()];
#pragma unroll
      for (u32 t = 0; t < kStageTiles; ++t) {
        if (!kStagesFill && k_tile + t >= end()) break;
        const typename Tile::template Staged<kStageTiles> tile(weights, t);
        const u64 at = matrix_descriptor(stages.columns[cursor.stage][t]);
#pragma unroll
        for (u32 j = 0; j < kTileSteps; ++j) {
          wgmma_wait<kTileSteps - 1>();  // the wgmma that read this fragment one k tile ago
          fragments[j] = tile.fragment(j);
          wgmma_fence();
          multiply_step<kColumns>(fragments[j], at + j * kDescriptorStep);
          wgmma_commit();
        }
        // All wgmma instructions of the k tile before have ended.
        if (t == 0 && previous != kStages) release(stages, previous);
      }
      previous = cursor.stage;
      cursor.advance();
      k_tile += kStageTiles;
    } while (k_tile < end());
    wgmma_wait<0>();
    release(stages, previous);
  }
};
