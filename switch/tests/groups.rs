//! IGMP and MLD snooping on memory devices: who gets what is for a group, and who is believed about it.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use common::{Lab, Options, ethernet, ip, ipv4, mac, tagged, udp};
use proptest::prelude::*;
use switch::checksum;
use switch::drop::DropReason;
use switch::flow::{Body, GroupKind};
use switch::groups::{EntryKind, Family, Groups, LAST_QUERY, MEMBERSHIP, QUERIER_PRESENT, RESPONSE_INTERVAL};
use switch::mac::MacAddr;
use switch::parse::group::{Change, records};
use switch::parse::parse;
use switch::port::PortId;
use switch::snapshot::Spoof;
use switch::vlan::Tagging;
use switch::vnet::VnetHdr;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 2);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3);
const NODE: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 3);
const NOBODY: [u16; 0] = [];

fn lab(ports: u16, options: Options) -> Lab {
    Lab::new(&[ports], Options { groups: options.groups.or(Some(64)), ..options })
}

fn groups(lab: &Lab) -> Arc<Groups> {
    lab.snapshot.load().networks[0].as_ref().unwrap().groups.clone().unwrap()
}

/// Hand-moved time, and the control plane's second tick.
fn pass(lab: &mut Lab, seconds: u32) {
    lab.advance(seconds);
    groups(lab).age(lab.worker.io.now);
}

fn group_mac(group: Ipv4Addr) -> MacAddr {
    let [_, a, b, c] = group.octets();
    MacAddr([1, 0, 0x5e, a & 0x7f, b, c])
}

fn group_mac6(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

fn igmp_packet(src: Ipv4Addr, dst: Ipv4Addr, mut message: Vec<u8>) -> Vec<u8> {
    message[2..4].fill(0);
    let check = !checksum::sum(&message);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    ipv4(src, dst, 2, &message)
}

fn igmp(port: u16, dst: Ipv4Addr, message: Vec<u8>) -> Vec<u8> {
    ethernet(group_mac(dst), mac(port + 1), 0x0800, &igmp_packet(ip(port + 1), dst, message))
}

fn v2(kind: u8, group: Ipv4Addr) -> Vec<u8> {
    [&[kind, 0, 0, 0], &group.octets()[..]].concat()
}

fn report(port: u16, group: Ipv4Addr) -> Vec<u8> {
    igmp(port, group, v2(0x16, group))
}

fn leave(port: u16, group: Ipv4Addr) -> Vec<u8> {
    igmp(port, Ipv4Addr::new(224, 0, 0, 2), v2(0x17, group))
}

fn record(kind: u8, group: Ipv4Addr, sources: &[Ipv4Addr]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, sources.len() as u8];
    bytes.extend(group.octets());
    sources.iter().for_each(|source| bytes.extend(source.octets()));
    bytes
}

fn report3(port: u16, records: &[Vec<u8>]) -> Vec<u8> {
    let message = [&[0x22, 0, 0, 0, 0, 0, 0, records.len() as u8][..], &records.concat()].concat();
    igmp(port, Ipv4Addr::new(224, 0, 0, 22), message)
}

fn query(port: u16, src: Ipv4Addr) -> Vec<u8> {
    let all = Ipv4Addr::new(224, 0, 0, 1);
    let message = vec![0x11, 100, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0];
    ethernet(group_mac(all), mac(port + 1), 0x0800, &igmp_packet(src, all, message))
}

/// An ICMPv6 message with hop limit 1 and a Router Alert.
fn mld(port: u16, src: Ipv6Addr, dst: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    message[2..4].fill(0);
    let sum = checksum::add(checksum::pseudo(src, dst, 58, message.len() as u32), checksum::sum(&message));
    message[2..4].copy_from_slice(&(!sum).to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0, 0, message.len() as u8 + 8, 0, 1];
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    packet.extend(message);
    ethernet(group_mac6(dst), mac(port + 1), 0x86dd, &packet)
}

fn query6(port: u16) -> Vec<u8> {
    let mut message = vec![130, 0, 0, 0, 0x27, 0x10, 0, 0];
    message.extend([0; 16]);
    message.extend([2, 125, 0, 0]);
    mld(port, mac(port + 1).link_local(), "ff02::1".parse().unwrap(), message)
}

fn report6(port: u16, src: Ipv6Addr, kind: u8, group: Ipv6Addr) -> Vec<u8> {
    let message = [&[143, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, 0][..], &group.octets()].concat();
    mld(port, src, "ff02::16".parse().unwrap(), message)
}

fn to(port: u16, group: Ipv4Addr) -> Vec<u8> {
    ethernet(group_mac(group), mac(port + 1), 0x0800, &ipv4(ip(port + 1), group, 17, &udp(1, 2, b"hello")))
}

fn to6(port: u16, group: Ipv6Addr) -> Vec<u8> {
    let src = mac(port + 1).link_local();
    let datagram = udp(1, 2, b"hello");
    let mut packet = vec![0x60, 0, 0, 0, 0, datagram.len() as u8, 17, 1];
    packet.extend(src.octets());
    packet.extend(group.octets());
    packet.extend(datagram);
    ethernet(group_mac6(group), mac(port + 1), 0x86dd, &packet)
}

/// A lab in which the gateway asks, and everybody had the time to answer.
fn asked(ports: u16, options: Options) -> Lab {
    let mut lab = lab(ports, options);
    let (groups, now) = (groups(&lab), lab.worker.io.now);
    groups.heard(0, common::GATEWAY.1.to_ipv6_mapped(), PortId::NOBODY, now);
    groups.heard(0, common::GATEWAY.0.link_local(), PortId::NOBODY, now);
    pass(&mut lab, RESPONSE_INTERVAL + 1);
    lab
}

#[test]
fn until_somebody_asks_all_goes_to_all() {
    let mut lab = lab(4, Options::default());
    lab.send(1, &report(1, GROUP));
    assert_eq!(lab.send(0, &to(0, GROUP)), [1, 2, 3]);
    groups(&lab).heard(0, common::GATEWAY.1.to_ipv6_mapped(), PortId::NOBODY, lab.worker.io.now);
    pass(&mut lab, RESPONSE_INTERVAL);
    assert_eq!(lab.send(0, &to(0, GROUP)), [1, 2, 3], "not everybody had the time to answer");
    pass(&mut lab, 1);
    assert_eq!(lab.send(0, &to(0, GROUP)), [1]);
    assert_eq!(lab.send(0, &to6(0, GROUP6)), [1, 2, 3], "of MLD nobody asks");
    pass(&mut lab, QUERIER_PRESENT);
    assert_eq!(lab.send(0, &to(0, GROUP)), [1, 2, 3], "nobody asks any more");
}

#[test]
fn a_group_goes_to_its_members_only() {
    let mut lab = asked(5, Options::default());
    for port in [1, 3] {
        assert_eq!(lab.send(port, &report(port, GROUP)), NOBODY, "no host hears another's report");
        assert_eq!(lab.send(port, &report6(port, Ipv6Addr::UNSPECIFIED, 4, GROUP6)), NOBODY);
    }
    assert_eq!(lab.worker.counters().worker.local.get(), 4);
    for (sent, got) in [(0, vec![1, 3]), (1, vec![3])] {
        assert_eq!(lab.send(sent, &to(sent, GROUP)), got);
        assert_eq!(lab.send(sent, &to6(sent, GROUP6)), got);
    }
    lab.refuses(0, &to(0, OTHER), DropReason::NoListener);
    // Whoever wants these need not say so.
    for link in [Ipv4Addr::new(224, 0, 0, 251), Ipv4Addr::new(224, 0, 0, 5)] {
        lab.send(3, &report(3, link));
        assert_eq!(lab.send(0, &to(0, link)), [1, 2, 3, 4], "{link}");
    }
    for link in ["ff02::1", "ff02::fb", "ff02::1:2", "ff01::7"] {
        let link = link.parse().unwrap();
        lab.send(3, &report6(3, mac(4).link_local(), 4, link));
        assert_eq!(lab.send(0, &to6(0, link)), [1, 2, 3, 4], "{link}");
    }
    assert_eq!(groups(&lab).entries(lab.worker.io.now).filter(|e| e.kind == EntryKind::Member).count(), 4);
    // What is not IP, or for no group of IP, knows no groups.
    let other = ethernet(group_mac(GROUP), mac(1), 0x88b5, &[0; 60]);
    assert_eq!(lab.send(0, &other), [1, 2, 3, 4]);
    let odd = ethernet(group_mac(GROUP), mac(1), 0x0800, &ipv4(ip(1), ip(9), 17, &udp(1, 2, b"")));
    assert_eq!(lab.send(0, &odd), [1, 2, 3, 4]);
    // Nor is one of our port's frames its own.
    lab.refuses(3, &to(3, OTHER), DropReason::NoListener);
}

#[test]
fn a_membership_ends_by_a_leave_or_by_its_age() {
    let mut lab = asked(4, Options::default());
    lab.send(1, &report(1, GROUP));
    lab.send(2, &report3(2, &[record(4, GROUP, &[]), record(1, OTHER, &[ip(1)])]));
    assert_eq!(lab.send(0, &to(0, GROUP)), [1, 2]);
    assert_eq!(lab.send(0, &to(0, OTHER)), [2], "from some sources is from all");
    // Somebody else behind the port may say that he stays.
    lab.send(1, &leave(1, GROUP));
    pass(&mut lab, LAST_QUERY - 1);
    assert_eq!(lab.send(0, &to(0, GROUP)), [1, 2]);
    lab.send(1, &report(1, GROUP));
    pass(&mut lab, 2 * LAST_QUERY);
    assert_eq!(lab.send(0, &to(0, GROUP)), [1, 2]);
    lab.send(1, &leave(1, GROUP));
    lab.send(2, &report3(2, &[record(3, GROUP, &[]), record(6, OTHER, &[ip(1)])]));
    pass(&mut lab, LAST_QUERY + 1);
    lab.refuses(0, &to(0, GROUP), DropReason::NoListener);
    assert_eq!(lab.send(0, &to(0, OTHER)), [2], "BLOCK_OLD_SOURCES runs out by itself");
    groups(&lab).heard(0, common::GATEWAY.1.to_ipv6_mapped(), PortId::NOBODY, lab.worker.io.now);
    pass(&mut lab, MEMBERSHIP - 20);
    groups(&lab).heard(0, common::GATEWAY.1.to_ipv6_mapped(), PortId::NOBODY, lab.worker.io.now);
    assert_eq!(lab.send(0, &to(0, OTHER)), [2]);
    pass(&mut lab, 20);
    lab.refuses(0, &to(0, OTHER), DropReason::NoListener);
}

#[test]
fn routers_get_every_group_and_all_reports() {
    let mut lab = asked(5, Options { spoof: Spoof::Off, ..Options::default() });
    assert_eq!(lab.send(4, &query(4, Ipv4Addr::new(10, 0, 255, 255))), [0, 1, 2, 3], "a query goes to all");
    let hello = ethernet(
        MacAddr([1, 0, 0x5e, 0, 0, 13]),
        mac(4),
        0x0800,
        &ipv4(ip(4), Ipv4Addr::new(224, 0, 0, 13), 103, &[0x20, 0, 0xdf, 0xff]),
    );
    assert_eq!(lab.send(3, &hello), [0, 1, 2, 4]);
    assert_eq!(lab.send(1, &report(1, GROUP)), [3, 4]);
    assert_eq!(lab.send(0, &to(0, GROUP)), [1, 3, 4]);
    assert_eq!(lab.send(0, &to(0, OTHER)), [3, 4]);
    lab.refuses(0, &to6(0, GROUP6), DropReason::NoListener);
    assert_eq!(lab.send(2, &query6(2)), [0, 1, 3, 4]);
    assert_eq!(lab.send(0, &to6(0, GROUP6)), [2], "of MLD that one is a router");
    // A higher address asked as well: it is no querier for that.
    let querier = |lab: &Lab, family| groups(lab).querier(family, 0).unwrap();
    assert_eq!(querier(&lab, Family::V4).port, PortId::NOBODY);
    lab.send(4, &query(4, Ipv4Addr::new(10, 0, 0, 1)));
    assert_eq!(querier(&lab, Family::V4).port, PortId(4));
    lab.send(3, &query(3, Ipv4Addr::new(10, 0, 0, 2)));
    assert_eq!(querier(&lab, Family::V4).address, Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
    // A switch without an address is no router.
    lab.send(2, &query(2, Ipv4Addr::UNSPECIFIED));
    assert_eq!(lab.send(0, &to(0, OTHER)), [3, 4]);
    // What is behind a port that is gone is gone with it.
    groups(&lab).flush(PortId(4));
    assert!(groups(&lab).querier(Family::V4, 0).is_none());
    lab.send(1, &report(1, GROUP));
    assert_eq!(lab.send(0, &to(0, GROUP)), [1, 2, 3, 4], "nobody asks");
}

#[test]
fn solicited_nodes_are_found_whether_they_report_or_not() {
    let mut lab = asked(4, Options::default());
    assert_eq!(
        lab.send(0, &to6(0, NODE)),
        [1, 2, 3],
        "a stack that reports nothing has addresses all the same"
    );
    lab.send(2, &report6(2, Ipv6Addr::UNSPECIFIED, 4, NODE));
    assert_eq!(lab.send(0, &to6(0, NODE)), [2]);
    let another = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 4);
    assert_eq!(lab.send(0, &to6(0, another)), [1, 2, 3]);
}

#[test]
fn vlans_have_groups_of_their_own() {
    let mut lab = lab(5, Options { spoof: Spoof::Off, ..Options::default() });
    for (port, tagging) in (0..).zip([10, 10, 20, 20].map(Tagging::Access).into_iter().chain([Tagging::All]))
    {
        lab.change(port, |port| port.tagging = tagging.clone());
    }
    let groups = groups(&lab);
    let gateway = common::GATEWAY.1.to_ipv6_mapped();
    [10, 20].into_iter().for_each(|vid| groups.heard(vid, gateway, PortId::NOBODY, lab.worker.io.now));
    pass(&mut lab, RESPONSE_INTERVAL + 1);
    lab.send(1, &report(1, GROUP));
    lab.send(3, &report(3, OTHER));
    assert_eq!(lab.send(0, &to(0, GROUP)), [1]);
    assert_eq!(lab.send(2, &to(2, OTHER)), [3]);
    lab.refuses(0, &to(0, OTHER), DropReason::NoListener);
    lab.refuses(2, &to(2, GROUP), DropReason::NoListener);
    // Of a trunk by its tag; what has another tag behind that is in nobody's VLAN that we know.
    let inside = |tags: &[(u16, u16)], dst: Ipv4Addr, payload: &[u8]| {
        tagged(group_mac(dst), mac(5), tags, 0x0800, payload)
    };
    let joins = igmp_packet(ip(5), GROUP, v2(0x16, GROUP));
    lab.send(4, &inside(&[(0x8100, 20)], GROUP, &joins));
    let hello = ipv4(ip(5), GROUP, 17, &udp(1, 2, b"hello"));
    let got = lab.sent(2, &VnetHdr::default(), &to(2, GROUP));
    assert_eq!(got.iter().map(|(out, ..)| *out).collect::<Vec<_>>(), [4]);
    let twice = inside(&[(0x88a8, 10), (0x8100, 7)], OTHER, &hello);
    let got = lab.sent(4, &VnetHdr::default(), &twice);
    assert_eq!(got.iter().map(|(out, ..)| *out).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn isolated_ports_and_networks_hear_no_groups_of_each_other() {
    let mut lab = Lab::new(&[3, 2], Options { groups: Some(64), spoof: Spoof::Off, ..Options::default() });
    let both = lab.snapshot.load_full();
    for network in both.networks.iter().flatten() {
        let groups = network.groups.as_ref().unwrap();
        groups.heard(0, common::GATEWAY.1.to_ipv6_mapped(), PortId::NOBODY, lab.worker.io.now);
    }
    lab.advance(RESPONSE_INTERVAL + 1);
    both.networks
        .iter()
        .flatten()
        .for_each(|network| network.groups.as_ref().unwrap().age(lab.worker.io.now));
    [0, 1].into_iter().for_each(|port| lab.change(port, |port| port.isolated = true));
    for port in 0..5 {
        lab.send(port, &report(port, GROUP));
    }
    assert_eq!(lab.send(0, &to(0, GROUP)), [2]);
    assert_eq!(lab.send(2, &to(2, GROUP)), [0, 1]);
    assert_eq!(lab.send(3, &to(3, GROUP)), [4]);
}

#[test]
fn what_must_not_be_believed_is_refused_by_name() {
    let mut lab = asked(3, Options::default());
    let mut wrong = report(1, GROUP);
    *wrong.last_mut().unwrap() ^= 1;
    let mut header = report(1, GROUP);
    header[14 + 8] = 1;
    let far = {
        let mut frame = report6(1, mac(2).link_local(), 4, GROUP6);
        frame[14 + 7] = 2;
        frame
    };
    let cases = [
        wrong,
        header,
        far,
        igmp(1, GROUP, v2(0x16, Ipv4Addr::new(10, 0, 0, 1))),
        igmp(1, GROUP, vec![0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        igmp(1, GROUP, vec![0x22, 0, 0, 0]),
        // Records that are not there, and one whose sources are not.
        igmp(1, GROUP, vec![0x22, 0, 0, 0, 0, 0, 0xff, 0xff]),
        igmp(1, GROUP, [&[0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0xff, 0xff][..], &GROUP.octets()].concat()),
        igmp(1, GROUP, [&[0x22, 0, 0, 0, 0, 0, 0, 1, 4, 1, 0, 0][..], &GROUP.octets()].concat()),
        mld(1, "fd00::2".parse().unwrap(), "ff02::16".parse().unwrap(), vec![143, 0, 0, 0, 0, 0, 0, 0]),
        mld(1, Ipv6Addr::UNSPECIFIED, "ff02::1".parse().unwrap(), vec![130; 28]),
    ];
    for frame in &cases {
        lab.refuses(1, frame, DropReason::MalformedGroup);
    }
    assert_eq!(groups(&lab).entries(lab.worker.io.now).filter(|e| e.kind != EntryKind::Querier).count(), 0);
    // A kind that is not known goes to all.
    assert_eq!(lab.send(1, &igmp(1, GROUP, v2(0x30, GROUP))), [0, 2]);
    // Where nobody snoops nobody judges.
    let mut plain = Lab::new(&[3], Options::default());
    for frame in &cases {
        assert_eq!(plain.send(1, frame), [0, 2]);
    }
    let mut strict = asked(3, Options { spoof: Spoof::Strict, ..Options::default() });
    strict.refuses(1, &query(1, ip(2)), DropReason::SpoofedQuery);
    assert_eq!(strict.send(1, &report(1, GROUP)), NOBODY);
    assert_eq!(strict.send(0, &to(0, GROUP)), [1]);
}

#[test]
fn one_that_joins_everything_takes_nothing_from_others() {
    let mut lab = asked(4, Options { groups: Some(64), ..Options::default() });
    let group = |n: u32| Ipv4Addr::from(0xe800_0000 | n);
    let own: Vec<Ipv4Addr> = (0..20).map(|n| Ipv4Addr::new(239, 9, 9, n)).collect();
    own[..10].iter().for_each(|group| _ = lab.send(1, &report(1, *group)));
    let mut buffer = Vec::new();
    for n in 0..100_000 {
        buffer.push(record(4, group(n), &[]));
        if buffer.len() == 100 {
            lab.send(2, &report3(2, &buffer));
            buffer.clear();
        }
    }
    own[10..].iter().for_each(|group| _ = lab.send(1, &report(1, *group)));
    for group in &own {
        assert_eq!(lab.send(0, &to(0, *group)), [1], "{group}");
    }
    assert!(groups(&lab).entries(lab.worker.io.now).count() <= 64 + 2);
}

proptest! {
    /// Reports of any bytes: no panic, nothing beyond the message, and what is well-formed comes out as it went in.
    #[test]
    fn any_bytes_are_a_report_or_are_not(kind in prop::sample::select(vec![0x11u8, 0x12, 0x16, 0x17, 0x22]),
                                         rest in prop::collection::vec(any::<u8>(), 7..200)) {
        let frame = igmp(1, GROUP, [&[kind][..], &rest].concat());
        let packet = parse(&frame, &VnetHdr::default(), PortId(0), 0).unwrap();
        let Body::Group(said) = packet.meta.body else { panic!("known to be about groups") };
        let found = records(&frame, &packet).count();
        prop_assert!(said.kind != GroupKind::Records || found <= rest.len() / 8);
        prop_assert_eq!(said.kind == GroupKind::Records, kind == 0x22 && said.kind != GroupKind::Bad);
    }

    #[test]
    fn records_come_out_as_they_went_in(
        all in prop::collection::vec((1u8..8, any::<u16>(), prop::collection::vec(any::<u32>(), 0..5)), 0..40),
    ) {
        let group = |low: u16| Ipv4Addr::from(0xe900_0000 | u32::from(low));
        let raw: Vec<_> = all.iter().map(|(kind, low, sources)| {
            record(*kind, group(*low), &sources.iter().map(|bits| Ipv4Addr::from(*bits)).collect::<Vec<_>>())
        }).collect();
        let frame = report3(1, &raw);
        let packet = parse(&frame, &VnetHdr::default(), PortId(0), 0).unwrap();
        let found: Vec<_> = records(&frame, &packet).collect();
        let expected: Vec<_> = all.iter().filter_map(|(kind, low, sources)| {
            let change = match (kind, sources.is_empty()) {
                (1 | 3, true) => Change::Left,
                (1 | 3 | 5, false) | (2 | 4, _) => Change::Joined,
                _ => return None,
            };
            Some((group(*low).to_ipv6_mapped(), change))
        }).collect();
        prop_assert_eq!(found, expected);
        // Cut anywhere it is nobody's word.
        let message = &frame[34..];
        for end in 4..message.len() {
            let cut = igmp(1, GROUP, message[..end].to_vec());
            let packet = parse(&cut, &VnetHdr::default(), PortId(0), 0).unwrap();
            let bad = matches!(packet.meta.body, Body::Group(said) if said.kind == GroupKind::Bad);
            prop_assert!(bad);
        }
    }
}
