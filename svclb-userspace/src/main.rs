//! svclb.
fn main() {}
