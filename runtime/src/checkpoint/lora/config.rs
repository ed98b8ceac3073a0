//! `adapter_config.json`: rank and scale of each module, and what makes an adapter more than plain LoRA.

use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Map, Value};

type Read<T> = Result<T, String>;

/// Bytes of a compiled pattern.
const PATTERN_BYTES: usize = 1 << 20;

/// Fields that change what an adapter computes, where they hold anything, and what they are.
const REFUSED: [(&str, &str); 13] = [
    ("use_dora", "DoRA, which scales the merged rows anew"),
    ("lora_bias", "biases of the low-rank matrices"),
    ("use_qalora", "QA-LoRA"),
    ("use_bdlora", "block-diagonal LoRA"),
    ("alora_invocation_tokens", "an activated LoRA, which begins within the prompt"),
    ("trainable_token_indices", "trained rows of the embedding"),
    ("modules_to_save", "whole modules beside the low-rank matrices"),
    ("layer_replication", "repeated layers"),
    ("megatron_config", "layers that Megatron divides"),
    ("arrow_config", "a router over adapters"),
    ("kasa_config", "singular values of its own (KaSA)"),
    ("velora_config", "VeLoRA"),
    ("monteclora_config", "sampled weights (MonteCLoRA)"),
];

/// Fields that are read, or that matter to training alone.
const KNOWN: [&str; 30] = [
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "target_parameters",
    "exclude_modules",
    "fan_in_fan_out",
    "bias",
    "init_lora_weights",
    "inference_mode",
    "lora_dropout",
    "layers_to_transform",
    "layers_pattern",
    "corda_config",
    "eva_config",
    "lora_ga_config",
    "runtime_config",
    "megatron_core",
    "qalora_group_size",
    "peft_version",
    "ensure_weight_tying",
    "parent_library",
    "auto_mapping",
    "revision",
    "loftq_config",
];

/// What of a configuration decides the adapter's values.
#[derive(Debug)]
pub(super) struct AdapterConfig {
    rank: usize,
    alpha: f64,
    root: bool,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    pub(super) fan_in_fan_out: bool,
    /// Parameters, not modules, that it adapts.
    pub(super) target_parameters: Vec<String>,
    pub(super) base: Option<String>,
    pub(super) notes: Vec<String>,
}

impl AdapterConfig {
    pub(super) fn parse(text: &[u8]) -> Read<AdapterConfig> {
        let fields: Map<String, Value> =
            serde_json::from_slice(text).map_err(|why| format!("is not a JSON object: {why}"))?;
        let fields = Fields(&fields);
        match fields.text("peft_type")? {
            Some("LORA") => {}
            Some(other) => {
                return Err(format!(
                    "peft_type is {other:?}; only \"LORA\" is computed: merge the adapter with peft, and give the merged checkpoint"
                ));
            }
            None => return Err("peft_type is missing; expected \"LORA\"".to_owned()),
        }
        for (name, what) in REFUSED {
            if fields.holds(name) {
                return Err(format!(
                    "{name} is {}: {what} is not computed; merge the adapter with peft, and give the merged checkpoint",
                    fields.shown(name)
                ));
            }
        }
        match fields.text("bias")? {
            None | Some("none") => {}
            Some(other) => {
                return Err(format!(
                    "bias is {other:?}, which trains biases of the model; only \"none\" is computed"
                ));
            }
        }
        fields.check_initialization()?;
        let rank = fields.rank("r", fields.0.get("r"))?.unwrap_or(8);
        let alpha = read_alpha("lora_alpha", fields.0.get("lora_alpha"))?.unwrap_or(8.0);
        let fan_in_fan_out = fields.truth("fan_in_fan_out")?;
        let mut notes = Vec::new();
        if fan_in_fan_out {
            notes.push(
                "fan_in_fan_out is true and was passed over, as peft does: all modules of gpt-oss are linear".to_owned(),
            );
        }
        let unknown: Vec<&str> = fields
            .0
            .keys()
            .map(String::as_str)
            .filter(|name| !KNOWN.contains(name) && !REFUSED.iter().any(|(known, _)| known == name))
            .filter(|name| fields.holds(name))
            .collect();
        if !unknown.is_empty() {
            notes.push(format!(
                "fields that are not known here were passed over: {}",
                unknown.join(", ")
            ));
        }
        Ok(AdapterConfig {
            rank,
            alpha,
            root: fields.truth("use_rslora")?,
            ranks: fields.patterns("rank_pattern", |name, value| {
                fields.rank(name, Some(value))?.ok_or_else(|| format!("{name} is null"))
            })?,
            alphas: fields.patterns("alpha_pattern", |name, value| {
                read_alpha(name, Some(value))?.ok_or_else(|| format!("{name} is null"))
            })?,
            fan_in_fan_out,
            target_parameters: fields.texts("target_parameters")?,
            base: fields.text("base_model_name_or_path")?.map(str::to_owned),
            notes,
        })
    }

    /// The rank and the scale of a module or a parameter.
    pub(super) fn rank_and_scale(&self, module: &str) -> Read<(usize, f32)> {
        let rank = of_pattern("rank_pattern", &self.ranks, module)?.unwrap_or(self.rank);
        let alpha = of_pattern("alpha_pattern", &self.alphas, module)?.unwrap_or(self.alpha);
        let divisor = if self.root { (rank as f64).sqrt() } else { rank as f64 };
        Ok((rank, (alpha / divisor) as f32))
    }
}

/// The value of the pattern that matches the end of a module's path, of which peft takes the first.
fn of_pattern<T: Copy + PartialEq>(
    field: &str,
    patterns: &[(Regex, T)],
    module: &str,
) -> Read<Option<T>> {
    let mut matching = patterns.iter().filter(|(pattern, _)| pattern.is_match(module.as_bytes()));
    let Some(&(_, value)) = matching.next() else { return Ok(None) };
    if matching.any(|&(_, other)| other != value) {
        return Err(format!(
            "two patterns of {field} match {module} and differ; leave one of them in {}",
            super::CONFIG
        ));
    }
    Ok(Some(value))
}

fn read_alpha(name: &str, value: Option<&Value>) -> Read<Option<f64>> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    match value.as_f64() {
        Some(alpha) if alpha > 0.0 && alpha <= 1e6 => Ok(Some(alpha)),
        _ => Err(format!(
            "{name} is {value}; expected a number above 0 (the adapter would add nothing at 0)"
        )),
    }
}

struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    /// Whether a field is there and neither null, false nor empty.
    fn holds(&self, name: &str) -> bool {
        match self.0.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Bool(true) | Value::Number(_)) => true,
        }
    }

    /// A field's value, shortened.
    fn shown(&self, name: &str) -> String {
        let text = self.0.get(name).map(Value::to_string).unwrap_or_default();
        match text.char_indices().nth(60) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }

    fn text(&self, name: &str) -> Read<Option<&str>> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{name} is {}; expected a string", self.shown(name))),
        }
    }

    fn texts(&self, name: &str) -> Read<Vec<String>> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
                Ok(list.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect())
            }
            Some(_) => Err(format!("{name} is {}; expected a list of strings", self.shown(name))),
        }
    }

    fn truth(&self, name: &str) -> Read<bool> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(truth)) => Ok(*truth),
            Some(_) => Err(format!("{name} is {}; expected true or false", self.shown(name))),
        }
    }

    fn rank(&self, name: &str, value: Option<&Value>) -> Read<Option<usize>> {
        let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
        match value.as_u64().and_then(|rank| usize::try_from(rank).ok()) {
            Some(rank) if rank > 0 => Ok(Some(rank)),
            _ => Err(format!("{name} is {value}; expected a whole number above 0")),
        }
    }

    fn patterns<T>(
        &self,
        field: &str,
        read: impl Fn(&str, &Value) -> Read<T>,
    ) -> Read<Vec<(Regex, T)>> {
        let map = match self.0.get(field) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(format!("{field} is {}; expected an object", self.shown(field))),
        };
        let pattern = |(key, value): (&String, &Value)| {
            let name = format!("{field}[{key:?}]");
            let regex = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{key})$"))
                .size_limit(PATTERN_BYTES)
                // Names are ASCII, and `\d` must not depend on whether the build has tables of Unicode.
                .unicode(false)
                .build()
                .map_err(|_| format!("{name} is no regular expression that is read here"))?;
            Ok((regex, read(&name, value)?))
        };
        map.iter().map(pattern).collect()
    }

    /// Initialisations that change the model's own weights leave an adapter that fits only those.
    fn check_initialization(&self) -> Read<()> {
        const NAME: &str = "init_lora_weights";
        match self.0.get(NAME) {
            None | Some(Value::Null | Value::Bool(_)) => Ok(()),
            Some(Value::String(kind)) if ["gaussian", "eva", "orthogonal"].contains(&&**kind) => {
                Ok(())
            }
            Some(_) => Err(format!(
                "{NAME} is {}, which changes the model's own weights; save the adapter with peft's path_initial_model_for_weight_conversion",
                self.shown(NAME)
            )),
        }
    }
}
