//! `vswitchctl`: looks into a running `vswitchd` and changes it.
fn main() {}
