//! GEMMs of many tokens. A block computes some row tiles by a tile of tokens; experts take their routes as tiles of a list
//! that is permuted by expert. Bodies come in two kinds: by warps ([`Mma`]), on any device, and by warpgroups ([`Wgmma`]),
//! on rows in tile order.

use ossmith_plan::params::{
    AttnOutResidual, MoeDown, MoeUpSwiglu, Params, PhaseKernel, QkvRope, Router, Unembed,
};
use ossmith_plan::{Axis, Op, TILE_K, TILE_ROWS, Weight};

use super::footprint::{self, TileFormat};
use super::planned::{Body, Constant, Draft, Planned, PlannedKernel, body, u32s};
use super::tunables::{Legal, TILE_TOKENS_TRADE, Tuner, splits_of};
use super::{Context, ONE, Pattern, Result, head_constants, rows, swiglu_constants};

/// A GEMM of warps (`tile/gemm.cuh`): each multiplies a row tile by the block's tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mma {
    /// What the kernel's name ends in.
    pub(super) suffix: &'static str,
    /// Tokens of one block.
    pub(super) tile_tokens: usize,
    /// Row tiles of one block, one per warp.
    pub(super) warps: usize,
    /// k tiles that move together.
    pub(super) stage_tiles: usize,
    /// Stages on their way or in use.
    pub(super) stages: usize,
    /// Blocks that share an SM.
    pub(super) blocks_per_sm: usize,
    /// Whether the sum of a dense GEMM with few rows is split over the blocks of a cluster, to have enough blocks.
    pub(super) splits: bool,
}

/// A GEMM of warpgroups (`tile/wgmma.cuh`): each of two multiplies four row tiles by the block's tokens. Where two blocks
/// share an SM they hide each other's waits, decoding and epilogues.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Wgmma {
    /// What the kernel's name ends in.
    pub(super) suffix: &'static str,
    /// Tokens of one block, or routes of an expert.
    pub(super) tile_tokens: usize,
    /// k tiles on their way or in use.
    pub(super) stages: usize,
    /// Blocks that share an SM.
    pub(super) blocks_per_sm: usize,
}

/// A GEMM of specialized warps (`tile/specialized.cuh`): warpgroups only multiply, other warps only copy for them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Specialized {
    /// What the kernel's name ends in.
    pub(super) suffix: &'static str,
    /// Tokens of one block, or routes of an expert.
    pub(super) tile_tokens: usize,
    /// Warpgroups of one block that multiply, four row tiles each.
    pub(super) groups: usize,
    /// k tiles that move together.
    pub(super) stage_tiles: usize,
    /// Stages on their way or in use.
    pub(super) stages: usize,
    /// Blocks that share an SM.
    pub(super) blocks_per_sm: usize,
}

/// How a GEMM runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Gemm {
    Mma(Mma),
    Wgmma(Wgmma),
    Specialized(Specialized),
}

impl Gemm {
    /// What its kernel's name ends in.
    pub(super) const fn suffix(&self) -> &'static str {
        match self {
            Gemm::Mma(Mma { suffix, .. })
            | Gemm::Wgmma(Wgmma { suffix, .. })
            | Gemm::Specialized(Specialized { suffix, .. }) => suffix,
        }
    }

    /// Tokens (or routes) of one block.
    pub(super) const fn tile_tokens(&self) -> usize {
        match self {
            Gemm::Mma(Mma { tile_tokens, .. })
            | Gemm::Wgmma(Wgmma { tile_tokens, .. })
            | Gemm::Specialized(Specialized { tile_tokens, .. }) => *tile_tokens,
        }
    }

    /// The values that [`Gemm::tile_tokens`] may have.
    pub(super) const fn legal_tile_tokens(&self) -> Legal {
        match self {
            Gemm::Mma(_) => Legal::Range { min: 8, max: 128, step: 8 },
            Gemm::Wgmma(_) => Legal::OneOf(&[64, 128, 256]),
            Gemm::Specialized(_) => Legal::OneOf(&[16, 32, 64, 128, 256]),
        }
    }

    /// Whether it reads rows in tile order.
    pub(super) const fn tile_order(&self) -> bool {
        !matches!(self, Gemm::Mma(_))
    }
}

/// Row tiles of a block of warpgroups, one per warp: two groups of four.
const WGMMA_WARPS: usize = 8;

/// Warps of a block that only copy for those that multiply.
const COPY_WARPS: usize = 4;

/// A GEMM's operands.
struct Operands {
    operation: &'static str,
    /// Bodies by warps, by warpgroups, and by specialized warps.
    mma: Body,
    wgmma: Option<Body>,
    specialized: Option<Body>,
    /// Rows of the weight, or of one expert's.
    rows: usize,
    /// Length of the sum.
    k: usize,
    /// Whether the blocks of specialized warps that run at once take its tiles one after another, as experts' always do.
    resident: bool,
    /// Shared memory of the body by warps, besides its stages, for each token of its tile.
    bytes_per_token: usize,
    constants: Vec<Constant>,
}

impl Operands {
    /// A GEMM over a step's tokens.
    fn dense<P: Params>(self, at: &Context<'_>, gemm: Gemm) -> Result<Planned<P>> {
        self.plan(at, gemm, TileFormat::Bf16, None)
    }

    /// A GEMM over tiles of `tile_tokens` routes of one expert.
    fn experts<P: Params>(
        self,
        at: &Context<'_>,
        gemm: Gemm,
        tile_tokens: usize,
    ) -> Result<Planned<P>> {
        self.plan(at, gemm, TileFormat::Mxfp4, Some(tile_tokens))
    }

    fn plan<P: Params>(
        self,
        at: &Context<'_>,
        gemm: Gemm,
        format: TileFormat,
        expert_tile: Option<usize>,
    ) -> Result<Planned<P>> {
        let name = at.name_of_rank(format!("{}_{}", self.operation, gemm.suffix()));
        let mut tuner = Tuner::new(&name, at.overrides);
        let tile_tokens = match expert_tile {
            // The list of tiles decides it, which is another kernel's.
            Some(tokens) => tokens,
            None => tuner.pick(
                "tile_tokens",
                gemm.tile_tokens(),
                gemm.legal_tile_tokens(),
                TILE_TOKENS_TRADE,
            )?,
        };
        let along_tokens = match expert_tile {
            Some(routes) => Axis::ExpertTiles(routes as u32),
            None => Axis::TokenTiles(tile_tokens as u32),
        };
        let row_tiles = self.rows.div_ceil(TILE_ROWS);
        match gemm {
            Gemm::Specialized(shape) => {
                let dense = expert_tile.is_none();
                self.by_specialized_warps(
                    at,
                    shape,
                    format,
                    dense,
                    tile_tokens,
                    along_tokens,
                    tuner,
                    &name,
                )
            }
            Gemm::Mma(shape) => {
                let dense = expert_tile.is_none();
                self.by_warps(at, shape, format, dense, tile_tokens, along_tokens, tuner, &name)
            }
            Gemm::Wgmma(shape) => {
                let stages = tuner.pick(
                    "stages",
                    shape.stages,
                    Legal::range(3, 8),
                    "k tiles on their way or in use: more hide more latency, and take shared memory",
                )?;
                let blocks_per_sm = tuner.pick(
                    "blocks_per_sm",
                    shape.blocks_per_sm,
                    Legal::range(1, 2),
                    "blocks that share an SM: two hide each other's waits, one has twice the registers",
                )?;
                let mut constants = self.constants;
                constants.extend(u32s(&[
                    ("kRowTiles", row_tiles),
                    ("kTileTokens", tile_tokens),
                    ("kStages", stages),
                ]));
                let tunables = tuner.chosen();
                Ok(Draft {
                    body: self
                        .wgmma
                        .expect("an operation that steps give to warpgroups has a body by them"),
                    other_params: vec![],
                    grid: [Axis::Fixed(row_tiles.div_ceil(WGMMA_WARPS) as u32), along_tokens, ONE],
                    cluster: 1,
                    threads: WGMMA_WARPS * 32,
                    shared_bytes: footprint::wgmma(
                        format,
                        WGMMA_WARPS,
                        tile_tokens,
                        stages,
                        self.bytes_per_token,
                    ),
                    blocks_per_sm,
                    constants,
                    family: at.step.family,
                    tunables,
                    name,
                }
                .plan(at.arch))
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one call site, which this continues")]
    fn by_specialized_warps<P: Params>(
        self,
        at: &Context<'_>,
        shape: Specialized,
        format: TileFormat,
        dense: bool,
        tile_tokens: usize,
        along_tokens: Axis,
        mut tuner: Tuner<'_>,
        name: &str,
    ) -> Result<Planned<P>> {
        let groups = tuner.pick(
            "groups",
            shape.groups,
            Legal::range(1, 4),
            "warpgroups of one block that multiply: more share the tokens' copies, and make fewer blocks",
        )?;
        let stage_tiles = tuner.pick(
            "stage_tiles",
            shape.stage_tiles,
            Legal::range(1, 5),
            "k tiles that move together: more need fewer barriers, and more shared memory per stage",
        )?;
        let stages = tuner.pick(
            "stages",
            shape.stages,
            Legal::range(2, 16),
            "stages on their way or in use: more hide more latency, and take shared memory",
        )?;
        let blocks_per_sm = tuner.pick(
            "blocks_per_sm",
            shape.blocks_per_sm,
            Legal::range(1, 4),
            "blocks that share an SM: more hide each other's waits, and have fewer registers each",
        )?;
        let (warps, row_tiles) = (4 * groups, self.rows.div_ceil(TILE_ROWS));
        let mut constants = self.constants;
        constants.extend(u32s(&[
            ("kRowTiles", row_tiles),
            ("kTileTokens", tile_tokens),
            ("kGroups", groups),
            ("kStageTiles", stage_tiles),
            ("kStages", stages),
        ]));
        let mut other_bytes = self.bytes_per_token * tile_tokens;
        let (mut grid, mut splits) = ([Axis::PerSm(blocks_per_sm as u32), ONE, ONE], 1);
        if !dense {
            let routes = at.step.max_tokens * at.layer.top_k;
            other_bytes = footprint::shared_routes(routes);
            constants.extend(u32s(&[("kMaxRoutes", routes)]));
        } else if !self.resident {
            let row_blocks = row_tiles.div_ceil(warps);
            let own = splits_of_sum(at, row_blocks, self.k.div_ceil(TILE_K), blocks_per_sm);
            splits = tuner.pick(
                "splits",
                own,
                Legal::range(1, at.arch.max_cluster),
                "blocks of a cluster that share a sum: more make enough blocks, and have more to reduce",
            )?;
            constants.extend(u32s(&[("kSplits", splits)]));
            grid = [Axis::Fixed(row_blocks as u32), along_tokens, Axis::Fixed(splits as u32)];
        }
        let tunables = tuner.chosen();
        Ok(Draft {
            name: name.to_owned(),
            body: self.specialized.expect("an operation that steps give to them has a body"),
            other_params: vec![],
            grid,
            cluster: splits,
            threads: (warps + COPY_WARPS) * 32,
            shared_bytes: footprint::specialized(
                format,
                warps,
                tile_tokens,
                stage_tiles,
                stages,
                other_bytes,
            ),
            blocks_per_sm,
            constants,
            family: at.step.family,
            tunables,
        }
        .plan(at.arch))
    }

    #[allow(clippy::too_many_arguments, reason = "one call site, which this continues")]
    fn by_warps<P: Params>(
        self,
        at: &Context<'_>,
        shape: Mma,
        format: TileFormat,
        dense: bool,
        tile_tokens: usize,
        along_tokens: Axis,
        mut tuner: Tuner<'_>,
        name: &str,
    ) -> Result<Planned<P>> {
        let row_tiles = self.rows.div_ceil(TILE_ROWS);
        let warps = tuner.pick(
            "warps",
            shape.warps,
            Legal::OneOf(&[4, 8]),
            "row tiles of one block: more share the tokens' copies, and make fewer blocks",
        )?;
        let stage_tiles = tuner.pick(
            "stage_tiles",
            shape.stage_tiles,
            Legal::range(1, 4),
            "k tiles that move together: more need fewer barriers, and more shared memory per stage",
        )?;
        let stages = tuner.pick(
            "stages",
            shape.stages,
            Legal::range(2, 6),
            "stages on their way or in use: more hide more latency, and take shared memory",
        )?;
        let blocks_per_sm = tuner.pick(
            "blocks_per_sm",
            shape.blocks_per_sm,
            Legal::range(1, 4),
            "blocks that share an SM: more hide each other's waits, and have fewer registers each",
        )?;
        let row_blocks = row_tiles.div_ceil(warps);
        let splits = if dense {
            let own = match shape.splits {
                true => splits_of_sum(at, row_blocks, self.k.div_ceil(TILE_K), blocks_per_sm),
                false => 1,
            };
            tuner.pick(
                "splits",
                own,
                splits_of(at.arch.max_cluster),
                "blocks of a cluster that share a sum: more make enough blocks, and have more to reduce",
            )?
        } else {
            1
        };
        let mut constants = self.constants;
        constants.extend(u32s(&[
            ("kRowTiles", row_tiles),
            ("kTileTokens", tile_tokens),
            ("kStageTiles", stage_tiles),
            ("kStages", stages),
        ]));
        if dense {
            constants.extend(u32s(&[("kSplits", splits)]));
        }
        let tunables = tuner.chosen();
        let other_bytes = match dense {
            true => self.bytes_per_token * tile_tokens,
            false => (self.bytes_per_token * tile_tokens).next_multiple_of(16),
        };
        Ok(Draft {
            name: name.to_owned(),
            body: self.mma,
            other_params: vec![],
            grid: [Axis::Fixed(row_blocks as u32), along_tokens, Axis::Fixed(splits as u32)],
            cluster: splits,
            threads: warps * 32,
            shared_bytes: footprint::stages(format, warps, tile_tokens, stage_tiles, stages)
                + other_bytes,
            blocks_per_sm,
            constants,
            family: at.step.family,
            tunables,
        }
        .plan(at.arch))
    }
}

/// Blocks that split a dense GEMM's sum of `k_tiles` tiles: a power of two, with which all blocks run at once and each has
/// tiles. Clusters of other sizes leave SMs of a GPC empty, so they may need a second wave.
fn splits_of_sum(
    at: &Context<'_>,
    row_blocks: usize,
    k_tiles: usize,
    blocks_per_sm: usize,
) -> usize {
    let at_once = blocks_per_sm * at.arch.sms;
    let fits = |splits: &usize| {
        *splits <= at.arch.max_cluster
            && splits * row_blocks <= at_once
            && (splits - 1) * k_tiles.div_ceil(*splits) < k_tiles
    };
    [8, 4, 2].into_iter().find(fits).unwrap_or(1)
}

/// The GEMM that computes a fusion of normed rows.
pub(super) fn schedule(fused: &Pattern, at: &Context<'_>) -> Result<Option<Vec<PlannedKernel>>> {
    use Op::{AddTo, AllReduce, CacheWrite, ExpertLinear, Linear, Rope, SwiGlu};
    use PhaseKernel as P;
    use Weight::{AttnOut, Down, GateUp, Qkv, Unembedding};
    let kernel = match fused {
        [(Linear, Some(Qkv)), (Rope, _), (CacheWrite, _)] => qkv_rope(at)?.of(P::QkvRope),
        // Of several ranks: what stands for the residual is this rank's part of the sum.
        [(Linear, Some(AttnOut)), (AllReduce, _), (AddTo, _)] | [(Linear, Some(AttnOut))] => {
            attn_out_residual(at)?.of(P::AttnOutResidual)
        }
        [(Linear, Some(Weight::Router))] => router(at)?.of(P::Router),
        [(ExpertLinear, Some(GateUp)), (SwiGlu, _)] => moe_up_swiglu(at)?.of(P::MoeUpSwiglu),
        [(ExpertLinear, Some(Down))] => moe_down(at)?.of(P::MoeDown),
        [(Linear, Some(Unembedding))] => unembed(at)?.of(P::Unembed),
        _ => return Ok(None),
    };
    Ok(Some(vec![kernel]))
}

fn qkv_rope(at: &Context<'_>) -> Result<Planned<QkvRope>> {
    let mut constants = u32s(&[("kHidden", at.spec.hidden)]);
    constants.extend(head_constants(at.spec));
    Operands {
        operation: "qkv_rope",
        mma: body!("qkv_rope_gemm.cu"),
        wgmma: Some(body!("qkv_rope_wgmma.cu")),
        specialized: Some(body!("qkv_rope_specialized.cu")),
        rows: at.spec.qkv_width(),
        k: at.spec.hidden,
        resident: false,
        bytes_per_token: footprint::POSITION_AND_PAGE,
        constants,
    }
    .dense(at, at.step.qkv_rope)
}

fn attn_out_residual(at: &Context<'_>) -> Result<Planned<AttnOutResidual>> {
    let (hidden, q_width) = (at.spec.hidden, at.spec.q_width());
    Operands {
        operation: "attn_out_residual",
        mma: body!("attn_out_residual_gemm.cu"),
        wgmma: Some(body!("attn_out_residual_wgmma.cu")),
        specialized: Some(body!("attn_out_residual_specialized.cu")),
        rows: hidden,
        k: q_width,
        resident: false,
        bytes_per_token: 0,
        constants: u32s(&[("kHidden", hidden), ("kQWidth", q_width)]),
    }
    .dense(at, at.step.attn_out_residual)
}

fn router(at: &Context<'_>) -> Result<Planned<Router>> {
    let (hidden, experts) = (at.spec.hidden, at.layer.experts);
    Operands {
        operation: "router",
        mma: body!("router.cu"),
        wgmma: None,
        specialized: None,
        rows: experts,
        k: hidden,
        resident: false,
        bytes_per_token: 0,
        constants: u32s(&[
            ("kHidden", hidden),
            ("kExperts", experts),
            ("kTileOrder", at.step.tile_order().into()),
        ]),
    }
    .dense(at, Gemm::Mma(at.step.router))
}

/// Constants of both GEMMs of the experts.
fn expert_constants(at: &Context<'_>) -> Vec<Constant> {
    u32s(&[("kHidden", at.spec.hidden), ("kInter", at.spec.inter), ("kTopK", at.layer.top_k)])
}

fn moe_up_swiglu(at: &Context<'_>) -> Result<Planned<MoeUpSwiglu>> {
    let (_, expert_tile) = rows::moe_permute(at)?;
    let mut constants = expert_constants(at);
    constants.extend(swiglu_constants(at.spec));
    Operands {
        operation: "moe_up_swiglu",
        mma: body!("moe_up_swiglu_gemm.cu"),
        wgmma: Some(body!("moe_up_swiglu_wgmma.cu")),
        specialized: Some(body!("moe_up_swiglu_specialized.cu")),
        rows: 2 * at.spec.inter,
        k: at.spec.hidden,
        resident: false,
        bytes_per_token: footprint::ROUTE,
        constants,
    }
    .experts(at, at.step.experts, expert_tile)
}

fn moe_down(at: &Context<'_>) -> Result<Planned<MoeDown>> {
    let (_, expert_tile) = rows::moe_permute(at)?;
    Operands {
        operation: "moe_down",
        mma: body!("moe_down_gemm.cu"),
        wgmma: Some(body!("moe_down_wgmma.cu")),
        specialized: Some(body!("moe_down_specialized.cu")),
        rows: at.spec.hidden,
        k: at.spec.inter,
        resident: false,
        bytes_per_token: footprint::ROUTE,
        constants: expert_constants(at),
    }
    .experts(at, at.step.experts, expert_tile)
}

fn unembed(at: &Context<'_>) -> Result<Planned<Unembed>> {
    let (hidden, vocab) = (at.spec.hidden, at.spec.vocab);
    Operands {
        operation: "unembed",
        mma: body!("unembed_gemm.cu"),
        wgmma: Some(body!("unembed_wgmma.cu")),
        specialized: Some(body!("unembed_specialized.cu")),
        rows: vocab,
        k: hidden,
        resident: true,
        bytes_per_token: 0,
        constants: u32s(&[("kHidden", hidden), ("kVocab", vocab)]),
    }
    .dense(at, at.step.unembed)
}
