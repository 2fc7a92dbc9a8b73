//! What the daemon must show, as ratios within rounds.

use super::figures::Figure;
use super::peers::Peer;
use super::scenario::Scenario;

/// One thing that must be so.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    /// Of what.
    pub figure: Figure,
    /// Against whom; of several, the best. Empty: the figure itself.
    pub to: &'static [Peer],
    /// How much.
    pub bound: Bound,
}

/// A limit from below or from above.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
}

impl Bound {
    /// As it stands in the table, such as `>= 0.80`.
    pub fn words(self) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {bound:.2}"),
            Self::AtMost(bound) => format!("<= {bound:.2}"),
        }
    }

    /// Whether a value keeps to it.
    pub fn allows(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// The word for a bar that was judged, or could not be.
pub const fn verdict(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "met",
        Some(false) => "missed",
        None => "not judged",
    }
}

impl Bar {
    /// As it stands in the table, such as `>= 0.80 of kernel`.
    pub fn words(&self) -> String {
        let bound = self.bound.words();
        let names: Vec<_> = self.to.iter().map(|peer| peer.name()).collect();
        match names.as_slice() {
            [] => bound,
            [one] => format!("{bound} of {one}"),
            several => format!("{bound} of the best of {}", several.join(", ")),
        }
    }
}

const RELAY: &[Peer] = &[Peer::Relay];
const RELAYS: &[Peer] = &[Peer::Relay, Peer::RelayUring];
const OVS: &[Peer] = &[Peer::Ovs];
const OVS_TSO: &[Peer] = &[Peer::OvsTso];
const VDE: &[Peer] = &[Peer::Vde];
const SWITCHES: &[Peer] = &[Peer::Ovs, Peer::OvsTso, Peer::Vde];
const KERNEL: &[Peer] = &[Peer::Kernel];
const L2: &[Peer] = &[Peer::VswitchdL2];
const ROUTED: &[Peer] = &[Peer::VswitchdRouted];
const PASTA: &[Peer] = &[Peer::Pasta1500, Peer::Pasta65520];
const ROOTLESS: &[Peer] = &[Peer::Pasta1500, Peer::Pasta65520, Peer::Slirp1500, Peer::Slirp65520];

const fn at_least(figure: Figure, bound: f64, to: &'static [Peer]) -> Bar {
    Bar { figure, to, bound: Bound::AtLeast(bound) }
}

const fn at_most(figure: Figure, bound: f64, to: &'static [Peer]) -> Bar {
    Bar { figure, to, bound: Bound::AtMost(bound) }
}

/// What the best of a bare relay leaves: 0.95 of it.
const NEARLY: f64 = 1.0 / 0.95;

const SWITCHED: &[Bar] = &[
    at_least(Figure::Tcp, 0.95, KERNEL),
    at_least(Figure::Tcp, 0.95, RELAYS),
    at_least(Figure::Tcp, 1.2, OVS_TSO),
    at_least(Figure::Tcp, 12.0, OVS),
    at_least(Figure::Tcp, 20.0, VDE),
    at_least(Figure::UdpMax, 1.1, KERNEL),
    at_least(Figure::UdpMax, 0.95, RELAYS),
    at_least(Figure::UdpMax, 1.0, SWITCHES),
    at_least(Figure::UdpFlood, 1.25, KERNEL),
    at_least(Figure::UdpFlood, 0.95, RELAYS),
    at_least(Figure::UdpFlood, 1.0, SWITCHES),
    at_most(Figure::Loss, 0.1, &[]),
    at_most(Figure::RoundTripP50, 0.9, KERNEL),
    at_most(Figure::RoundTripP50, NEARLY, RELAYS),
    at_most(Figure::RoundTripP50, 1.0, SWITCHES),
    at_most(Figure::RoundTripP99, 1.1, KERNEL),
    at_most(Figure::RoundTripP99, NEARLY, RELAYS),
    at_least(Figure::Connects, 1.1, KERNEL),
    at_least(Figure::Connects, 0.95, RELAYS),
    at_least(Figure::Connects, 1.0, SWITCHES),
    at_most(Figure::CpuSwitch, 1.15, RELAY),
];

const ROUTE: &[Bar] = &[
    at_least(Figure::Tcp, 0.95, L2),
    at_least(Figure::UdpMax, 0.95, L2),
    at_least(Figure::UdpFlood, 0.95, L2),
    at_most(Figure::RoundTripP50, 1.0 / 0.95, L2),
];

const EGRESS: &[Bar] = &[
    at_least(Figure::TcpUp, 0.8, KERNEL),
    at_least(Figure::TcpUp, 8.0, ROOTLESS),
    at_least(Figure::TcpDown, 0.75, KERNEL),
    at_least(Figure::TcpDown, 1.4, PASTA),
    at_least(Figure::UdpMax, 0.9, KERNEL),
    at_least(Figure::UdpMax, 1.0, PASTA),
    at_least(Figure::UdpFlood, 0.9, KERNEL),
    at_least(Figure::UdpFlood, 1.0, PASTA),
    at_most(Figure::RoundTripP50, 1.0, PASTA),
    at_least(Figure::Connects, 0.75, KERNEL),
    at_least(Figure::Connects, 1.1, PASTA),
];

const PUBLISH: &[Bar] = &[
    at_least(Figure::TcpUp, 0.8, KERNEL),
    at_least(Figure::TcpDown, 0.75, KERNEL),
    at_least(Figure::TcpDown, 1.4, PASTA),
    at_least(Figure::HostDown, 0.7, KERNEL),
    at_least(Figure::LoopbackDown, 0.7, KERNEL),
    at_least(Figure::LoopbackUp, 0.7, KERNEL),
    at_most(Figure::RoundTripP50, 1.0, PASTA),
    at_least(Figure::Connects, 0.75, KERNEL),
    at_least(Figure::Connects, 1.1, PASTA),
    at_least(Figure::AddressKept, 100.0, &[]),
];

/// Translation costs at most 3 % of what is routed without.
const FREE: f64 = 1.0 / 0.97;

const NAT: &[Bar] = &[
    at_least(Figure::TcpUp, 0.85, KERNEL),
    at_least(Figure::TcpUp, 0.97, ROUTED),
    at_least(Figure::TcpDown, 0.85, KERNEL),
    at_least(Figure::TcpDown, 0.97, ROUTED),
    at_least(Figure::UdpMax, 1.2, KERNEL),
    at_least(Figure::UdpMax, 0.97, ROUTED),
    at_least(Figure::UdpFlood, 0.97, ROUTED),
    at_most(Figure::RoundTripP50, 1.0, KERNEL),
    at_most(Figure::RoundTripP50, FREE, ROUTED),
    at_least(Figure::Connects, 0.9, KERNEL),
    at_least(Figure::Connects, 0.97, ROUTED),
];

const VXLAN: &[Bar] = &[
    at_least(Figure::TcpUp, 0.5, KERNEL),
    at_least(Figure::TcpDown, 0.5, KERNEL),
    at_least(Figure::UdpMax, 1.1, KERNEL),
    at_least(Figure::UdpFlood, 1.0, KERNEL),
    at_most(Figure::RoundTripP50, 1.6, KERNEL),
    at_least(Figure::Connects, 0.8, KERNEL),
];

/// The bars of a scenario.
pub const fn of(scenario: Scenario) -> &'static [Bar] {
    match scenario {
        Scenario::L2 => SWITCHED,
        Scenario::Route => ROUTE,
        Scenario::Egress => EGRESS,
        Scenario::Publish => PUBLISH,
        Scenario::Snat | Scenario::Dnat => NAT,
        Scenario::Vxlan => VXLAN,
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn bars_are_against_those_who_take_part() {
        for scenario in Scenario::value_variants() {
            for bar in of(*scenario) {
                assert!(bar.to.iter().all(|peer| scenario.peers().contains(peer)), "{scenario:?}: {bar:?}");
                assert_eq!(matches!(bar.bound, Bound::AtLeast(_)), bar.figure.more_is_better(), "{bar:?}");
                assert!(bar.to.is_empty() || bar.figure.has_ratio(), "{bar:?}");
            }
        }
    }

    #[test]
    fn words_name_the_bound_and_whom_it_is_against() {
        assert_eq!(at_most(Figure::RoundTripP50, 1.0, KERNEL).words(), "<= 1.00 of kernel");
        assert_eq!(at_least(Figure::AddressKept, 100.0, &[]).words(), ">= 100.00");
        assert_eq!(
            at_least(Figure::TcpDown, 1.4, PASTA).words(),
            ">= 1.40 of the best of pasta-1500, pasta-65520"
        );
        assert!(Bound::AtMost(1.0).allows(1.0) && !Bound::AtMost(1.0).allows(1.1));
    }
}
