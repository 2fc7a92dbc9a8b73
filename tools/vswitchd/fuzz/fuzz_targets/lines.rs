//! Configurations made of whole lines, a byte each, so that most of them reach the checks of one thing against another;
//! and a reload from one to the next. What must hold is in `tests/corpus/invariants.rs`.
//!
//! ```text
//! cd tools/vswitchd && cargo +nightly fuzz run lines -- -max_len=128 -max_total_time=60
//! ```

#![no_main]

#[path = "../../tests/corpus/invariants.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

/// Ends a file; what follows is the next one.
const NEXT: &str = "";

/// Lines that belong together more often than not. A text is repeated where it should be drawn more often.
const LINES: &[&str] = &[
    "[[network]]\nname = \"a\"\nsubnet = \"10.1.0.0/29\"",
    "[[network]]\nname = \"b\"\nsubnet = \"10.1.0.0/24\"",
    "[[network]]\nname = \"c\"",
    "[[network]]",
    "[[container]]\nname = \"a\"",
    "[[container]]\nname = \"b\"",
    "[[container]]\nname = \"c\"",
    "[[container]]",
    "[[container.interface]]\nnetwork = \"a\"",
    "[[container.interface]]\nnetwork = \"a\"",
    "[[container.interface]]\nnetwork = \"b\"",
    "[[container.interface]]\nnetwork = \"c\"",
    "[[container.interface]]",
    "[daemon]",
    "[uplink]",
    NEXT,
    "name = \"a\"",
    "name = \"b\"",
    "name = \"eth0\"",
    "name = \"eth1\"",
    "name = \"lo\"",
    "name = \"\"",
    "name = \"a-name-that-is-longer-than-an-interface-may-have-and-than-any-sane-person-would-type\"",
    "network = \"a\"",
    "network = \"b\"",
    "network = \"nobody\"",
    "subnet = \"10.1.0.0/30\"",
    "subnet = \"10.1.0.0/31\"",
    "subnet = \"10.1.0.1/32\"",
    "subnet = \"10.1.0.7/29\"",
    "subnet = \"0.0.0.0/0\"",
    "subnet = \"255.255.255.248/29\"",
    "subnet = \"fd00::/64\"",
    "gateway = \"10.1.0.1\"",
    "gateway = \"10.1.0.2\"",
    "gateway = \"10.1.0.0\"",
    "gateway = \"192.0.2.1\"",
    "ip = \"10.1.0.1\"",
    "ip = \"10.1.0.2\"",
    "ip = \"10.1.0.3\"",
    "ip = \"10.1.0.7\"",
    "ip = \"10.1.0.255\"",
    "ip = \"10.1.0.2/29\"",
    "mac = \"02:42:0a:01:00:02\"",
    "mac = \"02:42:0a:01:00:03\"",
    "mac = \"01:00:5e:00:00:01\"",
    "mac = \"00:00:00:00:00:00\"",
    "mac = \"02:00:00:00:00:01\"",
    "netns = \"a\"",
    "netns = \"b\"",
    "netns = \"pid:1\"",
    "netns = \"/proc/1/ns/net\"",
    "netns = \"../a\"",
    "netns = \"docker:a\"",
    "create = true",
    "create = false",
    "command = [\"a\"]",
    "command = [\"\"]",
    "command = []",
    "mtu = 68",
    "mtu = 9000",
    "mtu = -1",
    "icc = false",
    "nat = false",
    "nat = true",
    "internal = true",
    "ageing = 10",
    "ageing = 9_223_372_036_854_775_807",
    "fdb_limit = 16",
    "spoof = \"strict\"",
    "spoof = \"Strict\"",
    "storm = 0",
    "kind = \"none\"",
    "kind = \"sockets\"",
    "workers = 1",
    "workers = \"auto\"",
    "io = \"epoll\"",
    "control = \"/run/a\"",
    "control = \"a\"",
    "state = \"/var/../a\"",
    "vlan = 10",
    "trunk = [10, 20]",
    "isolated = true",
    "transparent = true",
    "snooping = true",
    "[[route]]",
    "]",
];

fuzz_target!(|bytes: &[u8]| {
    let lines: Vec<&str> = bytes.iter().map(|byte| LINES[usize::from(*byte) % LINES.len()]).collect();
    let mut before = None;
    for file in lines.split(|line| *line == NEXT) {
        let text = file.join("\n");
        if let Ok(config) = invariants::check("fuzz.toml", text.as_bytes()) {
            if let Some(old) = &before {
                invariants::reload(text.as_bytes(), old, &config);
            }
            before = Some(config);
        }
    }
});
