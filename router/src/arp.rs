//! ARP as a gateway speaks it (RFC 826, RFC 5227).

use std::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr};
use switch::flow::Arp;
use switch::mac::MacAddr;
use switch::parse::ETHERTYPE_ARP;

use crate::build::{self, Link, Origin, hardware};

/// `operation` of an [`Arp`] that asks.
const REQUEST: u16 = 1;

/// Writes the reply to `request`, that its target address is at `mac`, to `out`; returns its length in bytes.
///
/// `None` where it is no request, asks from a group address (the reply would go to everybody), or `out` is too short.
/// A probe (RFC 5227 section 2.1.1) is answered like any other: the prober learns that the address is taken.
pub fn reply(request: &Arp, mac: MacAddr, out: &mut [u8]) -> Option<usize> {
    if request.operation != REQUEST || request.sender_mac.is_group() {
        return None;
    }
    let message = Message {
        operation: ArpOperation::Reply,
        sender: (mac, request.target_ip),
        target: (request.sender_mac, request.sender_ip),
    };
    message.write(request.sender_mac, out)
}

/// Writes a request for the MAC of `target` to `out`: broadcast, or to the MAC `to` that is known and shall be
/// confirmed (RFC 1122 section 2.3.2.1 (2)); returns its length in bytes.
///
/// `None` where `origin.address` is not IPv4, or `out` is too short.
pub fn request(origin: &Origin, target: Ipv4Addr, to: Option<MacAddr>, out: &mut [u8]) -> Option<usize> {
    let sender = (origin.mac, origin.address.to_ipv4_mapped()?);
    let message = Message { operation: ArpOperation::Request, sender, target: (MacAddr::ZERO, target) };
    message.write(to.unwrap_or(MacAddr::BROADCAST), out)
}

/// Writes an announcement (RFC 5227 section 2.3) of our own address to `out`, to everybody; returns its length in
/// bytes.
///
/// `None` where `origin.address` is not IPv4, or `out` is too short.
pub fn announce(origin: &Origin, out: &mut [u8]) -> Option<usize> {
    request(origin, origin.address.to_ipv4_mapped()?, None, out)
}

struct Message {
    operation: ArpOperation,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
}

impl Message {
    fn write(&self, dst: MacAddr, out: &mut [u8]) -> Option<usize> {
        let repr = ArpRepr::EthernetIpv4 {
            operation: self.operation,
            source_hardware_addr: hardware(self.sender.0),
            source_protocol_addr: self.sender.1,
            target_hardware_addr: hardware(self.target.0),
            target_protocol_addr: self.target.1,
        };
        let link = Link { src: self.sender.0, dst };
        let (len, body) = build::ethernet(out, &link, ETHERTYPE_ARP, repr.buffer_len())?;
        repr.emit(&mut ArpPacket::new_unchecked(body));
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use switch::flow::{Body, Packet};

    use super::*;
    use crate::testing::{FAR, HOST, HOST_MAC, OUR_MAC, OURS, origin, origin6, parse};

    fn written(write: impl Fn(&mut [u8]) -> Option<usize>) -> (Packet, Arp) {
        let mut out = [0xa5; 100];
        let len = write(&mut out).unwrap();
        assert_eq!(write(&mut out[..len - 1]), None, "one byte too few");
        let packet = parse(&out[..len]);
        let Body::Arp(arp) = packet.meta.body else { panic!("no ARP: {packet:?}") };
        (packet, arp)
    }

    const QUESTION: Arp = Arp {
        operation: 1,
        sender_mac: HOST_MAC,
        sender_ip: HOST,
        target_mac: MacAddr::ZERO,
        target_ip: OURS,
    };

    #[test]
    fn a_reply_goes_to_who_asked() {
        let (packet, arp) = written(|out| reply(&QUESTION, OUR_MAC, out));
        assert_eq!((packet.meta.src, packet.meta.dst, packet.meta.vlan), (OUR_MAC, HOST_MAC, None));
        let expected =
            Arp { operation: 2, sender_mac: OUR_MAC, sender_ip: OURS, target_mac: HOST_MAC, target_ip: HOST };
        assert_eq!(arp, expected);
        let probe = Arp { sender_ip: Ipv4Addr::UNSPECIFIED, ..QUESTION };
        assert_eq!(written(|out| reply(&probe, OUR_MAC, out)).1.target_ip, Ipv4Addr::UNSPECIFIED);
    }

    #[test]
    fn nothing_is_said_to_everybody_for_one_who_asks_so() {
        for arp in [
            Arp { sender_mac: MacAddr::BROADCAST, ..QUESTION },
            Arp { sender_mac: MacAddr([1, 0, 0x5e, 0, 0, 1]), ..QUESTION },
            Arp { operation: 2, ..QUESTION },
        ] {
            assert_eq!(reply(&arp, OUR_MAC, &mut [0; 100]), None);
        }
    }

    #[test]
    fn requests_and_announcements() {
        let (packet, arp) = written(|out| request(&origin(), FAR, None, out));
        assert_eq!((packet.meta.src, packet.meta.dst), (OUR_MAC, MacAddr::BROADCAST));
        let asked = Arp {
            operation: 1,
            sender_mac: OUR_MAC,
            sender_ip: OURS,
            target_mac: MacAddr::ZERO,
            target_ip: FAR,
        };
        assert_eq!(arp, asked);
        let (packet, arp) = written(|out| request(&origin(), FAR, Some(HOST_MAC), out));
        assert_eq!((packet.meta.dst, arp), (HOST_MAC, asked));
        let (packet, arp) = written(|out| announce(&origin(), out));
        assert_eq!((packet.meta.dst, arp), (MacAddr::BROADCAST, Arp { target_ip: OURS, ..asked }));
        assert_eq!(request(&origin6(), FAR, None, &mut [0; 100]), None);
    }
}
