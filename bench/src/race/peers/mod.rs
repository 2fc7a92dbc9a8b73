//! The peers: each joins namespaces by its own means.

pub mod hosts;
mod kernel;
pub mod lab;
pub mod outside;
mod ovs;
mod pasta;
mod relay;
mod slirp;
mod vde;
pub mod vswitchd;

use clap::ValueEnum;
use serde::de::DeserializeOwned;

use self::lab::Lab;
use super::scenario::Scenario;
use crate::error::{Error, Result};
use crate::ns::Family;
use crate::process::{self, Scratch};

/// The MTU that every container has but those of peers that are at their best with the largest.
const MTU: u16 = 1500;
/// The default of pasta, and what podman gives slirp4netns.
const LARGE: u16 = 65_520;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Kernel bridges and veth pairs, the kernel's routing and NAT.
    Kernel,
    /// The link between two hosts and no tunnel: the limit.
    Underlay,
    /// Two TAPs and nothing between them, by epoll: the limit.
    Relay,
    /// The same by io_uring.
    RelayUring,
    /// This project on one network, beside what it does between two.
    VswitchdL2,
    /// This project between two networks, beside what it does with translation.
    VswitchdRouted,
    /// This project, with the engine that it chooses.
    Vswitchd,
    /// This project by epoll.
    VswitchdEpoll,
    /// This project by io_uring.
    VswitchdUring,
    /// Open vSwitch, netdev datapath.
    Ovs,
    /// The same with `userspace-tso-enable`.
    OvsTso,
    /// VDE2's `vde_switch`.
    Vde,
    /// pasta with the MTU of everyone else.
    #[value(name = "pasta-1500")]
    Pasta1500,
    /// pasta as it comes.
    #[value(name = "pasta-65520")]
    Pasta65520,
    /// slirp4netns as it comes.
    #[value(name = "slirp-1500")]
    Slirp1500,
    /// slirp4netns as podman starts it.
    #[value(name = "slirp-65520")]
    Slirp65520,
}

impl Peer {
    /// Its word on the command line and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Underlay => "underlay",
            Self::Relay => "relay",
            Self::RelayUring => "relay-uring",
            Self::VswitchdL2 => "vswitchd-l2",
            Self::VswitchdRouted => "vswitchd-routed",
            Self::Vswitchd => "vswitchd",
            Self::VswitchdEpoll => "vswitchd-epoll",
            Self::VswitchdUring => "vswitchd-uring",
            Self::Ovs => "ovs",
            Self::OvsTso => "ovs-tso",
            Self::Vde => "vde",
            Self::Pasta1500 => "pasta-1500",
            Self::Pasta65520 => "pasta-65520",
            Self::Slirp1500 => "slirp-1500",
            Self::Slirp65520 => "slirp-65520",
        }
    }

    /// How it is set up, for the report.
    pub const fn setup(self, scenario: Scenario) -> &'static str {
        match (self, scenario) {
            (Self::Kernel, Scenario::L2) => "kernel bridge, two veth pairs, bridge-nf-call-iptables off",
            (Self::Kernel, Scenario::Route) => "two kernel bridges in one namespace, ip_forward, no rules",
            (Self::Kernel, Scenario::Egress) => "kernel bridge, veth, ip_forward, nft masquerade",
            (Self::Kernel, Scenario::Snat) => "kernel bridge, veth, ip_forward, nft masquerade",
            (Self::Kernel, Scenario::Dnat) => "kernel bridge, veth, ip_forward, nft dnat and masquerade",
            (Self::Kernel, Scenario::Publish) => {
                "kernel bridge, veth, ip_forward, nft dnat in prerouting and output, masquerade, route_localnet"
            }
            (Self::Kernel, Scenario::Vxlan) => {
                "kernel bridge and VXLAN device on each host, FDB told (bridge fdb append, nolearning), veth"
            }
            (Self::Underlay, _) => "the two hosts themselves on their veth pair, MTU 1500, no tunnel",
            (Self::Relay, _) => {
                "two TAPs with vnet_hdr and all offloads, epoll, one read and one write a frame, no switching"
            }
            (Self::RelayUring, _) => {
                "two TAPs with vnet_hdr and all offloads, io_uring, multishot reads, our spin, no switching"
            }
            (Self::VswitchdEpoll, _) => "vswitchd with io = \"epoll\"",
            (Self::VswitchdUring, _) => "vswitchd with io = \"uring\"",
            (Self::VswitchdL2, _) => "this project's daemon, both containers on one network, storm = 0",
            (Self::VswitchdRouted, _) => "this project's daemon, two networks, routes_to one way, storm = 0",
            (Self::Vswitchd, Scenario::Snat) => "this project's daemon, uplink tap, masquerade, storm = 0",
            (Self::Vswitchd, Scenario::Dnat) => "this project's daemon, uplink tap, publish, storm = 0",
            (Self::Vswitchd, Scenario::Vxlan) => {
                "this project's daemon on each host, [vxlan] peers, nothing told of MAC addresses, storm = 0"
            }
            (Self::Vswitchd, Scenario::L2) => "this project's daemon, storm = 0",
            (Self::Vswitchd, Scenario::Route) => {
                "this project's daemon, two networks, routes_to one way, storm = 0"
            }
            (Self::Vswitchd, Scenario::Egress) => "this project's daemon, uplink sockets, MTU 1500",
            (Self::Vswitchd, Scenario::Publish) => "this project's daemon, uplink sockets, publish, MTU 1500",
            (Self::Ovs, Scenario::Vxlan) => {
                "ovs-vswitchd on each host, datapath_type=netdev, VXLAN port, underlay a port of a bridge, TAP, tx offloads off"
            }
            (Self::Ovs, _) => {
                "ovs-vswitchd, datapath_type=netdev, TAP ports, tx offloads of the containers off (else no TCP)"
            }
            (Self::OvsTso, _) => "the same with other_config:userspace-tso-enable=true, offloads on",
            (Self::Vde, _) => "vde_switch with two TAPs of its own",
            (Self::Pasta1500, _) => "pasta --config-net --mtu 1500",
            (Self::Pasta65520, _) => "pasta --config-net with its default MTU of 65520",
            (Self::Slirp1500, _) => "slirp4netns --configure with its default MTU of 1500",
            (Self::Slirp65520, _) => "slirp4netns --configure --mtu 65520",
        }
    }

    /// Programs it needs.
    const fn programs(self, scenario: Scenario) -> &'static [&'static str] {
        match (self, scenario) {
            (Self::Kernel, Scenario::Egress | Scenario::Publish | Scenario::Snat | Scenario::Dnat) => {
                &["nft"]
            }
            (Self::Kernel, Scenario::Vxlan) => &["bridge"],
            (
                Self::Kernel
                | Self::Underlay
                | Self::Relay
                | Self::RelayUring
                | Self::Vswitchd
                | Self::VswitchdEpoll
                | Self::VswitchdUring
                | Self::VswitchdL2
                | Self::VswitchdRouted,
                _,
            ) => &[],
            (Self::Ovs | Self::OvsTso, _) => {
                &["ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-appctl", "ethtool"]
            }
            (Self::Vde, _) => &["vde_switch"],
            (Self::Pasta1500 | Self::Pasta65520, _) => &["pasta"],
            (Self::Slirp1500 | Self::Slirp65520, _) => &["slirp4netns"],
        }
    }

    /// Whether it is our daemon.
    pub const fn is_ours(self) -> bool {
        self.io().is_some()
    }

    /// The I/O engine of our daemon, where it is one.
    const fn io(self) -> Option<&'static str> {
        match self {
            Self::Vswitchd | Self::VswitchdL2 | Self::VswitchdRouted => Some("auto"),
            Self::VswitchdEpoll => Some("epoll"),
            Self::VswitchdUring => Some("uring"),
            _ => None,
        }
    }

    /// Whether it is our daemon with an engine that it did not choose itself.
    pub const fn is_told_how(self) -> bool {
        matches!(self, Self::VswitchdEpoll | Self::VswitchdUring)
    }

    /// Why it cannot take part, if it cannot.
    pub fn missing(self, scenario: Scenario) -> Option<String> {
        let absent = self.programs(scenario).iter().find(|name| process::find_program(name).is_none())?;
        Some(format!("{absent} not installed"))
    }

    /// Builds it, with two ends that reach each other.
    ///
    /// # Errors
    /// When it cannot be built or no packet comes through.
    pub fn start(self, scenario: Scenario) -> Result<Lab> {
        use Scenario::{Dnat, Egress, L2, Publish, Route, Snat, Vxlan};
        let family = Family::random()?;
        let dir = Scratch::create(family.prefix())?;
        let ours = self.io().filter(|_| scenario.peers().contains(&self));
        let lab = match (self, scenario) {
            (Self::Kernel, L2) => kernel::bridged(&family, dir)?,
            (Self::Kernel, Route) => kernel::routed(&family, dir)?,
            (Self::Kernel, Egress | Publish | Snat | Dnat) => kernel::translated(&family, dir, scenario)?,
            (Self::Kernel, Vxlan) => kernel::overlaid(&family, dir)?,
            (Self::Underlay, Vxlan) => hosts::underlay(&family, dir)?,
            (Self::Ovs, Vxlan) => ovs::overlaid(&family, dir)?,
            (Self::Relay, L2) => relay::start(&family, dir, false)?,
            (Self::RelayUring, L2) => relay::start(&family, dir, true)?,
            (Self::Ovs, L2) => ovs::start(&family, dir, false)?,
            (Self::OvsTso, L2) => ovs::start(&family, dir, true)?,
            (Self::Vde, L2) => vde::start(&family, dir)?,
            (Self::Pasta1500, Egress | Publish) => pasta::start(&family, dir, scenario, MTU)?,
            (Self::Pasta65520, Egress | Publish) => pasta::start(&family, dir, scenario, LARGE)?,
            (Self::Slirp1500, Egress | Publish) => slirp::start(&family, dir, scenario, MTU)?,
            (Self::Slirp65520, Egress | Publish) => slirp::start(&family, dir, scenario, LARGE)?,
            (peer, scenario) => match (ours, scenario) {
                (Some(io), Route) if peer != Self::VswitchdL2 => {
                    vswitchd::routed(&family, dir, scenario, io)?
                }
                (Some(io), L2 | Route) => vswitchd::switched(&family, dir, io)?,
                (Some(io), Snat | Dnat) if peer == Self::VswitchdRouted => {
                    vswitchd::routed(&family, dir, scenario, io)?
                }
                (Some(io), Snat | Dnat) => vswitchd::translated(&family, dir, scenario, io)?,
                (Some(io), Egress | Publish) => vswitchd::uplinked(&family, dir, scenario, io)?,
                (Some(io), Vxlan) => vswitchd::overlaid(&family, dir, io)?,
                (None, _) => return Err(peer.stranger(scenario)),
            },
        };
        lab.prepare()?;
        Ok(lab)
    }

    /// It has no part in the scenario.
    pub fn stranger(self, scenario: Scenario) -> Error {
        let others: Vec<_> = scenario.peers().iter().map(|peer| peer.name()).collect();
        Error::Missing {
            what: self.name().into(),
            hint: format!("has no part in `{}`; those who have: {}", scenario.name(), others.join(", ")),
        }
    }
}

/// Owned words of a command line.
pub fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(ToString::to_string).collect()
}

/// JSON out of what a program printed.
///
/// # Errors
/// When it is none.
pub fn answer<T: DeserializeOwned>(who: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| Error::Answer { who, detail: format!("{error} in {:.200?}", text.trim()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_words_of_the_command_line() {
        for peer in Peer::value_variants() {
            assert_eq!(Peer::from_str(peer.name(), false), Ok(*peer));
        }
    }

    #[test]
    fn a_stranger_is_told_who_takes_part() {
        let error = Peer::Ovs.start(Scenario::Route).unwrap_err().to_string();
        assert!(error.contains("ovs has no part in `route`") && error.contains("vswitchd-l2"), "{error}");
    }
}
