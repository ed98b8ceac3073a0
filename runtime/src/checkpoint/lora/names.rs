//! Which weight each tensor of an adapter adapts: modules of attention and the router, and the experts' parameters, all in
//! one tensor as peft's `target_parameters` writes them or one for each expert as Unsloth does.

use std::collections::BTreeMap;
use std::ops::Range;

use ossmith_plan::{ModelSpec, Weight};

/// What an adapted module or parameter is called in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    Query,
    Key,
    Value,
    Output,
    Router,
    /// A parameter of all experts: `mlp.experts`.
    Experts,
    /// A second parameter of the same module, which peft wraps first: `mlp.experts.base_layer`.
    InnerExperts,
    /// A matrix of one expert.
    GateUp(usize),
    Down(usize),
}

/// An adapted module of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Site {
    pub(super) layer: usize,
    pub(super) which: Which,
}

/// The matrices that a module adapts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) weight: Weight,
    /// Where it is in a layer, as patterns of ranks name it.
    pub(super) path: String,
    pub(super) matrices: Range<usize>,
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) k: usize,
}

const GATE_UP: &str = "gate_up_proj";
const DOWN: &str = "down_proj";

/// The pairs of tensors, `lora_A` and `lora_B`, by what they adapt.
pub(super) fn pairs<'a>(
    names: impl Iterator<Item = &'a str>,
    spec: &ModelSpec,
) -> Result<BTreeMap<Site, [String; 2]>, String> {
    let mut found: BTreeMap<Site, [Option<String>; 2]> = BTreeMap::new();
    for name in names {
        let (site, half) = site(name, spec)?;
        let slot = &mut found.entry(site).or_default()[half];
        if let Some(other) = slot.replace(name.to_owned()) {
            return Err(format!("tensor {name}: adapts what {other} adapts"));
        }
    }
    if found.is_empty() {
        return Err("holds no tensor, so it adapts nothing".to_owned());
    }
    let whole = |(site, pair): (Site, [Option<String>; 2])| match pair {
        [Some(a), Some(b)] => Ok((site, [a, b])),
        [Some(a), None] => Err(format!("tensor {a}: has no lora_B beside it")),
        [None, Some(b)] => Err(format!("tensor {b}: has no lora_A beside it")),
        [None, None] => Err("a pair without tensors".to_owned()),
    };
    found.into_iter().map(whole).collect()
}

/// What a tensor adapts, and which half of the pair it is.
fn site(name: &str, spec: &ModelSpec) -> Result<(Site, usize), String> {
    let (path, half) =
        match (name.strip_suffix(".lora_A.weight"), name.strip_suffix(".lora_B.weight")) {
            (Some(path), _) => (path, 0),
            (None, Some(path)) => (path, 1),
            (None, None) => return Err(format!("tensor {name}: {}", refusal(name))),
        };
    let unknown = || {
        format!(
            "tensor {name}: adapts a module that is not adapted here; supported: self_attn.q_proj, k_proj, v_proj, o_proj, mlp.router, \
             mlp.experts (gate_up_proj, down_proj)"
        )
    };
    let inner = path.strip_prefix("base_model.model.").unwrap_or(path);
    let inner = inner.strip_prefix("model.layers.").ok_or_else(unknown)?;
    let (layer, module) = inner.split_once('.').ok_or_else(unknown)?;
    let layer: usize = layer.parse().map_err(|_| unknown())?;
    let Some(shape) = spec.layers.get(layer) else {
        return Err(format!(
            "tensor {name}: the model has {} layers, counted from 0",
            spec.layers.len()
        ));
    };
    let expert = |text: &str| match text.parse() {
        Ok(expert) if expert < shape.experts => Ok(expert),
        Ok(_) => {
            Err(format!("tensor {name}: the layer has {} experts, counted from 0", shape.experts))
        }
        Err(_) => Err(unknown()),
    };
    let which = match module {
        "self_attn.q_proj" => Which::Query,
        "self_attn.k_proj" => Which::Key,
        "self_attn.v_proj" => Which::Value,
        "self_attn.o_proj" => Which::Output,
        "mlp.router" | "mlp.router.linear" => Which::Router,
        "mlp.experts" => Which::Experts,
        "mlp.experts.base_layer" => Which::InnerExperts,
        _ => match (
            module.strip_prefix("mlp.experts.gate_up_projs."),
            module.strip_prefix("mlp.experts.down_projs."),
        ) {
            (Some(number), _) => Which::GateUp(expert(number)?),
            (None, Some(number)) => Which::Down(expert(number)?),
            (None, None) => return Err(unknown()),
        },
    };
    Ok((Site { layer, which }, half))
}

/// Why a tensor that is neither half of a pair is refused.
fn refusal(name: &str) -> &'static str {
    let has = |part: &str| name.contains(part);
    if has("lora_magnitude_vector") {
        "DoRA is not computed; merge the adapter with peft, and give the merged checkpoint"
    } else if has("lora_embedding_") {
        "adapters of the embedding are not computed; merge the adapter with peft, and give the merged checkpoint"
    } else if name.ends_with("lora_B.bias") {
        "biases of the low-rank matrices are not computed"
    } else {
        "is neither lora_A.weight nor lora_B.weight; whole modules (modules_to_save) are not loaded"
    }
}

impl Site {
    /// The matrices, told apart by the rows of `lora_B` and the order in which peft wraps parameters.
    pub(super) fn kind(
        &self,
        spec: &ModelSpec,
        b_rows: usize,
        target_parameters: &[String],
    ) -> Result<Kind, String> {
        let experts = spec.layers[self.layer].experts;
        let (q, kv) = (spec.q_width(), spec.kv_width());
        let of = |weight, path: &str, matrices, first_row, rows, k| Kind {
            weight,
            path: path.to_owned(),
            matrices,
            first_row,
            rows,
            k,
        };
        let attention = |letter, first_row, rows| {
            of(Weight::Qkv, &format!("self_attn.{letter}_proj"), 0..1, first_row, rows, spec.hidden)
        };
        let gate_up = |path: &str, matrices| {
            of(Weight::GateUp, path, matrices, 0, 2 * spec.inter, spec.hidden)
        };
        let down =
            |path: &str, matrices| of(Weight::Down, path, matrices, 0, spec.hidden, spec.inter);
        Ok(match self.which {
            Which::Query => attention('q', 0, q),
            Which::Key => attention('k', q, kv),
            Which::Value => attention('v', q + kv, kv),
            Which::Output => of(Weight::AttnOut, "self_attn.o_proj", 0..1, 0, spec.hidden, q),
            Which::Router => of(Weight::Router, "mlp.router", 0..1, 0, experts, spec.hidden),
            Which::GateUp(e) => gate_up(&format!("mlp.experts.gate_up_projs.{e}"), e..e + 1),
            Which::Down(e) => down(&format!("mlp.experts.down_projs.{e}"), e..e + 1),
            Which::Experts | Which::InnerExperts => {
                let targets = |name: &str| {
                    target_parameters.iter().any(|target| target.rsplit('.').next() == Some(name))
                };
                let is_gate_up = match (b_rows == 2 * spec.inter, b_rows == spec.hidden) {
                    (true, false) => true,
                    (false, true) => false,
                    // peft wraps gate_up_proj first, so it is the inner one where both are adapted.
                    (true, true) => {
                        self.which == Which::InnerExperts || targets(GATE_UP) && !targets(DOWN)
                    }
                    (false, false) => {
                        return Err(format!(
                            "lora_B of mlp.experts in layer {} has {b_rows} rows; expected {} for {GATE_UP} or {} for {DOWN}",
                            self.layer,
                            2 * spec.inter,
                            spec.hidden
                        ));
                    }
                };
                match is_gate_up {
                    true => gate_up("mlp.experts.gate_up_proj", 0..experts),
                    false => down("mlp.experts.down_proj", 0..experts),
                }
            }
        })
    }
}
