//! Measures: micro benches of each hop, and the race against real peers.
fn main() {}
