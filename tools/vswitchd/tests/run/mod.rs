//! Parts of `keeper_run`.
pub mod daemon;
pub mod engine;
pub mod root;
pub mod rootless;
pub mod takeover;
