//! A kernel: its source, its launch geometry and the type of its parameters.

use std::marker::PhantomData;

use crate::Family;
use crate::facts::KV_SPLIT_BLOCKS_PER_SM;

/// The line of a unit that parts what the plan decides (`namespace spec`, the parameter structs), which the launch relies
/// on, from the kernel's body, which may be edited.
pub const BODY_MARKER: &str =
    "// The kernel's body. What is above is decided by the plan and must match its launch.";

/// One CUDA translation unit: a kernel with its constants, as a person would read it, compiled for the architecture of
/// the device at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Unit and file name without extension; also the entry point's name.
    pub name: &'static str,
    /// CUDA C++ text; includes only files of [`Model::headers`](crate::Model::headers).
    pub source: &'static str,
    /// Devices that it compiles for.
    pub family: Family,
    /// Registers a thread may use at most (the gate that CI holds it to).
    pub max_registers: u32,
    /// Ranks with which its blocks exchange; 1 if they exchange with none.
    pub ranks: usize,
}

/// One axis of a launch grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Always this many.
    Fixed(u32),
    /// One per token of the step.
    Tokens,
    /// One for each started tile of this many tokens.
    TokenTiles(u32),
    /// The most tiles of this many routes that experts can start.
    ExpertTiles(u32),
    /// One for each started tile of this many consecutive tokens of a sequence.
    QueryTiles(u32),
    /// One for each split of a head's keys: as many as give each SM [`KV_SPLIT_BLOCKS_PER_SM`](crate::facts), up to this
    /// many.
    KvSplits(u32),
    /// This many per SM.
    PerSm(u32),
}

/// A launch grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// `gridDim.x`.
    pub x: Axis,
    /// `gridDim.y`.
    pub y: Axis,
    /// `gridDim.z`.
    pub z: Axis,
}

/// What the number of blocks of a launch depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Tokens, or rows of the head.
    pub tokens: u32,
    /// Routes: tokens times experts per token.
    pub routes: u32,
    /// Tiles of consecutive tokens.
    pub query_tiles: u32,
    /// Experts of a layer.
    pub experts: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Streaming multiprocessors of the device.
    pub sms: u32,
}

impl Grid {
    /// The number of blocks along each axis.
    #[must_use]
    pub fn blocks(&self, at: &Extent) -> [u32; 3] {
        let axis = |axis| match axis {
            Axis::Fixed(count) => count,
            Axis::Tokens => at.tokens,
            Axis::TokenTiles(tokens) => at.tokens.div_ceil(tokens),
            Axis::ExpertTiles(routes) => at.routes / routes + at.experts.min(at.routes),
            Axis::QueryTiles(_) => at.query_tiles,
            Axis::KvSplits(most) => {
                let heads = at.kv_heads * at.tokens.max(1);
                (KV_SPLIT_BLOCKS_PER_SM as u32 * at.sms).div_ceil(heads).clamp(1, most)
            }
            Axis::PerSm(blocks) => blocks * at.sms,
        };
        [self.x, self.y, self.z].map(axis)
    }
}

/// What can be said of any kernel without its parameter type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Entry point; the unit has the same name.
    pub name: &'static str,
    /// Launch grid.
    pub grid: Grid,
    /// Threads per block.
    pub threads: u32,
    /// Blocks along z that form a cluster, on devices that have clusters (compute capability 9.0 and later).
    pub cluster: u32,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// Whether the kernel waits by programmatic dependent launch (`griddepcontrol.wait`) before it reads values.
    pub dependent_launch: bool,
}

/// A kernel that takes exactly the parameters `P`: launching it with others does not compile.
#[derive(Debug)]
pub struct Kernel<P: Params> {
    /// Name and geometry.
    pub info: KernelInfo,
    params: PhantomData<fn(&P)>,
}

impl<P: Params> Clone for Kernel<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Params> Copy for Kernel<P> {}

impl<P: Params> Kernel<P> {
    /// A kernel of this name and geometry.
    #[must_use]
    pub const fn new(info: KernelInfo) -> Self {
        Kernel { info, params: PhantomData }
    }
}

/// A kernel parameter struct with its CUDA twin.
pub trait Params: Copy + 'static {
    /// Struct name in CUDA.
    const NAME: &'static str;
    /// CUDA text of the twin.
    const CUDA: &'static str;
    /// All of it, with the sizes that the twin must have.
    const TWIN: Twin;
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
