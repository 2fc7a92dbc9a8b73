//! Laws that hold for every file.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use vswitchd::config::{Config, ContainerSpec, Context, Family, InterfaceOptions, Vxlan, diff, parse_with};

use super::overlaid::overlaid;
use super::{paths, valid};

/// An interface as a file may write it: network, address's last octet where it says one, MAC's last octet likewise.
type Port = (usize, Option<u8>, Option<u8>);

#[derive(Debug, Clone)]
struct Lab {
    networks: usize,
    /// What all networks have: IPv4, IPv6 or both.
    families: (bool, bool),
    /// Per network, which others it routes to, a bit each; from [`ALL`] all of them.
    reach: [u8; 4],
    containers: Vec<Vec<Port>>,
    overlay: Option<Overlay>,
}

/// `[vxlan]`: the underlay's MTU where it is said, and per network whether it has a `vni` and which octets are elsewhere.
#[derive(Debug, Clone)]
struct Overlay {
    mtu: Option<u16>,
    networks: [(bool, Vec<u8>); 4],
}

const ALL: u8 = 200;

impl Lab {
    /// The others that a network routes to by name, or `None` for all.
    fn reached(&self, from: usize) -> Option<Vec<usize>> {
        let mask = self.reach[from];
        let named = (0..self.networks).filter(|to| *to != from && mask >> to & 1 == 1);
        (mask < ALL).then(|| named.collect())
    }

    /// Networks 10.0.0.0/24, 10.1.0.0/24, ... and fd00:0::/64, fd00:1::/64, ...; containers c0, c1, ... Asked addresses and
    /// MACs are used once each and not the gateway's.
    fn text(&self) -> String {
        let mut text = String::new();
        for network in 0..self.networks {
            let to = match self.reached(network) {
                Some(to) => format!("{:?}", to.iter().map(|to| format!("n{to}")).collect::<Vec<_>>()),
                None => "\"all\"".into(),
            };
            text.push_str(&format!(
                "[[network]]\nname = \"n{network}\"\nroutes_to = {to}\n{}{}",
                line(self.families.0, format!("subnet = \"10.{network}.0.0/24\"")),
                line(self.families.1, format!("subnet6 = \"fd00:{network}::/64\"")),
            ));
            if self.overlay.as_ref().is_some_and(|overlay| overlay.networks[network].0) {
                text.push_str(&format!("vni = {}\n", network + 1));
            }
        }
        let mut asked = HashSet::new();
        self.overlay(&mut text, &mut asked);
        for (index, ports) in self.containers.iter().enumerate() {
            text.push_str(&format!("[[container]]\nname = \"c{index}\"\n"));
            for (network, ip, mac) in ports {
                let network = network % self.networks;
                text.push_str(&format!("[[container.interface]]\nnetwork = \"n{network}\"\n"));
                if let Some(ip) = ip.filter(|ip| (2..255).contains(ip) && asked.insert((network, 0, *ip))) {
                    text.push_str(&line(self.families.0, format!("ip = \"10.{network}.0.{ip}\"")));
                    text.push_str(&line(self.families.1, format!("ip6 = \"fd00:{network}::{ip:x}\"")));
                }
                if let Some(mac) = mac.filter(|mac| *mac != 1 && asked.insert((network, 1, *mac))) {
                    text.push_str(&format!("mac = \"02:42:0a:{network:02x}:00:{mac:02x}\"\n"));
                }
            }
        }
        text
    }
}

impl Lab {
    // Who is elsewhere has what no container here asks for.
    fn overlay(&self, text: &mut String, asked: &mut HashSet<(usize, u8, u8)>) {
        let Some(Overlay { mtu, networks }) = &self.overlay else { return };
        text.push_str("[vxlan]\nlocal = \"198.18.1.1\"\npeers = [\"198.18.1.2\"]\n");
        text.push_str(&mtu.map(|mtu| format!("mtu = {mtu}\n")).unwrap_or_default());
        for (network, (_, octets)) in
            networks.iter().enumerate().filter(|(n, net)| *n < self.networks && net.0)
        {
            for octet in octets.iter().filter(|octet| (2..255).contains(*octet)) {
                if asked.insert((network, 0, *octet)) && asked.insert((network, 1, *octet)) {
                    let ip = if self.families.0 {
                        format!("10.{network}.0.{octet}")
                    } else {
                        format!("fd00:{network}::{octet:x}")
                    };
                    text.push_str(&format!(
                        "[[vxlan.static]]\nvni = {}\nmac = \"02:42:0a:{network:02x}:00:{octet:02x}\"\nvtep = \"198.18.1.3\"\nip = \"{ip}\"\n",
                        network + 1
                    ));
                }
            }
        }
    }
}

fn line(is_there: bool, line: String) -> String {
    if is_there { line + "\n" } else { String::new() }
}

fn labs() -> impl Strategy<Value = Lab> {
    let port = (any::<usize>(), any::<Option<u8>>(), any::<Option<u8>>());
    let containers = proptest::collection::vec(proptest::collection::vec(port, 0..4), 0..24);
    let families = prop::sample::select(vec![(true, false), (false, true), (true, true)]);
    (1usize..5, families, any::<[u8; 4]>(), containers, prop::option::of(overlays())).prop_map(
        |(networks, families, reach, containers, overlay)| Lab {
            networks,
            families,
            reach,
            containers,
            overlay,
        },
    )
}

fn overlays() -> impl Strategy<Value = Overlay> {
    let network = (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..6));
    let networks = [network.clone(), network.clone(), network.clone(), network];
    (prop::option::of(1330u16..), networks).prop_map(|(mtu, networks)| Overlay { mtu, networks })
}

/// What every valid configuration keeps to.
fn sound(config: &Config) {
    let mut taken = HashSet::new();
    for (container, interface) in config.interfaces() {
        let network = config.network(&interface.network).unwrap();
        assert!(taken.insert(format!("name {} {}", container.netns.key(), interface.name)));
        assert!(taken.insert(format!("mac {} {}", network.name, interface.mac)));
        assert!(!interface.mac.is_group() && interface.mac.to_u64() != 0);
        for family in Family::BOTH {
            assert_eq!(interface.ip_of(family).is_some(), network.subnet_of(family).is_some());
        }
        for (ip, subnet) in interface.ips().zip(network.subnets()) {
            assert!(taken.insert(format!("ip {} {}", network.name, ip.addr())));
            assert!(subnet.contains(&ip.addr()) && ip.prefix_len() == subnet.prefix_len());
            assert!(ip.addr().is_ipv6() || subnet.hosts().any(|host| host == ip.addr()), "{ip}");
            assert!(ip.addr() != subnet.network() || subnet.max_prefix_len() - subnet.prefix_len() < 2);
            let kept = network.reserved_of(Family::of(ip.addr())) == Some(ip.addr());
            let named =
                if ip.addr().is_ipv4() { network.gateway.is_some() } else { network.gateway6.is_some() };
            assert!(!kept || named);
        }
        let is_gateway = |gateway| interface.ips().any(|ip| ip.addr() == gateway);
        assert!(network.reserved_macs().all(|(mac, gateway)| mac != interface.mac || is_gateway(gateway)));
    }
    routed(config);
    one_plan_a_zone(config);
    overlaid(config, &mut taken);
}

/// A container has one default route of each family, if there is one to have.
fn routed(config: &Config) {
    for container in &config.containers {
        for family in Family::BOTH {
            let could = container.interfaces.iter().filter_map(|interface| {
                let network = config.network(&interface.network).unwrap();
                let via = network.reserved_of(family)?;
                (!network.internal && interface.ip_of(family).unwrap().addr() != via)
                    .then_some((&interface.name, via))
            });
            let has = container.interfaces.iter().flat_map(|i| i.default_routes().map(|via| (&i.name, via)));
            let has = has.filter(|(_, via)| Family::of(*via) == family);
            let (could, has): (Vec<_>, Vec<_>) = (could.collect(), has.collect());
            assert_eq!(has.len(), could.len().min(1));
            assert!(has.iter().all(|route| could.contains(route)));
        }
    }
}

/// In a zone every address is in one network at most, and `routes_to` leads out of none.
fn one_plan_a_zone(config: &Config) {
    let zones = config.zones();
    assert_eq!(zones.iter().map(Vec::len).sum::<usize>(), config.networks.len());
    let indices = config.zone_indices();
    for zone in &zones {
        for (place, one) in zone.iter().enumerate() {
            assert_eq!(config.networks[indices[one.name.as_str()]].name, zone[0].name);
            for other in &zone[place + 1..] {
                assert!(one.subnets().next().is_some());
                let apart =
                    |one: ipnet::IpNet| other.subnets().all(|o| !one.contains(&o) && !o.contains(&one));
                assert!(one.subnets().all(apart));
            }
            for to in config.destinations(one) {
                assert!(one.is_routed() && to.is_routed() && to.name != one.name);
                assert_eq!(indices[to.name.as_str()], indices[one.name.as_str()]);
            }
        }
    }
}

/// `[vxlan]` as a file may write it.
fn written(vxlan: &Vxlan) -> String {
    let mtu = vxlan.mtu.map(|mtu| format!("mtu = {mtu}\n")).unwrap_or_default();
    let (local, port, learning, peers) = (vxlan.local, vxlan.port, vxlan.learning, &vxlan.peers);
    let peers: Vec<String> = peers.iter().map(|peer| format!("\"{peer}\"")).collect();
    let head = format!(
        "[vxlan]\nlocal = \"{local}\"\nport = {port}\nlearning = {learning}\npeers = [{}]\nsource_ports = 8\n{mtu}",
        peers.join(",")
    );
    let statics = vxlan.statics.iter().map(|entry| {
        let ip = entry.ip.map(|ip| format!("ip = \"{ip}\"\n")).unwrap_or_default();
        let (vni, mac, vtep) = (entry.vni, entry.mac, entry.vtep);
        format!("[[vxlan.static]]\nvni = {vni}\nmac = \"{mac}\"\nvtep = \"{vtep}\"\n{ip}")
    });
    std::iter::once(head).chain(statics).collect()
}

/// Lines that a file may hold, some of them wrong.
fn lines() -> impl Strategy<Value = String> {
    let keys = "name|network|subnet|subnet6|ip|ip6|mac|mtu|gateway|gateway6|gateway_mac|internal|routes_to|destination|via|netns|create|command|control|workers|kind|nat|vni|local|peers|vtep|x";
    let values = "\"[a-c]\"|\"all\"|\\[(\"[a-c]\"(, )?){0,3}\\]|\"10\\.[01]\\.0\\.[0-9]{1,3}(/[0-9]{1,2})?\"|\"(fd0[01])?::[0-9]{0,2}(/[0-9]{1,3})?\"|-?[0-9]{1,22}|true|nan|\\[\\]|\\[\"a\"\\]|\"pid:[0-9]\"|\"\\\\u0000\"";
    let header = "\\[(daemon|uplink|network|vxlan)\\]|\\[\\[(network|container|container\\.interface|route|vxlan\\.static)\\]\\]";
    let line = (any::<u8>(), header, keys, values)
        .prop_map(|(pick, header, key, value)| if pick < 80 { header } else { format!("{key} = {value}") });
    proptest::collection::vec(line, 0..30).prop_map(|lines| lines.join("\n"))
}

fn never_a_panic(text: &[u8]) {
    match parse_with("any.toml", text, &Context { paths: paths(), previous: None, memory: None }) {
        Ok(config) => sound(&config),
        Err(errors) => {
            assert!(!errors.errors().is_empty());
            for error in errors.errors() {
                let first = error.first_line();
                assert!(first.starts_with("any.toml:") && !first.contains('\n') && error.column > 0);
                assert_eq!(error.excerpt.lines().count(), 3);
                assert!(error.line <= text.split(|byte| *byte == b'\n').count());
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_configuration_or_an_error(bytes: Vec<u8>) {
        never_a_panic(&bytes);
    }

    #[test]
    fn any_text_is_a_configuration_or_an_error(text: String) {
        never_a_panic(text.as_bytes());
    }

    #[test]
    fn any_lines_are_a_configuration_or_an_error(text in lines(), cut in any::<prop::sample::Index>()) {
        never_a_panic(text.as_bytes());
        never_a_panic(&text.as_bytes()[..cut.index(text.len() + 1)]);
    }

    #[test]
    fn every_lab_gets_names_addresses_and_macs(lab in labs()) {
        sound(&valid(&lab.text()));
    }

    #[test]
    fn written_out_it_means_the_same(lab in labs()) {
        let config = valid(&lab.text());
        let mut text = config.vxlan.as_ref().map(written).unwrap_or_default();
        for network in &config.networks {
            let subnet = line(network.subnet.is_some(), format!("subnet = \"{}\"", network.subnet.unwrap_or_default()));
            let subnet6 = line(network.subnet6.is_some(), format!("subnet6 = \"{}\"", network.subnet6.unwrap_or_default()));
            let to = serde_json::to_string(&network.routes_to).unwrap();
            // One that names no MTU has it from the underlay.
            let mtu = line(network.vni.is_none() || network.mtu_named, format!("mtu = {}", network.mtu));
            let vni = network.vni.map(|vni| format!("vni = {vni}\n")).unwrap_or_default();
            text.push_str(&format!("[[network]]\nname = \"{}\"\n{subnet}{subnet6}{mtu}{vni}icc = {}\nageing = {}\n\
                fdb_limit = {}\nstorm = {}\nspoof = \"claimed\"\nroutes_to = {to}\n",
                network.name, network.icc, network.ageing, network.fdb_limit, network.storm));
        }
        for container in &config.containers {
            let (name, netns, create) = (&container.name, &container.netns, container.create);
            text.push_str(&format!("[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = {create}\n"));
            for i in &container.interfaces {
                let ip = i.ip.map(|ip| format!("ip = \"{}\"\n", ip.addr())).unwrap_or_default();
                let ip6 = i.ip6.map(|ip| format!("ip6 = \"{}\"\n", ip.addr())).unwrap_or_default();
                text.push_str(&format!("[[container.interface]]\nnetwork = \"{}\"\nname = \"{}\"\n{ip}{ip6}mac = \"{}\"\n",
                    i.network, i.name, i.mac));
            }
        }
        prop_assert_eq!(valid(&text), config);
    }

    #[test]
    fn zones_are_what_a_walk_over_routes_finds(lab in labs()) {
        let config = valid(&lab.text());
        let mut near: HashMap<usize, HashSet<usize>> = HashMap::new();
        for from in 0..lab.networks {
            let to = lab.reached(from).unwrap_or_else(|| (0..lab.networks).filter(|to| *to != from).collect());
            let names: Vec<_> = to.iter().map(|to| format!("n{to}")).collect();
            prop_assert_eq!(config.destinations(&config.networks[from]).map(|n| n.name.clone()).collect::<Vec<_>>(), names);
            for to in to {
                near.entry(from).or_default().insert(to);
                near.entry(to).or_default().insert(from);
            }
        }
        for start in 0..lab.networks {
            let (mut met, mut ahead) = (HashSet::from([start]), vec![start]);
            while let Some(at) = ahead.pop() {
                ahead.extend(near.get(&at).into_iter().flatten().filter(|next| met.insert(**next)));
            }
            prop_assert_eq!(config.zone_indices()[format!("n{start}").as_str()], met.into_iter().min().unwrap());
        }
    }

    #[test]
    fn appending_containers_moves_nobody(lab in labs(), more in labs()) {
        let before = valid(&lab.text());
        // What comes after asks for nothing by itself.
        let open = |ports: &Vec<Port>| ports.iter().map(|(network, _, _)| (*network, None, None)).collect();
        let mut longer = lab.clone();
        longer.containers.extend(more.containers.iter().map(open));
        let after = valid(&longer.text());
        prop_assert_eq!(&after.containers[..before.containers.len()], &before.containers[..]);
        let diff = diff(&before, &after);
        prop_assert!(diff.interfaces_changed.is_empty() && diff.interfaces_removed.is_empty());
        prop_assert!(diff.containers_changed.is_empty() && diff.networks_changed.is_empty());
    }

    #[test]
    fn a_reload_of_any_other_lab_moves_no_interface_that_stays_open(old in labs(), mut new in labs()) {
        let before = valid(&old.text());
        (new.networks, new.families, new.overlay) = (old.networks, old.families, old.overlay.clone());
        for port in new.containers.iter_mut().flatten() {
            (port.1, port.2) = (None, None);
        }
        let context = Context { paths: paths(), previous: Some(&before), memory: None };
        let after = parse_with("lab.toml", new.text().as_bytes(), &context).unwrap();
        sound(&after);
        for (container, interface) in after.interfaces() {
            let was = before.container(&container.name).and_then(|c| c.interfaces.iter().find(|i| i.name == interface.name));
            if let Some(was) = was.filter(|was| was.network == interface.network) {
                prop_assert_eq!((was.ip, was.ip6), (interface.ip, interface.ip6));
            }
        }
        prop_assert_eq!(diff(&before, &after).is_empty(), diff(&after, &before).is_empty());
    }

    #[test]
    fn connecting_one_by_one_is_sound(lab in labs()) {
        let networks = Lab { containers: Vec::new(), reach: [0; 4], ..lab.clone() };
        let mut config = valid(&networks.text());
        for (index, ports) in lab.containers.iter().enumerate() {
            let spec = ContainerSpec { name: format!("c{index}"), ..ContainerSpec::default() };
            for (network, ip, _) in ports {
                let network = format!("n{}", network % lab.networks);
                let octet = network.trim_start_matches('n');
                let ip6 = ip.filter(|_| lab.families.1).map(|ip| format!("fd00:{octet}::{ip:x}"));
                let ip = ip.filter(|_| lab.families.0).map(|ip| format!("10.{octet}.0.{ip}"));
                let asked = InterfaceOptions { ip, ip6, ..InterfaceOptions::default() };
                let count = config.interfaces().count();
                let made = config.connect(&network, &spec, &asked);
                prop_assert_eq!(config.interfaces().count(), count + usize::from(made.is_ok()));
            }
        }
        sound(&config);
        let all: Vec<_> = config.interfaces().map(|(c, i)| (c.name.clone(), i.clone())).collect();
        for (container, interface) in all {
            let gone = config.disconnect(&interface.network, &container, Some(&interface.name));
            // The default route goes on to others.
            prop_assert_eq!(gone.map(|i| (i.name, i.network, i.ip, i.mac)), Ok((interface.name, interface.network, interface.ip, interface.mac)));
            routed(&config);
        }
        for network in 0..lab.networks {
            let name = format!("n{network}");
            prop_assert!(config.remove_network(&name).is_ok());
        }
    }
}
