//! Numbers that kernels and runtime both go by. Each is stated here once: the device library has them as `facts.cuh`,
//! which the generator writes from [`ALL`], and the runtime sizes its buffers by them.

/// Most tokens of a step that runs by a decode schedule.
pub const MAX_DECODE_TOKENS: usize = 8;

/// Most ranks that share a model.
pub const MAX_RANKS: usize = 8;

/// How long a kernel waits for another rank's part of a sum before it ends with an error. Ranks are launched together, and
/// a step takes milliseconds.
pub const EXCHANGE_LIMIT_MS: usize = 10_000;

/// Most blocks that share the keys of one key/value head of one token.
pub const MAX_KV_SPLITS: usize = 16;

/// Blocks per SM that splitting the keys aims for.
pub const KV_SPLIT_BLOCKS_PER_SM: usize = 2;

/// Query heads of one attention partial: the columns of one tensor-core instruction, so the most that share a key/value head.
pub const PARTIAL_HEADS: usize = 8;

/// Room for attention partials, which is enough for devices of up to 1,024 SMs: splits times heads times tokens are less
/// than twice the blocks that splitting aims for.
pub const MAX_ATTENTION_PARTIALS: usize = 4 * 1024;

/// Tokens of one page of a full layer's key/value cache.
pub const PAGE_TOKENS: usize = 64;

/// Tokens of one page of a sliding layer's key/value cache: a power of two, as [`PAGE_TOKENS`].
pub const SLIDING_PAGE_TOKENS: usize = 16;

/// Keys of a span, which a warp of attention copies and attends at once.
pub const SPAN_KEYS: usize = 32;

/// Elements of a row behind one sum of squares of the deferred RMS norm.
pub const SQUARE_SUM_WIDTH: usize = 16;

/// Units of one logit in the router's fixed-point sums, as a power of two.
pub const ROUTER_SUM_BITS: usize = 28;

/// Bytes of one entry of the list of expert tiles.
pub const EXPERT_TILE_BYTES: usize = 16;

/// What the packer adds to an E8M0 scale: for the scale `2^(e - 127)` it stores `e + 126`.
pub const MXFP4_SCALE_OFFSET: usize = 126;

/// As a token of a step: the token that the sequence slot last sampled.
pub const LAST_SAMPLED: usize = u32::MAX as usize;

/// As a sampled token: the row's largest logit is not finite, so nothing was sampled.
pub const NOTHING_SAMPLED: usize = u32::MAX as usize;

/// As the token that a row is given: none, one is to be sampled.
pub const NOTHING_GIVEN: usize = u32::MAX as usize;

/// As the mask of a row: none, every token is allowed.
pub const NO_MASK: usize = u32::MAX as usize;

/// Most tokens that the report of a row lists.
pub const MAX_REPORTED: usize = 20;

/// In a token's word of a sequence's history: the prompt holds it. The bits below count how often it was generated.
pub const IN_PROMPT: usize = 1 << 15;

/// Most tokens of one group that has an adapter: the columns of one tensor-core instruction.
pub const ADAPTER_TOKENS: usize = 8;

/// What the ranks of an adapter's matrices are filled up to, with zeros: the rows of one tensor-core instruction.
pub const ADAPTER_RANK_TILE: usize = 16;

/// The largest rank of an adapter.
pub const MAX_ADAPTER_RANK: usize = 512;

/// How the device library knows an order of rows ([`crate::RowOrder`]) that is the checkpoint's.
pub const NATURAL_ROWS: usize = 0;
/// As [`NATURAL_ROWS`], for rotary pairs.
pub const ROPE_PAIR_ROWS: usize = 1;
/// As [`NATURAL_ROWS`], for gate/up pairs.
pub const GATE_UP_PAIR_ROWS: usize = 2;
/// As [`NATURAL_ROWS`], for memory that is not in tiles at all.
pub const ROW_MAJOR: usize = 3;

/// Name in CUDA, value and meaning of every fact that device code reads.
pub const ALL: &[(&str, usize, &str)] = &[
    ("kTileRows", crate::TILE_ROWS, "rows of one weight tile"),
    ("kTileK", crate::TILE_K, "summed elements of one weight tile"),
    ("kMaxRanks", MAX_RANKS, "most ranks that share a model"),
    ("kExchangeTokens", MAX_DECODE_TOKENS, "tokens that a mailbox has room for"),
    (
        "kExchangeLimitMs",
        EXCHANGE_LIMIT_MS,
        "how long a rank waits for another one's part of a sum",
    ),
    ("kPageTokens", PAGE_TOKENS, "tokens of one page of a full layer's key/value cache"),
    ("kSlidingPageTokens", SLIDING_PAGE_TOKENS, "tokens of one page of a sliding layer's"),
    ("kSpanKeys", SPAN_KEYS, "keys that a warp of attention copies and attends at once"),
    ("kColumnHeads", PARTIAL_HEADS, "query heads that one tensor-core instruction has columns for"),
    ("kSquareSumWidth", SQUARE_SUM_WIDTH, "elements of a row behind one sum of squares"),
    ("kRouterSumBits", ROUTER_SUM_BITS, "a router sum of 1 is 2 to this power"),
    ("kExpertTileBytes", EXPERT_TILE_BYTES, "bytes of one ExpertTile"),
    ("kMxfp4ScaleOffset", MXFP4_SCALE_OFFSET, "what the packer adds to an E8M0 scale"),
    ("kLastSampled", LAST_SAMPLED, "a token that the sequence slot's last step sampled"),
    ("kNothingSampled", NOTHING_SAMPLED, "no token: the largest logit is not finite"),
    ("kNothingGiven", NOTHING_GIVEN, "no token is given: one is to be sampled"),
    ("kNoMask", NO_MASK, "no mask: every token is allowed"),
    ("kMaxReported", MAX_REPORTED, "most tokens that the report of a row lists"),
    ("kInPrompt", IN_PROMPT, "in a token's word of a history: the prompt holds it"),
    ("kRopePairRows", ROPE_PAIR_ROWS, "rows ordered as rotary pairs"),
    ("kGateUpPairRows", GATE_UP_PAIR_ROWS, "rows ordered as gate/up pairs"),
    ("kRowMajor", ROW_MAJOR, "no tiles at all"),
];
