//! What a learning bridge does.

use switch::mac::MacAddr;

use super::super::frames::{ALL_NODES_MAC, ARP, IPV4, UDP, arp, ethernet, internet_checksum, ipv4, udp};
use super::super::script::Script;
use super::{ROAMING, packet, plain};

/// Three containers that have not been heard of.
pub fn learning(s: &mut Script<'_>) {
    s.send("a", "unknown: flooded to b and c", packet(s, "a", "b"));
    s.send("b", "a is known: forwarded", packet(s, "b", "a"));
    s.send("a", "b is known now: forwarded", packet(s, "a", "b"));
    s.send("c", "forwarded, and c is learned", packet(s, "c", "a"));
    s.send("a", "to itself: goes nowhere", plain(s.mac("a"), s.mac("a"), "to myself"));
    s.send("c", "to a station that nobody knows: flooded", plain(ROAMING, s.mac("c"), "who?"));
    s.send("b", "from a second address of b", plain(s.mac("a"), ROAMING, "another address"));
    s.send("c", "now that is known too: forwarded", plain(ROAMING, s.mac("c"), "there you are"));
    s.send("b", "b to its other address: stays behind the port", plain(ROAMING, s.mac("b"), "here"));
}

pub fn groups(s: &mut Script<'_>) {
    s.send("b", "b is known", packet(s, "b", "a"));
    let groups = [
        (MacAddr::BROADCAST, "broadcast"),
        (MacAddr([0x01, 0x00, 0x5e, 0, 0, 0xfb]), "IPv4 multicast"),
        (ALL_NODES_MAC, "IPv6 multicast"),
        (MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x10]), "bridge management, which is not reserved"),
        (MacAddr([0x03, 0, 0, 0, 0, 1]), "a locally administered group"),
    ];
    for (group, about) in groups {
        s.send("a", &format!("{about}: to all others"), plain(group, s.mac("a"), about));
        s.send("b", &format!("{about}, from another port"), plain(group, s.mac("b"), about));
        s.send("c", "a group as source: nobody is a group", plain(s.mac("a"), group, about));
    }
    let who_has = arp(1, (s.mac("c"), s.ip("c")), (MacAddr::ZERO, s.ip("a")));
    s.send("c", "ARP request: to all others", ethernet(MacAddr::BROADCAST, s.mac("c"), ARP, &who_has));
    let is_at = arp(2, (s.mac("a"), s.ip("a")), (s.mac("c"), s.ip("c")));
    s.send("a", "its answer: to the one who asked", ethernet(s.mac("c"), s.mac("a"), ARP, &is_at));
}

/// A station that moves from b to c, and the shortest ageing time, 10 s.
/// IGMP of a container: kind and group, or a general query.
fn igmp(s: &Script<'_>, from: &str, kind: u8, group: [u8; 4]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], &group].concat();
    let check = internet_checksum(&[&message]);
    message[2..4].copy_from_slice(&check.to_be_bytes());
    let to = if kind == 0x11 { [224, 0, 0, 1] } else { group };
    to_group(s, from, to, 2, &message)
}

fn to_group(s: &Script<'_>, from: &str, group: [u8; 4], proto: u8, payload: &[u8]) -> Vec<u8> {
    let [_, x, y, z] = group;
    let mac = MacAddr([0x01, 0x00, 0x5e, x & 0x7f, y, z]);
    ethernet(mac, s.mac(from), IPV4, &ipv4(s.ip(from), group.into(), proto, payload))
}

/// Who joins gets it, once everybody had the time to answer the gateway.
pub fn snooping(s: &mut Script<'_>) {
    const GROUP: [u8; 4] = [239, 1, 1, 1];
    let data = |s: &Script<'_>, group| to_group(s, "a", group, UDP, &udp(b"to whom it concerns"));
    s.send("b", "joins, and the gateways ask for the first time", igmp(s, "b", 0x16, GROUP));
    s.wait(1);
    s.send("a", "to all: not everybody had the time to answer", data(s, GROUP));
    s.wait(20_000);
    s.send("a", "to b alone", data(s, GROUP));
    s.send("a", "to a group that nobody joined", data(s, [239, 1, 1, 2]));
    s.send("a", "mDNS is of the link: to all", data(s, [224, 0, 0, 251]));
    let mut damaged = igmp(s, "c", 0x16, GROUP);
    damaged[36] ^= 0xff;
    s.send("c", "a report with a wrong checksum", damaged);
    s.send("c", "asks: it is a multicast router", igmp(s, "c", 0x11, [0; 4]));
    s.send("a", "to b and the router", data(s, GROUP));
    s.send("b", "a report is for the router", igmp(s, "b", 0x16, GROUP));
    s.send("b", "leaves, and is asked whether anybody stays", igmp(s, "b", 0x17, GROUP));
    s.wait(3000);
    s.send("a", "to the router alone", data(s, GROUP));
    s.send("r", "asks where only the gateway may", igmp(s, "r", 0x11, [0; 4]));
}

pub fn ageing(s: &mut Script<'_>) {
    let to_it = |s: &Script<'_>| plain(ROAMING, s.mac("a"), "to the roaming one");
    let from_it = |s: &Script<'_>| plain(s.mac("a"), ROAMING, "from the roaming one");
    s.send("a", "a is known", packet(s, "a", "b"));
    s.send("b", "it appears behind b", from_it(s));
    s.send("a", "to b", to_it(s));
    s.send("c", "it moved", from_it(s));
    s.send("a", "to c, not to b", to_it(s));
    s.wait(9_000);
    s.send("a", "9 s of silence: still known", to_it(s));
    s.wait(500);
    s.send("c", "it speaks again", from_it(s));
    s.wait(9_000);
    s.send("a", "9 s after that: still known", to_it(s));
    s.wait(2_500);
    s.send("a", "11.5 s after that: forgotten, flooded", to_it(s));
    s.send("b", "back behind b: learned, not moved", from_it(s));
    s.send("a", "to b", to_it(s));
    s.wait(3_600_000);
    s.send("c", "an hour later nobody is known: flooded", packet(s, "c", "a"));
}

/// `statics.txt` says that the roaming station is behind b, and on VLAN 10 behind c.
pub fn static_entries(s: &mut Script<'_>) {
    let to_it = |s: &Script<'_>| plain(ROAMING, s.mac("a"), "to the static one");
    s.send("a", "known before it was heard: to b", to_it(s));
    s.send("c", "c says it is there: delivered, not learned", plain(s.mac("a"), ROAMING, "I moved"));
    s.send("a", "to b all the same", to_it(s));
    let tagged = super::super::frames::tagged(ROAMING, s.mac("a"), &[(0x8100, 10)], 0x88b5, b"VLAN 10");
    s.send("a", "on VLAN 10 it is behind c", tagged);
    s.wait(3_600_000);
    s.send("a", "an hour later: to b", to_it(s));
}

/// No container of `blue` may talk to another; `red` is as usual.
pub fn icc_false(s: &mut Script<'_>) {
    s.send("a", "unicast", packet(s, "a", "b"));
    s.send("b", "unicast the other way", packet(s, "b", "a"));
    let who_has = arp(1, (s.mac("a"), s.ip("a")), (MacAddr::ZERO, s.ip("b")));
    s.send("a", "ARP request", ethernet(MacAddr::BROADCAST, s.mac("a"), ARP, &who_has));
    s.send("a", "neither IP nor ARP", plain(s.mac("b"), s.mac("a"), "raw Ethernet"));
    s.send("a", "multicast", plain(ALL_NODES_MAC, s.mac("a"), "hello, all nodes"));
    s.send("x", "in the other network: flooded", packet(s, "x", "y"));
    s.send("y", "and forwarded", packet(s, "y", "x"));
}

/// `red` and `blue` have the same subnet, and the containers the same addresses and MACs; `green` has one port.
pub fn same_addresses(s: &mut Script<'_>) {
    s.send("a1", "unknown in red: flooded to b1", packet(s, "a1", "b1"));
    s.send("b2", "nobody is known in blue: flooded to a2", packet(s, "b2", "a2"));
    s.send("b1", "a1 is known in red", packet(s, "b1", "a1"));
    s.send("a2", "b2 is known in blue", packet(s, "a2", "b2"));
    s.send("a1", "a broadcast stays in red", plain(MacAddr::BROADCAST, s.mac("a1"), "to all of red"));
    s.send("a2", "and in blue", plain(MacAddr::BROADCAST, s.mac("a2"), "to all of blue"));
    s.send("lone", "nobody else is in green", plain(MacAddr::BROADCAST, s.mac("lone"), "anybody?"));
    s.send("lone", "an address of red is unknown in green", plain(s.mac("a1"), s.mac("lone"), "hello"));
}

/// 8 floods a second and port, a quarter of that at once.
pub fn storm(s: &mut Script<'_>) {
    let shout = |s: &Script<'_>, from: &str| plain(MacAddr::BROADCAST, s.mac(from), "to all");
    s.send("b", "b is known", packet(s, "b", "a"));
    for n in 1..=5 {
        s.send("a", &format!("broadcast {n}: two of them at once"), shout(s, "a"));
    }
    s.send("b", "the budget is of the port: b has one flood left", shout(s, "b"));
    s.send("b", "and then none", shout(s, "b"));
    s.send("a", "unknown unicast is a flood", plain(ROAMING, s.mac("a"), "who?"));
    s.send("a", "multicast is a flood", plain(MacAddr([1, 0, 0x5e, 0, 0, 1]), s.mac("a"), "all systems"));
    s.send("a", "known unicast is not", packet(s, "a", "b"));
    s.wait(124);
    s.send("a", "124 ms: not yet another one", shout(s, "a"));
    s.wait(1);
    s.send("a", "125 ms: one more", shout(s, "a"));
    s.send("a", "but not two", shout(s, "a"));
    s.wait(60_000);
    for n in 1..=3 {
        s.send("a", &format!("after a minute, {n}: two at once, no more"), shout(s, "a"));
    }
}

/// 16 entries, of which `a` wants a hundred.
pub fn fdb_limit(s: &mut Script<'_>) {
    s.send("b", "b is known", packet(s, "b", "c"));
    s.send("c", "c is known", packet(s, "c", "b"));
    for n in 0..100 {
        let source = MacAddr([0x06, 0, 0, 0, 0, n]);
        s.send("a", "yet another source of a's", plain(s.mac("b"), source, "I am many"));
    }
    s.send("b", "c is still known", packet(s, "b", "c"));
    s.send("c", "b is still known", packet(s, "c", "b"));
    s.send("b", "a second address of b's: a makes room", plain(s.mac("c"), ROAMING, "and I am two"));
    s.send("c", "it was learned", plain(ROAMING, s.mac("c"), "welcome"));
}
