//! #[device_fn]: a scalar Rust function as CUDA text

#![forbid(unsafe_code)]
