//! What happens in a case, written down as frames that containers send.

use std::net::{Ipv4Addr, Ipv6Addr};

use switch::mac::MacAddr;
use switch::vnet::VnetHdr;
use vswitchd::config::{Config, Container, Interface};

use super::pcapng::{Capture, Packet};

/// A capture in the making. Ports are named `container/interface`, or by the container alone where it has one.
pub struct Script<'c> {
    config: &'c Config,
    /// What is no container: what is behind the uplink.
    ours: Vec<Container>,
    capture: Capture,
    now: u64,
}

impl<'c> Script<'c> {
    /// Nothing has happened yet; it is 1000 seconds after the origin of time.
    pub fn new(config: &'c Config) -> Self {
        let interfaces = port_names(config);
        let ours = config.ours().collect();
        Self { config, ours, capture: Capture { interfaces, packets: Vec::new() }, now: 1_000_000 }
    }

    pub fn finish(self) -> Capture {
        self.capture
    }

    /// Time passes.
    pub fn wait(&mut self, millis: u64) {
        self.now += millis;
    }

    /// `from` sends a frame. What about it is the point, in a few words.
    pub fn send(&mut self, from: &str, about: &str, frame: Vec<u8>) {
        self.send_offloaded(from, about, &VnetHdr::default(), frame);
    }

    /// The same with a virtio header that says something.
    pub fn send_offloaded(&mut self, from: &str, about: &str, vnet: &VnetHdr, frame: Vec<u8>) {
        let interface = self.port(from).0;
        let mut comments = vec![about.to_owned()];
        comments.extend(vnet_comment(vnet));
        self.capture.packets.push(Packet { interface, at: self.now, bytes: frame, comments });
    }

    pub fn mac(&self, port: &str) -> MacAddr {
        self.port(port).1.mac
    }

    pub fn ip(&self, port: &str) -> Ipv4Addr {
        self.port(port).1.ip.unwrap().addr()
    }

    pub fn ip6(&self, port: &str) -> Ipv6Addr {
        self.port(port).1.ip6.unwrap().addr()
    }

    fn port(&self, name: &str) -> (usize, &Interface) {
        let is_it = |container: &Container, interface: &Interface| {
            name == container.name || name == format!("{}/{}", container.name, interface.name)
        };
        let ours = self.ours.iter().flat_map(|ours| ours.interfaces.iter().map(move |leg| (ours, leg)));
        let all = self.config.interfaces().chain(ours);
        let mut found = all.enumerate().filter(|(_, (c, i))| is_it(c, i));
        match (found.next(), found.next()) {
            (Some((index, (_, interface))), None) => (index, interface),
            (Some(_), Some(_)) => panic!("{name} has several interfaces"),
            (None, _) => panic!("no port {name}"),
        }
    }
}

/// The ports of a configuration, by number: those of containers, then what is behind the uplink.
pub fn port_names(config: &Config) -> Vec<String> {
    let ours: Vec<Container> = config.ours().collect();
    let ours = ours.iter().flat_map(|ours| ours.interfaces.iter().map(move |leg| (ours, leg)));
    let all = config.interfaces().chain(ours);
    all.map(|(container, interface)| format!("{}/{}", container.name, interface.name)).collect()
}

const MARK: &str = "vnet ";

/// The virtio header as a comment; none where it says nothing.
pub fn vnet_comment(vnet: &VnetHdr) -> Option<String> {
    let VnetHdr { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset } = vnet;
    (*vnet != VnetHdr::default()).then(|| {
        format!(
            "{MARK}flags={flags} gso_type={gso_type} hdr_len={hdr_len} gso_size={gso_size} csum_start={csum_start} \
             csum_offset={csum_offset}"
        )
    })
}

/// The inverse of [`vnet_comment`].
pub fn vnet_of(packet: &Packet) -> VnetHdr {
    let mut vnet = VnetHdr::default();
    let said = packet.comments.iter().find_map(|comment| comment.strip_prefix(MARK)).unwrap_or_default();
    for pair in said.split_whitespace() {
        let (name, value) = pair.split_once('=').unwrap();
        let value: u16 = value.parse().unwrap();
        match name {
            "flags" => vnet.flags = u8::try_from(value).unwrap(),
            "gso_type" => vnet.gso_type = u8::try_from(value).unwrap(),
            "hdr_len" => vnet.hdr_len = value.into(),
            "gso_size" => vnet.gso_size = value.into(),
            "csum_start" => vnet.csum_start = value.into(),
            "csum_offset" => vnet.csum_offset = value.into(),
            _ => panic!("no field {name} in a virtio header"),
        }
    }
    vnet
}
