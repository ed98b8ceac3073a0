//! The generated CUDA of the shipped models.

#![forbid(unsafe_code)]

mod compile;
mod goldens;
mod instructions;
