//! The `sanafarm` command line.
fn main() {}
