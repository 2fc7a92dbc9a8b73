//! A packet from its description: what the container's kernel would send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnet_packet::Packet;
use pnet_packet::arp::{ArpHardwareTypes, ArpOperations, MutableArpPacket};
use pnet_packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
use pnet_packet::icmp::{IcmpTypes, echo_request};
use pnet_packet::icmpv6::{Icmpv6Types, MutableIcmpv6Packet};
use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::ipv4::{Ipv4Flags, MutableIpv4Packet};
use pnet_packet::ipv6::MutableIpv6Packet;
use pnet_packet::tcp::{MutableTcpPacket, TcpFlags, TcpOption};
use pnet_packet::udp::MutableUdpPacket;
use pnet_packet::vlan::MutableVlanPacket;
use pnet_packet::{icmp, icmpv6, ipv4, tcp, udp};
use switch::mac::MacAddr;

use crate::api::rows::{TcpFlag, TraceDescribed};

const ETHERNET_LEN: usize = 14;
const TAG_LEN: usize = 4;
const V4_LEN: usize = 20;
const V6_LEN: usize = 40;
const TCP_LEN: usize = 20;
/// Bytes of the MSS option.
const MSS_LEN: usize = 4;
const UDP_LEN: usize = 8;
const ECHO_LEN: usize = 8;
const ARP_LEN: usize = 28;
/// What `ping` sends if not told otherwise.
const PING: usize = 56;
/// The first of Linux's ephemeral ports is 32768; this is one that is easy to read.
const SPORT: u16 = 40_000;
/// RFC 1700.
const HOPS: u8 = 64;
/// Largest IPv4 packet.
const LONGEST: usize = 65_535;

/// Who sends, to which MAC, on which network: what a description leaves open.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    /// Its MAC.
    pub mac: MacAddr,
    /// Its address, of the destination's family.
    pub address: IpAddr,
    /// Where it would send the frame.
    pub next: MacAddr,
    /// MTU of its network, bytes.
    pub mtu: u16,
}

/// A description that makes no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CraftError {
    /// More than one protocol.
    #[error("one of tcp, udp, icmp and arp")]
    Protocols,
    /// An option that the protocol does not have.
    #[error("{option} says nothing about {protocol}")]
    Useless {
        /// The option.
        option: &'static str,
        /// The protocol.
        protocol: &'static str,
    },
    /// Source and destination are of two families.
    #[error("{0} and {1} are of two families")]
    Families(IpAddr, IpAddr),
    /// IPv6 neighbours are not asked for by ARP.
    #[error("ARP is for IPv4 addresses")]
    ArpFamily,
    /// A VLAN has twelve bits.
    #[error("VLAN {0} is not 0 to 4095")]
    Vlan(u16),
    /// The packet cannot be so long or so short.
    #[error("length: {headers} to {LONGEST} bytes of the IP packet, {headers} of them headers")]
    Length {
        /// Bytes of its headers.
        headers: usize,
    },
}

/// What is behind the IP header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp(u16),
    Udp(u16),
    Echo,
    Arp,
}

impl Kind {
    fn of(what: &TraceDescribed) -> Result<Self, CraftError> {
        let kinds = [
            what.tcp.map(Self::Tcp),
            what.udp.map(Self::Udp),
            what.icmp.then_some(Self::Echo),
            what.arp.then_some(Self::Arp),
        ];
        let mut said = kinds.into_iter().flatten();
        match (said.next(), said.next()) {
            (Some(kind), None) => Ok(kind),
            (None, _) => Ok(Self::Echo),
            (Some(_), Some(_)) => Err(CraftError::Protocols),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tcp(_) => "TCP",
            Self::Udp(_) => "UDP",
            Self::Echo => "ICMP",
            Self::Arp => "ARP",
        }
    }
}

/// The frame that `what` describes.
///
/// # Errors
/// See [`CraftError`].
pub fn craft(what: &TraceDescribed, sender: &Sender) -> Result<Vec<u8>, CraftError> {
    let kind = Kind::of(what)?;
    let useless = |given: bool, option| {
        if given { Err(CraftError::Useless { option, protocol: kind.name() }) } else { Ok(()) }
    };
    if let Some(vid @ 4096..) = what.vlan {
        return Err(CraftError::Vlan(vid));
    }
    useless(!what.flags.is_empty() && !matches!(kind, Kind::Tcp(_)), "flags")?;
    let src = what.src_ip.unwrap_or(sender.address);
    if kind == Kind::Arp {
        useless(what.sport.is_some(), "sport")?;
        useless(what.ttl.is_some(), "ttl")?;
        useless(what.df.is_some(), "df")?;
        useless(what.length.is_some(), "length")?;
        let (IpAddr::V4(src), IpAddr::V4(to)) = (src, what.to) else { return Err(CraftError::ArpFamily) };
        let mac = what.src_mac.unwrap_or(sender.mac);
        return Ok(frame(what, sender, EtherTypes::Arp, &arp(mac, src, to)));
    }
    let ip = match (src, what.to) {
        (IpAddr::V4(src), IpAddr::V4(to)) => {
            let l4 = transport(what, kind, sender, V4_LEN, (src.into(), to.into()))?;
            (EtherTypes::Ipv4, v4(what, kind, src, to, &l4))
        }
        (IpAddr::V6(src), IpAddr::V6(to)) => {
            useless(what.df.is_some(), "df")?;
            let l4 = transport(what, kind, sender, V6_LEN, (src.into(), to.into()))?;
            (EtherTypes::Ipv6, v6(what, kind, src, to, &l4))
        }
        (src, to) => return Err(CraftError::Families(src, to)),
    };
    Ok(frame(what, sender, ip.0, &ip.1))
}

/// Ethernet, and a tag where there is to be one.
fn frame(what: &TraceDescribed, sender: &Sender, ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut head = [0; ETHERNET_LEN];
    if let Some(mut header) = MutableEthernetPacket::new(&mut head) {
        header.set_destination(what.dst_mac.unwrap_or(sender.next).0.into());
        header.set_source(what.src_mac.unwrap_or(sender.mac).0.into());
        header.set_ethertype(if what.vlan.is_some() { EtherTypes::Vlan } else { ethertype });
    }
    let mut tag = [0; TAG_LEN];
    if let (Some(vid), Some(mut header)) = (what.vlan, MutableVlanPacket::new(&mut tag)) {
        header.set_vlan_identifier(vid);
        header.set_ethertype(ethertype);
        return [&head[..], &tag, payload].concat();
    }
    [&head[..], payload].concat()
}

fn arp(mac: MacAddr, src: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0; ARP_LEN];
    if let Some(mut packet) = MutableArpPacket::new(&mut bytes) {
        packet.set_hardware_type(ArpHardwareTypes::Ethernet);
        packet.set_protocol_type(EtherTypes::Ipv4);
        packet.set_hw_addr_len(6);
        packet.set_proto_addr_len(4);
        packet.set_operation(ArpOperations::Request);
        packet.set_sender_hw_addr(mac.0.into());
        packet.set_sender_proto_addr(src);
        packet.set_target_proto_addr(to);
    }
    bytes
}

fn protocol(kind: Kind, v4: bool) -> IpNextHeaderProtocol {
    match kind {
        Kind::Tcp(_) => IpNextHeaderProtocols::Tcp,
        Kind::Udp(_) => IpNextHeaderProtocols::Udp,
        Kind::Echo | Kind::Arp if v4 => IpNextHeaderProtocols::Icmp,
        Kind::Echo | Kind::Arp => IpNextHeaderProtocols::Icmpv6,
    }
}

fn v4(what: &TraceDescribed, kind: Kind, src: Ipv4Addr, to: Ipv4Addr, l4: &[u8]) -> Vec<u8> {
    let mut head = [0; V4_LEN];
    if let Some(mut packet) = MutableIpv4Packet::new(&mut head) {
        packet.set_version(4);
        packet.set_header_length(5);
        // `transport` has seen to it that this fits.
        packet.set_total_length(u16::try_from(V4_LEN.saturating_add(l4.len())).unwrap_or(u16::MAX));
        packet.set_identification(1);
        // Linux asks for the path MTU with TCP.
        let df = what.df.unwrap_or(matches!(kind, Kind::Tcp(_)));
        packet.set_flags(if df { Ipv4Flags::DontFragment } else { 0 });
        packet.set_ttl(what.ttl.unwrap_or(HOPS));
        packet.set_next_level_protocol(protocol(kind, true));
        packet.set_source(src);
        packet.set_destination(to);
        let sum = ipv4::checksum(&packet.to_immutable());
        packet.set_checksum(sum);
    }
    [&head[..], l4].concat()
}

fn v6(what: &TraceDescribed, kind: Kind, src: Ipv6Addr, to: Ipv6Addr, l4: &[u8]) -> Vec<u8> {
    let mut head = [0; V6_LEN];
    if let Some(mut packet) = MutableIpv6Packet::new(&mut head) {
        packet.set_version(6);
        packet.set_payload_length(u16::try_from(l4.len()).unwrap_or(u16::MAX));
        packet.set_next_header(protocol(kind, false));
        packet.set_hop_limit(what.ttl.unwrap_or(HOPS));
        packet.set_source(src);
        packet.set_destination(to);
    }
    [&head[..], l4].concat()
}

/// What is behind the IP header, as long as the packet is to be.
fn transport(
    what: &TraceDescribed,
    kind: Kind,
    sender: &Sender,
    ip: usize,
    addresses: (IpAddr, IpAddr),
) -> Result<Vec<u8>, CraftError> {
    let syn = what.flags.is_empty() || what.flags.contains(&TcpFlag::Syn);
    let (head, payload) = match kind {
        Kind::Tcp(_) if syn => (TCP_LEN + MSS_LEN, 0),
        Kind::Tcp(_) => (TCP_LEN, 0),
        Kind::Udp(_) => (UDP_LEN, 0),
        Kind::Echo | Kind::Arp => (ECHO_LEN, PING),
    };
    let headers = ip.saturating_add(head);
    let length = what.length.map_or(headers.saturating_add(payload), usize::from);
    if !(headers..=LONGEST).contains(&length) {
        return Err(CraftError::Length { headers });
    }
    let mut l4 = vec![0; length.saturating_sub(ip)];
    let sport = what.sport.unwrap_or(SPORT);
    match kind {
        Kind::Tcp(port) => segment(&mut l4, what, syn, (sport, port), sender.mtu, addresses),
        Kind::Udp(port) => datagram(&mut l4, (sport, port), addresses),
        Kind::Echo | Kind::Arp => echo(&mut l4, what.sport.unwrap_or(1), addresses),
    }
    Ok(l4)
}

fn segment(
    l4: &mut [u8],
    what: &TraceDescribed,
    syn: bool,
    (sport, dport): (u16, u16),
    mtu: u16,
    addresses: (IpAddr, IpAddr),
) {
    let Some(mut packet) = MutableTcpPacket::new(l4) else { return };
    packet.set_source(sport);
    packet.set_destination(dport);
    packet.set_sequence(1);
    packet.set_window(64_240);
    let bits = what.flags.iter().fold(0, |bits, flag| bits | bit(*flag));
    packet.set_flags(if what.flags.is_empty() { TcpFlags::SYN } else { bits });
    packet.set_data_offset(if syn { 6 } else { 5 });
    if syn {
        // What the container's kernel says: what fits its MTU.
        let headers = if addresses.0.is_ipv4() { 40 } else { 60 };
        packet.set_options(&[TcpOption::mss(mtu.saturating_sub(headers))]);
    }
    let packet_now = packet.to_immutable();
    let sum = match addresses {
        (IpAddr::V4(src), IpAddr::V4(dst)) => tcp::ipv4_checksum(&packet_now, &src, &dst),
        (IpAddr::V6(src), IpAddr::V6(dst)) => tcp::ipv6_checksum(&packet_now, &src, &dst),
        _ => 0,
    };
    packet.set_checksum(sum);
}

const fn bit(flag: TcpFlag) -> u8 {
    match flag {
        TcpFlag::Fin => TcpFlags::FIN,
        TcpFlag::Syn => TcpFlags::SYN,
        TcpFlag::Rst => TcpFlags::RST,
        TcpFlag::Psh => TcpFlags::PSH,
        TcpFlag::Ack => TcpFlags::ACK,
        TcpFlag::Urg => TcpFlags::URG,
        TcpFlag::Ece => TcpFlags::ECE,
        TcpFlag::Cwr => TcpFlags::CWR,
    }
}

fn datagram(l4: &mut [u8], (sport, dport): (u16, u16), addresses: (IpAddr, IpAddr)) {
    let length = u16::try_from(l4.len()).unwrap_or(u16::MAX);
    let Some(mut packet) = MutableUdpPacket::new(l4) else { return };
    packet.set_source(sport);
    packet.set_destination(dport);
    packet.set_length(length);
    let packet_now = packet.to_immutable();
    let sum = match addresses {
        (IpAddr::V4(src), IpAddr::V4(dst)) => udp::ipv4_checksum(&packet_now, &src, &dst),
        (IpAddr::V6(src), IpAddr::V6(dst)) => udp::ipv6_checksum(&packet_now, &src, &dst),
        _ => 0,
    };
    // RFC 768: 0 would say that there is none.
    packet.set_checksum(if sum == 0 { 0xffff } else { sum });
}

fn echo(l4: &mut [u8], id: u16, addresses: (IpAddr, IpAddr)) {
    if let (IpAddr::V6(src), IpAddr::V6(dst)) = addresses {
        if let Some(place) = l4.get_mut(4..6) {
            place.copy_from_slice(&id.to_be_bytes());
        }
        let Some(mut packet) = MutableIcmpv6Packet::new(l4) else { return };
        packet.set_icmpv6_type(Icmpv6Types::EchoRequest);
        let sum = icmpv6::checksum(&packet.to_immutable(), &src, &dst);
        return packet.set_checksum(sum);
    }
    let Some(mut packet) = echo_request::MutableEchoRequestPacket::new(l4) else { return };
    packet.set_icmp_type(IcmpTypes::EchoRequest);
    packet.set_identifier(id);
    packet.set_sequence_number(1);
    let sum = icmp::IcmpPacket::new(packet.packet()).map_or(0, |packet| icmp::checksum(&packet));
    packet.set_checksum(sum);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use switch::checksum::{add, pseudo, sum};
    use switch::parse::{PROTO_ICMP, parse};
    use switch::port::PortId;
    use switch::vnet::VnetHdr;

    use super::*;
    use crate::trace::line;

    const SENDER: Sender = Sender {
        mac: MacAddr([2, 0, 0, 0, 0, 2]),
        address: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2)),
        next: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
    };

    fn to(text: &str) -> TraceDescribed {
        TraceDescribed { to: text.parse().unwrap(), ..TraceDescribed::default() }
    }

    /// The frame as a line; its checksums are right.
    fn crafted(what: &TraceDescribed) -> Result<String, CraftError> {
        let six = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2));
        let sender = Sender { address: if what.to.is_ipv6() { six } else { SENDER.address }, ..SENDER };
        let frame = craft(what, &sender)?;
        let packet = parse(&frame, &VnetHdr::default(), PortId(0), 0).unwrap();
        let (key, meta) = (packet.key, packet.meta);
        if !what.arp {
            let l4 = &frame[usize::from(meta.l4_off)..];
            let header = match key.proto {
                PROTO_ICMP => 0,
                proto => pseudo(key.src, key.dst, proto, l4.len() as u32),
            };
            assert_eq!(add(header, sum(l4)), 0xffff, "{what:?}");
        }
        Ok(line(&frame, Ok(&packet)))
    }

    #[test]
    fn what_the_container_would_send() {
        const LINK: &str = "02:00:00:00:00:02 > 02:00:00:00:00:01, ";
        let mac = MacAddr([2, 9, 9, 9, 9, 9]);
        for (what, text) in [
            (to("10.2.0.3"), "IPv4 10.1.0.2 > 10.2.0.3: ICMP echo request, id 1, ttl 64, length 84"),
            (
                TraceDescribed { tcp: Some(443), ..to("10.2.0.3") },
                "IPv4 10.1.0.2.40000 > 10.2.0.3.443: TCP [S], mss 1460, ttl 64, DF, length 44",
            ),
            (
                TraceDescribed {
                    tcp: Some(443),
                    flags: vec![TcpFlag::Fin, TcpFlag::Ack],
                    df: Some(false),
                    ttl: Some(3),
                    length: Some(1500),
                    sport: Some(9),
                    ..to("10.2.0.3")
                },
                "IPv4 10.1.0.2.9 > 10.2.0.3.443: TCP [F.], ttl 3, length 1500",
            ),
            (
                TraceDescribed { udp: Some(53), src_ip: Some([10, 9, 9, 9].into()), ..to("10.2.0.3") },
                "IPv4 10.9.9.9.40000 > 10.2.0.3.53: UDP, ttl 64, length 28",
            ),
            (TraceDescribed { arp: true, ..to("10.1.0.1") }, "ARP who has 10.1.0.1, tell 10.1.0.2"),
            (
                TraceDescribed { udp: Some(53), ..to("fd00:2::3") },
                "IPv6 fd00:1::2.40000 > fd00:2::3.53: UDP, hop limit 64, length 48",
            ),
            (
                TraceDescribed { icmp: true, ..to("fd00:2::3") },
                "IPv6 fd00:1::2 > fd00:2::3: ICMPv6 echo request, id 1, hop limit 64, length 104",
            ),
            (
                TraceDescribed { tcp: Some(22), ..to("fd00:2::3") },
                "IPv6 fd00:1::2.40000 > fd00:2::3.22: TCP [S], mss 1440, hop limit 64, length 64",
            ),
        ] {
            assert_eq!(crafted(&what), Ok(format!("{LINK}{text}")));
        }
        let tagged =
            TraceDescribed { src_mac: Some(mac), dst_mac: Some(mac), vlan: Some(10), ..to("10.1.0.1") };
        let text = crafted(&tagged).unwrap();
        assert!(text.starts_with("02:09:09:09:09:09 > 02:09:09:09:09:09, vlan 10, IPv4"), "{text}");
    }

    #[test]
    fn what_makes_no_packet() {
        let useless = |option, protocol| CraftError::Useless { option, protocol };
        for (what, error) in [
            (TraceDescribed { tcp: Some(1), udp: Some(1), ..to("10.2.0.3") }, CraftError::Protocols),
            (TraceDescribed { flags: vec![TcpFlag::Syn], ..to("10.2.0.3") }, useless("flags", "ICMP")),
            (TraceDescribed { arp: true, ttl: Some(1), ..to("10.2.0.3") }, useless("ttl", "ARP")),
            (TraceDescribed { df: Some(true), ..to("fd00::1") }, useless("df", "ICMP")),
            (TraceDescribed { arp: true, ..to("fd00::1") }, CraftError::ArpFamily),
            (TraceDescribed { vlan: Some(4096), ..to("10.2.0.3") }, CraftError::Vlan(4096)),
            (
                TraceDescribed { tcp: Some(1), length: Some(43), ..to("10.2.0.3") },
                CraftError::Length { headers: 44 },
            ),
        ] {
            assert_eq!(crafted(&what), Err(error));
        }
        let families = TraceDescribed { src_ip: Some([10, 1, 0, 2].into()), ..to("fd00::1") };
        assert!(matches!(crafted(&families), Err(CraftError::Families(..))));
    }

    proptest! {
        #[test]
        fn every_length_and_port_makes_a_sound_packet(
            protocol in 0..3, ports: [u16; 2], length in 64u16.., six: bool, ttl: u8,
        ) {
            let [sport, port] = ports;
            let what = TraceDescribed {
                tcp: (protocol == 0).then_some(port),
                udp: (protocol == 1).then_some(port),
                icmp: protocol == 2,
                sport: Some(sport),
                length: Some(length),
                ttl: Some(ttl),
                ..to(if six { "fd00:2::3" } else { "10.2.0.3" })
            };
            let end = format!("length {length}");
            prop_assert!(crafted(&what).unwrap().ends_with(&end));
        }
    }
}
