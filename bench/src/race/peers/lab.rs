//! Namespaces joined by a peer, and the ways between them on which loads run.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{answer, words};
use crate::error::{Error, Result};
use crate::load::rr::RoundTrips;
use crate::meter;
use crate::ns::{CONGESTION_CONTROL, Family, Netns};
use crate::process::{Process, Scratch, Stop};

/// Between whom a load runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Between the two that the scenario is about.
    Main,
    /// From the host to its own address, where a container's l4 ports are published.
    Host,
    /// The same to its loopback address.
    Loopback,
}

/// Servers of the loads, each with an l4 port of its own where it has to be known before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// `iperf3 -s`.
    Iperf,
    /// Sends UDP frames back.
    Echo,
    /// Accepts connections and closes them.
    Accept,
    /// Counts UDP frames.
    Receive,
    /// TCP streams as their clients wish; never published.
    Stream,
}

impl Service {
    /// The first and the last l4 port.
    pub const PORTS: (u16, u16) = (Self::Iperf.port(), Self::Receive.port());

    /// Its l4 port where it is published; iperf3's always.
    pub const fn port(self) -> u16 {
        match self {
            Self::Iperf => 5201,
            Self::Echo => 5202,
            Self::Accept => 5203,
            Self::Receive => 5204,
            Self::Stream => 5205,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Iperf => "iperf3",
            Self::Echo => "echo",
            Self::Accept => "accept",
            Self::Receive => "udp-recv",
            Self::Stream => "stream-serve",
        }
    }
}

/// The two ends of a way.
#[derive(Debug, Clone)]
pub struct Ends {
    /// Namespace of the client.
    pub client: String,
    /// Namespace of the server.
    pub server: String,
    /// Where the client reaches the server.
    pub to: Ipv4Addr,
    /// The client's own address, by which the server should know it.
    pub from: Ipv4Addr,
    /// Only the l4 ports of [`Service::port`] lead there.
    pub published: bool,
}

/// Namespaces joined by a peer. Dropping it ends the processes, then removes the namespaces, then the files.
#[derive(Debug)]
pub struct Lab {
    /// The switch first: the order of the list is the order of the end.
    processes: Vec<Process>,
    ways: Vec<(Way, Ends)>,
    netns: Vec<Netns>,
    dir: Scratch,
    /// The files of a second switch, on another host: then it is the second of the processes.
    second: Option<Scratch>,
}

impl Lab {
    /// What a peer has built.
    pub fn new(dir: Scratch, processes: Vec<Process>, netns: Vec<Netns>, ways: Vec<(Way, Ends)>) -> Self {
        Self { processes, ways, netns, dir, second: None }
    }

    /// The same with a second switch, whose files are there.
    pub fn with_second(self, dir: Scratch) -> Self {
        Self { second: Some(dir), ..self }
    }

    /// Sets what all namespaces have in common, and sends a packet on every way.
    ///
    /// # Errors
    /// When none comes back.
    pub(super) fn prepare(&self) -> Result<()> {
        for netns in &self.netns {
            netns.sysctl("net/ipv4/tcp_congestion_control", CONGESTION_CONTROL)?;
        }
        self.path(Way::Main)?.await_first_packet()
    }

    /// Processes of each switch; none for the kernel.
    pub fn switches(&self) -> Vec<Vec<u32>> {
        let count = if self.second.is_some() { 2 } else { 1 };
        self.processes.iter().take(count).map(|process| meter::family(process.pid())).collect()
    }

    /// Processes of all switches together.
    pub fn switch_pids(&self) -> Vec<u32> {
        self.switches().concat()
    }

    /// One of the ways.
    ///
    /// # Errors
    /// When the scenario has none such.
    pub fn path(&self, way: Way) -> Result<Path<'_>> {
        let ends = self.ways.iter().find(|(own, _)| *own == way).map(|(_, ends)| ends);
        let missing =
            || Error::Missing { what: format!("way {way:?}"), hint: "is not in this scenario".into() };
        Ok(Path { dir: &self.dir, ends: ends.ok_or_else(missing)? })
    }
}

/// A way on which loads run.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a> {
    dir: &'a Scratch,
    /// Its ends.
    pub ends: &'a Ends,
}

impl Path<'_> {
    /// Starts iperf3's server for one client.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn iperf_server(&self) -> Result<Process> {
        let port = Service::Iperf.port().to_string();
        let argv = words(&[Service::Iperf.word(), "-s", "-1", "-4", "--forceflush", "-p", &port]);
        let mut server = Process::start(self.dir, Some(&self.ends.server), &argv, Stop::Kill)?;
        server.wait_line("Server listening", Duration::from_secs(5))?;
        Ok(server)
    }

    /// Starts a program at the client's end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_client(&self, argv: &[String]) -> Result<Process> {
        Process::start(self.dir, Some(&self.ends.client), argv, Stop::Kill)
    }

    /// Starts one of our servers; gives it and where it is reached.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn server(&self, service: Service, args: &[&str]) -> Result<(Process, SocketAddrV4)> {
        let port = service.port().to_string();
        let fixed: &[&str] = if self.ends.published { &["--port", &port] } else { &[] };
        let args = words(&[&[service.word()], args, fixed].concat());
        let mut server = Process::load(self.dir, &self.ends.server, &args)?;
        let port = server.wait_line("ready", Duration::from_secs(5))?;
        let port =
            port.parse().map_err(|_| Error::Answer { who: "a load", detail: format!("port {port:?}") })?;
        Ok((server, SocketAddrV4::new(self.ends.to, port)))
    }

    /// Runs one of our clients and gives what it says.
    ///
    /// # Errors
    /// When it fails or takes longer than `limit`.
    pub fn client<T: DeserializeOwned>(&self, args: &[&str], limit: Duration) -> Result<T> {
        answer("a load", &Process::load(self.dir, &self.ends.client, &words(args))?.finish(limit)?)
    }

    fn await_first_packet(&self) -> Result<()> {
        let (_server, to) = self.server(Service::Echo, &[])?;
        let (limit, to) = (10u64, to.to_string());
        let seconds = limit.to_string();
        let args = ["round-trip", "--to", &to, "--seconds", &seconds, "--samples", "1"];
        let first: RoundTrips = self.client(&args, Duration::from_secs(limit + 5))?;
        if first.samples == 0 {
            let limit = Duration::from_secs(limit);
            return Err(Error::Deadline { what: "the first packet through".into(), limit });
        }
        Ok(())
    }
}

/// The link names in the workshop.
pub const LINKS: [&str; 2] = ["tap-a", "tap-b"];
/// The two containers of one network.
pub const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2)];

/// Two containers on one network and a workshop, where bridges and TAPs are made out of the host's sight.
pub struct Site {
    /// The workshop.
    pub workshop: Netns,
    /// Sends.
    pub a: Netns,
    /// Receives.
    pub b: Netns,
}

impl Site {
    /// # Errors
    /// When `ip` refuses.
    pub fn create(family: &Family) -> Result<Self> {
        Ok(Self {
            workshop: Netns::create(family.name("s"))?,
            a: Netns::create(family.name("a"))?,
            b: Netns::create(family.name("b"))?,
        })
    }

    /// Hands the workshop's two links over as `eth0`; `prepare` sees each container before its link comes up.
    ///
    /// # Errors
    /// When `ip` refuses, and what `prepare` gives.
    pub fn hand_over(&self, prepare: impl Fn(&Netns) -> Result<()>) -> Result<()> {
        for ((link, netns), address) in LINKS.iter().zip([&self.a, &self.b]).zip(ADDRESSES) {
            self.workshop.give_link(link, netns, "eth0")?;
            prepare(netns)?;
            netns.address("eth0", &format!("{address}/24"))?;
        }
        Ok(())
    }

    /// The lab, of containers with these addresses.
    pub fn into_lab(self, dir: Scratch, processes: Vec<Process>, addresses: [Ipv4Addr; 2]) -> Lab {
        let Self { workshop, a, b } = self;
        let ways = between(&a, &b, addresses);
        Lab::new(dir, processes, vec![a, b, workshop], ways)
    }
}

/// The one way between two containers.
pub fn between(client: &Netns, server: &Netns, [from, to]: [Ipv4Addr; 2]) -> Vec<(Way, Ends)> {
    let (client, server) = (client.name().to_owned(), server.name().to_owned());
    vec![(Way::Main, Ends { client, server, to, from, published: false })]
}
