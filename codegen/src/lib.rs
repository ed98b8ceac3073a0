//! The kernel compiler: from config.json to CUDA text

#![forbid(unsafe_code)]
