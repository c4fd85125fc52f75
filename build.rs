//! Builds the ext_proc messages.
fn main() {}
