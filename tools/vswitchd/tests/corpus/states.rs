//! State folders with anything in them. What must hold: an engine begins; what it cannot read is put aside as it was and
//! never lost; and a second start comes to the same as the first.

#![allow(clippy::panic, clippy::unwrap_used, reason = "the lints know `#[test]`, not what it calls")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vswitchd::engine::rehearse;

use crate::maker::Choices;

const LAB: &[u8] = b"
[[network]]
name = \"blue\"
subnet = \"10.1.0.0/28\"
subnet6 = \"fd00:1::/64\"
[[network]]
name = \"red\"
subnet = \"10.2.0.0/29\"
dhcp = true
[[container]]
name = \"a\"
[[container.interface]]
network = \"blue\"
[[container.interface]]
network = \"red\"
[[container]]
name = \"b\"
[[container.interface]]
network = \"blue\"
ip = \"10.1.0.5\"
";

const FILES: [&str; 2] = ["objects.json", "leases.json"];

/// Starts twice from what `input` says is there. Whether both files could be read.
pub fn check(input: &[u8]) -> bool {
    let contents = match input.split_first() {
        // As they are, one behind the other.
        Some((0, rest)) => {
            let mut parts = rest.splitn(2, |byte| *byte == 0);
            [parts.next().unwrap_or_default().to_vec(), parts.next().unwrap_or_default().to_vec()]
        }
        _ => {
            let mut choices = Choices::new(input.get(1..).unwrap_or_default());
            [objects(&mut choices), leases(&mut choices)].map(|value| value.to_string().into_bytes())
        }
    };
    let folder = folder();
    for (file, content) in FILES.iter().zip(&contents) {
        fs::write(folder.join(file), content).unwrap();
    }
    let first = rehearse(&folder, LAB).unwrap_or_else(|errors| panic!("no start: {errors}"));
    assert!(first.snapshot.is_some());
    let mut read = true;
    for (file, content) in FILES.iter().zip(&contents) {
        if let Ok(aside) = fs::read(folder.join(format!("{file}.unreadable"))) {
            assert_eq!(aside, *content, "{file} was put aside, but not as it was");
            read = false;
        }
        // What is there now is of this program, and whole.
        let now = fs::read(folder.join(file)).unwrap();
        serde_json::from_slice::<Value>(&now).unwrap();
    }
    let second = rehearse(&folder, LAB).unwrap_or_else(|errors| panic!("no second start: {errors}"));
    assert_eq!(first.config, second.config, "a restart changes something");
    assert_eq!(first.left_out, second.left_out);
    fs::remove_dir_all(folder).unwrap();
    read
}

/// A folder of this process, in memory where there is such a place.
fn folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder =
        place.join(format!("vswitch-states-{}-{:?}", std::process::id(), std::thread::current().id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    folder
}

const NETWORKS: &[&str] =
    &["blue", "red", "green", "nobody", "", "a-name-that-is-longer-than-any-sane-person-would-type-it"];
const CONTAINERS: &[&str] = &["a", "b", "c", "d", "", "-"];
const INTERFACES: &[Option<&str>] =
    &[Some("eth0"), None, Some("eth1"), Some("lo"), Some("eth0123456789abcdef")];
const V4: &[&str] =
    &["10.1.0.2", "10.1.0.5", "10.1.0.1", "10.1.0.15", "10.2.0.2", "10.3.0.2", "0.0.0.0", "255.255.255.255"];
const V6: &[&str] = &["fd00:1::2", "fd00:1::", "fd00:3::2", "::", "::ffff:10.1.0.2", "ff02::1"];
const MACS: &[&str] = &["02:42:0a:01:00:02", "02:00:00:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"];
const NUMBERS: &[u64] = &[0, 1, 2, 16, 1280, 1500, 65_535, 65_536, u64::MAX - 1, u64::MAX];

fn maybe<T: Into<Value>>(choices: &mut Choices<'_>, value: impl FnOnce(&mut Choices<'_>) -> T) -> Value {
    if choices.byte() & 1 == 0 { Value::Null } else { value(choices).into() }
}

fn list(choices: &mut Choices<'_>, mut item: impl FnMut(&mut Choices<'_>) -> Value) -> Value {
    (0..choices.below(6)).map(|_| item(choices)).collect()
}

/// Objects that were made at run time, each sound by itself more often than not.
fn objects(choices: &mut Choices<'_>) -> Value {
    let networks = list(choices, |choices| {
        json!({
            "name": choices.pick(NETWORKS),
            "subnet": maybe(choices, |it| it.pick(&["10.3.0.0/24", "10.1.0.0/24", "0.0.0.0/0", "10.3.0.0/32", "fd00:9::/64"])),
            "subnet6": maybe(choices, |it| it.pick(&["fd00:3::/64", "fd00:3::/127", "::/0", "10.9.0.0/24"])),
            "mtu": maybe(choices, |it| it.pick(&[1500u32, 68, 0, u32::MAX])),
            "icc": maybe(choices, |it| it.byte() & 1 == 0),
            "internal": maybe(choices, |it| it.byte() & 1 == 0),
            "dhcp": maybe(choices, |it| it.byte() & 1 == 0),
            "ageing": maybe(choices, |it| it.pick(NUMBERS)),
            "fdb_limit": maybe(choices, |it| it.pick(&[16u32, 64, 0])),
            "spoof": maybe(choices, |it| it.pick(&["strict", "off", "claimed"])),
            "storm": maybe(choices, |it| it.pick(NUMBERS)),
        })
    });
    let interfaces = list(choices, |choices| {
        json!({
            "network": choices.pick(NETWORKS),
            "interface": {
                "container": choices.pick(CONTAINERS),
                "netns": maybe(choices, |it| it.pick(&["a", "pid:1", "/proc/1/ns/net", "../a", "docker:x"])),
                "create": choices.byte() & 1 == 0,
                "interface": choices.pick(INTERFACES),
                "ip": maybe(choices, |it| it.pick(V4)),
                "ip6": maybe(choices, |it| it.pick(V6)),
                "mac": maybe(choices, |it| it.pick(MACS)),
                "aliases": list(choices, |it| it.pick(CONTAINERS).into()),
            }
        })
    });
    let fdb = list(choices, |choices| {
        json!({
            "network": choices.pick(NETWORKS), "mac": choices.pick(MACS),
            "container": choices.pick(CONTAINERS), "interface": choices.pick(INTERFACES),
            "vlan": maybe(choices, |it| it.pick(&[1u16, 4094, 0, 4095])),
        })
    });
    let published = list(choices, |choices| {
        json!({
            "container": choices.pick(CONTAINERS), "interface": choices.pick(INTERFACES),
            "publish": list(choices, |it| {
                it.pick(&["8080:80", "8080:81", "0:22", "127.0.0.1:53:53/udp", "9000-9010:9000-9010", "65535:65535", "[::1]:80:80"]).into()
            }),
        })
    });
    let version = choices.pick(&[1, 1, 1, 1, 0, 2]);
    json!({ "version": version, "networks": networks, "interfaces": interfaces, "fdb": fdb, "published": published })
}

/// A memory of addresses.
fn leases(choices: &mut Choices<'_>) -> Value {
    let mut networks = serde_json::Map::new();
    for _ in 0..choices.below(4) {
        let mut known = serde_json::Map::new();
        for _ in 0..choices.below(8) {
            let address = if choices.byte() & 3 == 3 { choices.pick(V6) } else { choices.pick(V4) };
            let mut entry = json!({
                "container": choices.pick(CONTAINERS),
                "interface": choices.pick(INTERFACES).unwrap_or("eth0"),
            });
            if choices.byte() & 1 == 0 {
                entry["released"] = choices.pick(NUMBERS).into();
            }
            if choices.byte() & 3 == 0 {
                entry["lease"] = json!({
                    "client": choices.pick(&["0102030405", "01", "", "zz", "ffffffffffff"]),
                    "mac": choices.pick(MACS),
                    "until": choices.pick(NUMBERS),
                    "state": choices.pick(&["bound", "offered", "declined", "lost"]),
                });
            }
            known.insert(address.to_owned(), entry);
        }
        networks.insert(choices.pick(NETWORKS).to_owned(), known.into());
    }
    json!({ "version": choices.pick(&[1, 1, 1, 1, 0, 2]), "networks": networks })
}
