//! The ossmith command.
fn main() {}
