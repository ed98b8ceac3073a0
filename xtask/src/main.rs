//! Developer errands.
fn main() {}
