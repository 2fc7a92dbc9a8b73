//! The way of a packet from end to end: a configuration and a capture in, a capture and counters out.
//!
//! A case is a folder: `lab.toml`, the daemon's configuration; `in.pcapng`, what containers send, with a comment on
//! each frame and the time at which it is sent; `out.pcapng`, what comes out of which port, and which frame of the
//! input it is `of`; `counters.txt`; and `statics.txt`, static FDB entries (VLAN, MAC, port), where the case has some.
//! Parser, snapshot, decision and worker are the daemon's own, only the devices are memory and time is moved by hand.
//!
//! The input is made by the functions in `cases`. `BLESS=1 cargo nextest run -p vswitchd --test goldens` writes it and
//! what comes of it anew: look at the difference before you commit it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "the lints know `#[test]`, not what it calls")]

mod cases;
mod frames;
mod pcapng;
mod report;
mod run;
mod script;

use std::path::{Path, PathBuf};

use switch::drop::DropReason;
use switch::mac::MacAddr;
use vswitchd::config::{Config, Context, Paths, parse_with};

use pcapng::Capture;
use run::{Pace, run};
use script::Script;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

fn configuration(case: &Path) -> Config {
    let text = std::fs::read(case.join("lab.toml")).unwrap();
    let paths = Paths { control: "/test/control.sock".into(), state: "/test/state".into() };
    parse_with("lab.toml", &text, &Context { paths, previous: None, memory: None })
        .unwrap_or_else(|errors| panic!("{errors}"))
}

/// Lines of `vlan mac port`.
fn statics(case: &Path) -> Vec<(u16, MacAddr, String)> {
    let Ok(text) = std::fs::read_to_string(case.join("statics.txt")) else { return Vec::new() };
    let entry = |line: &str| {
        let [vlan, mac, port] = *line.split_whitespace().collect::<Vec<_>>() else { panic!("{line}") };
        (vlan.parse().unwrap(), mac.parse().unwrap(), port.to_owned())
    };
    text.lines().map(entry).collect()
}

/// Runs a case, and compares everything with what is in its folder.
fn check(name: &str, what_happens: fn(&mut Script<'_>)) {
    let case = folder().join(name);
    let config = configuration(&case);
    let mut script = Script::new(&config);
    what_happens(&mut script);
    report::same(&case.join("in.pcapng"), &script.finish().write());

    let input = Capture::read(&std::fs::read(case.join("in.pcapng")).unwrap());
    let input = input.unwrap_or_else(|error| panic!("{name}/in.pcapng: {error}"));
    let outcome = run(&config, &statics(&case), &input, Pace::Single);
    report::same_capture(&case.join("out.pcapng"), &outcome.capture, &input);
    report::same(&case.join("counters.txt"), outcome.counters.as_bytes());

    let batched = run(&config, &statics(&case), &input, Pace::Batched);
    assert_eq!(
        batched.counters, outcome.counters,
        "{name}: a full batch is counted otherwise than single frames"
    );
    for (port, port_name) in outcome.capture.interfaces.iter().enumerate() {
        let frames = |capture: &Capture| -> Vec<Vec<u8>> {
            let here = capture.packets.iter().filter(|packet| packet.interface == port);
            here.map(|packet| packet.bytes.clone()).collect()
        };
        let same = frames(&batched.capture) == frames(&outcome.capture);
        assert!(same, "{name}: {port_name} gets other frames in full batches than one by one");
    }
}

macro_rules! goldens {
    ($($name:ident in $folder:literal;)+) => {
        $(#[test]
        fn $name() {
            check($folder, cases::$name);
        })+

        /// The folders, for the test that looks at them all.
        const FOLDERS: &[&str] = &[$($folder),+];
    };
}

goldens! {
    learning in "learning";
    groups in "groups";
    snooping in "snooping";
    ageing in "ageing";
    static_entries in "static-entries";
    icc_false in "icc-false";
    spoof_claimed in "spoof-claimed";
    spoof_strict in "spoof-strict";
    spoof_off in "spoof-off";
    reserved in "reserved";
    vlan in "vlan";
    vlans in "vlans";
    llc_snap in "llc-snap";
    mtu in "mtu";
    storm in "storm";
    same_addresses in "same-addresses";
    fdb_limit in "fdb-limit";
    malformed in "malformed";
    routing in "routing";
    reverse_path in "reverse-path";
    routing6 in "routing6";
    egress in "egress";
    nat in "nat";
}

/// Reasons that need more than a frame of a container: a port that goes or moves, a device that refuses, sockets of the
/// host, the host's own leg, services of the control plane.
const NOT_BY_A_FRAME: &[DropReason] = &[
    DropReason::StaleEntry,
    DropReason::NotForHost,
    DropReason::PortGone,
    DropReason::TxFull,
    DropReason::TxDown,
    DropReason::TxError,
    DropReason::ServiceQueue,
    DropReason::OversizedRequest,
    DropReason::UplinkFragment,
    DropReason::UplinkQuota,
    DropReason::UplinkProtocol,
    DropReason::UplinkFull,
    DropReason::UplinkError,
    // By other hosts, which no memory device is: vxlan/tests/overlay.rs, and the labs of overlays.
    DropReason::SplitHorizon,
    DropReason::VxlanMalformed,
    DropReason::VxlanUnknownVni,
    DropReason::VxlanUnknownVtep,
    DropReason::VxlanTagged,
    DropReason::VxlanCongested,
    DropReason::VxlanFull,
];

#[test]
fn every_reason_that_a_frame_can_give_has_a_golden() {
    if report::blessing() {
        return; // they are being written
    }
    let counters: Vec<String> = FOLDERS
        .iter()
        .map(|name| std::fs::read_to_string(folder().join(name).join("counters.txt")).unwrap())
        .collect();
    for reason in DropReason::ALL.iter().filter(|reason| !NOT_BY_A_FRAME.contains(reason)) {
        let line = format!("\n  {:<16} ", reason.name());
        assert!(counters.iter().any(|text| text.contains(&line)), "{} is in no golden", reason.name());
    }
}

#[test]
fn every_folder_is_a_case() {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let known = name == "cases" || FOLDERS.contains(&name.as_str());
        assert!(!entry.file_type().unwrap().is_dir() || known, "{name} is read by nobody");
    }
}
