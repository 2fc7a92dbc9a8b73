//! The worker against a model of a learning bridge that is a `HashMap`: for any sequence of frames, moves, silences and
//! ports that come and go, a frame comes out where the model says and nowhere else, unchanged and in order.
#![allow(missing_docs)]
#![allow(clippy::panic, clippy::unwrap_used, reason = "the lints know `#[test]`, not what it calls")]

mod common;

use std::collections::{BTreeMap, HashMap};

use common::{Lab, Options, ethernet, mac, tagged};
use proptest::prelude::*;
use switch::drop::DropReason;
use switch::mac::MacAddr;
use switch::port::PortId;
use switch::snapshot::Spoof;
use switch::tick::Tick;

const AGEING: u32 = 20;
const EXPERIMENTAL: u16 = 0x88b5;

/// What happens in a lab. Ports and stations are numbers, taken modulo how many there are.
#[derive(Debug, Clone)]
enum Event {
    Send(Send),
    /// Time passes, milliseconds.
    Wait(u32),
    /// A port goes down, or comes up again.
    Toggle(u16),
}

#[derive(Debug, Clone)]
struct Send {
    port: u16,
    src: Station,
    dst: Station,
    tags: Vec<(u16, u16)>,
    /// Bytes overwritten afterwards, place and value; the frame may be nonsense then.
    mutation: Option<(prop::sample::Index, u8)>,
}

#[derive(Debug, Clone, Copy)]
enum Station {
    /// The address that was given to this port, or to one of another network.
    Of(u16),
    /// One of a few that belong to nobody.
    Free(u8),
    /// One of a few groups; as a source it is nobody's.
    Group(u8),
    /// 01:80:c2:00:00:0x.
    Reserved(u8),
}

impl Station {
    fn mac(self, ports: u16) -> MacAddr {
        match self {
            Self::Of(port) => mac(port % ports + 1),
            Self::Free(n) => MacAddr([0x02, 0, 0, 0, 0, n % 4]),
            Self::Group(0) => MacAddr::BROADCAST,
            Self::Group(n) => MacAddr([0x33, 0x33, 0, 0, 0, n]),
            Self::Reserved(n) => MacAddr([0x01, 0x80, 0xc2, 0, 0, n % 16]),
        }
    }
}

fn stations() -> impl Strategy<Value = Station> {
    prop_oneof![
        10 => any::<u16>().prop_map(Station::Of),
        5 => any::<u8>().prop_map(Station::Free),
        2 => (0u8..3).prop_map(Station::Group),
        1 => any::<u8>().prop_map(Station::Reserved),
    ]
}

fn tags() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let outer = (
        prop::sample::select(vec![0x8100u16, 0x88a8, 0x9100]),
        prop::sample::select(vec![0u16, 1, 2, 0xe001]),
    );
    let inner = (Just(0x8100u16), 0u16..3);
    prop_oneof![
        4 => Just(Vec::new()),
        3 => outer.prop_map(|tag| vec![tag]),
        1 => inner.prop_map(|tag| vec![(0x88a8, 2), tag]),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let mutation = prop_oneof![9 => Just(None), 1 => any::<(prop::sample::Index, u8)>().prop_map(Some)];
    let send = (any::<u16>(), stations(), stations(), tags(), mutation)
        .prop_map(|(port, src, dst, tags, mutation)| Event::Send(Send { port, src, dst, tags, mutation }));
    let event = prop_oneof![
        40 => send,
        2 => (0u32..30_000).prop_map(Event::Wait),
        1 => any::<u16>().prop_map(Event::Toggle),
    ];
    prop::collection::vec(event, 1..200)
}

/// What the standard says of a bridge, in as few words as possible.
struct Model {
    /// The network of each port.
    networks: Vec<usize>,
    up: Vec<bool>,
    icc: bool,
    claimed: bool,
    /// Which port a station is behind, and when it spoke last, in full seconds rounded up.
    known: HashMap<(usize, u16, MacAddr), (u16, u32)>,
}

/// What is to become of a frame.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    To(Vec<u16>),
    Dropped(DropReason),
}

impl Model {
    fn frame(&mut self, port: u16, frame: &[u8], now: Tick) -> Fate {
        let (dst, src, vid) = link(frame);
        let network = self.networks[usize::from(port)];
        if src.is_group() || src == MacAddr::ZERO {
            return Fate::Dropped(DropReason::BadSourceMac);
        }
        if dst.is_reserved_group() {
            return Fate::Dropped(DropReason::ReservedGroup);
        }
        let owner = (0..self.networks.len())
            .find(|other| self.networks[*other] == network && mac(*other as u16 + 1) == src);
        if self.claimed && owner.is_some_and(|owner| owner != usize::from(port)) {
            return Fate::Dropped(DropReason::SpoofedMac);
        }
        self.known.insert((network, vid, src), (port, now.secs_up()));
        if !self.icc {
            return Fate::Dropped(DropReason::IccDenied);
        }
        match self.known.get(&(network, vid, dst)) {
            Some((out, _)) if *out == port => Fate::Dropped(DropReason::SamePort),
            Some((out, _)) => Fate::To(vec![*out]),
            None => {
                let member = |other: &u16| {
                    let index = usize::from(*other);
                    *other != port && self.up[index] && self.networks[index] == network
                };
                let others: Vec<u16> = (0..self.networks.len() as u16).filter(member).collect();
                if others.is_empty() { Fate::Dropped(DropReason::NoOtherPort) } else { Fate::To(others) }
            }
        }
    }

    fn age(&mut self, now: Tick) {
        self.known.retain(|_, (_, seen)| now.secs().saturating_sub(*seen) < AGEING);
    }

    fn toggle(&mut self, port: u16) {
        let up = &mut self.up[usize::from(port)];
        *up = !*up;
        if !*up {
            self.known.retain(|_, (owner, _)| *owner != port);
        }
    }
}

/// Destination, source and outer VLAN of a frame that the switch took for a good one.
fn link(frame: &[u8]) -> (MacAddr, MacAddr, u16) {
    let mac = |at: usize| MacAddr(frame[at..at + 6].try_into().unwrap());
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let tag = matches!(word(12), 0x8100 | 0x88a8 | 0x9100);
    (mac(0), mac(6), if tag { word(14) & 0xfff } else { 0 })
}

/// Drops that the model does not decide on: the parser's, who is tested elsewhere.
fn is_parsers(reason: DropReason) -> bool {
    reason < DropReason::BadSourceMac
}

/// A lab, its model, and the frames that are on their way.
struct Run {
    lab: Lab,
    model: Model,
    expected: BTreeMap<u16, Vec<Vec<u8>>>,
    drops: HashMap<DropReason, u64>,
}

impl Run {
    fn new(networks: &[u16], options: Options) -> Self {
        let of: Vec<usize> =
            networks.iter().enumerate().flat_map(|(index, ports)| vec![index; usize::from(*ports)]).collect();
        let model = Model {
            up: vec![true; of.len()],
            networks: of,
            icc: options.icc,
            claimed: options.spoof == Spoof::Claimed,
            known: HashMap::new(),
        };
        Self { lab: Lab::new(networks, options), model, expected: BTreeMap::new(), drops: HashMap::new() }
    }

    fn event(&mut self, number: usize, event: &Event) {
        let ports = self.model.networks.len() as u16;
        match event {
            Event::Send(send) => self.send(number, send),
            Event::Wait(millis) => {
                self.settle();
                let now = self.lab.worker.io.now.plus_millis(u64::from(*millis));
                self.lab.worker.io.now = now;
                for network in 0..=*self.model.networks.last().unwrap() {
                    self.lab.fdb(network).age(now, AGEING);
                }
                self.model.age(now);
            }
            Event::Toggle(port) => {
                self.settle();
                self.model.toggle(port % ports);
                self.lab.set_up(&self.model.up);
            }
        }
    }

    fn send(&mut self, number: usize, send: &Send) {
        let ports = self.model.networks.len() as u16;
        let port = send.port % ports;
        if !self.model.up[usize::from(port)] {
            return;
        }
        let payload = format!("frame {number}").into_bytes();
        let (dst, src) = (send.dst.mac(ports), send.src.mac(ports));
        let mut frame = match &send.tags[..] {
            [] => ethernet(dst, src, EXPERIMENTAL, &payload),
            tags => tagged(dst, src, tags, EXPERIMENTAL, &payload),
        };
        if let Some((place, byte)) = &send.mutation {
            let place = place.index(frame.len());
            frame[place] = *byte;
            self.settle();
            if self.is_refused(port, &frame) {
                return;
            }
        } else {
            self.lab.inject(port, &frame);
        }
        match self.model.frame(port, &frame, self.lab.worker.io.now) {
            Fate::Dropped(reason) => *self.drops.entry(reason).or_default() += 1,
            Fate::To(outs) => {
                outs.iter().for_each(|out| self.expected.entry(*out).or_default().push(frame.clone()))
            }
        }
    }

    /// Sends a frame that may be nonsense; whether the parser, or the type that it now has, refused it.
    fn is_refused(&mut self, port: u16, frame: &[u8]) -> bool {
        let before = self.parsers();
        let groups = self.lab.dropped(DropReason::ReservedGroup);
        self.lab.inject(port, frame);
        self.lab.run();
        let refused = self.parsers() - before;
        // PAUSE, made by chance, is refused whatever its destination; the model does not know types.
        let pause =
            self.lab.dropped(DropReason::ReservedGroup) > groups && !link(frame).0.is_reserved_group();
        if pause {
            *self.drops.entry(DropReason::ReservedGroup).or_default() += 1;
        }
        refused > 0 || pause
    }

    fn parsers(&self) -> u64 {
        DropReason::ALL
            .iter()
            .filter(|reason| is_parsers(**reason))
            .map(|reason| self.lab.dropped(*reason))
            .sum()
    }

    /// Everything under way arrives, where the model says.
    fn settle(&mut self) {
        self.lab.run();
        for port in 0..self.model.networks.len() as u16 {
            let got: Vec<Vec<u8>> =
                self.lab.worker.io.take(PortId(port)).into_iter().map(|(_, frame)| frame).collect();
            assert_eq!(got, self.expected.remove(&port).unwrap_or_default(), "out of port {port}");
        }
    }

    /// What the switch knows in the end, and what it dropped, is what the model knows and dropped.
    fn finish(mut self) {
        self.settle();
        let now = self.lab.worker.io.now;
        let mut entries = 0;
        for network in 0..=*self.model.networks.last().unwrap() {
            for entry in self.lab.fdb(network).entries(now) {
                let known = self.model.known.get(&(network, entry.vid, entry.mac));
                assert_eq!(known.map(|(port, _)| *port), Some(entry.port.0), "{entry:?}");
                entries += 1;
            }
        }
        assert_eq!(entries, self.model.known.len());
        for reason in DropReason::ALL.iter().filter(|reason| !is_parsers(**reason)) {
            let expected = self.drops.get(reason).copied().unwrap_or_default();
            assert_eq!(self.lab.dropped(*reason), expected, "{}", reason.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn frames_come_out_where_a_learning_bridge_sends_them(
        networks in prop::collection::vec(1u16..5, 1..4),
        icc in prop::bool::weighted(0.9),
        claimed: bool,
        events in events(),
    ) {
        let spoof = if claimed { Spoof::Claimed } else { Spoof::Off };
        let mut run = Run::new(&networks, Options { icc, spoof, ..Options::default() });
        for (number, event) in events.iter().enumerate() {
            run.event(number, event);
        }
        run.finish();
    }
}
