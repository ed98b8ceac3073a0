//! The models that are built in: gpt-oss-20b, gpt-oss-120b and nano, each compiled from the `config.json` in the
//! folder of its name by one `model!` line. With the feature `foreign`, `from_folder` compiles any other
//! gpt-oss-shaped configuration through the same code when it is loaded.
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

use ossmith_plan::Model;

#[cfg(feature = "foreign")]
pub use foreign::{Error, from_folder};
#[cfg(feature = "nano-weights")]
pub use nano_weights::{NANO_EVAL, nano_checkpoint};

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
