//! How a token is sampled from logits: the settings here, the host's sampler in [`sampler`], what changes logits before
//! it in [`changes`], and what is reported of a row in [`mod@report`].
//!
//! The sampled token is the one with the largest `logit / temperature + gumbel` among the tokens that the filters keep
//! (the Gumbel-max trick). Each token has its softmax probability, and no sum is needed. The noise is a hash of (seed,
//! position, token id), so the result depends on neither batch nor backend, and a device needs no state for it.

mod changes;
mod config;
mod filter;
mod gumbel_argmax;
mod history;
mod report;
mod sampler;
mod scores;

pub(crate) use changes::LogitChanges;
pub use config::SamplerConfig;
pub use history::{Penalties, TokenHistory};
pub use report::TokenLogprobs;
pub(crate) use report::report;
pub(crate) use sampler::sample_changed;
