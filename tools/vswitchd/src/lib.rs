//! The daemon behind `vswitchd` as a library: configuration, desired state, policy, keeper, engine, control API.
pub mod api;
pub mod channel;
pub mod keeper;
pub mod wire;
