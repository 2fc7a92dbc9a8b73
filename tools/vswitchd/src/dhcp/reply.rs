//! What we say: the message, and the packet it is in.

use std::net::{Ipv4Addr, Ipv6Addr};

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode};
use dhcproto::{Encodable, Encoder};
use ipnet::Ipv4Net;
use switch::checksum::{add, pseudo, sum};
use switch::mac::MacAddr;
use switch::parse::PROTO_UDP;

use super::request::Request;

/// l4 port of servers.
pub const SERVER: u16 = 67;
/// l4 port of clients.
pub const CLIENT: u16 = 68;
/// RFC 951 section 3, RFC 2131 section 4.1: clients of old expect no less.
const SHORTEST: usize = 300;

const IP_LEN: usize = 20;
const UDP_LEN: usize = 8;

/// What the network is like, for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The address, and the subnet around it; the broadcast address is its last.
    pub subnet: Ipv4Net,
    /// Who answers: the gateway.
    pub server: Ipv4Addr,
    /// Where the default route leads.
    pub router: Option<Ipv4Addr>,
    /// Who knows names.
    pub dns: Option<Ipv4Addr>,
    /// In which names are found.
    pub domain: Option<String>,
    /// What the client is called.
    pub hostname: Option<String>,
    /// Largest IP packet.
    pub mtu: u16,
}

/// An answer, and whom it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The client's MAC, or all.
    pub mac: MacAddr,
    /// The client's address, or all.
    pub address: Ipv4Addr,
    /// The gateway's address.
    pub from: Ipv4Addr,
    /// The UDP payload.
    pub message: Vec<u8>,
}

impl Reply {
    /// OFFER or ACK of `address` for so many seconds; `None`: an answer to INFORM, which has an address.
    pub fn grant(
        kind: MessageType,
        request: &Request,
        facts: &Facts,
        lease: Option<(Ipv4Addr, u32)>,
    ) -> Option<Self> {
        let mut message = answer_to(request, kind, facts.server);
        let acknowledged = kind == MessageType::Ack;
        message.set_ciaddr(if acknowledged { request.ciaddr } else { Ipv4Addr::UNSPECIFIED });
        let options = message.opts_mut();
        let mut say = |option: DhcpOption| drop(options.insert(option));
        say(DhcpOption::SubnetMask(facts.subnet.netmask()));
        say(DhcpOption::BroadcastAddr(facts.subnet.broadcast()));
        say(DhcpOption::InterfaceMtu(facts.mtu));
        if let Some(router) = facts.router {
            say(DhcpOption::Router(vec![router]));
        }
        if let Some(dns) = facts.dns {
            say(DhcpOption::DomainNameServer(vec![dns]));
        }
        if let Some(domain) = &facts.domain {
            say(DhcpOption::DomainName(domain.clone()));
        }
        if let Some(hostname) = &facts.hostname {
            say(DhcpOption::Hostname(hostname.clone()));
        }
        if let Some((_, seconds)) = lease {
            // RFC 2131 section 4.4.5: T1 and T2 at half and at seven eighths.
            say(DhcpOption::AddressLeaseTime(seconds));
            say(DhcpOption::Renewal(seconds / 2));
            say(DhcpOption::Rebinding(seconds - seconds / 8));
        }
        let given = lease.map_or(Ipv4Addr::UNSPECIFIED, |(address, _)| address);
        message.set_yiaddr(given);
        // RFC 2131 section 4.1.
        let (mac, address) = if !request.ciaddr.is_unspecified() {
            (request.mac, request.ciaddr)
        } else if request.flags.broadcast() || given.is_unspecified() {
            (MacAddr::BROADCAST, Ipv4Addr::BROADCAST)
        } else {
            (request.mac, given)
        };
        Some(Self { mac, address, from: facts.server, message: encode(&message)? })
    }

    /// NAK: to all, because the address that the client has may be wrong here (RFC 2131 section 4.3.2).
    pub fn refuse(request: &Request, server: Ipv4Addr) -> Option<Self> {
        let message = encode(&answer_to(request, MessageType::Nak, server))?;
        Some(Self { mac: MacAddr::BROADCAST, address: Ipv4Addr::BROADCAST, from: server, message })
    }

    /// Writes the IP packet, with whole checksums; its length.
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        let udp_len = UDP_LEN.checked_add(self.message.len())?;
        let len = IP_LEN.checked_add(udp_len)?;
        let (total, udp_total) = (u16::try_from(len).ok()?, u16::try_from(udp_len).ok()?);
        let packet = out.get_mut(..len)?;
        let (ip, udp) = packet.split_at_mut_checked(IP_LEN)?;
        let (header, payload) = udp.split_at_mut_checked(UDP_LEN)?;
        payload.copy_from_slice(&self.message);
        let [t0, t1] = total.to_be_bytes();
        let [a, b, c, d] = self.from.octets();
        let [e, f, g, h] = self.address.octets();
        // RFC 791: no options, not to be fragmented, 64 hops.
        ip.copy_from_slice(&[0x45, 0, t0, t1, 0, 0, 0x40, 0, 64, PROTO_UDP, 0, 0, a, b, c, d, e, f, g, h]);
        let checksum = !sum(ip);
        put(ip, 10, checksum);
        let [s0, s1] = SERVER.to_be_bytes();
        let [c0, c1] = CLIENT.to_be_bytes();
        let [u0, u1] = udp_total.to_be_bytes();
        header.copy_from_slice(&[s0, s1, c0, c1, u0, u1, 0, 0]);
        let over = pseudo(mapped(self.from), mapped(self.address), PROTO_UDP, u32::from(udp_total));
        // RFC 768: a checksum of 0 is sent as all ones.
        let checksum = match !add(over, sum(udp)) {
            0 => u16::MAX,
            checksum => checksum,
        };
        put(udp, 6, checksum);
        Some(len)
    }
}

fn mapped(address: Ipv4Addr) -> Ipv6Addr {
    address.to_ipv6_mapped()
}

fn put(bytes: &mut [u8], at: usize, word: u16) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *place = word.to_be_bytes();
    }
}

fn answer_to(request: &Request, kind: MessageType, server: Ipv4Addr) -> Message {
    let zero = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(request.xid, zero, zero, zero, zero, &request.mac.0);
    message.set_opcode(Opcode::BootReply).set_flags(request.flags);
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(server));
    if let Some(id) = &request.client_id {
        options.insert(DhcpOption::ClientIdentifier(id.clone()));
    }
    message
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(SHORTEST);
    message.encode(&mut Encoder::new(&mut bytes)).ok()?;
    bytes.resize(bytes.len().max(SHORTEST), 0);
    Some(bytes)
}

/// The UDP payload of an IPv4 packet for a server; `None`: it is not whole, not right, or not for one.
pub fn payload(packet: &[u8]) -> Option<&[u8]> {
    let header_len = usize::from(packet.first()? & 0x0f).checked_mul(4)?;
    let header = packet.get(..header_len).filter(|header| header.len() >= IP_LEN)?;
    let at = |place: usize| header.get(place..).and_then(|rest| rest.first_chunk::<4>()).copied();
    let (source, target) = (Ipv4Addr::from(at(12)?), Ipv4Addr::from(at(16)?));
    let total = usize::from(u16::from_be_bytes(*header.get(2..)?.first_chunk()?));
    let udp = packet.get(header.len()..total)?;
    let [_, _, p0, p1, l0, l1, c0, c1] = *udp.first_chunk::<UDP_LEN>()?;
    let (port, length) = (u16::from_be_bytes([p0, p1]), u16::from_be_bytes([l0, l1]));
    let udp = udp.get(..usize::from(length))?;
    let over = pseudo(mapped(source), mapped(target), PROTO_UDP, u32::from(length));
    let verifies = [c0, c1] == [0, 0] || add(over, sum(udp)) == u16::MAX;
    let is_ours = header.first()? >> 4 == 4 && *header.get(9)? == PROTO_UDP && port == SERVER && verifies;
    udp.get(UDP_LEN..).filter(|_| is_ours)
}
