//! `vswitchd`: one process that owns the TAP devices of containers and switches between them.
fn main() {}
