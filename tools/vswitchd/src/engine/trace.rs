//! `trace`: a packet as a container would send it, and what would become of it. Nothing here changes anything.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::tables::Tables;
use ipnet::IpNet;
use switch::mac::MacAddr;
use switch::port::PortId;
use switch::snapshot::{Owner, Snapshot};
use switch::tick::Tick;
use switch::vnet::VnetHdr;

use super::control::Control;
use super::ports::{MAX_PORTS, PortRecord};
use crate::api::rows::{Hop, TraceAsk, TraceDescribed, TraceStep};
use crate::api::{Answer, ApiError, ApiErrorKind, Reply};
use crate::trace::craft::{Sender, craft};
use crate::trace::{MAX_FRAME, Names, run, tell};

impl Control {
    pub(super) fn trace(&self, ask: &TraceAsk) -> Reply {
        let (id, port) = self.interface_of(&ask.from, ask.interface.as_deref())?;
        let snapshot = self.snapshot.load();
        let now = Tick::now();
        let frame = match (&ask.hex, &ask.packet) {
            (Some(hex), None) => bytes(hex)?,
            (None, Some(what)) => {
                let sender = sender(what, id, port, &snapshot, now)?;
                craft(what, &sender).map_err(|error| invalid(error.to_string()))?
            }
            _ => return Err(invalid("one of hex, a whole frame, and packet, its description")),
        };
        let run = run(&snapshot, id, &VnetHdr::default(), &frame, now)
            .map_err(|error| ApiError::new(ApiErrorKind::Unavailable, error.to_string()))?;
        // A port that was just made is in the next snapshot.
        let run = run.ok_or_else(|| {
            ApiError::new(ApiErrorKind::Unavailable, format!("{} is being made; try again", ask.from))
        })?;
        let mut row = tell(&run, &frame, &snapshot, &self.names());
        if !port.is_up() {
            let text = format!("{} {} is not up: now it would send nothing", port.container(), port.ifname());
            row.steps.insert(0, TraceStep { hop: Hop::Rx, lines: vec![text] });
        }
        Ok(Answer::Trace(Box::new(row)))
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

/// What the description leaves open: the container's MAC and address, and where it would send the frame.
fn sender(
    what: &TraceDescribed,
    id: PortId,
    port: &PortRecord,
    snapshot: &Snapshot<Tables>,
    now: Tick,
) -> Result<Sender, ApiError> {
    let own = port.spec.addresses.iter().map(|(address, _)| *address);
    let fits = |address: &IpAddr| address.is_ipv4() == what.to.is_ipv4();
    let Some(address) = what.src_ip.or_else(|| own.clone().find(fits)) else {
        let family = if what.to.is_ipv4() { "IPv4" } else { "IPv6" };
        return Err(invalid(format!("{} has no {family} address; say src_ip", port.container())));
    };
    // A question for an address goes to everybody (RFC 826).
    let next = match what.dst_mac {
        Some(mac) => mac,
        None if what.arp => MacAddr::BROADCAST,
        None => next_mac(what.to, id, port, snapshot, now)?,
    };
    let mtu = snapshot.network(port.network).map_or(0, |network| network.mtu);
    Ok(Sender { mac: port.mac, address, next, mtu: u16::try_from(mtu).unwrap_or(u16::MAX) })
}

/// The MAC that the container's kernel would write to, once it has asked for it.
fn next_mac(
    to: IpAddr,
    id: PortId,
    port: &PortRecord,
    snapshot: &Snapshot<Tables>,
    now: Tick,
) -> Result<MacAddr, ApiError> {
    if let Some(group) = group_mac(to, port) {
        return Ok(group);
    }
    let gateway = snapshot.tables.router.gateway(port.network);
    let on_link = port
        .spec
        .addresses
        .iter()
        .any(|(address, length)| IpNet::new(*address, *length).is_ok_and(|net| net.contains(&to)));
    let via = port.spec.default_via.iter().copied().find(|via| via.is_ipv4() == to.is_ipv4());
    let next = match (on_link, gateway, via) {
        (true, ..) => to,
        (false, Some(gateway), _) => return Ok(gateway.mac),
        (false, None, Some(via)) => via,
        (false, None, None) => {
            let text =
                format!("{} has no route to {to}; say dst_mac to trace it all the same", port.container());
            return Err(invalid(text));
        }
    };
    let mapped = match next {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let owner = snapshot.network(port.network).and_then(|network| network.claims.ips.get(&mapped).copied());
    let mac = match owner {
        Some(Owner::Gateway) => gateway.map(|gateway| gateway.mac),
        Some(Owner::Port(owner)) if owner == id => Some(port.mac),
        Some(Owner::Port(owner)) => snapshot.port(owner).map(|port| port.mac),
        None => gateway.and_then(|gateway| gateway.neighbors.lookup(mapped, now)).map(|known| known.mac),
    };
    mac.ok_or_else(|| {
        let container = port.container();
        invalid(format!(
            "nobody is known to have {next}, and {container} would ask for it by ARP first; trace that, or say dst_mac"
        ))
    })
}

/// The MAC of a group: RFC 1112 section 6.4, RFC 2464 section 7, or everybody.
fn group_mac(to: IpAddr, port: &PortRecord) -> Option<MacAddr> {
    match to {
        IpAddr::V4(v4) if v4.is_multicast() => {
            let [_, a, b, c] = v4.octets();
            Some(MacAddr([0x01, 0x00, 0x5e, a & 0x7f, b, c]))
        }
        IpAddr::V4(v4) => {
            let all = |(address, length): &(IpAddr, u8)| {
                IpNet::new(*address, *length).is_ok_and(|net| *length < 31 && net.broadcast() == to)
            };
            let everybody = v4.is_broadcast() || port.spec.addresses.iter().any(all);
            everybody.then_some(MacAddr::BROADCAST)
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
