//! Third hop: what a port may send at all, and in which VLAN. What is not admitted teaches us nothing.
//!
//! The parser looked through VLAN tags, LLC/SNAP and extension headers, so a claim wrapped in them is judged like a
//! bare one.

use std::net::Ipv6Addr;

use crate::drop::DropReason;
use crate::flow::{Arp, Body, GroupKind, Gso, L3, Meta, Nd, NdKind, Packet};
use crate::mac::MacAddr;
use crate::port::PortId;
use crate::snapshot::{Network, Owner, Port, Spoof};

/// MAC control frames (PAUSE): IEEE 802.3 annex 31B, link-local by nature.
const ETHERTYPE_MAC_CONTROL: u16 = 0x8808;
/// Whom they are for.
const MAC_CONTROL: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 1]);

/// Whether the packet may enter `network` by `port`, and in which VLAN, which its meta says from then on.
///
/// # Errors
/// The reason why not.
pub fn admit(packet: &mut Packet, port: &Port, network: &Network) -> Result<(), DropReason> {
    let meta = &mut packet.meta;
    // IEEE 802.1D-2004 section 7.8: only individual addresses are learned; Linux drops the frame, and so do we.
    if meta.src.is_group() || meta.src == MacAddr::ZERO {
        return Err(DropReason::BadSourceMac);
    }
    if is_reserved(meta, network) {
        return Err(DropReason::ReservedGroup);
    }
    meta.vid = port.tagging.classify(meta)?;
    if l3_len(meta) > network.mtu {
        return Err(DropReason::ExceedsMtu);
    }
    if network.groups.is_some() {
        about_groups(packet, network)?;
    }
    match network.spoof {
        Spoof::Off => Ok(()),
        Spoof::Claimed | Spoof::Strict => Identity { port, network, id: packet.meta.port }.check(packet),
    }
}

/// What a switch that snoops does not believe (RFC 4541 section 2.1.1 (4)), and whom: who asks takes reports from the
/// others, as a router advertisement takes their packets, so under `strict` a container does neither.
fn about_groups(packet: &Packet, network: &Network) -> Result<(), DropReason> {
    let Body::Group(said) = packet.meta.body else { return Ok(()) };
    match said.kind {
        GroupKind::Bad => Err(DropReason::MalformedGroup),
        GroupKind::Query | GroupKind::Hello if network.spoof == Spoof::Strict => {
            Err(DropReason::SpoofedQuery)
        }
        _ => Ok(()),
    }
}

/// What no bridge relays: IEEE 802.1Q-2018 table 8-1. A network that stands for a cable does (STP, LACP, 802.1X, LLDP),
/// but PAUSE, which is about the speed of one link.
fn is_reserved(meta: &Meta, network: &Network) -> bool {
    let pause = meta.dst == MAC_CONTROL || meta.ethertype == ETHERTYPE_MAC_CONTROL;
    pause || (meta.dst.is_reserved_group() && !network.transparent)
}

/// Bytes behind the Ethernet header of the frame, or of one segment of a super-frame: what an MTU speaks of.
pub(crate) fn l3_len(meta: &Meta) -> u32 {
    match meta.gso {
        Gso::None => meta.frame_len.saturating_sub(u32::from(meta.l3_off)),
        Gso::Tcp { size } | Gso::Udp { size } => {
            u32::from(meta.headers_len.saturating_sub(meta.l3_off)) + u32::from(size)
        }
    }
}

/// Who the sender is, to be compared with who it says it is.
struct Identity<'a> {
    port: &'a Port,
    network: &'a Network,
    id: PortId,
}

impl Identity<'_> {
    fn check(&self, packet: &Packet) -> Result<(), DropReason> {
        let meta = &packet.meta;
        if !self.may_use_mac(meta.src) {
            return Err(DropReason::SpoofedMac);
        }
        match (meta.l3, &meta.body) {
            (L3::Arp, Body::Arp(arp)) if !self.may_send_arp(arp) => Err(DropReason::SpoofedArp),
            (L3::V4 | L3::V6, _) if !self.may_send_from(packet.key.src) => Err(DropReason::SpoofedIp),
            (L3::V6, Body::Nd(nd)) if !self.may_send_nd(nd, packet.key.src) => Err(DropReason::SpoofedNd),
            _ => Ok(()),
        }
    }

    fn strict(&self) -> bool {
        self.network.spoof == Spoof::Strict && self.port.remote.is_none()
    }

    fn is_of_gateway(&self, ip: Ipv6Addr) -> bool {
        self.network.claims.ips.get(&ip) == Some(&Owner::Gateway)
    }

    fn may_use_mac(&self, mac: MacAddr) -> bool {
        if mac == self.port.mac {
            return true;
        }
        !self.strict() && self.owns_or_free(self.network.claims.macs.get(&mac).copied())
    }

    fn may_use_ip(&self, ip: Ipv6Addr) -> bool {
        if self.port.addresses.contains(&ip) {
            return true;
        }
        let free = self.owns_or_free(self.network.claims.ips.get(&ip).copied());
        free && (!self.strict() || is_unclaimable(ip))
    }

    /// A router sends what others behind it sent; it does not answer ARP for them.
    fn may_send_from(&self, ip: Ipv6Addr) -> bool {
        let behind = || self.network.claims.routed.get(&self.id);
        self.may_use_ip(ip)
            || behind().is_some_and(|prefixes| prefixes.iter().any(|prefix| prefix.contains(ip)))
    }

    fn owns_or_free(&self, owner: Option<Owner>) -> bool {
        match owner {
            None => true,
            Some(Owner::Port(port)) => port == self.id,
            // It is on every host, and routes what leaves other networks there.
            Some(Owner::Gateway) => self.port.remote.is_some(),
        }
    }

    /// RFC 826: receivers believe the sender fields of requests and replies alike.
    fn may_send_arp(&self, arp: &Arp) -> bool {
        self.may_use_mac(arp.sender_mac) && self.may_use_ip(arp.sender_ip.to_ipv6_mapped())
    }

    /// RFC 4861 section 7.2.5: a neighbour advertisement speaks for its target, whatever its source address is.
    fn may_send_nd(&self, nd: &Nd, src: Ipv6Addr) -> bool {
        let macs = nd.source_mac.is_none_or(|mac| self.may_use_mac(mac))
            && nd.target_mac.is_none_or(|mac| self.may_use_mac(mac));
        macs && match nd.kind {
            NdKind::NeighborAdvertisement => self.may_use_ip(nd.target),
            // RFC 6105: a host's port sends neither. Without `strict` a container may be the lab's router.
            // Nor does another host's gateway: ours has told our containers.
            NdKind::RouterAdvertisement | NdKind::Redirect => {
                self.network.spoof != Spoof::Strict && !self.is_of_gateway(src)
            }
            // RFC 4862 section 5.4.3: who hears a probe for its own address that is still tentative gives it up. The
            // probe is how duplicates are found, so it is only refused where nobody needs it to find out.
            NdKind::NeighborSolicitation if src.is_unspecified() => {
                !self.strict() || self.may_use_ip(nd.target)
            }
            NdKind::RouterSolicitation | NdKind::NeighborSolicitation => true,
        }
    }
}

/// Addresses that belong to nobody: unspecified (probes of RFC 5227 section 1.1 and RFC 4862 section 5.4.2, DHCP) and
/// link-local ones (RFC 3927, RFC 4291 section 2.5.6).
fn is_unclaimable(ip: Ipv6Addr) -> bool {
    match ip.to_ipv4_mapped() {
        Some(v4) => v4.is_unspecified() || v4.is_link_local(),
        None => ip.is_unspecified() || ip.is_unicast_link_local(),
    }
}
