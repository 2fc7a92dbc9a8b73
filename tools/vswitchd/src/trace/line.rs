//! A packet in one line, much as tcpdump has it.

use std::fmt::Write;
use std::net::Ipv6Addr;

use switch::drop::DropReason;
use switch::flow::{Body, FlowKey, Fragment, Gso, L3, Meta, Nd, NdKind, Packet};
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_SCTP, PROTO_TCP, PROTO_UDP};

/// What was parsed, in one line; of what was not, the reason.
pub fn line(frame: &[u8], packet: Result<&Packet, DropReason>) -> String {
    let Packet { key, meta } = match packet {
        Ok(packet) => packet,
        Err(reason) => return format!("{} bytes: {}", frame.len(), reason.name()),
    };
    let mut text = format!("{} > {}, ", meta.src, meta.dst);
    for tag in [meta.vlan, meta.inner_vlan].into_iter().flatten() {
        text += &format!("vlan {}, ", tag.vid());
    }
    match (&meta.body, meta.l3) {
        (Body::Arp(arp), _) if arp.operation == 1 => {
            text += &format!("ARP who has {}, tell {}", arp.target_ip, arp.sender_ip);
        }
        (Body::Arp(arp), _) => text += &format!("ARP {} is at {}", arp.sender_ip, arp.sender_mac),
        (_, L3::V4 | L3::V6) => internet(&mut text, frame, key, meta),
        _ => text += &format!("ethertype 0x{:04x}, length {}", meta.ethertype, frame.len()),
    }
    text
}

fn internet(text: &mut String, frame: &[u8], key: &FlowKey, meta: &Meta) {
    let (src, dst) = key.addresses();
    let ports = matches!(key.proto, PROTO_TCP | PROTO_UDP | PROTO_SCTP) && meta.fragment != Fragment::Later;
    let version = if meta.l3 == L3::V4 { "IPv4" } else { "IPv6" };
    // Text is written to text: it cannot fail.
    let _ = match ports {
        true => write!(text, "{version} {src}.{} > {dst}.{}: ", key.sport, key.dport),
        false => write!(text, "{version} {src} > {dst}: "),
    };
    *text += &transport(frame, key, meta);
    let hops = if meta.l3 == L3::V4 { "ttl" } else { "hop limit" };
    let _ = write!(text, ", {hops} {}", meta.ttl);
    if meta.l3 == L3::V4 && meta.df {
        *text += ", DF";
    }
    match meta.fragment {
        Fragment::No => {}
        Fragment::First => *text += &format!(", first fragment of {}", meta.fragment_id),
        Fragment::Later => *text += &format!(", later fragment of {}", meta.fragment_id),
    }
    match meta.gso {
        Gso::None => {}
        Gso::Tcp { size } | Gso::Udp { size } => *text += &format!(", super-frame of {size}"),
    }
    let _ = write!(text, ", length {}", meta.l3_end.saturating_sub(u32::from(meta.l3_off)));
}

fn transport(frame: &[u8], key: &FlowKey, meta: &Meta) -> String {
    match (key.proto, &meta.tcp) {
        (PROTO_TCP, Some(tcp)) => {
            let mss = mss(frame, meta).map(|mss| format!(", mss {mss}")).unwrap_or_default();
            format!("TCP [{}]{mss}", flags(tcp.flags))
        }
        (PROTO_TCP, None) => "TCP".into(),
        (PROTO_UDP, _) => "UDP".into(),
        (PROTO_SCTP, _) => "SCTP".into(),
        (PROTO_ICMP, _) | (PROTO_ICMPV6, _) if meta.fragment != Fragment::Later => icmp(key, meta),
        (proto, _) => format!("protocol {proto}"),
    }
}

/// tcpdump's letters.
fn flags(flags: u8) -> String {
    const LETTERS: [(u8, char); 8] = [
        (0x02, 'S'),
        (0x01, 'F'),
        (0x04, 'R'),
        (0x08, 'P'),
        (0x10, '.'),
        (0x20, 'U'),
        (0x40, 'E'),
        (0x80, 'W'),
    ];
    LETTERS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect()
}

/// The MSS option, kind 2 (RFC 9293 section 3.7.1).
pub fn mss(frame: &[u8], meta: &Meta) -> Option<u16> {
    let start = usize::from(meta.l4_off).checked_add(20)?;
    let mut options = frame.get(start..usize::from(meta.headers_len))?;
    loop {
        options = match *options {
            [2, 4, high, low, ..] => return Some(u16::from_be_bytes([high, low])),
            [1, ref rest @ ..] => rest,
            [kind, len, ..] if kind != 0 && len >= 2 => options.get(usize::from(len)..)?,
            _ => return None,
        };
    }
}

fn icmp(key: &FlowKey, meta: &Meta) -> String {
    let [kind, code] = key.dport.to_be_bytes();
    let name = if meta.l3 == L3::V4 { "ICMP" } else { "ICMPv6" };
    if let Body::Nd(nd) = &meta.body {
        return neighbor(nd);
    }
    let what = match (meta.l3, kind, code) {
        (L3::V4, 0, _) | (L3::V6, 129, _) => format!("echo reply, id {}", key.sport),
        (L3::V4, 8, _) | (L3::V6, 128, _) => format!("echo request, id {}", key.sport),
        (L3::V4, 3, 0) | (L3::V6, 1, 0) => "network unreachable".into(),
        (L3::V4, 3, 1) | (L3::V6, 1, 3) => "host unreachable".into(),
        (L3::V4, 3, 2) | (L3::V6, 4, 1) => "protocol unreachable".into(),
        (L3::V4, 3, 3) | (L3::V6, 1, 4) => "port unreachable".into(),
        (L3::V4, 3, 4) => "fragmentation needed".into(),
        (L3::V6, 2, _) => "packet too big".into(),
        (L3::V4, 3, 13) | (L3::V6, 1, 1) => "prohibited".into(),
        (L3::V4, 11, _) | (L3::V6, 3, _) => "time exceeded".into(),
        _ => format!("type {kind} code {code}"),
    };
    match &meta.body {
        Body::IcmpError(quoted) => {
            let (src, dst) = quoted.key.addresses();
            format!("{name} {what}, about {src} > {dst}")
        }
        _ => format!("{name} {what}"),
    }
}

fn neighbor(nd: &Nd) -> String {
    let (what, target) = match nd.kind {
        NdKind::RouterSolicitation => ("router solicitation", None),
        NdKind::RouterAdvertisement => ("router advertisement", None),
        NdKind::NeighborSolicitation => ("neighbour solicitation", Some(nd.target)),
        NdKind::NeighborAdvertisement => ("neighbour advertisement", Some(nd.target)),
        NdKind::Redirect => ("redirect", Some(nd.target)),
    };
    let target = target.map(|target: Ipv6Addr| format!(", of {target}")).unwrap_or_default();
    format!("ICMPv6 {what}{target}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use switch::parse::parse;
    use switch::port::PortId;
    use switch::vnet::VnetHdr;

    use super::*;

    fn of(frame: &[u8]) -> String {
        line(frame, parse(frame, &VnetHdr::default(), PortId(0), 0).as_ref().map_err(|reason| *reason))
    }

    fn v4(proto: u8, flags: [u8; 2], l4: &[u8]) -> Vec<u8> {
        let len = (20 + l4.len()) as u16;
        let [high, low] = len.to_be_bytes();
        let [f0, f1] = flags;
        let head = [0x45, 0, high, low, 0, 7, f0, f1, 64, proto, 0, 0, 10, 1, 0, 2, 10, 2, 0, 3];
        [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &head, l4].concat()
    }

    #[test]
    fn as_tcpdump_has_it() {
        const LINK: &str = "02:00:00:00:00:02 > 02:00:00:00:00:01, ";
        let syn = [0x9c, 0x40, 1, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x60, 2, 0, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4];
        for (frame, text) in [
            (
                v4(6, [0x40, 0], &syn),
                "IPv4 10.1.0.2.40000 > 10.2.0.3.443: TCP [S], mss 1460, ttl 64, DF, length 44",
            ),
            (
                v4(17, [0, 0], &[0, 53, 0, 54, 0, 8, 0, 0]),
                "IPv4 10.1.0.2.53 > 10.2.0.3.54: UDP, ttl 64, length 28",
            ),
            (
                v4(17, [0, 9], &[0; 16]),
                "IPv4 10.1.0.2 > 10.2.0.3: UDP, ttl 64, later fragment of 7, length 36",
            ),
            (
                v4(1, [0, 0], &[8, 0, 0, 0, 0, 5, 0, 1]),
                "IPv4 10.1.0.2 > 10.2.0.3: ICMP echo request, id 5, ttl 64, length 28",
            ),
            (v4(47, [0, 0], &[0; 4]), "IPv4 10.1.0.2 > 10.2.0.3: protocol 47, ttl 64, length 24"),
        ] {
            assert_eq!(of(&frame), format!("{LINK}{text}"));
        }
        assert_eq!(of(&[0; 5]), "5 bytes: truncated_frame");
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_line(proto: u8, flags: [u8; 2], l4 in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(!of(&v4(proto, flags, &l4)).contains('\n'));
        }
    }
}
