//! What happened to a packet, hop by hop, in lines for people.

mod out;

use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr};

use router::explain::Step;
use router::fib::{Entry, Next, Route};
use router::multipath::Chosen;
use router::source::Belongs;
use switch::drop::DropReason;
use switch::flow::{L3, Meta, Packet};
use switch::parse::parse;
use switch::port::{NetworkId, PortId};
use switch::punt::Service;
use switch::snapshot::{Network, Owner, Snapshot, Spoof};
use switch::verdict::{Action, Hop as Way, Task, Unreachable, Verdict};
use switch::vlan::Form;

use super::Run;
use super::group::listeners;
use super::line::{line, mss};
use super::told::{Hosts, VTEP};
use crate::api::rows::{Fate, Hop, TracePacket, TracePort, TraceRow, TraceStep};
use crate::tables::Tables;

/// What ports and networks are called, by number.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Container and interface.
    pub ports: Vec<Option<(String, String)>>,
    /// Networks.
    pub networks: Vec<String>,
    /// Ports of containers that have l4 ports published.
    pub published: HashSet<PortId>,
    /// Other hosts.
    pub hosts: Hosts,
}

impl Names {
    pub(super) fn port(&self, port: PortId) -> String {
        match self.ports.get(port.index()) {
            Some(Some((container, iface))) => format!("{container} {iface} (port {port})"),
            _ => self.host(port).unwrap_or_else(|| format!("port {port}")),
        }
    }

    pub(super) fn network(&self, network: NetworkId) -> &str {
        self.networks.get(network.index()).map_or("?", String::as_str)
    }

    fn row(&self, snapshot: &Snapshot<Tables>, port: PortId) -> TracePort {
        let host = || Some((VTEP.to_owned(), self.hosts.by_port.get(&port)?.vtep.to_string()));
        let (container, iface) =
            self.ports.get(port.index()).cloned().flatten().or_else(host).unwrap_or_default();
        let network = snapshot.port(port).map_or_else(String::new, |of| self.network(of.network).to_owned());
        TracePort { port: Some(port.0), network, container, iface, tunnel: None }
    }
}

/// A run of `frame` in words.
pub fn tell(run: &Run, frame: &[u8], snapshot: &Snapshot<Tables>, names: &Names) -> TraceRow {
    let teller = Teller { run, frame, snapshot, names };
    let mut steps = Vec::new();
    for hop in [Hop::Rx, Hop::Parse, Hop::Admit, Hop::Learn, Hop::Decide, Hop::Track, Hop::Apply, Hop::Tx] {
        let lines = teller.hop(hop);
        if !lines.is_empty() {
            steps.push(TraceStep { hop, lines });
        }
    }
    TraceRow {
        from: TracePort { tunnel: names.hosts.from(run.port, frame.len()), ..names.row(snapshot, run.port) },
        packet: TracePacket {
            text: line(frame, run.packet.as_ref().map_err(|reason| *reason)),
            length: frame.len() as u64,
            hex: hex(frame),
        },
        steps,
        verdict: run.fate(),
        reason: run.drop.map(|reason| reason.name().to_owned()),
        explanation: run.drop.map(explanation),
        out: teller.out(),
    }
}

impl Run {
    /// What became of the packet.
    pub fn fate(&self) -> Fate {
        match (self.drop, self.held, &self.verdict) {
            (Some(_), ..) => Fate::Drop,
            (None, true, _) => Fate::Held,
            (None, false, Some(Verdict::Forward(_))) => Fate::Forward,
            (None, false, Some(Verdict::Flood)) => Fate::Flood,
            (None, false, Some(Verdict::Local(Task::Uplink))) => Fate::Uplink,
            (None, false, _) => Fate::Local,
        }
    }
}

pub(super) fn explanation(reason: DropReason) -> String {
    reason.explanation().trim().to_owned()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) struct Teller<'a> {
    pub(super) run: &'a Run,
    pub(super) frame: &'a [u8],
    pub(super) snapshot: &'a Snapshot<Tables>,
    pub(super) names: &'a Names,
}

impl Teller<'_> {
    fn hop(&self, hop: Hop) -> Vec<String> {
        let packet = match (&self.run.packet, hop) {
            (_, Hop::Rx) => return self.rx(),
            (Ok(packet), _) => packet,
            (Err(reason), Hop::Parse) => return vec![dropped(*reason)],
            _ => return Vec::new(),
        };
        match hop {
            Hop::Parse => vec![self.parsed(&packet.meta)],
            Hop::Admit => self.admit(packet),
            Hop::Learn => {
                self.run.learned.map(|learned| self.learn(&packet.meta, learned)).into_iter().collect()
            }
            Hop::Decide => self.decide(packet),
            Hop::Track => self.track(&packet.meta),
            Hop::Apply => self.apply(packet),
            // `rx` was said above.
            Hop::Rx | Hop::Tx => self.tx(),
        }
    }

    pub(super) fn network(&self) -> Option<&Network> {
        self.snapshot.network(self.run.network)
    }

    fn parsed(&self, meta: &Meta) -> String {
        let payload = meta.l3_end.saturating_sub(u32::from(meta.headers_len));
        format!("sound: {} bytes of headers, {payload} of payload", meta.headers_len)
    }

    fn admit(&self, packet: &Packet) -> Vec<String> {
        let (Some(network), Some(admitted)) = (self.network(), self.run.admitted) else { return Vec::new() };
        let (spoof, mtu) = (spoof(network.spoof), network.mtu);
        let name = self.names.network(self.run.network);
        let Err(reason) = admitted else {
            let size = format!("no larger than the MTU of {name}, {mtu}");
            let judged = match network.spoof {
                Spoof::Off => format!("{size}; nobody asks whose the addresses are (spoof = \"off\")"),
                _ => format!("{size}; its addresses are not another's (spoof = \"{spoof}\")"),
            };
            return self.in_vlan(&packet.meta).into_iter().chain([judged]).collect();
        };
        let mut lines = vec![dropped(reason)];
        match reason {
            DropReason::VlanNotAllowed => lines.extend(self.carried()),
            DropReason::ExceedsMtu => lines.push(format!("the MTU of {name} is {mtu}")),
            DropReason::SpoofedMac => lines.push(self.owner(
                &packet.meta.src.to_string(),
                network.claims.macs.get(&packet.meta.src).copied(),
                spoof,
            )),
            DropReason::SpoofedIp => lines.push(self.owner(
                &packet.key.src.to_canonical().to_string(),
                network.claims.ips.get(&packet.key.src).copied(),
                spoof,
            )),
            _ => {}
        }
        lines
    }

    /// The VLAN it is in, where it is in one.
    fn in_vlan(&self, meta: &Meta) -> Option<String> {
        let by = if Form::of(meta) == Form::Tagged { "by its tag" } else { "by its port" };
        (meta.vid != 0).then(|| format!("in VLAN {}, {by}", meta.vid))
    }

    /// What the port takes instead.
    fn carried(&self) -> Option<String> {
        let tagging = &self.snapshot.port(self.run.port)?.tagging;
        let untagged = tagging.untagged().map_or("no frames without a tag".into(), |vid| {
            format!("frames without a tag, which are in VLAN {vid}")
        });
        let vids: Vec<String> = tagging.tagged().map(|vid| vid.to_string()).collect();
        let tagged =
            if vids.is_empty() { "none with one".into() } else { format!("the tags {}", vids.join(", ")) };
        Some(format!("its port takes {untagged}, and {tagged}"))
    }

    fn owner(&self, what: &str, owner: Option<Owner>, spoof: &str) -> String {
        let whose = match owner {
            Some(Owner::Port(port)) => format!("was given to {}", self.names.port(port)),
            Some(Owner::Gateway) => "is the gateway's".into(),
            None => "was not given to the sender".into(),
        };
        format!("{what} {whose} (spoof = \"{spoof}\")")
    }

    fn learn(&self, meta: &Meta, (before, after): (Option<PortId>, Option<PortId>)) -> String {
        let (mac, here) = (meta.src, self.run.port);
        if before != Some(here)
            && let Some(why) = self.unlearned(mac, before)
        {
            return why;
        }
        match (before, after) {
            (Some(before), _) if before == here => format!("{mac} is known to be here"),
            (Some(before), Some(after)) if after == here => {
                format!("{mac} would be learned here; until now it was at {}", self.names.port(before))
            }
            (None, Some(_)) => format!("{mac} is new and would be learned here"),
            (_, Some(after)) => format!("{mac} stays at {}: a static entry", self.names.port(after)),
            (_, None) => format!("{mac} would not be learned: the FDB is full"),
        }
    }

    fn decide(&self, packet: &Packet) -> Vec<String> {
        let mut lines: Vec<String> = self.run.steps.iter().map(|step| self.step(step)).collect();
        if let Some(verdict) = &self.run.verdict {
            let groups = self.network().filter(|_| *verdict == Verdict::Flood);
            let listeners = groups.and_then(|network| listeners(packet, network, self.names));
            lines.push(listeners.unwrap_or_else(|| self.verdict(verdict, &packet.meta)));
            lines.extend(self.others().filter(|_| *verdict == Verdict::Flood));
            lines.extend(self.unless(verdict));
        }
        // What was found only where the way out begins.
        if let (Some(Verdict::Local(Task::Uplink | Task::Punt(_))), Some(reason)) =
            (&self.run.verdict, self.run.drop)
        {
            lines.push(dropped(reason));
        }
        lines
    }

    /// What a trace cannot know: clients of published l4 ports are the uplink's, and what answers them is let out whatever
    /// `egress` says, and to the gateway's own address where that stands in for them.
    fn unless(&self, verdict: &Verdict) -> Option<String> {
        let of_uplink = match verdict {
            Verdict::Local(Task::Unreachable(Unreachable::Egress)) => self.run.steps.contains(&Step::Uplink),
            Verdict::Local(Task::Unreachable(Unreachable::Port)) => true,
            _ => false,
        };
        (of_uplink && self.names.published.contains(&self.run.port))
            .then(|| "unless it answers a client of a published l4 port: those are not looked at".into())
    }

    fn step(&self, step: &Step) -> String {
        match step {
            Step::Told(mac) => format!(
                "asks for an address that {mac} has on another host: {}; answered here",
                self.names.hosts.whose(self.run.network, *mac)
            ),
            Step::NoGateway => {
                let name = self.names.network(self.run.network);
                format!("{name} has no gateway of ours: for the bridge")
            }
            Step::Elsewhere(0) => "in no VLAN, and the gateway is in one: for the bridge".into(),
            Step::Elsewhere(vid) => format!("in VLAN {vid}, where no gateway is: for the bridge"),
            Step::Neighbor => "ARP or neighbour discovery that concerns the gateway".into(),
            Step::GatewayMac(true) => "its destination MAC is the gateway's: to be routed".into(),
            Step::GatewayMac(false) => "its destination MAC is not the gateway's: for the bridge".into(),
            Step::NotIp => "to the gateway, and not IP in an Ethernet II frame".into(),
            Step::Ours(address) => format!("{} is the gateway itself", address.to_canonical()),
            Step::NoFamily => "the gateway has no address of its family".into(),
            Step::Martian(martian) => martian.to_string(),
            Step::Source(belongs) => self.source(*belongs),
            Step::Route(None) => "no route to its destination".into(),
            Step::Route(Some(entry)) => self.route(entry),
            Step::Chosen(hop, count, chosen) => {
                let hop = hop.to_canonical();
                match chosen {
                    Chosen::Flow => format!("by {hop}, of {count} next hops the one of its flow"),
                    Chosen::Instead(first) => {
                        let first = first.to_canonical();
                        format!(
                            "by {hop}: of {count} next hops the one of its flow is {first}, which does not answer"
                        )
                    }
                }
            }
            Step::RouteMtu(mtu) => format!("the route takes no packets larger than {mtu} bytes"),
            Step::Uplink => "what has no route leaves by the uplink".into(),
            Step::Answers(true) => "it answers what was opened from there".into(),
            Step::Answers(false) => "it answers nothing that was opened from there".into(),
            Step::LeavesAs(address, port, known) => {
                let end = end(*address, *port);
                match known {
                    true => format!("of a connection that leaves as {end}"),
                    false => format!("leaves as {end}, or with another l4 port if that one is in use"),
                }
            }
            Step::EntersTo(address, port, known) => {
                let of = if *known { ", by a connection that is there" } else { "" };
                format!("its destination stands for {}{of}", end(*address, *port))
            }
            Step::Egress => "an `egress` rule of the container denies it".into(),
            Step::Icc => "back into its own network, whose containers may not talk to each other".into(),
            Step::Hops(hops @ 0..=1) => format!("TTL or hop limit {hops} is used up"),
            Step::Hops(hops) => format!("TTL or hop limit {hops} is enough"),
            Step::NextHop(address, None) => {
                format!("next hop {}: its MAC is not known", address.to_canonical())
            }
            Step::NextHop(address, Some(known)) => {
                let asked =
                    if known.ask { ", which was not confirmed for a while: it is asked as well" } else { "" };
                format!("next hop {} is at {}{asked}", address.to_canonical(), known.mac)
            }
            Step::Fdb(mac, None) => format!("{mac} is not in the FDB"),
            Step::Fdb(mac, Some(port)) => self.behind(*mac, *port),
            Step::Length(bytes, mtu) if bytes > mtu => format!("{bytes} bytes do not fit the MTU {mtu}"),
            Step::Length(bytes, mtu) => format!("{bytes} bytes fit the MTU {mtu}"),
        }
    }

    fn source(&self, belongs: Belongs) -> String {
        match belongs {
            Belongs::Sender => "its source was given to the sender".into(),
            Belongs::Network => "its source is of the sender's network".into(),
            Belongs::BehindSender { via } => {
                format!("its source is behind the sender, via {}", via.to_canonical())
            }
            Belongs::BehindAnother { via } => {
                format!("its source is behind another container, via {}", via.to_canonical())
            }
            Belongs::Elsewhere(network) => {
                format!(
                    "its source is of network {}, where it did not come from",
                    self.names.network(network)
                )
            }
            Belongs::Outside => "its source is outside, where it came from".into(),
            Belongs::Nobody => "no route leads back to its source".into(),
            Belongs::Unasked => "nobody asks whose its source is (spoof = \"off\")".into(),
        }
    }

    fn route(&self, entry: &Entry) -> String {
        let to = match entry.route {
            Route::Local => "a gateway's own address".into(),
            Route::Nobody => "all hosts of a subnet at once: never routed".into(),
            Route::Unreachable => "a network that this one has no route to".into(),
            Route::Next(Next { network, via, opens, hops, .. }) => {
                let others = if hops.count > 1 { " and others" } else { "" };
                let via = via.map(|via| format!(", via {}{others}", via.to_canonical())).unwrap_or_default();
                let opens = if opens { "" } else { ", to which it may only answer" };
                format!("network {}{via}{opens}", self.names.network(network))
            }
        };
        format!("route {}: {to}", entry.destination())
    }

    fn verdict(&self, verdict: &Verdict, meta: &Meta) -> String {
        match verdict {
            Verdict::Forward(Action { out, hop: None }) => self.behind(meta.dst, *out),
            Verdict::Forward(Action { out, hop: Some(Way { cut: Some(mtu), .. }) }) => {
                format!("to {}, in fragments of {mtu} bytes", self.names.port(*out))
            }
            Verdict::Forward(Action { out, .. }) => format!("to {}", self.names.port(*out)),
            Verdict::Flood if meta.dst.is_group() => format!("{} is a group: to all others", meta.dst),
            Verdict::Flood => format!("{} is not in the FDB: to all others", meta.dst),
            Verdict::Drop(reason) => dropped(*reason),
            Verdict::Local(task) => self.task(*task),
        }
    }

    fn task(&self, task: Task) -> String {
        match task {
            Task::Neighbor => "the gateway learns from it, and answers what it is asked".into(),
            Task::Solicited => "the gateway advertises itself".into(),
            Task::Tell(mac) => format!("answered here: {mac} has the address"),
            Task::Echo => "the gateway replies".into(),
            Task::Reassemble => {
                "put together with the rest of its packet, to which the gateway replies".into()
            }
            Task::Expired => "the gateway says: time exceeded".into(),
            Task::Unreachable(why) => {
                let why = match why {
                    Unreachable::Network => "no route",
                    Unreachable::Host => "host unreachable",
                    Unreachable::Port => "nothing listens",
                    Unreachable::Protocol => "the protocol is not spoken here",
                    Unreachable::Prohibited => "prohibited",
                    Unreachable::Egress => "denied by `egress`",
                };
                format!("the gateway says: {why}")
            }
            Task::TooBig { mtu } => format!("the gateway says: too big, {mtu} bytes fit"),
            Task::Refused(reason) => format!("the gateway says: prohibited; {}", dropped(reason)),
            Task::AwaitFirst => "waits for the first fragment of its packet, which says whose it is".into(),
            // Never decided: see [`Way::cut`].
            Task::Fragment { out, .. } => format!("to {}", self.names.port(out)),
            Task::Punt(Service::Dns) => "for the gateway's DNS, whose answer is not tried".into(),
            Task::Punt(Service::Dhcp) => "for the gateway's DHCP, whose answer is not tried".into(),
            Task::Uplink => "to a socket of the daemon's own; what the host makes of it is not tried".into(),
            Task::Hold { network, address } => format!(
                "waits; {} is asked for on network {}",
                address.to_canonical(),
                self.names.network(network)
            ),
        }
    }

    fn track(&self, meta: &Meta) -> Vec<String> {
        let storm = self.network().map_or(0, |network| network.storm);
        match &self.run.verdict {
            Some(Verdict::Flood) if self.run.drop == Some(DropReason::Storm) => {
                vec![dropped(DropReason::Storm)]
            }
            Some(Verdict::Flood) if storm > 0 => {
                let frames = switch::segment::count(meta).max(1);
                vec![format!("would take {frames} of the port's {storm} floods a second")]
            }
            Some(Verdict::Forward(Action { hop: Some(Way { opens: true, .. }), .. })) => {
                vec!["what answers it would be let in".into()]
            }
            _ => Vec::new(),
        }
    }

    fn apply(&self, packet: &Packet) -> Vec<String> {
        let Some(Verdict::Forward(Action { out, hop: Some(way) })) = &self.run.verdict else {
            return Vec::new();
        };
        let Some((_, vnet, bytes)) = self.run.out.iter().find(|(port, ..)| port == out) else {
            return self.run.drop.map(dropped).into_iter().collect();
        };
        let Ok(after) = parse(bytes, vnet, *out, 0) else { return Vec::new() };
        let hops = if after.meta.l3 == L3::V4 { "TTL" } else { "hop limit" };
        let mut lines = vec![
            format!("{hops} {} -> {}", packet.meta.ttl, after.meta.ttl),
            format!("MACs {} > {}", way.src, way.dst),
        ];
        if packet.meta.vlan.is_some() {
            lines.push("its tag is taken off".into());
        }
        if let (Some(before), Some(after)) = (mss(self.frame, &packet.meta), mss(bytes, &after.meta))
            && before != after
        {
            lines.push(format!("MSS {before} -> {after}"));
        }
        lines
    }
}

/// As addresses are written; what has no l4 port has none.
fn end(address: Ipv6Addr, port: u16) -> String {
    match (address.to_canonical(), port) {
        (address, 0) => address.to_string(),
        (address, port) => SocketAddr::new(address, port).to_string(),
    }
}

pub(super) fn dropped(reason: DropReason) -> String {
    format!("dropped, {}: {}", reason.name(), reason.explanation().trim())
}

const fn spoof(spoof: Spoof) -> &'static str {
    match spoof {
        Spoof::Off => "off",
        Spoof::Claimed => "claimed",
        Spoof::Strict => "strict",
    }
}
