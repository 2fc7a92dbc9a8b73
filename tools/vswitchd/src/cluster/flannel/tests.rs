//! flannel's records, what is believed of them, and what of ours is written: without a store.

use std::time::Instant;

use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::super::judge::{Lists, judge};
use super::super::known::{Known, Stamp};
use super::super::own::Own;
use super::super::records::{Key, Refusal};
use super::super::{Flannel, MAX_HOSTS, MAX_VALUE, Says};
use super::*;
use crate::config::Mode;

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;
/// Our lease, and the one of another host or of an earlier life.
const LEASE: i64 = 7;
const OTHER: i64 = 3;

fn mac(last: u8) -> MacAddr {
    MacAddr([0x5e, 0, 0, 0, 5, last])
}

fn subnet(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn ours() -> Flannel {
    Flannel {
        network: "pods".into(),
        vni: 1,
        port: 8472,
        subnet: subnet("10.5.20.0/24"),
        mac: mac(20),
        beside: vec![("red".into(), subnet("10.5.99.0/24"))],
    }
}

fn says() -> Says {
    let vtep = "198.18.1.1".parse().unwrap();
    let (networks, members, insists, removes) = Default::default();
    Says { vtep, networks, insists, removes, members, flannel: Some(ours()) }
}

fn record(host: u8, mac_last: u8) -> String {
    let mac = mac(mac_last);
    format!(
        r#"{{"PublicIP":"198.18.1.{host}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

fn known(records: &[(&str, &str, i64)]) -> Known {
    let mut known = Known::new("h1".into(), Mode::Flannel);
    for (n, (key, value, lease)) in (1..).zip(records) {
        let stamp = Stamp { lease: *lease, created: n, modified: n };
        known.put(key.as_bytes(), value.as_bytes(), stamp, Instant::now());
    }
    known
}

fn judged(known: &Known) -> Lists {
    judge(known, &says(), &[])
}

fn refused(lists: &Lists, key: &str) -> String {
    lists.refused.iter().find(|it| it.key == key).map(|it| it.why.clone()).unwrap_or_default()
}

/// Keys that are written, and those that go (`-`).
fn steps(own: &mut Own, known: &Known) -> Vec<String> {
    own.want(&says(), known);
    let steps = own.plan(known, LEASE, 100);
    let shown = steps.iter().map(|step| {
        let sign = if step.value.is_none() {
            "-"
        } else if step.leased {
            "+"
        } else {
            "="
        };
        format!("{sign}{} over {}", step.key, step.over)
    });
    shown.collect()
}

#[test]
fn records_are_as_flanneld_writes_them() {
    let (key, found) = parse(b"subnets/10.5.52.0-24", record(3, 0x44).as_bytes()).unwrap();
    assert_eq!(key, Key::Subnet(subnet("10.5.52.0/24")));
    let lease = Lease {
        public_ip: "198.18.1.3".parse().unwrap(),
        backend: Backend::Vxlan { vni: Some(1), mac: mac(0x44) },
    };
    assert_eq!(found, Record::Lease(lease.clone()));
    assert_eq!(String::from_utf8(value(&lease)).unwrap(), record(3, 0x44));
    // Older ones have no VNI, and no word of IPv6.
    let older =
        r#"{"PublicIP":"198.18.1.3","BackendType":"vxlan","BackendData":{"VtepMAC":"5e:00:00:00:05:44"}}"#;
    let (_, found) = parse(b"subnets/10.5.52.0-24", older.as_bytes()).unwrap();
    assert_eq!(
        found,
        Record::Lease(Lease { backend: Backend::Vxlan { vni: None, mac: mac(0x44) }, ..lease })
    );
    // Documentation/configuration.md: what is not named is udp; VNI 1, and the kernel's l4 port.
    let network = |text: &str| match parse(b"config", text.as_bytes()) {
        Ok((Key::Config, Record::Config(network))) => network,
        other => panic!("{text}: {other:?}"),
    };
    let wanted = Network {
        network: subnet("10.5.0.0/16"),
        backend: "vxlan".into(),
        vni: 1,
        port: 8472,
        direct_routing: false,
    };
    assert_eq!(network(CONFIG), wanted);
    let named = r#"{"Network":"10.5.3.9/16","Backend":{"Type":"vxlan","VNI":7,"Port":4789,"DirectRouting":true,"GBP":true}}"#;
    assert_eq!(network(named), Network { vni: 7, port: 4789, direct_routing: true, ..wanted.clone() });
    assert_eq!(network(r#"{"Network":"10.5.0.0/16"}"#), Network { backend: "udp".into(), ..wanted });
}

#[test]
fn each_wrong_record_is_refused_for_what_is_wrong() {
    use Refusal as R;
    let good = record(3, 1);
    let with = |from: &str, to: &str| good.replace(from, to);
    let cases = [
        ("subnets/10.5.52.0-24", " ".repeat(MAX_VALUE + 1), R::Size(MAX_VALUE + 1)),
        ("subnets/10.5.52.0-24", with("198.18.1.3", "0.0.0.0"), R::Vtep([0, 0, 0, 0].into())),
        ("subnets/10.5.52.0-24", with("198.18.1.3", "239.1.1.1"), R::Vtep([239, 1, 1, 1].into())),
        ("subnets/10.5.52.0-24", with("5e:00", "00:00").replace("05:01", "00:00"), R::Mac(MacAddr::ZERO)),
        ("subnets/10.5.52.0-24", with("5e:00", "01:00"), R::Mac(MacAddr([1, 0, 0, 0, 5, 1]))),
        ("subnets/10.5.52.1-24", good.clone(), R::Subnet("10.5.52.1/24".parse().unwrap())),
        ("subnets/10.5.52.0-31", good.clone(), R::Subnet("10.5.52.0/31".parse().unwrap())),
        ("subnets/127.0.0.0-24", good.clone(), R::Subnet("127.0.0.0/24".parse().unwrap())),
        ("subnets/10.5.52.0-024", good.clone(), R::Spelling("subnets/10.5.52.0-24".into())),
        ("subnets/10.5.52.0-33", good.clone(), R::Key),
        ("subnets/10.5.52.0", good.clone(), R::Key),
        ("subnets/", good.clone(), R::Key),
        ("subnets/10.5.52.0-24&fd00::-64", good.clone(), R::DualStack),
        ("hosts/h1", good.clone(), R::Key),
        ("config/x", CONFIG.into(), R::Key),
        ("config", r#"{"Network":"127.0.0.0/8"}"#.into(), R::Subnet("127.0.0.0/8".parse().unwrap())),
        ("config", r#"{"Network":"0.0.0.0/0"}"#.into(), R::Subnet("0.0.0.0/0".parse().unwrap())),
    ];
    for (key, value, refusal) in cases {
        assert_eq!(parse(key.as_bytes(), value.as_bytes()), Err(refusal), "{key} {value}");
    }
    for (key, value) in [
        ("config", "{}"),
        ("config", r#"{"Network":"10.5.0.0"}"#),
        ("config", r#"{"Network":"10.5.0.0/16","Backend":{}}"#),
        ("config", r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":-1}}"#),
        ("config", r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","Port":70000}}"#),
        ("subnets/10.5.52.0-24", ""),
        ("subnets/10.5.52.0-24", r#"{"PublicIP":"h3"}"#),
        ("subnets/10.5.52.0-24", r#"{"PublicIP":"198.18.1.3","BackendType":"vxlan"}"#),
        (
            "subnets/10.5.52.0-24",
            r#"{"PublicIP":"198.18.1.3","BackendType":"vxlan","BackendData":{"VtepMAC":"$(id)"}}"#,
        ),
    ] {
        let refused = parse(key.as_bytes(), value.as_bytes());
        assert!(matches!(refused, Err(R::Json(_))), "{key} {value}: {refused:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_are_a_panic(key: Vec<u8>, value: Vec<u8>) {
        let _ = parse(&key, &value);
        let _ = parse(b"config", &value);
        let _ = parse(b"subnets/10.5.52.0-24", &value);
    }

    #[test]
    fn what_is_written_is_read(address: [u8; 4], length in 4..=30u8, host: [u8; 4], mac: [u8; 6]) {
        let subnet = Ipv4Net::new(address.into(), length).unwrap().trunc();
        let lease = Lease { public_ip: host.into(), backend: Backend::Vxlan { vni: Some(1), mac: MacAddr(mac) } };
        let key = Key::Subnet(subnet).to_string();
        if let Ok((at, read)) = parse(key.as_bytes(), &value(&lease)) {
            prop_assert_eq!((at, read), (Key::Subnet(subnet), Record::Lease(lease)));
        }
    }
}

#[test]
fn our_subnet_is_written_where_it_is_free() {
    let mut own = Own::new("h1".into());
    let ours = record(1, 20);
    // Without flannel's network there is nothing to be on.
    assert_eq!(steps(&mut own, &known(&[])), [""; 0]);
    let config = ("config", CONFIG, 0);
    assert_eq!(steps(&mut own, &known(&[config])), ["+subnets/10.5.20.0-24 over 0"]);
    // It is ours from before, under another lease and with another MAC; then it is there.
    let before = record(1, 9);
    assert_eq!(
        steps(&mut own, &known(&[config, ("subnets/10.5.20.0-24", &before, OTHER)])),
        ["+subnets/10.5.20.0-24 over 2"]
    );
    assert_eq!(steps(&mut own, &known(&[config, ("subnets/10.5.20.0-24", &ours, LEASE)])), [""; 0]);
    // Reserved for us: it stays so, with our MAC.
    let reserved = known(&[config, ("subnets/10.5.20.0-24", &before, 0)]);
    assert_eq!(steps(&mut own, &reserved), ["=subnets/10.5.20.0-24 over 2"]);
    assert_eq!(steps(&mut own, &known(&[config, ("subnets/10.5.20.0-24", &ours, 0)])), [""; 0]);
    // Another host's, or a part of it is, by whatever that speaks.
    let theirs = record(2, 1);
    let plain = r#"{"PublicIP":"198.18.1.2","BackendType":"host-gw"}"#;
    for (key, value) in [
        ("subnets/10.5.20.0-24", theirs.as_str()),
        ("subnets/10.5.20.128-25", plain),
        ("subnets/10.5.16.0-20", plain),
    ] {
        assert_eq!(steps(&mut own, &known(&[config, (key, value, OTHER)])), [""; 0], "{key}");
    }
    // One that we had before is given back; a reservation is not ours to delete, nor what is another's.
    let records = [
        config,
        ("subnets/10.5.20.0-24", &ours, LEASE),
        ("subnets/10.5.21.0-24", &before, OTHER),
        ("subnets/10.5.22.0-24", &before, 0),
        ("subnets/10.5.23.0-24", &theirs, OTHER),
    ];
    assert_eq!(steps(&mut own, &known(&records)), ["-subnets/10.5.21.0-24 over 3"]);
}

#[test]
fn other_hosts_are_believed_where_they_do_not_contradict() {
    let (ours, two, three) = (record(1, 20), record(2, 2), record(3, 3));
    let mut records = vec![
        ("config", CONFIG, 0),
        ("subnets/10.5.20.0-24", ours.as_str(), LEASE),
        ("subnets/10.5.30.0-24", &two, OTHER),
        ("subnets/10.5.31.0-24", &three, 0),
    ];
    let lists = judged(&known(&records));
    let hosts: Vec<_> = lists.hosts.iter().map(|host| (host.name.as_str(), host.me)).collect();
    assert_eq!(hosts, [("10.5.20.0/24", true), ("10.5.30.0/24", false), ("10.5.31.0/24", false)]);
    let routes: Vec<_> =
        lists.subnets.iter().map(|it| (it.destination.to_string(), it.via.to_string())).collect();
    assert_eq!(
        routes,
        [("10.5.30.0/24".into(), "10.5.30.0".into()), ("10.5.31.0/24".into(), "10.5.31.0".to_owned())]
    );
    let members: Vec<_> = lists.members.iter().map(|it| (it.vtep.to_string(), it.member.mac)).collect();
    assert_eq!(members, [("198.18.1.2".into(), mac(2)), ("198.18.1.3".to_owned(), mac(3))]);
    assert_eq!((lists.outer, lists.refused.len()), (Some(subnet("10.5.0.0/16")), 0));

    // Of the same MAC, place or addresses as one that was there first; of ours; by what is not spoken.
    let (four, again, vni) = (record(4, 2), record(2, 5), record(6, 6).replace("\"VNI\":1", "\"VNI\":2"));
    let (udp, me) = (r#"{"PublicIP":"198.18.1.7"}"#, record(1, 7));
    let (eight, inside) = (record(8, 8), record(9, 9).replace("198.18.1.9", "10.5.30.9"));
    let wrong = [
        ("subnets/10.5.32.0-24", four.as_str(), "its MAC 5e:00:00:00:05:02 is that of another host"),
        ("subnets/10.5.33.0-24", &again, "its VTEP 198.18.1.2 is that of host `10.5.30.0/24`"),
        ("subnets/10.5.34.0-24", &vni, "its VNI is 2"),
        ("subnets/10.5.35.0-24", udp, "its backend is ``"),
        ("subnets/10.5.36.0-24", &me, "it is one that was of this host"),
        ("subnets/10.5.99.128-25", &eight, "it overlaps 10.5.99.0/24 of our network `red`"),
        ("subnets/10.5.30.128-25", &eight, "it overlaps 10.5.30.0/24, which was there first"),
        ("subnets/10.5.16.0-20", &eight, "it overlaps 10.5.20.0/24, this host's"),
        ("subnets/10.5.0.0-16", &eight, "is no part of flannel's network"),
        ("subnets/10.6.0.0-24", &eight, "is no part of flannel's network"),
        ("subnets/10.5.37.0-24", &inside, "is inside flannel's own network"),
    ];
    records.extend(wrong.iter().map(|(key, value, _)| (*key, *value, OTHER)));
    let lists = judged(&known(&records));
    for (key, _, why) in wrong {
        assert!(refused(&lists, key).contains(why), "{key}: {}", refused(&lists, key));
    }
    assert_eq!((lists.subnets.len(), lists.refused.len()), (2, wrong.len()));
}

#[test]
fn nothing_is_routed_before_our_subnet_is_ours() {
    let (two, taken) = (record(2, 2), record(3, 3));
    let lists = judged(&known(&[("config", CONFIG, 0), ("subnets/10.5.30.0-24", &two, OTHER)]));
    assert_eq!((lists.hosts.len(), lists.members.len(), lists.subnets.len()), (1, 0, 0));
    let records = [("config", CONFIG, 0), ("subnets/10.5.20.0-24", taken.as_str(), OTHER)];
    let lists = judged(&known(&records));
    let why = refused(&lists, "subnets/10.5.20.0-24");
    assert!(why.contains("198.18.1.3") && lists.members.is_empty(), "{why}");
}

#[test]
fn a_network_that_we_cannot_be_on_is_named() {
    let cases = [
        (CONFIG.replace("vxlan", "host-gw"), "its backend is `host-gw`"),
        (CONFIG.replace("vxlan\"", "vxlan\",\"VNI\":5"), "its VNI is 5, and `vni` of network `pods` is 1"),
        (
            CONFIG.replace("vxlan\"", "vxlan\",\"Port\":4789"),
            "its l4 port is 4789, and `port` of [vxlan] is 8472",
        ),
        (CONFIG.replace("vxlan\"", "vxlan\",\"DirectRouting\":true"), "`DirectRouting`"),
        (CONFIG.replace("10.5.0.0/16", "10.6.0.0/16"), "10.5.20.0/24, is no part of that"),
        (CONFIG.replace("10.5.0.0/16", "10.5.20.0/24"), "10.5.20.0/24, is no part of that"),
    ];
    let (ours, two) = (record(1, 20), record(2, 2));
    for (config, why) in &cases {
        let lists = judged(&known(&[
            ("config", config, 0),
            ("subnets/10.5.20.0-24", &ours, LEASE),
            ("subnets/10.5.30.0-24", &two, OTHER),
        ]));
        assert!(refused(&lists, "config").contains(why), "{why}: {:?}", lists.refused);
        assert_eq!((lists.hosts.len(), lists.subnets.len(), lists.outer), (0, 0, None));
    }
    assert!(refused(&judged(&known(&[])), "config").contains("there is none"));
}

#[test]
fn there_are_no_hosts_without_number() {
    let mut known = known(&[("config", CONFIG, 0)]);
    for n in 0..MAX_HOSTS + 100 {
        let key = Key::Subnet(Ipv4Net::new([10, 5, (n / 60) as u8, (n % 60 * 4) as u8].into(), 30).unwrap());
        let stamp = Stamp { lease: OTHER, created: 9, modified: 9 };
        known.put(key.to_string().as_bytes(), record(3, 3).as_bytes(), stamp, Instant::now());
    }
    assert_eq!((known.entries().count(), known.counters.too_many), (MAX_HOSTS + 1, 100));
    assert!(known.put(
        b"config",
        CONFIG.replace("10.5", "10.7").as_bytes(),
        Stamp { lease: 0, created: 1, modified: 10 },
        Instant::now()
    ));
}
