//! A conntrack, and packets that it is asked about as the page of hops asks.
#![allow(dead_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

use nat::conntrack::{Conntrack, EndPoint, Filtering, In, Inside, Known, Limits, Rule, Rules, Timeouts, Way};
use switch::drop::DropReason;
use switch::flow::{Body, Csum, FlowKey, Fragment, Gso, L3, Meta, Packet, TcpMeta};
use switch::mac::MacAddr;
use switch::parse::PROTO_TCP;
use switch::port::PortId;
use switch::tick::Tick;

pub const ACK: u8 = 0x10;
pub const SYN: u8 = 0x02;

pub fn v4(last: u32) -> Ipv6Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + last).to_ipv6_mapped()
}

/// Our address outside, one of several.
pub fn ours(which: u32) -> Ipv6Addr {
    Ipv4Addr::from_bits(0xc633_6400 + which).to_ipv6_mapped()
}

pub fn remote(which: u32) -> Ipv6Addr {
    Ipv4Addr::from_bits(0xcb00_7100 + which).to_ipv6_mapped()
}

/// The same of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn container(self, which: u32) -> Ipv6Addr {
        if self == Self::V4 { v4(which) } else { v6(1, which) }
    }

    pub fn ours(self, which: u32) -> Ipv6Addr {
        if self == Self::V4 { ours(which) } else { v6(9, which) }
    }

    pub fn remote(self, which: u32) -> Ipv6Addr {
        if self == Self::V4 { remote(which) } else { v6(0xdb8, which) }
    }
}

fn v6(network: u16, last: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(Ipv6Addr::new(0xfd00, network, 0, 0, 0, 0, 0, 0).to_bits() + u128::from(last))
}

pub fn end(address: Ipv6Addr, port: u16) -> EndPoint {
    EndPoint { address, port }
}

pub fn inside(address: Ipv6Addr, port: u16) -> Inside {
    Inside { zone: 0, end: end(address, port) }
}

pub fn rules(addresses: u32, published: Vec<Rule>, filtering: Filtering) -> Rules {
    let addresses = (1..=addresses).map(ours).collect();
    Rules::new(addresses, published, (filtering, false), Timeouts::default(), 7)
}

pub fn key(proto: u8, from: EndPoint, to: EndPoint) -> FlowKey {
    FlowKey { zone: 0, proto, src: from.address, dst: to.address, sport: from.port, dport: to.port }
}

pub fn meta(proto: u8, port: u16, flags: u8) -> Meta {
    let tcp = TcpMeta { flags, seq: 1, ack: 1, window: 1000, payload: 0, scale: None };
    Meta {
        port: PortId(port),
        dst: MacAddr([2; 6]),
        src: MacAddr([6; 6]),
        vid: 0,
        vlan: None,
        inner_vlan: None,
        ethertype: 0x0800,
        l3: L3::V4,
        l3_off: 14,
        l4_off: 34,
        headers_len: 54,
        frame_len: 114,
        l3_end: 114,
        ttl: 64,
        tos: 0,
        df: true,
        fragment: Fragment::No,
        fragment_id: 0,
        gso: Gso::None,
        csum: Csum::Full,
        tcp: (proto == PROTO_TCP).then_some(tcp),
        body: Body::None,
    }
}

pub struct Lab {
    pub conntrack: Conntrack,
    pub rules: Rules,
    pub now: Tick,
}

impl Lab {
    pub fn new(limits: &Limits, rules: Rules) -> Self {
        let conntrack = Conntrack::new(limits, rules.external().len(), 64).unwrap();
        Self { conntrack, rules, now: Tick::from_secs(1000) }
    }

    pub fn pass(&mut self, secs: u64) {
        self.now = self.now.plus_millis(secs * 1000);
    }

    /// A packet of a container leaves: as what?
    pub fn out(&self, proto: u8, from: EndPoint, to: EndPoint, owner: u16) -> Result<Known, DropReason> {
        self.out_with(proto, from, to, owner, ACK)
    }

    pub fn out_with(
        &self,
        proto: u8,
        from: EndPoint,
        to: EndPoint,
        owner: u16,
        flags: u8,
    ) -> Result<Known, DropReason> {
        let packet = Packet { key: key(proto, from, to), meta: meta(proto, owner, flags) };
        if let Some(known) = self.conntrack.outbound(&self.rules, &packet.key, self.now)
            && self.conntrack.track_known(known.at, Way::Out, &packet.meta, self.now)?
        {
            return Ok(known);
        }
        self.conntrack.track_out(&self.rules, &packet, PortId(owner), self.now)
    }

    /// A packet comes to an address of ours: to whom? `None`: to us.
    pub fn come(&self, proto: u8, from: EndPoint, to: EndPoint) -> Result<Option<Inside>, DropReason> {
        self.come_with(&key(proto, from, to), ACK)
    }

    pub fn come_with(&self, key: &FlowKey, flags: u8) -> Result<Option<Inside>, DropReason> {
        let meta = meta(key.proto, 0, flags);
        match self.conntrack.inbound(&self.rules, key, meta.tcp.as_ref(), self.now) {
            In::Nobody => Ok(None),
            In::Refused(reason) => Err(reason),
            In::To(to) => {
                let known = match to.connection {
                    Some(at) => self.conntrack.track_known(at, Way::In, &meta, self.now)?,
                    None => false,
                };
                if !known {
                    self.conntrack.track_in(&self.rules, key, &meta, &to, self.now)?;
                }
                Ok(Some(to.inside))
            }
        }
    }
}
