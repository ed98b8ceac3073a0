//! How a token is sampled from logits: the settings here, the host's sampler in [`sampler`].
//!
//! The sampled token is the one with the largest `logit / temperature + gumbel` among the tokens that the filters keep
//! (the Gumbel-max trick). Each token has its softmax probability, and no sum is needed. The noise is a hash of (seed,
//! position, token id), so the result depends on neither batch nor backend, and a device needs no state for it.

mod config;
mod filter;
mod gumbel_argmax;
mod sampler;
mod scores;

pub use config::SamplerConfig;
pub(crate) use sampler::sample;
