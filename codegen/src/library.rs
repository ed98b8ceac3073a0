//! The CUDA device library, embedded: hand-written headers and kernel bodies of `codegen/cuda/`.

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
    "ptx/memory.cuh",
    "ptx/mma.cuh",
    "ptx/types.cuh",
    "ptx/wgmma.cuh",
    "sample/candidate.cuh",
    "sample/select.cuh",
    "tile/gemm.cuh",
    "tile/gemv.cuh",
    "tile/norm.cuh",
    "tile/order.cuh",
    "tile/weights.cuh",
    "tile/wgmma.cuh",
];

const KERNELS: &[(&str, &str)] = files![
    "kernels/attention.cu",
    "kernels/attention_tiled.cu",
    "kernels/attn_out_residual_decode.cu",
    "kernels/attn_out_residual_gemm.cu",
    "kernels/attn_out_residual_wgmma.cu",
    "kernels/embed.cu",
    "kernels/fill_bf16.cu",
    "kernels/fill_mxfp4.cu",
    "kernels/flat_read.cu",
    "kernels/moe_down_gemm.cu",
    "kernels/moe_down_residual_decode.cu",
    "kernels/moe_down_wgmma.cu",
    "kernels/moe_permute.cu",
    "kernels/moe_topk.cu",
    "kernels/moe_unpermute_rmsnorm.cu",
    "kernels/moe_up_swiglu_decode.cu",
    "kernels/moe_up_swiglu_gemm.cu",
    "kernels/moe_up_swiglu_wgmma.cu",
    "kernels/qkv_rope_gemm.cu",
    "kernels/qkv_rope_wgmma.cu",
    "kernels/rmsnorm.cu",
    "kernels/rmsnorm_qkv_rope_decode.cu",
    "kernels/router.cu",
    "kernels/sample.cu",
    "kernels/unembed_decode.cu",
    "kernels/unembed_gemm.cu",
    "kernels/unembed_wgmma.cu",
];

/// Every header that a unit may include, by its path: the library's and the one made from `ossmith-scalar`.
#[must_use]
pub fn headers() -> Vec<(&'static str, &'static str)> {
    let scalar = format!(
        "// Scalar functions in the order of their use; each is made from the Rust function of its name.\n\
         #pragma once\n\n{}",
        ossmith_scalar::DEVICE.join("\n")
    );
    let mut headers = HEADERS.to_vec();
    headers.push(("scalar.cuh", scalar.leak()));
    headers
}

/// A kernel's body.
pub(crate) fn kernel(file: &str) -> &'static str {
    let found = KERNELS.iter().find(|(path, _)| path.strip_prefix("kernels/") == Some(file));
    found.unwrap_or_else(|| panic!("the device library has no kernel {file}")).1
}
