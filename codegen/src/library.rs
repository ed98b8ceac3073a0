//! The CUDA device library, embedded: hand-written headers and kernel bodies of `codegen/cuda/`.

use ossmith_plan::facts;

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../cuda/", $path)))),*]
    };
}

const HEADERS: &[(&str, &str)] = files![
    "attn/attend.cuh",
    "attn/merge.cuh",
    "attn/span.cuh",
    "attn/tiled.cuh",
    "epilogue/cache.cuh",
    "epilogue/exchange.cuh",
    "epilogue/qkv.cuh",
    "epilogue/residual.cuh",
    "epilogue/swiglu.cuh",
    "moe/logits.cuh",
    "moe/permute.cuh",
    "moe/routing.cuh",
    "mxfp4/decode.cuh",
    "ptx/cluster.cuh",
    "ptx/launch.cuh",
    "ptx/math.cuh",
    "ptx/mbarrier.cuh",
    "ptx/memory.cuh",
    "ptx/mma.cuh",
    "ptx/types.cuh",
    "ptx/wgmma.cuh",
    "sample/candidate.cuh",
    "sample/changes.cuh",
    "sample/filters.cuh",
    "sample/gumbel_argmax.cuh",
    "sample/noise.cuh",
    "sample/reduce.cuh",
    "sample/report.cuh",
    "sample/row.cuh",
    "sample/select.cuh",
    "tile/adapter.cuh",
    "tile/gemm.cuh",
    "tile/gemv.cuh",
    "tile/int8.cuh",
    "tile/norm.cuh",
    "tile/order.cuh",
    "tile/specialized.cuh",
    "tile/weights.cuh",
    "tile/wgmma.cuh",
];

/// Every header that a unit may include, by its path: the library's, and those made from `ossmith-plan`'s facts and from
/// `ossmith-scalar`.
#[must_use]
pub fn headers() -> Vec<(&'static str, &'static str)> {
    let scalar = format!(
        "// Scalar functions in the order of their use; each is made from the Rust function of its name.\n\
         #pragma once\n\n{}",
        ossmith_scalar::DEVICE.join("\n")
    );
    let mut headers = HEADERS.to_vec();
    headers.push(("facts.cuh", facts().leak()));
    headers.push(("scalar.cuh", scalar.leak()));
    headers
}

/// The numbers that kernels and runtime share, as constants.
fn facts() -> String {
    let constant = |(name, value, meaning): &(&str, usize, &str)| {
        format!("constexpr u32 {name} = {value};  // {meaning}\n")
    };
    let constants: String = facts::ALL.iter().map(constant).collect();
    format!(
        "// Numbers that kernels and runtime share, stated once in ossmith_plan::facts.\n\
         #pragma once\n#include \"ptx/types.cuh\"\n\n{constants}"
    )
}
