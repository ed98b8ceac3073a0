//! The small routes, one file each. The routes that generate are in `chat`, `completions` and `responses`.

pub(crate) mod adapters;
pub(crate) mod control;
pub(crate) mod models;
pub(crate) mod openapi;
pub(crate) mod page;
pub(crate) mod status;
pub(crate) mod tokenize;
pub(crate) mod weights;
pub(crate) mod worker;
