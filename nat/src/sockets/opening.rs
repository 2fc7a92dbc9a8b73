//! How flows of containers begin: whether there may be one, and where its socket leads.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use rustix::io::Errno;
use switch::drop::DropReason;
use switch::flow::Packet;
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};
use switch::tick::Tick;

use super::cx::{self, Bytes, Watch};
use super::flows::{Flow, Kind};
use super::types::{Emit, Link, Outcome, Unreachable, Way};
use super::wire::flag;
use super::{Sockets, echo, tcp, udp};

impl Sockets {
    /// The flow of a packet, told what is known of its container now.
    pub(super) fn known(
        &mut self,
        packet: &Packet,
        link: &Link,
        now: Tick,
        out: &mut impl Emit,
    ) -> Option<u32> {
        let id = self.flows.find(&packet.key)?;
        let (flow, _) = self.flows.get_mut(id)?;
        if flow.link.port != link.port {
            // The address moved to another port, and connections do not move with it.
            self.end(id, now, out);
            return None;
        }
        (flow.link, flow.used) = (*link, now);
        Some(id)
    }

    /// A new flow for a packet that belongs to none.
    pub(super) fn open(
        &mut self,
        bytes: Bytes<'_>,
        packet: &Packet,
        link: &Link,
        way: Way,
        now: Tick,
        out: &mut impl Emit,
    ) -> Result<u32, Outcome> {
        let key = &packet.key;
        if !out.may_open(packet) {
            return Err(Outcome::Unreachable(Unreachable::Egress));
        }
        if way == Way::Known && packet.meta.tcp.is_none() {
            return Err(Outcome::Unreachable(Unreachable::Port));
        }
        if let Some(tcp) = packet.meta.tcp
            && (way == Way::Known || tcp.flags & (flag::SYN | flag::ACK | flag::RST) != flag::SYN)
        {
            tcp::refuse(out, key, link, &tcp);
            return Err(Outcome::Taken);
        }
        self.make_room(link.port, now, out);
        let opened = self.try_open(bytes.of(out), packet, link, way, now);
        let Some(tcp) = packet.meta.tcp else { return opened };
        match opened {
            Err(Outcome::Dropped(_)) => tcp::refuse(out, key, link, &tcp),
            // On the same host the answer comes at once. TCP has its own way to say it (RFC 9293 section 3.10.7.1).
            Err(Outcome::Unreachable(Unreachable::Port)) => {
                tcp::refuse(out, key, link, &tcp);
                self.counters.refused += 1;
                return Err(Outcome::Taken);
            }
            _ => {}
        }
        opened
    }

    fn try_open(
        &mut self,
        frame: &[u8],
        packet: &Packet,
        link: &Link,
        way: Way,
        now: Tick,
    ) -> Result<u32, Outcome> {
        let key = packet.key;
        if !self.flows.has_room(link.port) {
            self.counters.over_quota += 1;
            return Err(Outcome::Dropped(DropReason::UplinkQuota));
        }
        let Some((id, token)) = self.flows.next() else {
            return Err(Outcome::Dropped(DropReason::UplinkQuota));
        };
        let to = cx::destination(&key, way);
        let allowed = way == Way::Loopback || self.is_allowed(to).map_err(|_| self.no_socket())?;
        if !allowed && !self.is_published(key.proto, to) {
            self.counters.unreachable += 1;
            return Err(Outcome::Unreachable(Unreachable::Prohibited));
        }
        let mapped = if key.proto == PROTO_UDP { self.mappings.find(&key) } else { None };
        let watch = Watch { epoll: self.epoll.as_fd(), token };
        let kind = match (key.proto, packet.meta.tcp) {
            (PROTO_TCP, Some(tcp)) => {
                let syn = tcp::Syn::read(frame, packet, link);
                tcp::connect(to, &tcp, syn, self.sequence.first(&key, now), watch).map(Kind::Tcp)
            }
            (PROTO_UDP, _) => udp::Udp::connect(to, mapped, watch).map(|(udp, port)| {
                self.mappings.add(&key, port);
                Kind::Udp(udp)
            }),
            _ => echo::Echo::connect(to, watch).map(Kind::Echo),
        };
        let kind = kind.map_err(|errno| self.not_opened(key.proto, to, errno))?;
        self.insert(Flow { key, link: *link, used: now, inbound: false, bytes: (0, 0), kind });
        Ok(id)
    }

    /// What a socket that could not be made or connected means for the packet.
    fn not_opened(&mut self, proto: u8, to: SocketAddr, errno: Errno) -> Outcome {
        // A ping socket may not be made by everybody; nothing is wrong with the destination.
        if matches!(proto, PROTO_ICMP | PROTO_ICMPV6) && errno == Errno::ACCESS {
            return Outcome::Dropped(DropReason::UplinkProtocol);
        }
        // Where IPv6 is switched off the kernel finds no address to speak from, and says that instead.
        let no_source = errno == Errno::ADDRNOTAVAIL && !cx::has_source(to);
        match cx::unreachable(if no_source { Errno::NETUNREACH } else { errno }) {
            Some(Unreachable::Port) => Outcome::Unreachable(Unreachable::Port),
            Some(why) => {
                self.counters.unreachable += 1;
                Outcome::Unreachable(why)
            }
            None => self.no_socket(),
        }
    }

    fn no_socket(&mut self) -> Outcome {
        self.counters.no_socket += 1;
        Outcome::Dropped(DropReason::UplinkError)
    }

    /// Nothing of the host is reached by its own addresses, and no socket is made for groups.
    fn is_allowed(&mut self, address: SocketAddr) -> io::Result<bool> {
        let ip = address.ip();
        let group = ip.is_multicast() || ip == std::net::Ipv4Addr::BROADCAST || ip.is_unspecified();
        if group || self.limits.host {
            return Ok(!group);
        }
        // An address within an address: neither may be the host's, whoever takes the outer one apart.
        let inner = cx::embedded(ip);
        Ok(!self.own.contains(ip)? && !inner.map_or(Ok(false), |inner| self.own.contains(inner.into()))?)
    }
}
