//! The built `vswitchctl` against a daemon with fixed rows.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

mod commands;
mod fake;
mod tables;
