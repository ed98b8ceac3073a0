//! What may differ from layer to layer: the window, the experts and how many of them are chosen. A configuration gives
//! one number of each for all layers, with `layer_types`, or an object for each layer (`block_configs`, which NVIDIA's
//! Puzzle writes).

use ossmith_plan::{Layer, LayerKind};

use super::SpecError;
use super::fields::Fields;
use super::raw::Names;
use super::supported::MAX_LAYERS;

/// The window of a configuration that names none (`configuration_gpt_oss.py`).
const DEFAULT_WINDOW: usize = 128;

const WINDOW: &str = "sliding_window";
const BLOCKS: &str = "block_configs";

pub(super) fn read(config: Fields<'_>, names: &Names) -> Result<Vec<Layer>, SpecError> {
    let count = config.count("num_hidden_layers")?;
    if count > MAX_LAYERS {
        let supported = format!("at most {MAX_LAYERS} layers");
        return Err(config.unsupported("num_hidden_layers", &supported));
    }
    // `null` switches the window off for all layers.
    let window = match config.optional_count(WINDOW)? {
        None if config.is_null(WINDOW) => None,
        window => Some(window.unwrap_or(DEFAULT_WINDOW)),
    };
    let blocks = match config.objects(BLOCKS, count)? {
        Some(blocks) => blocks.into_iter().map(Some).collect(),
        None => vec![None; count],
    };
    // Where every layer has numbers of its own, the model need not have any.
    let each = |name: &str| blocks.iter().all(|block| block.is_some_and(|block| block.has(name)));
    let experts = match each("num_local_experts") {
        true => 0,
        false => experts(config, names)?,
    };
    let top_k = if each("num_experts_per_tok") { 0 } else { top_k(config, names)? };
    let layer = |(kind, block): (LayerKind, &Option<Fields<'_>>)| {
        let window = match kind {
            LayerKind::Sliding => window,
            LayerKind::Full => None,
        };
        let all = Layer { window, experts, top_k };
        block.map_or(Ok(all), |block| of_block(config, block, all))
    };
    kinds(config, count)?.into_iter().zip(&blocks).map(layer).collect()
}

/// What a layer's own object says, and otherwise `all` layers' numbers.
fn of_block(config: Fields<'_>, block: Fields<'_>, all: Layer) -> Result<Layer, SpecError> {
    const KNOWN: [&str; 3] = ["num_local_experts", "num_experts_per_tok", WINDOW];
    for name in block.names().filter(|name| !KNOWN.contains(name)) {
        if !config.same(block, name) {
            let supported = "only these in a layer's own object: num_local_experts, num_experts_per_tok, sliding_window";
            return Err(block.unsupported(name, supported));
        }
    }
    let window = match block.optional_count(WINDOW)? {
        None if !block.is_null(WINDOW) => all.window,
        window => window,
    };
    Ok(Layer {
        window,
        experts: block.optional_count("num_local_experts")?.unwrap_or(all.experts),
        top_k: block.optional_count("num_experts_per_tok")?.unwrap_or(all.top_k),
    })
}

/// transformers takes `num_experts` for another name of `num_local_experts`, and the first one where a file has both.
fn experts(config: Fields<'_>, names: &Names) -> Result<usize, SpecError> {
    match config.optional_count("num_experts")? {
        Some(experts) => Ok(experts),
        None => config.count(names.experts),
    }
}

/// The published files write the number of chosen experts twice.
fn top_k(config: Fields<'_>, names: &Names) -> Result<usize, SpecError> {
    const OTHER: &str = "experts_per_token";
    let main = names.top_k;
    match (config.optional_count(main)?, config.optional_count(OTHER)?) {
        (Some(main_k), Some(other_k)) if main_k != other_k => {
            Err(config.unsupported(OTHER, &format!("the same as `{main}`, which is {main_k}")))
        }
        (Some(top_k), _) | (None, Some(top_k)) => Ok(top_k),
        (None, None) => config.count(main),
    }
}

fn kinds(config: Fields<'_>, count: usize) -> Result<Vec<LayerKind>, SpecError> {
    const KINDS: &str = "a list of \"sliding_attention\" and \"full_attention\"";
    let Some(names) = config.optional::<Vec<&str>>("layer_types", KINDS)? else {
        let kind = |layer| if layer % 2 == 0 { LayerKind::Sliding } else { LayerKind::Full };
        return Ok((0..count).map(kind).collect());
    };
    if names.len() != count {
        let supported = format!("{count} entries, as `num_hidden_layers` says");
        return Err(config.refuse("layer_types", &format!("{} entries", names.len()), &supported));
    }
    let kind = |(layer, name): (usize, &&str)| match *name {
        "sliding_attention" => Ok(LayerKind::Sliding),
        "full_attention" => Ok(LayerKind::Full),
        other => {
            let (field, found) = (format!("layer_types[{layer}]"), format!("{other:?}"));
            Err(config.refuse(&field, &found, "\"sliding_attention\" or \"full_attention\""))
        }
    };
    names.iter().enumerate().map(kind).collect()
}
