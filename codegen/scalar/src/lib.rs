//! Scalar maths that the CPU executor and the generated kernels share

#![forbid(unsafe_code)]
