//! The host's legs: an interface of the host itself in each network with `host_address`.
//!
//! For all that happens to interfaces they are those of one container, [`HOST`], whose namespace is the one in which the
//! daemon runs. It is no container to anybody else: it has no names, no command, and is not shown as one.

use ipnet::Ipv4Net;
use switch::mac::MacAddr;

use super::model::{Config, Container, Interface, Network, mac_from_address};
use super::registry::hash;
use crate::wire::NetnsRef;

/// The name that stands for the host where a container's would. No container can have it.
pub const HOST: &str = "-";

/// What the name of every leg begins with.
pub const LEG: &str = "vsw-";

/// Of a network's name, what there is room for in an interface's (15 bytes).
const ROOM: usize = 11;

impl Network {
    /// The host's interface in this network; `None`: it has none.
    pub fn host_leg(&self) -> Option<Interface> {
        let ip = Ipv4Net::new(self.host_address?, self.subnet?.prefix_len()).ok()?;
        let from_address = mac_from_address(ip.addr().into());
        let mac = if self.reserved_macs().any(|(mac, _)| mac == from_address) {
            let MacAddr([_, rest @ ..]) = from_address;
            let [a, b, c, d, e] = rest;
            MacAddr([0x06, a, b, c, d, e]) // locally administered, too
        } else {
            from_address
        };
        let plain = Interface::plain(&self.name, leg_name(&self.name), mac);
        Some(Interface { ip: Some(ip), vlan: self.vlan, ..plain })
    }
}

impl Config {
    /// All legs, as a container.
    pub fn host(&self) -> Option<Container> {
        let interfaces: Vec<_> = self.networks.iter().filter_map(Network::host_leg).collect();
        (!interfaces.is_empty()).then(|| Container {
            name: HOST.to_owned(),
            netns: NetnsRef::Host,
            create: false,
            command: Vec::new(),
            egress: Vec::new(),
            interfaces,
        })
    }
}

/// `vsw-blue`; of a longer name the beginning, and five digits that tell it from others.
fn leg_name(network: &str) -> String {
    if network.len() <= ROOM {
        return format!("{LEG}{network}");
    }
    // Names are ASCII.
    let start: String = network.chars().take(ROOM - 6).collect();
    format!("{LEG}{start}-{:05x}", hash(network.bytes()) & 0xf_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ() {
        assert_eq!(leg_name("blue"), "vsw-blue");
        assert_eq!(leg_name("elevenchars"), "vsw-elevenchars");
        let (one, other) = (leg_name("production-east"), leg_name("production-west"));
        assert_ne!(one, other);
        for name in [one, other, leg_name(&"x".repeat(63))] {
            assert_eq!(name.len(), 15, "{name}");
        }
    }

    #[test]
    fn a_leg_has_a_mac_of_its_own() {
        let mut network = Network::with_defaults("blue");
        network.subnet = "10.1.0.0/24".parse().ok();
        assert_eq!(network.host_leg(), None);
        network.host_address = Some([10, 1, 0, 254].into());
        let leg = network.host_leg().unwrap();
        assert_eq!((leg.mac.to_string(), leg.name.as_str()), ("02:42:0a:01:00:fe".into(), "vsw-blue"));
        network.gateway_mac = Some(leg.mac);
        assert_eq!(network.host_leg().unwrap().mac.to_string(), "06:42:0a:01:00:fe");
    }
}
