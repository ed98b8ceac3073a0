//! Rotary embedding, in the three spellings it comes in: `rope_scaling` beside `rope_theta` (transformers 4),
//! `rope_parameters` with the base inside (transformers 5), and OpenAI's flat `rope_ntk_*` fields.

use ossmith_plan::Rope;

use super::SpecError;
use super::fields::Fields;
use super::supported::MAX_CONTEXT;

/// No scaling; base and original context are the model's.
pub(super) const PLAIN: Rope = Rope {
    theta: 1.0,
    factor: 1.0,
    beta_fast: 32.0,
    beta_slow: 1.0,
    original_context: 1,
    truncate: false,
};

/// What transformers 5 gives a gpt-oss configuration without rotary parameters (`configuration_gpt_oss.py`).
const UNSAID: Rope = Rope { factor: 32.0, original_context: 4096, ..PLAIN };

/// The base of a configuration that names none (the same file).
const DEFAULT_THETA: f64 = 150_000.0;

const TYPES: &str = "\"yarn\", or \"default\" for no scaling";
const INITIAL_CONTEXT: &str = "initial_context_length";

pub(super) fn read_openai(config: Fields<'_>) -> Result<Rope, SpecError> {
    let rope = Rope {
        theta: config.positive("rope_theta")?,
        factor: config.positive("rope_scaling_factor")?,
        beta_fast: config.positive("rope_ntk_beta")?,
        beta_slow: config.positive("rope_ntk_alpha")?,
        original_context: config.count(INITIAL_CONTEXT)?,
        truncate: false,
    };
    let names = Names {
        theta: "rope_theta",
        factor: "rope_scaling_factor",
        beta_fast: "rope_ntk_beta",
        original_context: INITIAL_CONTEXT,
    };
    in_range(rope, config, config, config, &names)
}

pub(super) fn read_hugging_face(config: Fields<'_>) -> Result<Rope, SpecError> {
    let old = config.object("rope_scaling", "rope_scaling.")?;
    let new = config.object("rope_parameters", "rope_parameters.")?;
    let from_old = old.map(|scaling| read_scaling(config, Some(scaling))).transpose()?;
    let from_new = new.map(|parameters| read_scaling(config, Some(parameters))).transpose()?;
    match (from_old, from_new) {
        (Some(old), Some(new)) if old != new => Err(config
            .unsupported("rope_scaling", "the same values as `rope_parameters`, or one of both")),
        (Some(rope), _) | (None, Some(rope)) => Ok(rope),
        (None, None) => read_scaling(config, None),
    }
}

fn read_scaling(config: Fields<'_>, scaling: Option<Fields<'_>>) -> Result<Rope, SpecError> {
    let theta_at = |fields: Fields<'_>| fields.optional_positive("rope_theta");
    let inner = scaling.map(theta_at).transpose()?.flatten();
    let theta = match (theta_at(config)?, inner) {
        (Some(outer), Some(inner)) if outer != inner => {
            let supported = format!("the same as in the rotary parameters, which is {inner}");
            return Err(config.unsupported("rope_theta", &supported));
        }
        (Some(theta), _) | (None, Some(theta)) => theta,
        (None, None) => DEFAULT_THETA,
    };
    let theta_in = if inner.is_some() { scaling.unwrap_or(config) } else { config };
    let original_context = original_context(config, scaling)?;
    let names = Names {
        theta: "rope_theta",
        factor: "factor",
        beta_fast: "beta_fast",
        original_context: "original_max_position_embeddings",
    };
    let Some(fields) = scaling else {
        let original_context = original_context.unwrap_or(UNSAID.original_context);
        let rope = Rope { theta, original_context, ..UNSAID };
        return in_range(rope, theta_in, config, config, &names);
    };
    match kind(fields)? {
        Kind::Yarn => {
            let rope = read_yarn(fields, theta, original_context)?;
            in_range(rope, theta_in, fields, fields, &names)
        }
        Kind::Plain => {
            // Only YaRN reads the original context; plain rotary embedding needs none in its config.
            let original_context =
                original_context.map_or_else(|| config.count("max_position_embeddings"), Ok)?;
            let rope = Rope { theta, original_context, ..PLAIN };
            in_range(rope, theta_in, config, config, &names)
        }
    }
}

enum Kind {
    Plain,
    Yarn,
}

fn kind(fields: Fields<'_>) -> Result<Kind, SpecError> {
    // transformers 5 may nest one object per layer type; gpt-oss has one rotary embedding for all layers.
    for layer_type in ["sliding_attention", "full_attention"] {
        if fields.has(layer_type) {
            return Err(
                fields.unsupported(layer_type, "one set of rotary parameters for all layers")
            );
        }
    }
    // "type" is the spelling before transformers 4.45.
    let name = if fields.has("rope_type") { "rope_type" } else { "type" };
    match fields.optional::<&str>(name, TYPES)? {
        Some("yarn") => Ok(Kind::Yarn),
        Some("default") => Ok(Kind::Plain),
        Some(_) => Err(fields.unsupported(name, TYPES)),
        None if fields.has("factor") => Err(fields.missing("rope_type", TYPES)),
        None => Ok(Kind::Plain),
    }
}

/// Defaults are those of transformers' YaRN, rounding of the correction range included.
fn read_yarn(fields: Fields<'_>, theta: f64, original: Option<usize>) -> Result<Rope, SpecError> {
    let factor = fields.positive("factor")?;
    let missing =
        || fields.missing("original_max_position_embeddings", "the context before scaling");
    let rope = Rope {
        theta,
        factor,
        beta_fast: fields.optional_positive("beta_fast")?.unwrap_or(32.0),
        beta_slow: fields.optional_positive("beta_slow")?.unwrap_or(1.0),
        original_context: original.ok_or_else(missing)?,
        truncate: fields.optional("truncate", "true or false")?.unwrap_or(true),
    };
    for name in ["mscale", "mscale_all_dim"] {
        if fields.has(name) {
            return Err(
                fields.unsupported(name, "no such field: gpt-oss scales by 0.1 ln(factor) + 1")
            );
        }
    }
    let standard = f64::from(rope.concentration());
    match fields.optional_positive("attention_factor")? {
        Some(given) if (given - standard).abs() > 1e-6 => {
            let supported = format!("0.1 ln(factor) + 1, which is {standard}, or no such field");
            Err(fields.unsupported("attention_factor", &supported))
        }
        _ => Ok(rope),
    }
}

fn original_context(
    config: Fields<'_>,
    scaling: Option<Fields<'_>>,
) -> Result<Option<usize>, SpecError> {
    let name = "original_max_position_embeddings";
    let inner = scaling.map(|fields| fields.optional_count(name)).transpose()?.flatten();
    match (config.optional_count(INITIAL_CONTEXT)?, inner) {
        (Some(outer), Some(inner)) if outer != inner => {
            let supported =
                format!("the same as `{name}` of the rotary parameters, which is {inner}");
            Err(config.unsupported(INITIAL_CONTEXT, &supported))
        }
        (outer, inner) => Ok(inner.or(outer)),
    }
}

/// Where `in_range` finds the fields it refuses.
struct Names {
    theta: &'static str,
    factor: &'static str,
    beta_fast: &'static str,
    original_context: &'static str,
}

/// Refuses values for which the frequencies are not finite or not ordered.
fn in_range(
    rope: Rope,
    theta_in: Fields<'_>,
    scaling: Fields<'_>,
    context_in: Fields<'_>,
    names: &Names,
) -> Result<Rope, SpecError> {
    if rope.theta <= 1.0 {
        return Err(theta_in.unsupported(names.theta, "a number above 1"));
    }
    let extended = rope.original_context as f64 * rope.factor;
    if rope.original_context > MAX_CONTEXT {
        let supported = format!("at most {MAX_CONTEXT} positions");
        return Err(context_in.unsupported(names.original_context, &supported));
    }
    if rope.factor < 1.0 || extended > MAX_CONTEXT as f64 {
        let supported = format!(
            "at least 1, and at most {MAX_CONTEXT} positions together with the original context of {}",
            rope.original_context
        );
        return Err(scaling.unsupported(names.factor, &supported));
    }
    if rope.beta_fast <= rope.beta_slow {
        let supported = format!("more than the slow end's {}", rope.beta_slow);
        return Err(scaling.unsupported(names.beta_fast, &supported));
    }
    Ok(rope)
}
