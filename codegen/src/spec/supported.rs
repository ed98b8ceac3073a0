//! What the kernels can run: the limits of every dimension, each with its reason.

use ossmith_plan::Layer;

use super::SpecError;
use super::fields::Fields;
use super::raw::Raw;

/// Bounds the tables that are made per layer; the largest published model has 36.
pub(super) const MAX_LAYERS: usize = 1024;
/// Positions above 2^24 are not exact in the 32-bit floats that rotary angles are computed in.
pub(super) const MAX_CONTEXT: usize = 1 << 24;
/// One MXFP4 block; weight tiles are padded to it and no further in the checkpoint.
const BLOCK: usize = 32;
const HEAD_DIMS: [usize; 3] = [32, 64, 128];
/// The CUDA attention lays the query heads of one key/value head along the 8 columns of a tensor-core instruction.
const MAX_GROUP: usize = 8;
/// The router keeps the chosen experts of a token in registers.
const MAX_TOP_K: usize = 8;
/// Elements of one weight tensor: kernels index them with 32 bits.
const MAX_ELEMENTS: u128 = u32::MAX as u128;

pub(super) fn check(config: &Fields<'_>, raw: &Raw) -> Result<(), SpecError> {
    let names = raw.names;
    for (name, width) in [("hidden_size", raw.hidden), ("intermediate_size", raw.inter)] {
        if !width.is_multiple_of(BLOCK) {
            return Err(config.unsupported(name, "a multiple of 32, the MXFP4 block"));
        }
    }
    if !HEAD_DIMS.contains(&raw.head_dim) {
        return Err(config.unsupported("head_dim", "32, 64 or 128"));
    }
    check_heads(config, raw)?;
    for (layer, &Layer { window, experts, top_k }) in raw.layers.iter().enumerate() {
        // What a layer's own object sets is named there.
        let refuse = |name: &str, found: usize, supported: String| {
            let of_layer = config.objects("block_configs", raw.layers.len());
            match of_layer.ok().flatten().and_then(|blocks| blocks.get(layer).copied()) {
                Some(block) if block.has(name) => Err(block.unsupported(name, &supported)),
                _ => Err(config.refuse(name, &found.to_string(), &supported)),
            }
        };
        if top_k > experts || top_k > MAX_TOP_K {
            // Hugging Face's second spelling may be the only one there.
            let name = match config.has("experts_per_token") && !config.has(names.top_k) {
                true => "experts_per_token",
                false => names.top_k,
            };
            return refuse(name, top_k, format!("1 to {experts}, and at most {MAX_TOP_K}"));
        }
        if let Some(window) = window.filter(|&window| window > MAX_CONTEXT) {
            return refuse("sliding_window", window, format!("1 to {MAX_CONTEXT} positions"));
        }
    }
    if raw.context > MAX_CONTEXT {
        return Err(config.unsupported(names.context, &format!("at most {MAX_CONTEXT} positions")));
    }
    // Larger than any activation's mean square: a slip of the sign in the exponent.
    if raw.rms_eps >= 1.0 {
        return Err(config.unsupported("rms_norm_eps", "a number above 0 and below 1"));
    }
    check_sizes(config, raw)
}

fn check_heads(config: &Fields<'_>, raw: &Raw) -> Result<(), SpecError> {
    if !raw.q_heads.is_multiple_of(raw.kv_heads) {
        let supported = format!("a multiple of `num_key_value_heads`, which is {}", raw.kv_heads);
        return Err(config.unsupported("num_attention_heads", &supported));
    }
    if raw.q_heads / raw.kv_heads > MAX_GROUP {
        let supported = format!(
            "at most {MAX_GROUP} query heads for each of the {} key/value heads (a limit of the CUDA attention)",
            raw.kv_heads
        );
        return Err(config.unsupported("num_attention_heads", &supported));
    }
    Ok(())
}

/// Sizes are multiplied in 128 bits, where three 32-bit factors cannot overflow.
fn check_sizes(config: &Fields<'_>, raw: &Raw) -> Result<(), SpecError> {
    let wide = |value: usize| value as u128;
    let (hidden, inter) = (wide(raw.hidden), wide(raw.inter));
    let experts = wide(raw.layers.iter().map(|layer| layer.experts).max().unwrap_or(0));
    let heads = wide(raw.q_heads) + 2 * wide(raw.kv_heads);
    let sizes = [
        ("vocab_size x hidden_size", wide(raw.vocab) * hidden),
        (
            "(num_attention_heads + 2 num_key_value_heads) x head_dim x hidden_size",
            heads * wide(raw.head_dim) * hidden,
        ),
        ("experts x 2 x intermediate_size x hidden_size", experts * 2 * inter * hidden),
    ];
    match sizes.iter().find(|(_, elements)| *elements > MAX_ELEMENTS) {
        None => Ok(()),
        Some((fields, elements)) => {
            let supported = format!("at most {MAX_ELEMENTS} elements in one tensor");
            Err(config.refuse(fields, &elements.to_string(), &supported))
        }
    }
}
