//! What is measured, and by what.

mod load;
pub use self::load::idle_percent;
mod tcp;
mod udp;

use std::time::Duration;

use clap::ValueEnum;

use self::tcp::Direction;
use super::peers::lab::{Lab, Way};
use crate::error::Result;

/// A number in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// One TCP stream.
    Tcp,
    /// Two TCP streams against each other, summed.
    TcpTwoWay,
    /// One TCP stream that the container sends.
    TcpUp,
    /// One TCP stream that the container receives.
    TcpDown,
    /// The same from the host's own address.
    HostDown,
    /// The same from the host's loopback address.
    LoopbackDown,
    /// What a container sends to a client on the host's loopback address.
    LoopbackUp,
    /// Highest rate of 64-byte UDP frames with less than 0.1 % lost.
    UdpMax,
    /// What arrives of 64-byte UDP frames at full blast.
    UdpFlood,
    /// Lost at 40,000 frames a second.
    Loss,
    /// Median UDP round trip.
    RoundTripP50,
    /// 99th percentile of it.
    RoundTripP99,
    /// TCP connections opened and closed.
    Connects,
    /// Of these, how many the container saw coming from the client's own address.
    AddressKept,
    /// CPU time of the switch's processes per packet.
    CpuSwitch,
    /// CPU time of the whole machine per packet.
    CpuMachine,
    /// Resident memory of the switch's processes, after the load.
    Memory,
    /// CPU of the switch's processes without load.
    Idle,
}

impl Figure {
    /// In the order of the table.
    pub const ALL: [Self; 18] = [
        Self::Tcp,
        Self::TcpTwoWay,
        Self::TcpUp,
        Self::TcpDown,
        Self::HostDown,
        Self::LoopbackDown,
        Self::LoopbackUp,
        Self::UdpMax,
        Self::UdpFlood,
        Self::Loss,
        Self::RoundTripP50,
        Self::RoundTripP99,
        Self::Connects,
        Self::AddressKept,
        Self::CpuSwitch,
        Self::CpuMachine,
        Self::Memory,
        Self::Idle,
    ];

    /// Name in JSON, title in the table, unit.
    pub const fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Tcp => ("tcp", "TCP, one stream", "Gbit/s"),
            Self::TcpTwoWay => ("tcp_two_way", "TCP, two-way, sum", "Gbit/s"),
            Self::TcpUp => ("tcp_up", "TCP up, one stream", "Gbit/s"),
            Self::TcpDown => ("tcp_down", "TCP down, one stream", "Gbit/s"),
            Self::HostDown => ("tcp_host_down", "TCP down from the host", "Gbit/s"),
            Self::LoopbackDown => ("tcp_loopback_down", "TCP down from host loopback", "Gbit/s"),
            Self::LoopbackUp => ("tcp_loopback_up", "TCP up to host loopback", "Gbit/s"),
            Self::UdpMax => ("udp64_max", "UDP-64, < 0.1 % lost", "kpps"),
            Self::UdpFlood => ("udp64_flood", "UDP-64, flood, arrived", "kpps"),
            Self::Loss => ("loss_40k", "loss at 40 kpps", "%"),
            Self::RoundTripP50 => ("round_trip_p50", "UDP round trip p50", "us"),
            Self::RoundTripP99 => ("round_trip_p99", "UDP round trip p99", "us"),
            Self::Connects => ("connects", "TCP connects", "1/s"),
            Self::AddressKept => ("address_kept", "client's address kept", "% of clients"),
            Self::CpuSwitch => ("cpu_switch", "CPU of the switch at 20 kpps", "us/packet"),
            Self::CpuMachine => ("cpu_machine", "CPU of the machine at 20 kpps", "us/packet"),
            Self::Memory => ("resident", "resident memory", "MiB"),
            Self::Idle => ("idle_cpu", "idle CPU", "% of a core"),
        }
    }

    /// Whether a ratio says something: of values near nothing it does not.
    pub const fn has_ratio(self) -> bool {
        !matches!(self, Self::Loss | Self::Idle | Self::AddressKept)
    }

    /// Whether more of it is better.
    pub const fn more_is_better(self) -> bool {
        match self {
            Self::Tcp | Self::TcpTwoWay | Self::TcpUp | Self::TcpDown => true,
            Self::HostDown | Self::LoopbackDown | Self::LoopbackUp => true,
            Self::UdpMax | Self::UdpFlood | Self::Connects | Self::AddressKept => true,
            Self::Loss | Self::RoundTripP50 | Self::RoundTripP99 => false,
            Self::CpuSwitch | Self::CpuMachine | Self::Memory | Self::Idle => false,
        }
    }
}

/// A measurement, which gives a figure or two; the words of `--figures`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// One TCP stream.
    Tcp,
    /// Two TCP streams, one each way.
    TwoWay,
    /// One TCP stream that the container sends.
    Up,
    /// One TCP stream that the container receives.
    Down,
    /// The same from the host's own address.
    HostDown,
    /// The same from the host's loopback address.
    LoopbackDown,
    /// What a container sends to a client on the host's loopback address.
    LoopbackUp,
    /// Highest rate of 64-byte UDP frames without loss.
    UdpMax,
    /// 64-byte UDP frames at full blast.
    UdpFlood,
    /// Loss at 40,000 frames a second.
    Loss,
    /// UDP round trips.
    RoundTrip,
    /// TCP connects per second.
    Connects,
    /// CPU per packet at 20,000 frames a second.
    Cpu,
    /// Resident memory.
    Memory,
    /// CPU without load.
    Idle,
}

impl Measure {
    /// Measures it; `time` is how long each load runs.
    ///
    /// # Errors
    /// When a load fails or we are interrupted.
    pub fn run(self, lab: &Lab, time: Duration) -> Result<Vec<(Figure, f64)>> {
        // What the container sends is what the server of a published l4 port sends, and else the client.
        let (up, down) = if lab.path(Way::Main)?.ends.published {
            (Direction::Back, Direction::Forth)
        } else {
            (Direction::Forth, Direction::Back)
        };
        let tcp = |figure, way, direction| Ok(vec![(figure, tcp::stream(&lab.path(way)?, time, direction)?)]);
        match self {
            Self::Tcp => tcp(Figure::Tcp, Way::Main, Direction::Forth),
            Self::TwoWay => tcp(Figure::TcpTwoWay, Way::Main, Direction::Both),
            Self::Up => tcp(Figure::TcpUp, Way::Main, up),
            Self::Down => tcp(Figure::TcpDown, Way::Main, down),
            Self::HostDown => tcp(Figure::HostDown, Way::Host, Direction::Forth),
            Self::LoopbackDown => tcp(Figure::LoopbackDown, Way::Loopback, Direction::Forth),
            Self::LoopbackUp => tcp(Figure::LoopbackUp, Way::Loopback, Direction::Back),
            Self::UdpMax => Ok(vec![(Figure::UdpMax, udp::highest(lab, time)?)]),
            Self::UdpFlood => Ok(vec![(Figure::UdpFlood, udp::flood(lab, time)?)]),
            Self::Loss => Ok(vec![(Figure::Loss, udp::loss(lab, time)?)]),
            Self::RoundTrip => load::round_trip(lab, time),
            Self::Connects => load::connects(lab, time),
            Self::Cpu => udp::cpu(lab, time),
            Self::Memory => load::memory(lab),
            Self::Idle => load::idle(lab, time),
        }
    }
}

/// How long a process may take beyond the load it runs.
const MARGIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_words_of_its_own() {
        let names: std::collections::HashSet<_> = Figure::ALL.iter().map(|figure| figure.words().0).collect();
        assert_eq!(names.len(), Figure::ALL.len());
        assert!(Figure::ALL.is_sorted());
    }
}
