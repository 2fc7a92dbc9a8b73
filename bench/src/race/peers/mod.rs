//! The peers: each joins two namespaces, `a` and `b`, by its own means.

mod kernel;
mod ovs;
mod relay;
mod vde;
pub mod vswitchd;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use clap::ValueEnum;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::load::rr::RoundTrips;
use crate::meter;
use crate::ns::{CONGESTION_CONTROL, Family, Netns};
use crate::process::{self, Process, Scratch, Stop};

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Kernel bridge and two veth pairs.
    Kernel,
    /// Two TAPs and nothing between them: the limit.
    Relay,
    /// This project.
    Vswitchd,
    /// Open vSwitch, netdev datapath.
    Ovs,
    /// The same with `userspace-tso-enable`.
    OvsTso,
    /// VDE2's `vde_switch`.
    Vde,
}

impl Peer {
    /// Its word on the command line and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Relay => "relay",
            Self::Vswitchd => "vswitchd",
            Self::Ovs => "ovs",
            Self::OvsTso => "ovs-tso",
            Self::Vde => "vde",
        }
    }

    /// How it is set up, for the report.
    pub const fn setup(self) -> &'static str {
        match self {
            Self::Kernel => "kernel bridge, two veth pairs, bridge-nf-call-iptables off",
            Self::Relay => {
                "two TAPs with vnet_hdr and all offloads, epoll, one read and one write a frame, no switching"
            }
            Self::Vswitchd => "this project's daemon, release build, storm = 0",
            Self::Ovs => {
                "ovs-vswitchd, datapath_type=netdev, TAP ports, tx offloads of the containers off (else no TCP)"
            }
            Self::OvsTso => "the same with other_config:userspace-tso-enable=true, offloads on",
            Self::Vde => "vde_switch with two TAPs of its own",
        }
    }

    /// Programs it needs.
    const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Kernel | Self::Relay | Self::Vswitchd => &[],
            Self::Ovs | Self::OvsTso => {
                &["ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-appctl", "ethtool"]
            }
            Self::Vde => &["vde_switch"],
        }
    }

    /// Why it cannot take part, if it cannot.
    pub fn missing(self) -> Option<String> {
        let absent = self.programs().iter().find(|name| process::find_program(name).is_none())?;
        Some(format!("{absent} not installed"))
    }

    /// Builds it, with two containers that reach each other.
    ///
    /// # Errors
    /// When it cannot be built or no packet comes through.
    pub fn start(self) -> Result<Lab> {
        let family = Family::random()?;
        let dir = Scratch::create(family.prefix())?;
        let lab = match self {
            Self::Kernel => kernel::start(&family, dir)?,
            Self::Relay => relay::start(&family, dir)?,
            Self::Vswitchd => vswitchd::start(&family, dir)?,
            Self::Ovs => ovs::start(&family, dir, false)?,
            Self::OvsTso => ovs::start(&family, dir, true)?,
            Self::Vde => vde::start(&family, dir)?,
        };
        for side in [Side::A, Side::B] {
            lab.netns(side).sysctl("net/ipv4/tcp_congestion_control", CONGESTION_CONTROL)?;
        }
        lab.await_first_packet()?;
        Ok(lab)
    }
}

/// One of the two containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Sends.
    A,
    /// Receives.
    B,
}

impl Side {
    /// Its address, the same for every peer.
    pub const fn address(self) -> Ipv4Addr {
        match self {
            Self::A => Ipv4Addr::new(10, 99, 0, 1),
            Self::B => Ipv4Addr::new(10, 99, 0, 2),
        }
    }

    fn with_prefix(self) -> String {
        format!("{}/24", self.address())
    }
}

/// Two containers joined by a peer. Dropping it ends the processes, then removes the namespaces, then the files.
#[derive(Debug)]
pub struct Lab {
    /// The switch first: the order of the list is the order of the end.
    processes: Vec<Process>,
    a: Netns,
    b: Netns,
    /// Where bridges and TAPs are made, out of the host's sight.
    _workshop: Option<Netns>,
    dir: Scratch,
}

/// The link names in the workshop.
const LINKS: [&str; 2] = ["tap-a", "tap-b"];

/// Two containers and a workshop, all empty.
struct Site {
    workshop: Netns,
    a: Netns,
    b: Netns,
}

impl Site {
    fn create(family: &Family) -> Result<Self> {
        Ok(Self {
            workshop: Netns::create(family.name("s"))?,
            a: Netns::create(family.name("a"))?,
            b: Netns::create(family.name("b"))?,
        })
    }

    /// Hands the workshop's two links over as `eth0`; `prepare` sees each container before its link comes up.
    fn hand_over(&self, prepare: impl Fn(&Netns) -> Result<()>) -> Result<()> {
        for (link, (netns, side)) in LINKS.iter().zip([(&self.a, Side::A), (&self.b, Side::B)]) {
            self.workshop.give_link(link, netns, "eth0")?;
            prepare(netns)?;
            netns.address("eth0", &side.with_prefix())?;
        }
        Ok(())
    }

    fn into_lab(self, dir: Scratch, processes: Vec<Process>) -> Lab {
        Lab { processes, a: self.a, b: self.b, _workshop: Some(self.workshop), dir }
    }
}

impl Lab {
    fn netns(&self, side: Side) -> &Netns {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// Processes of the switch; none for the kernel.
    pub fn switch_pids(&self) -> Vec<u32> {
        self.processes.first().map(|process| meter::family(process.pid())).unwrap_or_default()
    }

    /// Starts a program in a container.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, side: Side, argv: &[String]) -> Result<Process> {
        Process::start(&self.dir, Some(self.netns(side).name()), argv, Stop::Kill)
    }

    /// Starts one of our loads in a container.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load(&self, side: Side, args: &[String]) -> Result<Process> {
        Process::load(&self.dir, self.netns(side).name(), args)
    }

    /// Starts one of our servers in `b`; gives it and where it is reached.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn server(&self, args: &[String]) -> Result<(Process, SocketAddrV4)> {
        let mut server = self.load(Side::B, args)?;
        let port = server.wait_line("ready", Duration::from_secs(5))?;
        let port =
            port.parse().map_err(|_| Error::Answer { who: "a load", detail: format!("port {port:?}") })?;
        Ok((server, SocketAddrV4::new(Side::B.address(), port)))
    }

    /// Runs one of our clients in `a` and gives what it says.
    ///
    /// # Errors
    /// When it fails or takes longer than `limit`.
    pub fn client<T: DeserializeOwned>(&self, args: &[String], limit: Duration) -> Result<T> {
        answer("a load", &self.load(Side::A, args)?.finish(limit)?)
    }

    fn await_first_packet(&self) -> Result<()> {
        let (_server, to) = self.server(&["echo".into()])?;
        let limit = 10;
        let args = words(&[
            "round-trip",
            "--to",
            &to.to_string(),
            "--seconds",
            &limit.to_string(),
            "--samples",
            "1",
        ]);
        let first: RoundTrips = self.client(&args, Duration::from_secs(limit + 5))?;
        if first.samples == 0 {
            return Err(Error::Deadline {
                what: "the first packet through".into(),
                limit: Duration::from_secs(limit),
            });
        }
        Ok(())
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
