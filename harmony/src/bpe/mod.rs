//! The o200k tokenizer: text to ids and ids to bytes, with no special tokens and no loading.
//!
//! `split` cuts text into pieces as the vocabulary's pattern does, `encode` turns a piece into tokens, `tables` gives access to
//! what the build script embedded. Special tokens and the public functions are in [`crate::encoding`].

mod encode;
mod layout;
mod split;
mod tables;

pub(crate) use encode::encode_ordinary;
pub(crate) use tables::{MAX_TOKEN_BYTES, merge_of, token_bytes, token_of};
