//! Kernel parameters: each struct is declared once and exists twice, as `#[repr(C)]` Rust and as CUDA text with
//! `static_assert`s of its size and every field's, so host and device cannot drift apart.

/// A device address.
pub type Ptr = u64;

/// What [`Sample`] writes for the host instead of a token if a row's largest logit is no finite number.
pub const NOTHING_DRAWN: u32 = u32::MAX;

/// A kernel parameter struct with its CUDA twin.
pub trait Params: Copy + 'static {
    /// Struct name in CUDA.
    const NAME: &'static str;
    /// CUDA text of the twin.
    const CUDA: &'static str;
}

/// Declares parameter structs: `field: kind = "type in CUDA"`, where a kind is `ptr` (any 64 bits), `u32`, `i32` or `f32`.
/// A type in parentheses after the name is declared before the struct, for fields that point to it.
macro_rules! params {
    ($($(#[$doc:meta])* $name:ident $(($forward:ident))? { $($field:ident : $kind:tt = $cuda:literal),* $(,)? })*) => {
        $(
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
            }
        )*

        /// Every parameter struct's name, CUDA text and sizes: what the twins are checked against.
        pub const ALL: &[Twin] = &[$(Twin {
            name: stringify!($name),
            cuda: $name::CUDA,
            bytes: size_of::<$name>(),
            fields: &[$((stringify!($field), size_of::<params!(@rust $kind)>())),*],
        }),*];
    };
    (@rust ptr) => { Ptr };
    (@rust u32) => { u32 };
    (@rust i32) => { i32 };
    (@rust f32) => { f32 };
}

/// A parameter struct as the generator sees it.
#[derive(Clone, Copy, Debug)]
pub struct Twin {
    /// Struct name.
    pub name: &'static str,
    /// CUDA definition.
    pub cuda: &'static str,
    /// Size in bytes.
    pub bytes: usize,
    /// Field names and sizes in bytes, in order; with the size of the whole they determine every offset.
    pub fields: &'static [(&'static str, usize)],
}

params! {
    /// Embedding rows of the step's tokens into the residual. A token of `u32::MAX` is the one the slot last drew.
    ///
    /// Here and below, whatever writes the residual in a small step also writes what the next norm needs: `scaled`,
    /// the rows times `next_scale`, and `squares`, a sum for every 16 elements, `[token][hidden / 16]`.
    /// Small steps start `router_sums`, `[layer][token][expert]`, at zero; in others it is null.
    Embed {
        tokens: ptr = "const u32*",
        slots: ptr = "const u32*",
        sampled: ptr = "const u32*",
        embedding: ptr = "const bf16*",
        residual: ptr = "float*",
        next_scale: ptr = "const bf16*",
        scaled: ptr = "bf16*",
        squares: ptr = "float*",
        router_sums: ptr = "i64*",
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
    /// Phase A (the letters are those of `Schedule`). `input` holds scaled rows in small steps, normed rows in large ones.
    Qkv {
        input: ptr = "const bf16*",
        squares: ptr = "const float*",
        weight: ptr = "const u8*",
        bias: ptr = "const bf16*",
        queries: ptr = "bf16*",
        keys: ptr = "bf16*",
        values: ptr = "bf16*",
        page_table: ptr = "const u32*",
        positions: ptr = "const u32*",
        slots: ptr = "const u32*",
        table_stride: u32 = "u32",
        tokens: u32 = "u32",
    }
    /// Phase B. `alone` lists the tokens to attend, or is null for all of them; `parts` has room for
    /// `[token of these][kv head][split]`; `tickets` are zero between launches. `tile_order` is 1 for heads in tile order.
    Attention {
        queries: ptr = "const bf16*",
        keys: ptr = "const bf16*",
        values: ptr = "const bf16*",
        page_table: ptr = "const u32*",
        positions: ptr = "const u32*",
        slots: ptr = "const u32*",
        sinks: ptr = "const bf16*",
        heads: ptr = "bf16*",
        alone: ptr = "const u32*",
        parts: ptr = "void*",
        tickets: ptr = "u32*",
        table_stride: u32 = "u32",
        tile_order: u32 = "u32",
    }
    /// Phase B of tokens that follow one another in a sequence. `tiles` are pairs: first token, number of tokens.
    AttentionTile {
        queries: ptr = "const bf16*",
        keys: ptr = "const bf16*",
        values: ptr = "const bf16*",
        page_table: ptr = "const u32*",
        positions: ptr = "const u32*",
        slots: ptr = "const u32*",
        sinks: ptr = "const bf16*",
        heads: ptr = "bf16*",
        tiles: ptr = "const u32*",
        table_stride: u32 = "u32",
        tile_order: u32 = "u32",
    }
    /// Phase C. Only small steps write `scaled` and `squares`, and add to `router_sums`, `[token][expert]`, what the rows
    /// of `router` make of them.
    AttnOut {
        heads: ptr = "const bf16*",
        weight: ptr = "const u8*",
        bias: ptr = "const bf16*",
        residual: ptr = "float*",
        next_scale: ptr = "const bf16*",
        scaled: ptr = "bf16*",
        squares: ptr = "float*",
        router: ptr = "const u8*",
        router_sums: ptr = "i64*",
        tokens: u32 = "u32",
        unused: u32 = "u32",
    }
    /// Phase D of large steps. `input` holds normed rows.
    Router {
        input: ptr = "const bf16*",
        weight: ptr = "const u8*",
        bias: ptr = "const bf16*",
        logits: ptr = "float*",
        tokens: u32 = "u32",
        unused: u32 = "u32",
    }
    /// The experts of a large step's slots (token * top_k + choice), and their weights.
    Choose {
        logits: ptr = "const float*",
        slot_experts: ptr = "u32*",
        slot_weights: ptr = "float*",
        tokens: u32 = "u32",
        unused: u32 = "u32",
    }
    /// A large step's slots sorted by expert, and the tiles of them that blocks take.
    Group (ExpertTile) {
        slot_experts: ptr = "const u32*",
        sorted: ptr = "u32*",
        tiles: ptr = "ExpertTile*",
        tile_count: ptr = "u32*",
        tokens: u32 = "u32",
        unused: u32 = "u32",
    }
    /// Phase E. `input` as in phase A. Small steps turn `router_sums` into `logits` and choose, large ones follow `tiles`.
    ExpertUp (ExpertTile) {
        input: ptr = "const bf16*",
        squares: ptr = "const float*",
        router_sums: ptr = "const i64*",
        router_bias: ptr = "const bf16*",
        logits: ptr = "float*",
        sorted: ptr = "const u32*",
        tiles: ptr = "const ExpertTile*",
        tile_count: ptr = "const u32*",
        weight: ptr = "const u8*",
        bias: ptr = "const bf16*",
        hidden: ptr = "bf16*",
        weight_scale: f32 = "float",
        tokens: u32 = "u32",
    }
    /// Phase F. Small steps choose as phase E does, by `router_squares`, and add to `residual`; large ones write `slot_out`.
    ExpertDown (ExpertTile) {
        hidden: ptr = "const bf16*",
        router_sums: ptr = "const i64*",
        router_squares: ptr = "const float*",
        router_bias: ptr = "const bf16*",
        sorted: ptr = "const u32*",
        tiles: ptr = "const ExpertTile*",
        tile_count: ptr = "const u32*",
        weight: ptr = "const u8*",
        bias: ptr = "const bf16*",
        residual: ptr = "float*",
        next_scale: ptr = "const bf16*",
        scaled: ptr = "bf16*",
        squares: ptr = "float*",
        slot_out: ptr = "bf16*",
        weight_scale: f32 = "float",
        tokens: u32 = "u32",
    }
    /// The weighted sum of a large step's expert outputs, and the next norm: `normed` rows, in tile order if that is 1.
    Combine {
        slot_out: ptr = "const bf16*",
        slot_weights: ptr = "const float*",
        residual: ptr = "float*",
        next_scale: ptr = "const bf16*",
        normed: ptr = "bf16*",
        tile_order: u32 = "u32",
        unused: u32 = "u32",
    }
    /// The unembedding of `count` rows of `input`: of those that `rows` picks, or all in order. `input` holds normed
    /// rows, or scaled ones if there are `squares`.
    Unembed {
        input: ptr = "const bf16*",
        squares: ptr = "const float*",
        rows: ptr = "const u32*",
        weight: ptr = "const u8*",
        logits: ptr = "float*",
        count: u32 = "u32",
        unused: u32 = "u32",
    }
    /// One row's sampling settings; `position` is the one that the drawn token will have.
    SampleRow {
        temperature: f32 = "float",
        top_k: u32 = "u32",
        top_p: f32 = "float",
        min_p: f32 = "float",
        seed_low: u32 = "u32",
        seed_high: u32 = "u32",
        position: u32 = "u32",
        slot: u32 = "u32",
    }
    /// A draw for each row: `drawn` by row for the host, `sampled` by slot for the next step. `candidates` has room
    /// for `[row][split]`; `tickets` are zero between launches.
    Sample {
        logits: ptr = "const float*",
        rows: ptr = "const SampleRow*",
        candidates: ptr = "void*",
        tickets: ptr = "u32*",
        drawn: ptr = "u32*",
        sampled: ptr = "u32*",
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
        unused: u32 = "u32",
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
