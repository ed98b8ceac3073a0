//! The small routes, one file each; generation has folders of its own beside this one.

pub(crate) mod models;
pub(crate) mod openapi;
pub(crate) mod page;
pub(crate) mod status;
pub(crate) mod tokens;
