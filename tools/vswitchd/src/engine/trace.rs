//! `trace`: a packet as a container or another host would send it, and what would become of it. Nothing here changes anything.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::tables::Tables;
use ipnet::IpNet;
use switch::mac::MacAddr;
use switch::port::{NetworkId, PortId};
use switch::snapshot::{Owner, Snapshot};
use switch::tick::Tick;
use switch::vnet::VnetHdr;
use vxlan::decap::open;
use vxlan::ecn::Ecn;
use vxlan::wire::{Vni, VxlanHdr};

use super::control::Control;
use super::networks::NetworkRecord;
use super::ports::{MAX_PORTS, PortRecord};
use super::routing::mapped;
use crate::api::rows::{Hop, TraceAsk, TraceDescribed, TraceRow, TraceStep};
use crate::api::{Answer, ApiError, ApiErrorKind, Reply};
use crate::trace::craft::{Sender, craft};
use crate::trace::{Arrived, MAX_FRAME, Names, refused, run, tell};

/// Who sends, as far as that fills in what a description leaves open.
struct Origin {
    /// What it is called.
    name: String,
    /// The MAC of whatever it sends; another host has several MACs behind it.
    mac: Option<MacAddr>,
    /// Its network, if there is one.
    network: Option<NetworkId>,
    /// Its addresses, each with the prefix of its network and its MAC.
    addresses: Vec<(IpAddr, u8, MacAddr)>,
    /// The networks that are on its link, if it is not by its addresses that one knows.
    on_link: Vec<IpNet>,
    /// Its default routes.
    default_via: Vec<IpAddr>,
}

impl Control {
    pub(super) fn trace(&self, ask: &TraceAsk) -> Reply {
        match (&ask.from, ask.vtep) {
            (Some(container), None) if ask.vni.is_none() => self.trace_from_container(container, ask),
            (None, Some(vtep)) if ask.interface.is_none() => self.trace_from_host(vtep, ask),
            (Some(_), None) => Err(invalid("vni says nothing about a container")),
            (None, Some(_)) => Err(invalid("interface says nothing about another host")),
            _ => Err(invalid("one of from, a container, and vtep, another host")),
        }
    }

    fn trace_from_container(&self, container: &str, ask: &TraceAsk) -> Reply {
        let (id, port) = self.interface_of(container, ask.interface.as_deref())?;
        let snapshot = self.snapshot.load();
        let now = Tick::now();
        let frame = frame(ask, || Ok(Origin::container(port)), &snapshot, now)?;
        let mut row = self.traced(id, &VnetHdr::default(), &frame, &snapshot, now)?;
        if !port.is_up() {
            let text = format!("{} {} is not up: now it would send nothing", port.container(), port.ifname());
            row.steps.insert(0, TraceStep { hop: Hop::Rx, lines: vec![text] });
        }
        Ok(Answer::Trace(Box::new(row)))
    }

    /// A frame in a datagram of another host, judged as the overlay does.
    fn trace_from_host(&self, vtep: IpAddr, ask: &TraceAsk) -> Reply {
        if self.desired.vxlan.is_none() {
            return Err(invalid("there is no [vxlan]: nothing comes from another host"));
        }
        let vni = ask.vni.map_or_else(|| self.only_vni(), Ok)?;
        let header = Vni::new(vni).ok_or_else(|| invalid(format!("VNI {vni} is not 0 to {}", Vni::MAX)))?;
        let snapshot = self.snapshot.load();
        let now = Tick::now();
        let frame = frame(ask, || self.origin_of_host(vni, vtep), &snapshot, now)?;
        let mut datagram = [VxlanHdr::new(header).bytes(), &frame].concat();
        let settings = self.overlay.settings();
        let opened = open(&settings, vtep, &mut datagram, 0, Ecn::NotEct);
        let frame = datagram.get(VxlanHdr::LEN..).unwrap_or_default();
        let row = match opened {
            Ok((port, inner)) => self.traced(port, &inner.vnet, frame, &snapshot, now)?,
            Err((port, reason)) => refused(&Arrived { vtep, vni }, port, reason, frame, &self.names()),
        };
        Ok(Answer::Trace(Box::new(row)))
    }

    fn traced(
        &self,
        port: PortId,
        vnet: &VnetHdr,
        frame: &[u8],
        snapshot: &Snapshot<Tables>,
        now: Tick,
    ) -> Result<TraceRow, ApiError> {
        let names = self.names();
        let run = run(snapshot, &self.overlay.settings(), port, vnet, frame, now)
            .map_err(|error| ApiError::new(ApiErrorKind::Unavailable, error.to_string()))?;
        // A port that was just made is in the next snapshot.
        let run = run.ok_or_else(|| {
            ApiError::new(ApiErrorKind::Unavailable, format!("port {port} is being made; try again"))
        })?;
        Ok(tell(&run, frame, snapshot, &names))
    }

    /// The VNI that need not be said.
    fn only_vni(&self) -> Result<u32, ApiError> {
        let mut vnis = self.desired.networks.iter().filter_map(|network| network.vni);
        match (vnis.next(), vnis.next()) {
            (Some(vni), None) => Ok(vni),
            (None, _) => Err(invalid("no network has a vni; say which one the datagram names")),
            (Some(_), Some(_)) => Err(invalid("several networks have a vni; say which")),
        }
    }

    /// Another host, with whom it is known to have behind it.
    fn origin_of_host(&self, vni: u32, vtep: IpAddr) -> Result<Origin, ApiError> {
        let of_it = |(_, record): &(NetworkId, &NetworkRecord)| record.config.vni == Some(vni);
        let network = self.networks.all().find(of_it);
        let on_link = network.iter().flat_map(|(_, record)| {
            let config = &record.config;
            config.subnet.map(IpNet::from).into_iter().chain(config.subnet6.map(IpNet::from))
        });
        let on_link: Vec<IpNet> = on_link.collect();
        let length = |address: &IpAddr| {
            on_link.iter().find(|net| net.contains(address)).map_or(0, |net| net.prefix_len())
        };
        let known = self.behind_host(vni, vtep).into_iter();
        Ok(Origin {
            name: format!("host {vtep}"),
            mac: None,
            network: network.map(|(id, _)| id),
            addresses: known.map(|(address, mac)| (address, length(&address), mac)).collect(),
            on_link,
            default_via: Vec::new(),
        })
    }

    fn interface_of(&self, container: &str, name: Option<&str>) -> Result<(PortId, &PortRecord), ApiError> {
        if self.desired.container(container).is_none() {
            return Err(ApiError::new(ApiErrorKind::NotFound, format!("no container {container}")));
        }
        let of = |port: &PortRecord| port.container() == container;
        let fits = |port: &PortRecord| of(port) && name.is_none_or(|name| name == port.ifname());
        let mut found = self.ports.wanted().filter(|(_, port)| fits(port));
        if let (Some(found), None) = (found.next(), found.next()) {
            return Ok(found);
        }
        let names: Vec<&str> =
            self.ports.wanted().filter(|(_, port)| of(port)).map(|(_, port)| port.ifname()).collect();
        Err(match name {
            Some(name) => {
                let text = format!("{container} has no interface {name}; it has: {}", names.join(", "));
                ApiError::new(ApiErrorKind::NotFound, text)
            }
            None if names.is_empty() => {
                ApiError::new(ApiErrorKind::NotFound, format!("{container} has no interface"))
            }
            None => invalid(format!("{container} has several interfaces; name one: {}", names.join(", "))),
        })
    }

    fn names(&self) -> Names {
        let mut names = Names {
            ports: vec![None; MAX_PORTS],
            networks: vec![String::from("?"); self.networks.slots()],
            published: HashSet::new(),
            hosts: self.trace_hosts(),
        };
        let publishing: HashSet<&str> = self
            .desired
            .interfaces()
            .filter(|(_, interface)| !interface.publish.is_empty())
            .map(|(container, _)| container.name.as_str())
            .collect();
        for (id, port) in self.ports.wanted() {
            if publishing.contains(port.container()) {
                names.published.insert(id);
            }
            if let Some(name) = names.ports.get_mut(id.index()) {
                *name = Some((port.container().into(), port.ifname().into()));
            }
        }
        for (id, network) in self.networks.all() {
            if let Some(name) = names.networks.get_mut(id.index()) {
                name.clone_from(&network.config.name);
            }
        }
        names
    }
}

impl Origin {
    fn container(port: &PortRecord) -> Self {
        let addresses = port.spec.addresses.iter();
        Self {
            name: port.container().to_owned(),
            mac: Some(port.mac),
            network: Some(port.network),
            addresses: addresses.map(|(address, length)| (*address, *length, port.mac)).collect(),
            on_link: Vec::new(),
            default_via: port.spec.default_via.to_vec(),
        }
    }

    /// The networks on its link.
    fn on_link(&self) -> impl Iterator<Item = IpNet> {
        let own = self.addresses.iter().filter_map(|(address, length, _)| IpNet::new(*address, *length).ok());
        own.chain(self.on_link.iter().copied())
    }

    /// What the description leaves open: the sender's MAC and address, and where it would send the frame.
    fn sender(
        &self,
        what: &TraceDescribed,
        snapshot: &Snapshot<Tables>,
        now: Tick,
    ) -> Result<Sender, ApiError> {
        let Self { name, .. } = self;
        let fits = |it: &&(IpAddr, u8, MacAddr)| match what.src_ip {
            Some(address) => it.0 == address,
            None => it.0.is_ipv4() == what.to.is_ipv4(),
        };
        let own = self.addresses.iter().find(fits);
        let Some(address) = what.src_ip.or_else(|| own.map(|own| own.0)) else {
            let family = if what.to.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(invalid(match self.mac {
                Some(_) => format!("{name} has no {family} address; say src_ip"),
                None => format!("nobody with an {family} address is known behind {name}; say src_ip"),
            }));
        };
        let mac = what.src_mac.or(self.mac).or_else(|| own.map(|own| own.2));
        let mac = mac.ok_or_else(|| {
            invalid(format!("it is not known who has {address} behind {name}; say src_mac"))
        })?;
        // A question for an address goes to everybody (RFC 826).
        let next = match what.dst_mac {
            Some(mac) => mac,
            None if what.arp => MacAddr::BROADCAST,
            None => self.next_mac(what.to, snapshot, now)?,
        };
        let mtu = self.network.and_then(|network| snapshot.network(network)).map_or(1500, |it| it.mtu);
        Ok(Sender { mac, address, next, mtu: u16::try_from(mtu).unwrap_or(u16::MAX) })
    }

    /// The MAC that the sender's kernel would write to, once it has asked for it.
    fn next_mac(&self, to: IpAddr, snapshot: &Snapshot<Tables>, now: Tick) -> Result<MacAddr, ApiError> {
        let Self { name, .. } = self;
        if let Some(group) = group_mac(to, self.on_link()) {
            return Ok(group);
        }
        let unroutable =
            || invalid(format!("{name} has no route to {to}; say dst_mac to trace it all the same"));
        let id = self.network.ok_or_else(unroutable)?;
        let gateway = snapshot.tables.router.gateway(id);
        let via = self.default_via.iter().copied().find(|via| via.is_ipv4() == to.is_ipv4());
        let next = match (self.on_link().any(|net| net.contains(&to)), gateway, via) {
            (true, ..) => to,
            (false, Some(gateway), _) => return Ok(gateway.mac),
            (false, None, Some(via)) => via,
            (false, None, None) => return Err(unroutable()),
        };
        let mapped = mapped(next);
        let network = snapshot.network(id);
        let owner = network.and_then(|network| network.claims.ips.get(&mapped).copied());
        let told = || network.and_then(|network| network.told.get(&mapped).copied());
        let known =
            || gateway.and_then(|gateway| gateway.neighbors.lookup(mapped, now)).map(|known| known.mac);
        let mac = match owner {
            Some(Owner::Gateway) => gateway.map(|gateway| gateway.mac),
            Some(Owner::Port(owner)) => snapshot.port(owner).map(|port| port.mac),
            None => told().or_else(known),
        };
        mac.ok_or_else(|| {
            invalid(format!(
                "nobody is known to have {next}, and {name} would ask for it by ARP first; trace that, or say dst_mac"
            ))
        })
    }
}

/// The frame that is asked about.
fn frame(
    ask: &TraceAsk,
    origin: impl FnOnce() -> Result<Origin, ApiError>,
    snapshot: &Snapshot<Tables>,
    now: Tick,
) -> Result<Vec<u8>, ApiError> {
    match (&ask.hex, &ask.packet) {
        (Some(hex), None) => bytes(hex),
        (None, Some(what)) => {
            let sender = origin()?.sender(what, snapshot, now)?;
            craft(what, &sender).map_err(|error| invalid(error.to_string()))
        }
        _ => Err(invalid("one of hex, a whole frame, and packet, its description")),
    }
}

/// The MAC of a group: RFC 1112 section 6.4, RFC 2464 section 7, or everybody.
fn group_mac(to: IpAddr, mut on_link: impl Iterator<Item = IpNet>) -> Option<MacAddr> {
    match to {
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, a, b, c] = v4.octets();
            Some(MacAddr([0x01, 0x00, 0x5e, a & 0x7f, b, c]))
        }
        IpAddr::V4(v4) => {
            let mut all = || on_link.any(|net| net.prefix_len() < 31 && net.broadcast() == to);
            (v4.is_broadcast() || all()).then_some(MacAddr::BROADCAST)
        }
        IpAddr::V6(v6) if v6.is_multicast() => {
            let [.., a, b, c, d] = v6.octets();
            Some(MacAddr([0x33, 0x33, a, b, c, d]))
        }
        IpAddr::V6(_) => None,
    }
}

/// Bytes from hexadecimal digits.
fn bytes(hex: &str) -> Result<Vec<u8>, ApiError> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(invalid("hex: an odd number of digits"));
    }
    if pairs.len() > MAX_FRAME {
        return Err(invalid(format!("hex: longer than {MAX_FRAME} bytes")));
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok();
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    bytes.ok_or_else(|| invalid("hex: digits are 0 to 9 and a to f, with nothing between them"))
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ApiErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits() {
        assert_eq!(bytes("00fFa5").unwrap(), [0, 0xff, 0xa5]);
        assert!(bytes("").unwrap().is_empty());
        for (text, words) in
            [("0", "odd"), ("0g", "digits are"), ("\u{e9}", "digits are"), ("0 00", "digits")]
        {
            assert!(bytes(text).unwrap_err().message.contains(words), "{text}");
        }
        assert_eq!(bytes(&"00".repeat(MAX_FRAME)).unwrap().len(), MAX_FRAME);
        assert!(bytes(&"00".repeat(MAX_FRAME + 1)).unwrap_err().message.contains("longer"));
    }
}
