//! What is measured, and by what.

mod load;
pub use self::load::idle_percent;
mod tcp;
mod udp;

use std::time::Duration;

use clap::ValueEnum;

use super::peers::Lab;
use crate::error::Result;

/// A number in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// One TCP stream.
    Tcp,
    /// Two TCP streams against each other, summed.
    TcpTwoWay,
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
    pub const ALL: [Self; 12] = [
        Self::Tcp,
        Self::TcpTwoWay,
        Self::UdpMax,
        Self::UdpFlood,
        Self::Loss,
        Self::RoundTripP50,
        Self::RoundTripP99,
        Self::Connects,
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
            Self::UdpMax => ("udp64_max", "UDP-64, < 0.1 % lost", "kpps"),
            Self::UdpFlood => ("udp64_flood", "UDP-64, flood, arrived", "kpps"),
            Self::Loss => ("loss_40k", "loss at 40 kpps", "%"),
            Self::RoundTripP50 => ("round_trip_p50", "UDP round trip p50", "us"),
            Self::RoundTripP99 => ("round_trip_p99", "UDP round trip p99", "us"),
            Self::Connects => ("connects", "TCP connects", "1/s"),
            Self::CpuSwitch => ("cpu_switch", "CPU of the switch at 20 kpps", "us/packet"),
            Self::CpuMachine => ("cpu_machine", "CPU of the machine at 20 kpps", "us/packet"),
            Self::Memory => ("resident", "resident memory", "MiB"),
            Self::Idle => ("idle_cpu", "idle CPU", "% of a core"),
        }
    }

    /// Whether a ratio says something: of values near nothing it does not.
    pub const fn has_ratio(self) -> bool {
        !matches!(self, Self::Loss | Self::Idle)
    }

    /// Whether more of it is better.
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::Tcp | Self::TcpTwoWay | Self::UdpMax | Self::UdpFlood | Self::Connects)
    }
}

/// A measurement, which gives one or two figures; the words of `--figures`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// One TCP stream.
    Tcp,
    /// Two TCP streams, one each way.
    TwoWay,
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
        match self {
            Self::Tcp => Ok(vec![(Figure::Tcp, tcp::stream(lab, time, false)?)]),
            Self::TwoWay => Ok(vec![(Figure::TcpTwoWay, tcp::stream(lab, time, true)?)]),
            Self::UdpMax => Ok(vec![(Figure::UdpMax, udp::highest(lab, time)?)]),
            Self::UdpFlood => Ok(vec![(Figure::UdpFlood, udp::flood(lab, time)?)]),
            Self::Loss => Ok(vec![(Figure::Loss, udp::loss(lab, time)?)]),
            Self::RoundTrip => load::round_trip(lab, time),
            Self::Connects => Ok(vec![(Figure::Connects, load::connects(lab, time)?)]),
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
