//! Which part of a model one rank computes, when several devices share it: attention by heads, experts by their inner
//! width, the unembedding by rows. Norms, router, embedding and the residual stream are on every rank.
//!
//! [`Shard::WHOLE`], the only rank of one, has the whole model: all ranges are full then and nothing is exchanged.
//! Everything here is arithmetic on a [`ModelSpec`]; packing is the runtime's, exchanging is the kernels'.

#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges, most of which have one")]

use std::ops::Range;

use crate::{ModelSpec, TILE_K, TILE_ROWS, Weight, WeightInfo};

/// One of several ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    /// Which rank, counted from 0.
    pub rank: usize,
    /// How many ranks there are.
    pub of: usize,
}

/// Why a model cannot be shared by so many ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardError {
    /// The dimension that cannot be divided.
    pub what: &'static str,
    /// How many units of it there are.
    pub units: usize,
    /// How many ranks were to share them.
    pub ranks: usize,
}

impl std::fmt::Display for ShardError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ShardError { what, units, ranks } = self;
        write!(
            f,
            "{units} {what} cannot be shared by {ranks} ranks: use fewer devices for this model"
        )
    }
}

impl std::error::Error for ShardError {}

/// A rank's ranges of the model's dimensions. The [`ModelSpec`] stays global; [`Local::spec`] has the rank's widths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Which rank.
    pub shard: Shard,
    /// Query heads.
    pub q_heads: Range<usize>,
    /// Key/value heads.
    pub kv_heads: Range<usize>,
    /// Elements of an expert's inner width: whole tiles of [`TILE_K`], the last one's rest on the last rank.
    pub inter: Range<usize>,
    /// Rows of the unembedding: whole tiles of [`TILE_ROWS`], as above.
    pub vocab: Range<usize>,
}

/// The part of a stored weight that a rank reads, of each of its matrices. A vector is a matrix of rows of one element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Ranges of rows, in the order in which the rank has them.
    pub rows: Vec<Range<usize>>,
    /// Elements of each of these rows.
    pub k: Range<usize>,
}

impl Slice {
    /// All of `rows` rows of `k` elements.
    #[must_use]
    pub fn whole(rows: usize, k: usize) -> Slice {
        Slice { rows: vec![0..rows], k: 0..k }
    }

    /// Whether it is all of `rows` rows of `k` elements.
    #[must_use]
    pub fn is_whole(&self, rows: usize, k: usize) -> bool {
        self.k == (0..k) && matches!(&self.rows[..], [range] if *range == (0..rows))
    }

    /// How many rows.
    #[must_use]
    pub fn row_count(&self) -> usize {
        self.rows.iter().map(ExactSizeIterator::len).sum()
    }

    /// The stored row that is row `index` of the slice.
    #[must_use]
    pub fn row(&self, index: usize) -> Option<usize> {
        let mut before = 0;
        for range in &self.rows {
            if index - before < range.len() {
                return Some(range.start + index - before);
            }
            before += range.len();
        }
        None
    }
}

impl Shard {
    /// The only rank of one.
    pub const WHOLE: Shard = Shard { rank: 0, of: 1 };

    /// All ranks of `of`, in order.
    pub fn all(of: usize) -> impl Iterator<Item = Shard> {
        (0..of).map(move |rank| Shard { rank, of })
    }

    /// This rank's ranges of a model's dimensions.
    ///
    /// # Errors
    /// [`ShardError`] if key/value heads cannot be divided evenly, or there are fewer tiles than ranks.
    pub fn local(self, spec: &ModelSpec) -> Result<Local, ShardError> {
        let Shard { rank, of } = self;
        let refuse = |what, units| ShardError { what, units, ranks: of };
        if of == 0 || rank >= of || !spec.kv_heads.is_multiple_of(of) {
            return Err(refuse("key/value heads", spec.kv_heads));
        }
        if of == 1 {
            return Ok(Local::whole(spec));
        }
        let tiles = |width: usize, tile: usize, what| {
            let tiles = width.div_ceil(tile);
            let at = |rank: usize| ((rank * (tiles / of) + rank.min(tiles % of)) * tile).min(width);
            if tiles < of { Err(refuse(what, tiles)) } else { Ok(at(rank)..at(rank + 1)) }
        };
        let heads = |count: usize| count / of * rank..count / of * (rank + 1);
        Ok(Local {
            shard: self,
            q_heads: heads(spec.q_heads),
            kv_heads: heads(spec.kv_heads),
            inter: tiles(spec.inter, TILE_K, "tiles of the experts' inner width")?,
            vocab: tiles(spec.vocab, TILE_ROWS, "tiles of unembedding rows")?,
        })
    }
}

impl Local {
    /// All of a model.
    #[must_use]
    pub fn whole(spec: &ModelSpec) -> Local {
        Local {
            shard: Shard::WHOLE,
            q_heads: 0..spec.q_heads,
            kv_heads: 0..spec.kv_heads,
            inter: 0..spec.inter,
            vocab: 0..spec.vocab,
        }
    }

    /// The model as this rank computes it: the same layers with this rank's widths.
    #[must_use]
    pub fn spec(&self, global: &ModelSpec) -> ModelSpec {
        ModelSpec {
            q_heads: self.q_heads.len(),
            kv_heads: self.kv_heads.len(),
            inter: self.inter.len(),
            vocab: self.vocab.len(),
            ..*global
        }
    }

    /// The part of a weight that this rank reads; `None` for the bias of a sum over ranks, which rank 0 alone adds.
    /// `info` is the weight's shape in the whole model.
    #[must_use]
    pub fn slice(&self, global: &ModelSpec, info: &WeightInfo) -> Option<Slice> {
        let (_, rows, k) = info.matrices();
        let dims =
            |heads: &Range<usize>| heads.start * global.head_dim..heads.end * global.head_dim;
        let queries = dims(&self.q_heads);
        let qkv = || {
            let at = |first: usize| {
                let kv = dims(&self.kv_heads);
                first + kv.start..first + kv.end
            };
            let (keys, values) = (global.q_width(), global.q_width() + global.kv_width());
            vec![queries.clone(), at(keys), at(values)]
        };
        let pairs = || vec![2 * self.inter.start..2 * self.inter.end];
        let whole = || vec![0..rows];
        let (rows, k) = match info.weight {
            Weight::Qkv | Weight::QkvBias => (qkv(), 0..k),
            Weight::Sinks => (vec![self.q_heads.clone()], 0..k),
            Weight::AttnOut => (whole(), queries.clone()),
            Weight::GateUp | Weight::GateUpBias => (pairs(), 0..k),
            Weight::Down => (whole(), self.inter.clone()),
            Weight::AttnOutBias | Weight::DownBias if self.shard.rank > 0 => return None,
            Weight::Unembedding => (vec![self.vocab.clone()], 0..k),
            Weight::Embedding
            | Weight::AttnNorm
            | Weight::AttnOutBias
            | Weight::MoeNorm
            | Weight::Router
            | Weight::RouterBias
            | Weight::DownBias
            | Weight::FinalNorm => (whole(), 0..k),
        };
        Some(Slice { rows, k })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Layer, Rope};

    const SPEC: ModelSpec = ModelSpec {
        name: "sharded",
        hidden: 2880,
        inter: 2880,
        head_dim: 64,
        q_heads: 64,
        kv_heads: 8,
        vocab: 201_088,
        context: 4096,
        layers: &[Layer::full(32, 4)],
        rms_eps: 1e-5,
        swiglu_limit: 7.0,
        swiglu_alpha: 1.702,
        attention_bias: true,
        tied_embeddings: false,
        rope: Rope {
            theta: 150_000.0,
            factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context: 4096,
            truncate: false,
        },
        stop_tokens: &[],
        max_new_tokens: None,
    };

    #[test]
    fn one_rank_has_the_whole_model() {
        let local = Shard::WHOLE.local(&SPEC).expect("one rank");
        assert_eq!(local.spec(&SPEC), SPEC);
        let info =
            WeightInfo { weight: Weight::Down, dtype: DType::Mxfp4, shape: &[32, 2880, 2880] };
        assert_eq!(local.slice(&SPEC, &info), Some(Slice::whole(2880, 2880)));
    }

    #[test]
    fn ranks_divide_every_dimension_without_gaps() {
        for of in [1, 2, 4, 8] {
            let locals: Vec<Local> = (0..of)
                .map(|rank| Shard { rank, of }.local(&SPEC).unwrap_or_else(|why| panic!("{why}")))
                .collect();
            let covers = |ranges: Vec<Range<usize>>, end: usize| {
                assert_eq!(
                    ranges.iter().fold(0, |at, range| {
                        assert_eq!(range.start, at, "{of} ranks");
                        range.end
                    }),
                    end
                );
            };
            covers(locals.iter().map(|local| local.q_heads.clone()).collect(), 64);
            covers(locals.iter().map(|local| local.kv_heads.clone()).collect(), 8);
            covers(locals.iter().map(|local| local.inter.clone()).collect(), 2880);
            covers(locals.iter().map(|local| local.vocab.clone()).collect(), 201_088);
            // 45 tiles: 23 and 22, or 12 and three times 11.
            let tiles: Vec<usize> = locals.iter().map(|local| local.inter.len() / TILE_K).collect();
            assert!(tiles.iter().max().unwrap_or(&0) - tiles.iter().min().unwrap_or(&0) <= 1);
        }
    }

    #[test]
    fn ranks_read_every_row_of_queries_keys_and_values_once() {
        let rows = 5_120;
        let info = WeightInfo { weight: Weight::Qkv, dtype: DType::Bf16, shape: &[5_120, 2880] };
        for of in [1, 2, 4, 8] {
            let slice = |rank| Shard { rank, of }.local(&SPEC).ok()?.slice(&SPEC, &info);
            let slices: Vec<Slice> = (0..of).map(|rank| slice(rank).expect("a part")).collect();
            let mut read: Vec<usize> =
                slices.iter().flat_map(|slice| slice.rows.iter().cloned().flatten()).collect();
            read.sort_unstable();
            assert_eq!(read, (0..rows).collect::<Vec<_>>(), "{of} ranks");
            // Each rank's keys and values are those of its heads, and equally many.
            assert!(slices.iter().all(|slice| slice.rows[1].len() == slice.rows[2].len()));
        }
    }

    #[test]
    fn what_cannot_be_divided_is_named() {
        let error = Shard { rank: 0, of: 3 }.local(&SPEC).expect_err("8 heads");
        assert_eq!(
            error.to_string(),
            "8 key/value heads cannot be shared by 3 ranks: use fewer devices for this model"
        );
        let narrow = ModelSpec { inter: 96, ..SPEC };
        let error = Shard { rank: 0, of: 4 }.local(&narrow).expect_err("two tiles");
        assert_eq!((error.what, error.units), ("tiles of the experts' inner width", 2));
    }

    #[test]
    fn a_bias_of_a_sum_is_added_once() {
        let info = WeightInfo { weight: Weight::AttnOutBias, dtype: DType::Bf16, shape: &[2880] };
        let slice = |rank| Shard { rank, of: 2 }.local(&SPEC).ok()?.slice(&SPEC, &info);
        assert_eq!(slice(0), Some(Slice::whole(2880, 1)));
        assert_eq!(slice(1), None);
    }
}
