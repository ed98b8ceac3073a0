//! Kernel parameters: each struct is declared once and exists twice, as `#[repr(C)]` Rust and as CUDA text with
//! `static_assert`s of its size and every field's, so host and device cannot drift apart.

use crate::{Kernel, KernelInfo};

pub use crate::kernel::{Params, Twin};

/// A device address.
pub type Ptr = u64;

/// What [`Sample`] writes for the host instead of a token if a row's largest logit is no finite number.
pub const NOTHING_SAMPLED: u32 = crate::facts::NOTHING_SAMPLED as u32;

/// As [`SampleRow::given`]: a token is to be sampled.
pub const NOTHING_GIVEN: u32 = crate::facts::NOTHING_GIVEN as u32;

/// As [`SampleChanges::mask`]: every token is allowed.
pub const NO_MASK: u32 = crate::facts::NO_MASK as u32;

/// Declares parameter structs: `field: kind = "type in CUDA"`, where a kind is `ptr` (any 64 bits), `u32`, `i32` or `f32`.
/// A type in parentheses after the name is declared before the struct, for fields that point to it.
///
/// Each struct under `phases` is also a variant of [`PhaseKernel`]: what a phase's kernel is launched with says which
/// kernel it is.
macro_rules! params {
    (
        phases { $($(#[$phase_doc:meta])* $phase:ident $(($phase_forward:ident))? { $($phase_fields:tt)* })* }
        others { $($(#[$doc:meta])* $name:ident $(($forward:ident))? { $($fields:tt)* })* }
    ) => {
        $(params!(@twin $(#[$phase_doc])* $phase $(($phase_forward))? { $($phase_fields)* });)*
        $(params!(@twin $(#[$doc])* $name $(($forward))? { $($fields)* });)*

        /// A kernel of a phase, by the parameters that it takes.
        #[derive(Clone, Copy, Debug)]
        pub enum PhaseKernel {
            $($(#[$phase_doc])* $phase(Kernel<$phase>)),*
        }

        impl PhaseKernel {
            /// Name and geometry.
            #[must_use]
            pub const fn info(&self) -> &KernelInfo {
                match self { $(PhaseKernel::$phase(kernel) => &kernel.info),* }
            }

            /// The name of its parameter struct, which is also its variant's.
            #[must_use]
            pub const fn params(&self) -> &'static str {
                match self { $(PhaseKernel::$phase(_) => stringify!($phase)),* }
            }
        }

        /// Every parameter struct's name, CUDA text and sizes: what the twins are checked against.
        pub const ALL: &[Twin] = &[$($phase::TWIN,)* $($name::TWIN),*];
    };
    (@twin $(#[$doc:meta])* $name:ident $(($forward:ident))? { $($field:ident : $kind:tt = $cuda:literal),* $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct $name {
            $(#[doc = concat!("`", $cuda, "` on the device.")] pub $field: params!(@rust $kind)),*
        }

        impl Params for $name {
            const NAME: &'static str = stringify!($name);
            const CUDA: &'static str = concat!(
                $("struct ", stringify!($forward), ";\n",)?
                "struct ", stringify!($name), " {\n",
                $("  ", $cuda, " ", stringify!($field), ";\n",)*
                "};\n",
            );
            const TWIN: Twin = Twin {
                name: stringify!($name),
                cuda: $name::CUDA,
                bytes: size_of::<$name>(),
                fields: &[$((stringify!($field), size_of::<params!(@rust $kind)>())),*],
            };
        }
    };
    (@rust ptr) => { Ptr };
    (@rust u32) => { u32 };
    (@rust i32) => { i32 };
    (@rust f32) => { f32 };
}

params! {
    phases {
        /// Copies the embedding rows of the step's tokens into the residual. A token of `u32::MAX` stands for the token that
        /// its sequence slot last sampled.
        ///
        /// In a decode step the RMS norm is deferred: here and below, the kernel that writes the residual also writes
        /// `deferred_rows`, the rows times `next_norm_scale` in bf16, and `square_sums`, the sum of squares of every 16
        /// elements, `[token][hidden / 16]`; the GEMV that reads `deferred_rows` divides its result by the rms.
        /// `router_logit_sums`, `[layer][token][expert]`, are set to zero.
        Embed {
            tokens: ptr = "const u32*",
            seq_slots: ptr = "const u32*",
            last_sampled: ptr = "const u32*",
            embedding: ptr = "const bf16*",
            residual: ptr = "float*",
            next_norm_scale: ptr = "const bf16*",
            deferred_rows: ptr = "bf16*",
            square_sums: ptr = "float*",
            router_logit_sums: ptr = "i64*",
        }
        /// Copies the embedding rows of the step's tokens into the residual, as [`Embed`] does, and norms them: `normed`
        /// rows, in tile order if `tile_order` is 1.
        EmbedRmsNorm {
            tokens: ptr = "const u32*",
            seq_slots: ptr = "const u32*",
            last_sampled: ptr = "const u32*",
            embedding: ptr = "const bf16*",
            residual: ptr = "float*",
            scale: ptr = "const bf16*",
            normed: ptr = "bf16*",
            tile_order: u32 = "u32",
            unused: u32 = "u32",
        }
        /// A norm as a kernel of its own; `rows` (or null for all, in order) picks residual rows. `tile_order` is 1 for rows
        /// in tile order.
        RmsNorm {
            residual: ptr = "const float*",
            rows: ptr = "const u32*",
            scale: ptr = "const bf16*",
            normed: ptr = "bf16*",
            tile_order: u32 = "u32",
            unused: u32 = "u32",
        }
        /// Query, key and value projection of a decode step, rotary embedding and cache write. `input` holds deferred rows; a
        /// page of the layer's cache has 2 to the power of `page_bits` tokens.
        RmsNormQkvRope {
            input: ptr = "const bf16*",
            square_sums: ptr = "const float*",
            weight: ptr = "const u8*",
            bias: ptr = "const bf16*",
            queries: ptr = "bf16*",
            keys: ptr = "bf16*",
            values: ptr = "bf16*",
            page_table: ptr = "const u32*",
            positions: ptr = "const u32*",
            seq_slots: ptr = "const u32*",
            table_stride: u32 = "u32",
            page_bits: u32 = "u32",
            tokens: u32 = "u32",
            unused: u32 = "u32",
        }
        /// Query, key and value projection of normed rows, rotary embedding and cache write.
        QkvRope {
            input: ptr = "const bf16*",
            weight: ptr = "const u8*",
            bias: ptr = "const bf16*",
            queries: ptr = "bf16*",
            keys: ptr = "bf16*",
            values: ptr = "bf16*",
            page_table: ptr = "const u32*",
            positions: ptr = "const u32*",
            seq_slots: ptr = "const u32*",
            table_stride: u32 = "u32",
            page_bits: u32 = "u32",
            tokens: u32 = "u32",
            unused: u32 = "u32",
        }
        /// Attention, one token per block. `single_query_tokens` lists the tokens to attend, or is null for all of them;
        /// `partials` has room for `[listed token][kv head][split]`; `arrival_counters` are zero between launches.
        /// `tile_order` is 1 if `attn_output` is written in tile order.
        Attention {
            queries: ptr = "const bf16*",
            keys: ptr = "const bf16*",
            values: ptr = "const bf16*",
            page_table: ptr = "const u32*",
            positions: ptr = "const u32*",
            seq_slots: ptr = "const u32*",
            sinks: ptr = "const bf16*",
            attn_output: ptr = "bf16*",
            single_query_tokens: ptr = "const u32*",
            partials: ptr = "void*",
            arrival_counters: ptr = "u32*",
            table_stride: u32 = "u32",
            tile_order: u32 = "u32",
        }
        /// Attention of consecutive tokens of a sequence. `query_tiles` are pairs: first token, number of tokens.
        AttentionTiled {
            queries: ptr = "const bf16*",
            keys: ptr = "const bf16*",
            values: ptr = "const bf16*",
            page_table: ptr = "const u32*",
            positions: ptr = "const u32*",
            seq_slots: ptr = "const u32*",
            sinks: ptr = "const bf16*",
            attn_output: ptr = "bf16*",
            query_tiles: ptr = "const u32*",
            table_stride: u32 = "u32",
            tile_order: u32 = "u32",
        }
        /// Attention's output projection of a decode step, added to the residual, with what the experts need of it: `deferred_rows`
        /// and `square_sums`, and their contribution to the logits, `deferred_rows` times `router`, added to `router_logit_sums`,
        /// `[token][expert]`.
        AttnOutResidualRouter {
            attn_output: ptr = "const bf16*",
            weight: ptr = "const u8*",
            bias: ptr = "const bf16*",
            residual: ptr = "float*",
            next_norm_scale: ptr = "const bf16*",
            deferred_rows: ptr = "bf16*",
            square_sums: ptr = "float*",
            router: ptr = "const u8*",
            router_logit_sums: ptr = "i64*",
            tokens: u32 = "u32",
            unused: u32 = "u32",
        }
        /// Attention's output projection, added to the residual.
        AttnOutResidual {
            attn_output: ptr = "const bf16*",
            weight: ptr = "const u8*",
            bias: ptr = "const bf16*",
            residual: ptr = "float*",
            tokens: u32 = "u32",
            unused: u32 = "u32",
        }
        /// The router's logits of normed rows.
        Router {
            input: ptr = "const bf16*",
            weight: ptr = "const u8*",
            bias: ptr = "const bf16*",
            logits: ptr = "float*",
            tokens: u32 = "u32",
            unused: u32 = "u32",
        }
        /// Each token's `top_k` experts and their weights, by route (`token * top_k + rank`).
        MoeTopk {
            logits: ptr = "const float*",
            route_experts: ptr = "u32*",
            route_weights: ptr = "float*",
            tokens: u32 = "u32",
            unused: u32 = "u32",
        }
        /// The routes permuted by expert, and the tiles of one expert's routes that blocks compute.
        MoePermute (ExpertTile) {
            route_experts: ptr = "const u32*",
            permuted_routes: ptr = "u32*",
            expert_tiles: ptr = "ExpertTile*",
            expert_tile_count: ptr = "u32*",
            tokens: u32 = "u32",
            unused: u32 = "u32",
        }
        /// The experts' first GEMV and SwiGLU of a decode step: it turns `router_logit_sums` into `logits`, selects experts, and
        /// reads `deferred_rows` as `input`.
        TopkMoeUpSwiglu {
            input: ptr = "const bf16*",
            square_sums: ptr = "const float*",
            router_logit_sums: ptr = "const i64*",
            router_bias: ptr = "const bf16*",
            logits: ptr = "float*",
            weight: ptr = "const u8*",
            bias: ptr = "const bf16*",
            expert_act: ptr = "bf16*",
            weight_scale: f32 = "float",
            tokens: u32 = "u32",
        }
        /// The experts' first GEMM and SwiGLU, over normed rows and the tiles of [`MoePermute`].
        MoeUpSwiglu (ExpertTile) {
            input: ptr = "const bf16*",
            permuted_routes: ptr = "const u32*",
            expert_tiles: ptr = "const ExpertTile*",
            expert_tile_count: ptr = "const u32*",
            weight: ptr = "const u8*",
            bias: ptr = "const bf16*",
            expert_act: ptr = "bf16*",
            weight_scale: f32 = "float",
            unused: u32 = "u32",
        }
        /// The experts' second GEMV of a decode step, weighted and added to the residual. It selects experts as
        /// [`TopkMoeUpSwiglu`] does, by `router_square_sums`, and defers the next norm.
        MoeDownResidual {
            expert_act: ptr = "const bf16*",
            router_logit_sums: ptr = "const i64*",
            router_square_sums: ptr = "const float*",
            router_bias: ptr = "const bf16*",
            weight: ptr = "const u8*",
            bias: ptr = "const bf16*",
            residual: ptr = "float*",
            next_norm_scale: ptr = "const bf16*",
            deferred_rows: ptr = "bf16*",
            square_sums: ptr = "float*",
            weight_scale: f32 = "float",
            tokens: u32 = "u32",
        }
        /// The experts' second GEMM, over the tiles of [`MoePermute`].
        MoeDown (ExpertTile) {
            expert_act: ptr = "const bf16*",
            permuted_routes: ptr = "const u32*",
            expert_tiles: ptr = "const ExpertTile*",
            expert_tile_count: ptr = "const u32*",
            weight: ptr = "const u8*",
            bias: ptr = "const bf16*",
            route_out: ptr = "bf16*",
            weight_scale: f32 = "float",
            unused: u32 = "u32",
        }
        /// The weighted sum of each token's `route_out`, added to the residual, and the next norm of it: `normed` rows, in
        /// tile order if `tile_order` is 1.
        MoeUnpermuteRmsNorm {
            route_out: ptr = "const bf16*",
            route_weights: ptr = "const float*",
            residual: ptr = "float*",
            next_norm_scale: ptr = "const bf16*",
            normed: ptr = "bf16*",
            tile_order: u32 = "u32",
            unused: u32 = "u32",
        }
        /// The weighted sum of each token's `route_out`, which is one rank's part of the experts' sum.
        MoeUnpermute {
            route_out: ptr = "const bf16*",
            route_weights: ptr = "const float*",
            part: ptr = "float*",
        }
        /// The sum of all ranks' parts, added to the residual, and a norm of it: `normed` rows, in tile order if `tile_order`
        /// is 1. `sum` is 0 for attention's sum and 1 for the experts'; rows of `clear` are set to zero, if it is not null.
        AllReduceRmsNorm {
            residual: ptr = "float*",
            clear: ptr = "float*",
            scale: ptr = "const bf16*",
            normed: ptr = "bf16*",
            sum: u32 = "u32",
            tokens: u32 = "u32",
            tile_order: u32 = "u32",
            unused: u32 = "u32",
        }
        /// The logits of `rows` rows, joined from the columns that each rank has of them.
        JoinLogits {
            logits: ptr = "float*",
            rows: u32 = "u32",
            unused: u32 = "u32",
        }
        /// The unembedding of `count` rows of `input`: of those that `rows` picks, or of all in order if it is null. `input` holds
        /// deferred rows, or rows that are normed already if `square_sums` is null: those of a step that is no decode step.
        UnembedDecode {
            input: ptr = "const bf16*",
            square_sums: ptr = "const float*",
            rows: ptr = "const u32*",
            weight: ptr = "const u8*",
            logits: ptr = "float*",
            count: u32 = "u32",
            unused: u32 = "u32",
        }
        /// The unembedding of `count` normed rows.
        Unembed {
            input: ptr = "const bf16*",
            weight: ptr = "const u8*",
            logits: ptr = "float*",
            count: u32 = "u32",
            unused: u32 = "u32",
        }
        /// Bounds of the logits of [`UnembedDecode`], from the 8-bit shadow of its weight: `tile_bounds` of each row tile,
        /// `[row][row tile]`, and `lower_bounds` of each row, which are zero before. `sampling` says how each row is sampled.
        UnembedShadow {
            input: ptr = "const bf16*",
            square_sums: ptr = "const float*",
            rows: ptr = "const u32*",
            shadow: ptr = "const u8*",
            row_bounds: ptr = "const ShadowRowBound*",
            sampling: ptr = "const SampleRow*",
            tile_bounds: ptr = "ShadowTileBound*",
            lower_bounds: ptr = "ShadowLowerBound*",
            count: u32 = "u32",
            unused: u32 = "u32",
        }
        /// A sampled token for each of `count` rows, greedily or by temperature alone, from the row tiles that can hold it
        /// by the bounds of [`UnembedShadow`]. Their `logits` are computed, and their numbers written to `candidates`.
        SampleShadow {
            input: ptr = "const bf16*",
            square_sums: ptr = "const float*",
            rows: ptr = "const u32*",
            weight: ptr = "const u8*",
            sampling: ptr = "const SampleRow*",
            tile_bounds: ptr = "const ShadowTileBound*",
            lower_bounds: ptr = "ShadowLowerBound*",
            logits: ptr = "float*",
            candidates: ptr = "u32*",
            candidate_count: ptr = "u32*",
            arrival_counter: ptr = "u32*",
            sampled: ptr = "u32*",
            last_sampled: ptr = "u32*",
            count: u32 = "u32",
            unused: u32 = "u32",
        }
        /// A sampled token for each row: `sampled` by row for the host, `last_sampled` by sequence slot for the next step.
        /// Tokens of rows with penalties are counted in `histories`. `scratch` holds the changed rows of devices on which
        /// a row does not fit in shared memory.
        Sample {
            logits: ptr = "const float*",
            rows: ptr = "const SampleRow*",
            changes: ptr = "const SampleChanges*",
            edits: ptr = "const SampleEdit*",
            histories: ptr = "u16*",
            masks: ptr = "const u32*",
            sampled: ptr = "u32*",
            last_sampled: ptr = "u32*",
            reports: ptr = "ReportedToken*",
            scratch: ptr = "float*",
        }
    }
    others {
        /// One row's sampling settings; `position` is the one that the sampled token will have. `inverse_temperature` is 0
        /// for greedy sampling, and `min_score` is the logarithm of min-p, or minus infinity. `report` is 0, or 1 + the
        /// number of most likely tokens to report. `given` is a token that is reported instead of a sampled one.
        /// `changed` is 1 where [`SampleChanges`] count, and `counts_history` is 1 where they have penalties.
        SampleRow {
            inverse_temperature: f32 = "float",
            top_k: u32 = "u32",
            top_p: f32 = "float",
            min_score: f32 = "float",
            seed_low: u32 = "u32",
            seed_high: u32 = "u32",
            position: u32 = "u32",
            seq_slot: u32 = "u32",
            report: u32 = "u32",
            given: u32 = "u32",
            changed: u32 = "u32",
            counts_history: u32 = "u32",
        }
        /// What changes a row: penalties, edits (`biases` of them, then `forbidden` tokens, from `first_edit` on), and the
        /// number of a mask.
        SampleChanges {
            repetition_penalty: f32 = "float",
            presence_penalty: f32 = "float",
            frequency_penalty: f32 = "float",
            first_edit: u32 = "u32",
            biases: u32 = "u32",
            forbidden: u32 = "u32",
            mask: u32 = "u32",
            unused: u32 = "u32",
        }
        /// A token whose logit is changed.
        SampleEdit {
            token: u32 = "u32",
            bias: f32 = "float",
        }
        /// A reported token, or the rank of the sampled one, and its log probability.
        ReportedToken {
            token: u32 = "u32",
            logprob: f32 = "float",
        }
        /// How far a row of the unembedding's shadow may lie from the row: the norm of what is left out, and its own.
        ShadowRowBound {
            error: f32 = "float",
            norm: f32 = "float",
        }
        /// Upper bounds of what the tokens of a row tile are sampled by: the largest logit, and the largest sum of
        /// logit / temperature and noise.
        ShadowTileBound {
            logit: f32 = "float",
            sum: f32 = "float",
        }
        /// Lower bounds of the largest logit of a row, and of the largest sum of logit / temperature and noise; and an upper
        /// bound of the logits' magnitude. All are order keys of floats.
        ShadowLowerBound {
            logit: u32 = "u32",
            sum: u32 = "u32",
            magnitude: u32 = "u32",
            unused: u32 = "u32",
        }
        /// Makes the 8-bit shadow of a packed bf16 weight of `rows` by `k`, and the bounds of its rows.
        MakeShadow {
            weight: ptr = "const u8*",
            shadow: ptr = "u8*",
            row_bounds: ptr = "ShadowRowBound*",
            rows: u32 = "u32",
            k: u32 = "u32",
        }
        /// Writes the history of one sequence slot from its tokens' words.
        WriteHistory {
            history: ptr = "u16*",
            entries: ptr = "const HistoryEntry*",
            count: u32 = "u32",
            vocab: u32 = "u32",
        }
        /// A token of a sequence with its word: bit 15 if the prompt holds it, bits 0 to 14 count how often it was generated.
        HistoryEntry {
            token: u32 = "u32",
            word: u32 = "u32",
        }
        /// Tokens of a step that have the same adapter: `count` of the adapted tokens, from number `first` on. `place` says
        /// where the adapter's matrices are listed.
        AdapterGroup {
            place: u32 = "u32",
            first: u32 = "u32",
            count: u32 = "u32",
            unused: u32 = "u32",
        }
        /// What an adapter adds to rows of a weight: `b` times `a`, of which `a` is `[rank][k]` and `b` `[rows][rank]`. The
        /// rank is filled up to whole tiles; 0 adds nothing.
        AdapterMatrices {
            a: ptr = "const bf16*",
            b: ptr = "const bf16*",
            rank: u32 = "u32",
            unused: u32 = "u32",
        }
        /// What adapters add to queries, keys and values, after the layer's own. `matrices` are those of the layer in the
        /// first place, of queries, keys and values, and the next place's are `matrices_stride` behind. `square_sums` are
        /// null if `input` rows are normed; `tile_order` is 1 if they are in tile order.
        AdaptQkv {
            groups: ptr = "const AdapterGroup*",
            group_count: ptr = "const u32*",
            adapted_tokens: ptr = "const u32*",
            matrices: ptr = "const AdapterMatrices*",
            input: ptr = "const bf16*",
            square_sums: ptr = "const float*",
            queries: ptr = "bf16*",
            keys: ptr = "bf16*",
            values: ptr = "bf16*",
            page_table: ptr = "const u32*",
            positions: ptr = "const u32*",
            seq_slots: ptr = "const u32*",
            matrices_stride: u32 = "u32",
            table_stride: u32 = "u32",
            page_bits: u32 = "u32",
            tile_order: u32 = "u32",
        }
        /// What adapters add to the residual with attention's output projection, before the layer's own. The rest is as in
        /// [`AdaptQkv`].
        AdaptAttnOut {
            groups: ptr = "const AdapterGroup*",
            group_count: ptr = "const u32*",
            adapted_tokens: ptr = "const u32*",
            matrices: ptr = "const AdapterMatrices*",
            attn_output: ptr = "const bf16*",
            residual: ptr = "float*",
            matrices_stride: u32 = "u32",
            tile_order: u32 = "u32",
        }
        /// Seeded random bf16 weights, made where they will lie. `order` is 0 natural, 1 rotary pairs, 2 gate/up pairs,
        /// 3 row-major instead of tiles.
        FillBf16 {
            out: ptr = "bf16*",
            key0: u32 = "u32",
            key1: u32 = "u32",
            offset: i32 = "i32",
            spread: i32 = "i32",
            scale: f32 = "float",
            rows: u32 = "u32",
            k: u32 = "u32",
            order: u32 = "u32",
            head_dim: u32 = "u32",
            first_index: u32 = "u32",
        }
        /// Seeded random MXFP4 tiles; natural row order, or gate/up pairs if `order` is 2.
        FillMxfp4 {
            out: ptr = "u8*",
            code_key0: u32 = "u32",
            code_key1: u32 = "u32",
            scale_key0: u32 = "u32",
            scale_key1: u32 = "u32",
            scale_base: u32 = "u32",
            rows: u32 = "u32",
            k: u32 = "u32",
            order: u32 = "u32",
        }
        /// Reads `units` 16-byte units; `out` keeps the reads from being optimised away.
        FlatRead {
            data: ptr = "const uint4*",
            units: ptr = "u64",
            out: ptr = "u32*",
        }
    }
}
