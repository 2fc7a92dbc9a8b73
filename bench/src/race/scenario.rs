//! What is raced over: who takes part, and what is measured.

use clap::ValueEnum;

use super::figures::Measure;
use super::peers::Peer;

/// What is raced over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Two containers on one network.
    L2,
    /// Two containers on two networks.
    Route,
    /// A container and the world outside.
    Egress,
    /// The world outside, and the host, and a container's published l4 ports.
    Publish,
    /// A container and the world outside, by packets that are translated: an uplink with an address of its own.
    Snat,
    /// The world outside and a container's l4 ports that are published there, likewise.
    Dnat,
    /// Two containers on one network and two hosts: a tunnel between these.
    Vxlan,
}

/// Who translates packets, beside what we do without.
const NATS: &[Peer] =
    &[Peer::Kernel, Peer::VswitchdRouted, Peer::Vswitchd, Peer::VswitchdEpoll, Peer::VswitchdUring];

/// All who are one namespace's way out.
const UPLINKS: &[Peer] = &[
    Peer::Kernel,
    Peer::Vswitchd,
    Peer::VswitchdEpoll,
    Peer::VswitchdUring,
    Peer::Pasta1500,
    Peer::Pasta65520,
    Peer::Slirp1500,
    Peer::Slirp65520,
];

impl Scenario {
    /// Its word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::Route => "route",
            Self::Egress => "egress",
            Self::Publish => "publish",
            Self::Snat => "snat",
            Self::Dnat => "dnat",
            Self::Vxlan => "vxlan",
        }
    }

    /// Who takes part.
    pub const fn peers(self) -> &'static [Peer] {
        match self {
            Self::L2 => &[
                Peer::Kernel,
                Peer::Relay,
                Peer::RelayUring,
                Peer::Vswitchd,
                Peer::VswitchdEpoll,
                Peer::VswitchdUring,
                Peer::Ovs,
                Peer::OvsTso,
                Peer::Vde,
            ],
            Self::Route => {
                &[Peer::Kernel, Peer::VswitchdL2, Peer::Vswitchd, Peer::VswitchdEpoll, Peer::VswitchdUring]
            }
            Self::Egress | Self::Publish => UPLINKS,
            Self::Snat | Self::Dnat => NATS,
            Self::Vxlan => &[
                Peer::Underlay,
                Peer::Kernel,
                Peer::Vswitchd,
                Peer::VswitchdEpoll,
                Peer::VswitchdUring,
                Peer::Ovs,
            ],
        }
    }

    /// What is measured unless told otherwise.
    pub const fn measures(self) -> &'static [Measure] {
        match self {
            Self::L2 => &[
                Measure::Tcp,
                Measure::TwoWay,
                Measure::UdpMax,
                Measure::UdpFlood,
                Measure::Loss,
                Measure::RoundTrip,
                Measure::Connects,
                Measure::Cpu,
                Measure::Memory,
                Measure::Idle,
            ],
            Self::Route => &[
                Measure::Tcp,
                Measure::TwoWay,
                Measure::UdpMax,
                Measure::UdpFlood,
                Measure::RoundTrip,
                Measure::Connects,
                Measure::Cpu,
            ],
            Self::Egress | Self::Snat | Self::Dnat | Self::Vxlan => &[
                Measure::Up,
                Measure::Down,
                Measure::UdpMax,
                Measure::UdpFlood,
                Measure::RoundTrip,
                Measure::Connects,
                Measure::Cpu,
                Measure::Memory,
                Measure::Idle,
            ],
            Self::Publish => &[
                Measure::Down,
                Measure::Up,
                Measure::HostDown,
                Measure::LoopbackDown,
                Measure::LoopbackUp,
                Measure::RoundTrip,
                Measure::Connects,
                Measure::Memory,
            ],
        }
    }

    /// Whom ratios are printed to, and in what words.
    pub const fn baselines(self) -> &'static [(Peer, &'static str)] {
        match self {
            Self::L2 => &[(Peer::Kernel, "the kernel bridge"), (Peer::Relay, "the bare relay")],
            Self::Route => &[
                (Peer::Kernel, "kernel routing between two bridges"),
                (Peer::VswitchdL2, "our own figures on one network"),
            ],
            Self::Egress => &[
                (Peer::Kernel, "kernel bridge and nft masquerade"),
                (Peer::Pasta1500, "pasta at MTU 1500"),
                (Peer::Pasta65520, "pasta at its default MTU of 65520"),
            ],
            Self::Snat => &[
                (Peer::Kernel, "kernel bridge and nft masquerade"),
                (Peer::VswitchdRouted, "our own figures without translation"),
            ],
            Self::Dnat => &[
                (Peer::Kernel, "kernel bridge and nft DNAT"),
                (Peer::VswitchdRouted, "our own figures without translation"),
            ],
            Self::Vxlan => &[
                (Peer::Kernel, "kernel bridge and VXLAN device"),
                (Peer::Underlay, "the underlay without a tunnel"),
            ],
            Self::Publish => &[
                (Peer::Kernel, "kernel DNAT"),
                (Peer::Pasta1500, "pasta at MTU 1500"),
                (Peer::Pasta65520, "pasta at its default MTU of 65520"),
            ],
        }
    }

    /// What the reader must know of the figures.
    pub const fn note(self) -> &'static str {
        match self {
            Self::L2 => {
                "CPU of the machine counts both containers too;\n\
                 the kernel bridge works in softirqs, which belong to no process, so it has no CPU, memory or idle figure of its own."
            }
            Self::Route => {
                "Containers on two networks; CPU of the machine counts both containers too, and the kernel has no process to count."
            }
            Self::Egress => {
                "Container, host and outside are three namespaces, a veth pair of MTU 1500 joins the latter two, each peer has its own three.\n\
                 TCP up is sent by the container. CPU of the machine counts container and server too, and the kernel has no process to count."
            }
            Self::Snat | Self::Dnat => {
                "Container, host and outside are three namespaces. The kernel's bridge is on the host, which a veth pair joins to the outside;\n\
                 our daemon runs on the host, and its uplink is a TAP outside. What it is compared with besides routes between two networks.\n\
                 TCP up is sent by the container. CPU of the machine counts container and server too, and the kernel has no process to count."
            }
            Self::Vxlan => {
                "Two hosts are namespaces that a veth pair of MTU 1500 joins, and each has a container whose MTU is 1450; each peer has its own four.\n\
                 TCP up is sent by the first host's container. CPU of the switch and idle CPU are those of both switches together, memory is that of\n\
                 the larger one. CPU of the machine counts both containers too, and the kernel has no process to count."
            }
            Self::Publish => {
                "Container, host and outside are three namespaces, a veth pair of MTU 1500 joins the latter two, each peer has its own three.\n\
                 Clients are outside unless a figure says \"host\": those connect to the host's own address, or to 127.0.0.1. TCP up is sent by the container;\n\
                 each of the connections of \"TCP connects\" carries a byte from its client."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_takes_part_somewhere_and_we_do_everywhere() {
        for scenario in Scenario::value_variants() {
            assert!(scenario.peers().contains(&Peer::Vswitchd), "{scenario:?}");
            for (peer, _) in scenario.baselines() {
                assert!(scenario.peers().contains(peer), "{scenario:?} has no {peer:?} to compare with");
            }
            assert_eq!(Scenario::from_str(scenario.name(), false), Ok(*scenario));
        }
        let everyone = Scenario::value_variants().iter().flat_map(|scenario| scenario.peers());
        let absent: Vec<_> = Peer::value_variants()
            .iter()
            .filter(|peer| !everyone.clone().any(|other| &other == peer))
            .collect();
        assert!(absent.is_empty(), "{absent:?}");
    }
}
