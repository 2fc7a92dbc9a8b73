//! ARP as a gateway speaks it (RFC 826, RFC 5227).

use std::net::Ipv4Addr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr};
use switch::flow::{Arp, VlanTag};
use switch::mac::MacAddr;
use switch::parse::ETHERTYPE_ARP;

use crate::build::{self, Link, Origin, hardware};

/// `operation` of an [`Arp`] that asks.
const REQUEST: u16 = 1;

/// Writes the reply to `request`, that its target address is at `mac`, to `out`; returns its length in bytes.
///
/// `None` where it is no request, asks from a group address (the reply would go to everybody), or `out` is too short.
/// A probe (RFC 5227 section 2.1.1) is answered like any other: the prober learns that the address is taken.
pub fn reply(request: &Arp, mac: MacAddr, vlan: Option<VlanTag>, out: &mut [u8]) -> Option<usize> {
    if request.operation != REQUEST || request.sender_mac.is_group() {
        return None;
    }
    let message = Message {
        operation: ArpOperation::Reply,
        sender: (mac, request.target_ip),
        target: (request.sender_mac, request.sender_ip),
    };
    message.write(request.sender_mac, vlan, out)
}

/// Writes a request for the MAC of `target` to `out`: broadcast, or to the MAC `to` that is known and shall be
/// confirmed (RFC 1122 section 2.3.2.1 (2)); returns its length in bytes.
///
/// `None` where `origin.address` is not IPv4, or `out` is too short.
pub fn request(origin: &Origin, target: Ipv4Addr, to: Option<MacAddr>, out: &mut [u8]) -> Option<usize> {
    let sender = (origin.mac, origin.address.to_ipv4_mapped()?);
    let message = Message { operation: ArpOperation::Request, sender, target: (MacAddr::ZERO, target) };
    message.write(to.unwrap_or(MacAddr::BROADCAST), origin.vlan, out)
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
    fn write(&self, dst: MacAddr, vlan: Option<VlanTag>, out: &mut [u8]) -> Option<usize> {
        let repr = ArpRepr::EthernetIpv4 {
            operation: self.operation,
            source_hardware_addr: hardware(self.sender.0),
            source_protocol_addr: self.sender.1,
            target_hardware_addr: hardware(self.target.0),
            target_protocol_addr: self.target.1,
        };
        let link = Link { src: self.sender.0, dst, vlan };
        let (len, body) = build::ethernet(out, &link, ETHERTYPE_ARP, repr.buffer_len())?;
        repr.emit(&mut ArpPacket::new_unchecked(body));
        Some(len)
    }
}
