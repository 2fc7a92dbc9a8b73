//! A switch on memory devices, as the daemon would configure it, and what comes out of it.

use std::fmt::Write;
use std::sync::Arc;

use arc_swap::ArcSwap;
use switch::drop::DropReason;
use switch::fdb::Fdb;
use switch::io::Wait;
use switch::io::mem::MemIo;
use switch::mac::MacAddr;
use switch::port::PortId;
use switch::snapshot::Snapshot;
use switch::stats::{Counter, Counters};
use switch::tick::Tick;
use switch::worker::Worker;
use vswitchd::config::{Config, Network};
use vswitchd::engine;
use vswitchd::policy::House;
use vswitchd::tables::Tables;

use super::pcapng::{Capture, Packet};
use super::script::{port_names, vnet_comment, vnet_of};

/// Frame buffers, as many as the engine gives a worker.
const SLOTS: u16 = 128;
/// The port outside.
const OUTSIDE: &str = "-outside/vsw0";

/// How the frames of a capture are handed to the switch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// One at a time, so that it is known which made what come out.
    Single,
    /// All of a moment at once, in full batches.
    Batched,
}

/// What a run gave.
pub struct Outcome {
    /// Every frame that came out, by the port it came out of.
    pub capture: Capture,
    /// All counters, and the FDBs.
    pub counters: String,
}

/// Runs `input` through a switch that is configured by `config` and has static entries `(vlan, mac, port's name)`.
pub fn run(config: &Config, statics: &[(u16, MacAddr, String)], input: &Capture, pace: Pace) -> Outcome {
    let mut lab = Lab::new(config);
    for (vid, mac, name) in statics {
        let port = lab.port(name);
        let network = &config.interfaces().nth(port.index()).unwrap().1.network;
        lab.fdb(network).add_static(*vid, *mac, port, lab.worker.io.now).unwrap();
    }
    let mut rest = &input.packets[..];
    let mut number = 0;
    while let Some(first) = rest.first() {
        let together = match pace {
            Pace::Single => 1,
            Pace::Batched => rest.iter().take_while(|packet| packet.at == first.at).count(),
        };
        let (now, later) = rest.split_at(together);
        lab.pass_time(first.at);
        for packet in now {
            let port = lab.port(&input.interfaces[packet.interface]);
            lab.worker.io.inject(port, &vnet_of(packet), &packet.bytes);
        }
        number += together;
        lab.step(number);
        rest = later;
    }
    lab.finish()
}

struct Lab {
    /// Those of the configuration, and then the one that is outside.
    networks: Vec<Network>,
    names: Vec<String>,
    worker: Worker<MemIo, House>,
    snapshot: Arc<ArcSwap<Snapshot<Tables>>>,
    out: Vec<Packet>,
    identifications: Vec<u16>,
}

impl Lab {
    fn new(config: &Config) -> Self {
        let names = port_names(config);
        let outside = config.outside.iter().map(|outside| outside.network(None));
        let networks = config.networks.iter().cloned().chain(outside).collect();
        let snapshot = Arc::new(ArcSwap::from_pointee(engine::all_up(config).unwrap()));
        let io = MemIo::new(names.len() as u16);
        let worker =
            Worker::new(io, SLOTS, names.len(), Arc::clone(&snapshot), House::new(names.len(), None));
        Self { networks, names, worker, snapshot, out: Vec::new(), identifications: Vec::new() }
    }

    fn port(&self, name: &str) -> PortId {
        let index = self.names.iter().position(|known| known == name);
        PortId(index.unwrap_or_else(|| panic!("no port {name} in lab.toml")) as u16)
    }

    fn fdb(&self, network: &str) -> Arc<Fdb> {
        let index = self.networks.iter().position(|known| known.name == network).unwrap();
        Arc::clone(&self.snapshot.load().networks[index].as_ref().unwrap().fdb)
    }

    /// Moves the time on, and lets FDBs and connections age as the control plane does every second.
    fn pass_time(&mut self, millis: u64) {
        self.worker.io.now = Tick::from_millis(millis);
        for network in &self.networks {
            self.fdb(&network.name).age(self.worker.io.now, network.ageing);
        }
        for network in self.snapshot.load().networks.iter().flatten() {
            if let Some(groups) = &network.groups {
                groups.age(self.worker.io.now);
            }
        }
        if let Some(nat) = &self.snapshot.load().tables.nat {
            nat.conntrack.age(&nat.rules, self.worker.io.now);
        }
    }

    /// Runs until nothing is left to do, and takes what came out.
    fn step(&mut self, number: usize) {
        while self.worker.step(Wait::Poll).unwrap() > 0 {}
        assert_eq!(self.worker.counters().worker.unaccounted(), 0, "frame {number} was lost without a name");
        for interface in 0..self.names.len() {
            for (vnet, mut bytes) in self.worker.io.take(PortId(interface as u16)) {
                if self.names[interface] == OUTSIDE {
                    self.identify(&mut bytes);
                }
                let mut comments = vec![format!("of {number}")];
                comments.extend(vnet_comment(&vnet));
                self.out.push(Packet { interface, at: self.worker.io.now.millis(), bytes, comments });
            }
        }
    }

    /// Where identifications of ours begin is drawn by lot: instead they are counted, from 0x1000.
    fn identify(&mut self, frame: &mut [u8]) {
        let ours = frame[12..14] == [8, 0] && frame[26..30] == [198, 18, 0, 10];
        if !ours || frame[20] & 0x3f == 0 && frame[21] == 0 {
            return;
        }
        assert_eq!(switch::checksum::sum(&frame[14..34]), 0xffff);
        let id = u16::from_be_bytes([frame[18], frame[19]]);
        let known = self.identifications.iter().position(|known| *known == id);
        let index = known.unwrap_or(self.identifications.len());
        self.identifications.extend(known.is_none().then_some(id));
        frame[18..20].copy_from_slice(&(0x1000 + index as u16).to_be_bytes());
        frame[24..26].fill(0);
        let sum = !switch::checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }

    fn finish(self) -> Outcome {
        let counters = self.worker.counters();
        let sum = |of: fn(&switch::stats::PortCounters) -> &Counter| -> u64 {
            let ports = (0..self.names.len()).filter_map(|port| counters.port(PortId(port as u16)));
            ports.map(|port| of(port).get()).sum()
        };
        let (worker, out) = (&counters.worker, self.out.len() as u64);
        assert_eq!(worker.forwarded.get() + worker.copies.get(), out, "what came out is what was counted");
        assert_eq!(sum(|port| &port.tx_frames), out);
        assert_eq!(
            sum(|port| &port.tx_bytes),
            self.out.iter().map(|packet| packet.bytes.len() as u64).sum::<u64>()
        );
        let mut text = worker_text(counters);
        port_text(&mut text, &self.names, counters);
        for network in &self.networks {
            let now = self.worker.io.now;
            fdb_text(&mut text, &network.name, &self.fdb(&network.name), now, &self.names);
        }
        Outcome { capture: Capture { interfaces: self.names, packets: self.out }, counters: text }
    }
}

fn worker_text(counters: &Counters) -> String {
    let mut text = String::from("frames\n");
    let worker = &counters.worker;
    for (name, value) in [
        ("rx", worker.rx.get()),
        ("generated", worker.generated.get()),
        ("released", worker.released.get()),
        ("forwarded", worker.forwarded.get()),
        ("flooded", worker.flooded.get()),
        ("copies", worker.copies.get()),
        ("copies_lost", worker.copies_lost.get()),
        ("local", worker.local.get()),
        ("held", worker.held.get()),
        ("dropped", worker.dropped()),
        ("unlearned", worker.unlearned.get()),
        ("segmented", worker.segmented.get()),
    ] {
        writeln!(text, "  {name:<16} {value}").unwrap();
    }
    text.push_str("drops\n");
    for reason in DropReason::ALL {
        let count = worker.drops[*reason as usize].get();
        if count > 0 {
            writeln!(text, "  {:<16} {count}", reason.name()).unwrap();
        }
    }
    text
}

fn port_text(text: &mut String, names: &[String], counters: &Counters) {
    text.push_str("ports            rx frames    bytes | tx frames    bytes | drops\n");
    for (index, name) in names.iter().enumerate() {
        let port = counters.port(PortId(index as u16)).unwrap();
        let [rx, rx_bytes, tx, tx_bytes] =
            [&port.rx_frames, &port.rx_bytes, &port.tx_frames, &port.tx_bytes].map(Counter::get);
        write!(text, "  {name:<16} {rx:7} {rx_bytes:8} | {tx:9} {tx_bytes:8} |").unwrap();
        let drops: u64 = port.drops.iter().map(Counter::get).sum();
        writeln!(text, " {drops}").unwrap();
    }
}

/// The counters of an FDB and its entries. Who had to go from a full one is drawn by lot: of that only the numbers.
fn fdb_text(text: &mut String, network: &str, fdb: &Fdb, now: Tick, names: &[String]) {
    let stats = fdb.stats();
    writeln!(text, "fdb of {network}").unwrap();
    for (name, value) in [
        ("current", stats.current),
        ("static", stats.statics),
        ("learned", stats.learned),
        ("moved", stats.moved),
        ("expired", stats.expired),
        ("evicted", stats.evicted),
        ("refused", stats.refused),
    ] {
        writeln!(text, "  {name:<16} {value}").unwrap();
    }
    if stats.evicted > 0 {
        for (index, name) in names.iter().enumerate() {
            match fdb.learned_on(PortId(index as u16)) {
                0 => {}
                entries => writeln!(text, "  on {name:<13} {entries}").unwrap(),
            }
        }
        return;
    }
    let mut entries: Vec<_> = fdb.entries(now).collect();
    entries.sort_by_key(|entry| (entry.vid, entry.mac));
    for entry in entries {
        let kind = if entry.is_static { "static" } else { "learned" };
        let port = &names[entry.port.index()];
        writeln!(text, "  vlan {:<4} {} {port} age {} {kind}", entry.vid, entry.mac, entry.age).unwrap();
    }
}
