//! The harmony format: render, parse, stream

#![forbid(unsafe_code)]
