//! Conntrack against a model that a reader can check: maps, and no cleverness.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

mod tracked;

use std::collections::{HashMap, HashSet};
use std::net::Ipv6Addr;

use nat::conntrack::{EndPoint, Filtering, Inside, Limits, Rule, Rules, Timeouts};
use proptest::prelude::*;
use switch::drop::DropReason;
use switch::parse::{PROTO_TCP, PROTO_UDP};
use switch::port::PortId;
use tracked::{ACK, Family, Lab, end, inside, key};

/// l4 ports that containers use; the second is published, for the first of container 0.
const PORTS: [u16; 3] = [80, 8000, 5000];

#[derive(Clone, Debug)]
enum Step {
    /// Container, its l4 port, remote address, remote l4 port.
    Out(u8, Family, u32, usize, u32, u16),
    /// To the end point outside of the container's, or what that last was.
    In(u8, Family, u32, usize, u32, u16),
    Pass(u64),
    Age,
    Forget(u32),
    /// The rule is there or not, and which container is not where it was.
    Reload(bool, Option<u32>),
}

fn step() -> impl Strategy<Value = Step> {
    let proto = prop_oneof![Just(PROTO_TCP), Just(PROTO_UDP)];
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let packet = (proto, family, 0u32..3, 0usize..3, 0u32..3, 1u16..3);
    let pass = prop_oneof![
        Just(500),
        Just(1000),
        Just(2000),
        Just(119_000),
        Just(239_000),
        Just(240_000),
        Just(299_500),
        Just(300_000),
        Just(7_439_000),
        Just(7_440_000)
    ];
    prop_oneof![
        8 => packet.clone().prop_map(|(p, f, a, b, c, d)| Step::Out(p, f, a, b, c, d)),
        8 => packet.prop_map(|(p, f, a, b, c, d)| Step::In(p, f, a, b, c, d)),
        3 => pass.prop_map(Step::Pass),
        2 => Just(Step::Age),
        1 => (0u32..3).prop_map(Step::Forget),
        1 => (any::<bool>(), proptest::option::of(0u32..3)).prop_map(|(a, b)| Step::Reload(a, b)),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    seen: u32,
    heard: (bool, bool),
    /// By a mapping, or as published.
    mapped: bool,
    external: EndPoint,
}

#[derive(Clone, Debug)]
struct Mapping {
    external: EndPoint,
    seen: u32,
    permits: HashMap<Ipv6Addr, u32>,
}

type Flow = (u8, Inside, EndPoint);

#[derive(Default)]
struct Model {
    connections: HashMap<Flow, Connection>,
    mappings: HashMap<(u8, Inside), Mapping>,
    published: bool,
    filtering: Filtering,
}

/// Which container an end point is of; its port has the same number.
fn who(inside: &Inside) -> u32 {
    inside.end.address.to_bits() as u32 & 3
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What is published: the container's end point, and ours.
fn service(family: Family) -> (Inside, EndPoint) {
    (inside(family.container(0), PORTS[0]), end(family.ours(1), PORTS[1]))
}

fn longest(proto: u8) -> u32 {
    if proto == PROTO_TCP { 7440 } else { 300 }
}

impl Model {
    fn lives(&self, flow: &Flow, now: u32) -> Option<Connection> {
        let it = *self.connections.get(flow)?;
        let limit = match (flow.0, it.heard) {
            (PROTO_TCP, (true, true)) => 7440,
            (PROTO_TCP, _) => 240,
            _ => 300,
        };
        let mapped = !it.mapped || self.mappings.contains_key(&(flow.0, flow.1));
        (now - it.seen.min(now) < limit && mapped).then_some(it)
    }

    /// A packet of a connection that is there.
    fn note(&mut self, flow: &Flow, out: bool, up: u32) {
        let it = self.connections.get_mut(flow).unwrap();
        it.seen = up;
        it.heard = (it.heard.0 || out, it.heard.1 || !out);
        if let Some(mapping) = self.mappings.get_mut(&(flow.0, flow.1)).filter(|_| it.mapped) {
            mapping.seen = up;
            if let Some(seen) = mapping.permits.get_mut(&flow.2.address) {
                *seen = up;
            }
        }
    }

    fn remove(&mut self, which: impl Fn(&(u8, Inside), &Mapping) -> bool) {
        let gone: HashSet<_> =
            self.mappings.iter().filter(|(key, it)| which(key, it)).map(|(key, _)| *key).collect();
        self.mappings.retain(|key, _| !gone.contains(key));
        self.connections.retain(|(proto, inside, _), it| !(it.mapped && gone.contains(&(*proto, *inside))));
    }

    /// Whose an end point of ours is: by mapping, or as published.
    fn whose(&self, proto: u8, external: EndPoint, now: u32) -> Option<(Inside, bool)> {
        let by_mapping = self.mappings.iter().find(|((of, _), it)| {
            *of == proto && it.external == external && now - it.seen.min(now) < longest(proto)
        });
        if let Some(((_, inside), _)) = by_mapping {
            return Some((*inside, true));
        }
        let mut published =
            FAMILIES.into_iter().map(service).filter(|_| self.published && proto == PROTO_UDP);
        published.find_map(|(inside, at)| (at == external).then_some((inside, false)))
    }

    /// What a packet from outside meets.
    fn verdict(
        &self,
        proto: u8,
        external: EndPoint,
        from: EndPoint,
        now: u32,
    ) -> Result<Option<(Inside, bool, bool)>, DropReason> {
        let Some((inside, mapped)) = self.whose(proto, external, now) else { return Ok(None) };
        if let Some(it) = self.lives(&(proto, inside, from), now) {
            // What it had before it was published is another end point: its answers would come from there.
            let same = it.external == external;
            return if same { Ok(Some((inside, mapped, true))) } else { Err(DropReason::NatPorts) };
        }
        let permits = || &self.mappings[&(proto, inside)].permits;
        let admitted = !mapped
            || match self.filtering {
                Filtering::Endpoint => true,
                Filtering::AddressPort => false,
                Filtering::Address => {
                    permits().get(&from.address).is_some_and(|seen| now - seen.min(&now) < 7440)
                }
            };
        if admitted { Ok(Some((inside, mapped, false))) } else { Err(DropReason::NatFiltered) }
    }
}

fn rules(published: bool, filtering: Filtering) -> Rules {
    let rule = |family| {
        let (inside, at) = service(family);
        let (external, first) = (at.address, at.port);
        Rule { proto: PROTO_UDP, external, first, count: 1, inside, owner: PortId(0) }
    };
    let published = if published { FAMILIES.map(rule).to_vec() } else { vec![] };
    let ours = FAMILIES.map(|family| family.ours(1)).to_vec();
    Rules::new(ours, published, (filtering, false), Timeouts::default(), 7)
}

/// Both, and what was outside last.
struct World {
    lab: Lab,
    model: Model,
    last: HashMap<(u8, Inside), EndPoint>,
}

impl World {
    fn now(&self) -> (u32, u32) {
        (self.lab.now.secs(), self.lab.now.secs_up())
    }

    fn out(&mut self, proto: u8, from: Inside, to: EndPoint) {
        let (now, up) = self.now();
        let flow = (proto, from, to);
        let known = self.lab.out(proto, from.end, to, who(&from) as u16).unwrap();
        if let Some(it) = self.model.lives(&flow, now) {
            assert_eq!(known.external, it.external, "of a connection that is there");
            self.model.note(&flow, true, up);
            return;
        }
        self.model.connections.remove(&flow);
        let key = (proto, from);
        self.last.insert(key, known.external);
        let mut services = FAMILIES.into_iter().map(service);
        let published =
            services.find(|(inside, _)| self.model.published && proto == PROTO_UDP && *inside == from);
        if let Some((_, at)) = published {
            assert_eq!(known.external, at, "a service's own");
            let connection = Connection { seen: up, heard: (true, false), mapped: false, external: at };
            self.model.connections.insert(flow, connection);
            return;
        }
        if self.model.mappings.get(&key).is_some_and(|it| now - it.seen.min(now) >= longest(proto)) {
            self.model.remove(|it, _| *it == key);
        }
        let fresh = Mapping { external: known.external, seen: up, permits: HashMap::new() };
        let mapping = self.model.mappings.entry(key).or_insert(fresh);
        assert_eq!(known.external, mapping.external, "RFC 4787 REQ-1: whoever it speaks to");
        mapping.seen = up;
        if self.model.filtering == Filtering::Address {
            mapping.permits.insert(to.address, up);
        }
        let connection =
            Connection { seen: up, heard: (true, false), mapped: true, external: known.external };
        self.model.connections.insert(flow, connection);
    }

    fn come(&mut self, proto: u8, to: EndPoint, from: EndPoint) {
        let (now, up) = self.now();
        let expected = self.model.verdict(proto, to, from, now);
        let got = self.lab.come_with(&key(proto, from, to), ACK);
        assert_eq!(got, expected.map(|it| it.map(|(inside, ..)| inside)), "{proto} {from:?} to {to:?}");
        let Ok(Some((inside, mapped, there))) = expected else { return };
        let flow = (proto, inside, from);
        if there {
            self.model.note(&flow, false, up);
            return;
        }
        let connection = Connection { seen: up, heard: (false, true), mapped, external: to };
        self.model.connections.insert(flow, connection);
        self.model.note(&flow, false, up);
    }

    fn age(&mut self) {
        let (now, _) = self.now();
        self.lab.conntrack.age(&self.lab.rules, self.lab.now);
        let model = &mut self.model;
        let living: HashSet<Flow> =
            model.connections.keys().filter(|flow| model.lives(flow, now).is_some()).copied().collect();
        model.connections.retain(|flow, _| living.contains(flow));
        let used: HashSet<_> = model
            .connections
            .iter()
            .filter(|(_, it)| it.mapped)
            .map(|((proto, inside, _), _)| (*proto, *inside))
            .collect();
        model.remove(|key, it| !used.contains(key) && now - it.seen.min(now) >= 2);
    }

    fn forget(&mut self, owner: u32) {
        let all = self.model.connections.len();
        self.model.remove(|(_, inside), _| who(inside) == owner);
        self.model.connections.retain(|(_, inside, _), _| who(inside) != owner);
        self.lab.conntrack.forget(|port| port == PortId(owner as u16), self.lab.now);
        assert!(self.model.connections.len() <= all);
    }

    fn reload(&mut self, published: bool, moved: Option<u32>) {
        let filtering = self.model.filtering;
        self.lab.rules = rules(published, filtering);
        self.model.published = published;
        self.lab.conntrack.reconcile(
            &self.lab.rules,
            |_, _, address| Some(address.to_bits() as u32 & 3) != moved,
            self.lab.now,
        );
        // What it has when it is published goes on; what others have there does not.
        self.model.remove(|(proto, inside), it| {
            let clashes = FAMILIES.into_iter().any(|family| service(family).1 == it.external);
            (*proto == PROTO_UDP && published && clashes) || Some(who(inside)) == moved
        });
        self.model
            .connections
            .retain(|(_, inside, _), it| (it.mapped || published) && Some(who(inside)) != moved);
    }

    /// What is listed is what is there; and an error about it finds its way.
    fn check(&self) {
        let (now, _) = self.now();
        let lab = &self.lab;
        let listed: HashMap<Flow, EndPoint> = lab
            .conntrack
            .connections(&lab.rules, lab.now)
            .map(|row| ((row.proto, row.inside, row.remote), row.external))
            .collect();
        let model: HashMap<Flow, EndPoint> = self
            .model
            .connections
            .keys()
            .filter_map(|flow| Some((*flow, self.model.lives(flow, now)?.external)))
            .collect();
        assert_eq!(listed, model);
        for ((proto, inside, remote), external) in model {
            let sent = key(proto, external, remote);
            let found = lab.conntrack.error_in(&lab.rules, &sent, lab.now);
            assert_eq!(found, Some((inside, PortId(who(&inside) as u16))));
            let received = key(proto, remote, inside.end);
            let owner = who(&inside) as u16;
            let said = |by| lab.conntrack.error_out(&lab.rules, &received, PortId(by), lab.now);
            assert_eq!((said(owner), said(owner + 1)), (Some(external), None));
        }
        let mut outside = HashSet::new();
        for row in lab.conntrack.mappings(&lab.rules, lab.now) {
            assert!(outside.insert((row.proto, row.external)), "two have {:?}", row.external);
        }
    }
}

fn filtering() -> impl Strategy<Value = Filtering> {
    prop_oneof![Just(Filtering::Endpoint), Just(Filtering::Address), Just(Filtering::AddressPort)]
}

proptest! {
    #[test]
    fn conntrack_does_what_the_model_says(
        filtering in filtering(),
        published: bool,
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let limits = Limits { connections: 1000, mappings: 100, ..Limits::default() };
        let lab = Lab::new(&limits, rules(published, filtering));
        let model = Model { published, filtering, ..Model::default() };
        let mut world = World { lab, model, last: HashMap::new() };
        for step in steps {
            match step {
                Step::Out(proto, family, who, port, to, at) => {
                    world.out(proto, inside(family.container(who), PORTS[port]), end(family.remote(to), at));
                }
                Step::In(proto, family, who, port, from, at) => {
                    let whose = (proto, inside(family.container(who), PORTS[port]));
                    let to = world.last.get(&whose).copied().unwrap_or(end(family.ours(1), PORTS[port]));
                    world.come(proto, to, end(family.remote(from), at));
                }
                Step::Pass(millis) => world.lab.now = world.lab.now.plus_millis(millis),
                Step::Age => world.age(),
                Step::Forget(owner) => world.forget(owner),
                Step::Reload(published, moved) => world.reload(published, moved),
            }
            world.check();
        }
    }
}
