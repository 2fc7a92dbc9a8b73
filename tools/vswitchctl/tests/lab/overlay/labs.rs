//! The lab of three hosts that one command starts.

use std::path::Path;
use std::process::Command;

use crate::harness::{As, Host, skipped, text};

#[test]
fn three_hosts() {
    let Some(_host) = Host::new(As::Root) else { return };
    if Command::new("etcd").arg("--version").output().is_err() {
        return skipped("there is no etcd");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../labs/three-hosts.sh");
    let programs = Path::new(env!("CARGO_BIN_EXE_vswitchctl")).parent().unwrap();
    let output = Command::new(script).arg("--check").env("VSWITCH_BIN", programs).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}
