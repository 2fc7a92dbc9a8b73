//! Who may say what of himself. The same frames are sent under `claimed`, `strict` and `off`; comments name the first.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::mac::MacAddr;

use super::super::frames::{
    ALL_NODES_MAC, ARP, IPV4, IPV6, UDP, arp, ethernet, ipv4, ipv6, neighbor_advertisement,
    neighbor_solicitation, router_advertisement, snap, tagged, udp,
};
use super::super::script::Script;
use super::{ROAMING, packet, plain};

/// fe80::a, which a may call itself anywhere.
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
/// 2001:db8::a, which nobody was given.
const GLOBAL: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xa);

pub fn spoof_claimed(s: &mut Script<'_>) {
    everything(s);
}

pub fn spoof_strict(s: &mut Script<'_>) {
    everything(s);
}

pub fn spoof_off(s: &mut Script<'_>) {
    everything(s);
}

fn everything(s: &mut Script<'_>) {
    s.send("b", "b is known", packet(s, "b", "c"));
    s.send("a", "a as itself", packet(s, "a", "c"));
    macs(s);
    arps(s);
    addresses(s);
    neighbors(s);
    s.send("c", "in the end b is where it was", packet(s, "c", "b"));
}

fn macs(s: &mut Script<'_>) {
    s.send("a", "from the MAC of b: refused", plain(s.mac("c"), s.mac("b"), "I am b"));
    s.send("c", "and it taught nothing: to b", packet(s, "c", "b"));
    s.send("a", "from a MAC of nobody: refused by strict only", plain(s.mac("c"), ROAMING, "I am new"));
    let inside = tagged(s.mac("c"), s.mac("b"), &[(0x8100, 5)], 0x88b5, b"I am b on VLAN 5");
    s.send("a", "from the MAC of b, on a VLAN: refused", inside);
}

fn arps(s: &mut Script<'_>) {
    let (a, b) = ((s.mac("a"), s.ip("a")), (s.mac("b"), s.ip("b")));
    let c = (s.mac("c"), s.ip("c"));
    let nobody = (MacAddr::ZERO, Ipv4Addr::UNSPECIFIED);
    let mut say = |about: &str, body: Vec<u8>| {
        s.send("a", about, ethernet(MacAddr::BROADCAST, a.0, ARP, &body));
    };
    say("ARP: who has c?", arp(1, a, (MacAddr::ZERO, c.1)));
    say("gratuitous ARP for itself", arp(1, a, (MacAddr::ZERO, a.1)));
    say("probe for b's address: claims nothing (RFC 5227)", arp(1, (a.0, nobody.1), (MacAddr::ZERO, b.1)));
    say("gratuitous ARP for b's address: refused", arp(1, (a.0, b.1), (MacAddr::ZERO, b.1)));
    say("answer for b's address: refused", arp(2, (a.0, b.1), c));
    say("answer with b's MAC: refused", arp(2, (b.0, a.1), c));
    say("link-local address (RFC 3927)", arp(1, (a.0, Ipv4Addr::new(169, 254, 1, 1)), nobody));
    say("address of nobody: refused by strict only", arp(1, (a.0, Ipv4Addr::new(10, 1, 0, 99)), nobody));
    let claim = arp(2, (a.0, b.1), c);
    for (about, tags) in [
        ("on VLAN 0", &[(0x8100, 0)][..]),
        ("on VLAN 5", &[(0x8100, 5)]),
        ("in QinQ", &[(0x88a8, 5), (0x8100, 0)]),
    ] {
        s.send("a", &format!("the claim {about}: refused"), tagged(c.0, a.0, tags, ARP, &claim));
    }
    for oui in [[0, 0, 0], [0, 0, 0xf8]] {
        let wrapped = snap(oui, ARP, &claim);
        s.send("a", "the claim in SNAP: refused", ethernet(c.0, a.0, wrapped.len() as u16, &wrapped));
    }
}

fn addresses(s: &mut Script<'_>) {
    let from = |s: &Script<'_>, src: Ipv4Addr| {
        let packet = ipv4(src, s.ip("c"), UDP, &udp(src.to_string().as_bytes()));
        ethernet(s.mac("c"), s.mac("a"), IPV4, &packet)
    };
    s.send("a", "from b's address: refused", from(s, s.ip("b")));
    s.send("a", "from a prefix behind it: refused by strict only", from(s, Ipv4Addr::new(192, 0, 2, 9)));
    s.send("a", "from 0.0.0.0, as DHCP does", from(s, Ipv4Addr::UNSPECIFIED));
    s.send("a", "from a link-local address", from(s, Ipv4Addr::new(169, 254, 7, 7)));
    let wrapped = from(s, s.ip("b"));
    let wrapped = tagged(s.mac("c"), s.mac("a"), &[(0x8100, 0)], IPV4, &wrapped[14..]);
    s.send("a", "from b's address, on VLAN 0: refused", wrapped);
    for src in [LINK_LOCAL, GLOBAL, Ipv6Addr::UNSPECIFIED, s.ip("b").to_ipv6_mapped()] {
        let about = match src {
            GLOBAL => "IPv6 from a global address: refused by strict only".into(),
            mapped if mapped.to_ipv4_mapped().is_some() => format!("IPv6 from {src}: refused everywhere"),
            _ => format!("IPv6 from {src}"),
        };
        let packet = ipv6(src, LINK_LOCAL, UDP, 64, &udp(b"six"));
        s.send("a", &about, ethernet(s.mac("c"), s.mac("a"), IPV6, &packet));
    }
}

fn neighbors(s: &mut Script<'_>) {
    let (a, b) = (s.mac("a"), s.mac("b"));
    let mut say = |about: &str, packet: Vec<u8>| {
        s.send("a", about, ethernet(ALL_NODES_MAC, a, IPV6, &packet));
    };
    say("advertisement for itself", neighbor_advertisement(LINK_LOCAL, LINK_LOCAL, a));
    say("advertisement with b's MAC: refused", neighbor_advertisement(LINK_LOCAL, LINK_LOCAL, b));
    say(
        "advertisement of nobody's address: refused by strict only",
        neighbor_advertisement(LINK_LOCAL, GLOBAL, a),
    );
    say("solicitation", neighbor_solicitation(LINK_LOCAL, GLOBAL, a));
    say("solicitation with b's MAC: refused", neighbor_solicitation(LINK_LOCAL, GLOBAL, b));
    say("router advertisement: refused by strict only", router_advertisement(LINK_LOCAL));
}
