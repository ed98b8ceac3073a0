//! The models that are built in: gpt-oss-20b, gpt-oss-120b and nano, each compiled from the `config.json` in the
//! folder of its name by one `model!` line. With the feature `foreign`, `from_folder` compiles any other
//! gpt-oss-shaped configuration through the same code when it is loaded.
//!
//! [`model!`] compiles a configuration of the crate that calls it, which needs no other dependency for it.
//!
//! This crate holds plans; checkpoints are the runtime's business. The one exception is nano's trained weights, which
//! the feature `nano-weights` embeds as a compressed file.

#![forbid(unsafe_code)]

#[cfg(feature = "foreign")]
mod foreign;
#[cfg(feature = "nano-weights")]
mod nano_weights;
#[cfg(test)]
mod tests;

#[doc(hidden)]
pub use ossmith_macros::model as __model;
#[doc(hidden)]
pub use ossmith_plan as __plan;
/// What [`model!`] makes and the runtime runs.
pub use ossmith_plan::Model;

/// A gpt-oss model compiled into the calling crate at build time: `model!("path/to/config.json")`, from the folder of its
/// `Cargo.toml`.
///
/// Expands to `pub static MODEL: Model` and `pub mod spec` with the dimensions as constants, so it stands alone in a module.
/// A `generation_config.json` beside the file is read too, and the crate is built again when either changes. A file that
/// is missing and a configuration that no kernel supports are compile errors.
///
/// ```ignore
/// mod mine {
///     ossmith_models::model!("models/mine/config.json");
/// }
/// let model: &ossmith_models::Model = &mine::MODEL;
/// ```
#[macro_export]
macro_rules! model {
    ($path:literal) => {
        $crate::__model!($crate::__plan, $path);
    };
}

#[cfg(feature = "foreign")]
pub use foreign::{Error, from_config, from_folder, from_text, ranks, scheduled, tuned_values};
#[cfg(feature = "nano-weights")]
pub use nano_weights::{NANO_EVAL, nano_checkpoint};
/// What a schedule may choose otherwise, and how: the compiler's own types.
#[cfg(feature = "foreign")]
pub use ossmith_codegen as codegen;

/// openai/gpt-oss-20b: 24 layers, 32 experts.
pub mod gpt_oss_20b {
    ossmith_macros::model!("gpt-oss-20b");
}

/// openai/gpt-oss-120b: 36 layers, 128 experts.
pub mod gpt_oss_120b {
    ossmith_macros::model!("gpt-oss-120b");
}

/// A small model of the same architecture and vocabulary, for tests and for trying the tools.
pub mod nano {
    ossmith_macros::model!("nano");
}

/// openai/gpt-oss-20b.
pub static GPT_OSS_20B: &Model = &gpt_oss_20b::MODEL;
/// openai/gpt-oss-120b.
pub static GPT_OSS_120B: &Model = &gpt_oss_120b::MODEL;
/// The small model.
pub static NANO: &Model = &nano::MODEL;

/// Every model that is built in.
pub static ALL: [&Model; 3] = [GPT_OSS_20B, GPT_OSS_120B, NANO];

/// A built-in model by its name, with or without the publisher: `gpt-oss-20b` or `openai/gpt-oss-20b`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Model> {
    let bare = name.strip_prefix("openai/").unwrap_or(name);
    ALL.into_iter().find(|model| model.spec.name == bare)
}
