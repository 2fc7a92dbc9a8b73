//! The daemon behind `vswitchd` as a library: configuration, desired state, policy, keeper, engine, control API.
pub mod channel;
pub mod keeper;
pub mod wire;
