//! This project's daemon, with a generated configuration.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::answer;
use super::hosts::{self, CONTAINERS, Hosts, UNDERLAY, VNI};
use super::lab::{ADDRESSES, Lab, Service, between};
use super::outside::{CONTAINER, HOST, LINK, OUTSIDE, World};
use crate::error::{Error, Result};
use crate::ns::{Family, Netns};
use crate::process::{Process, Scratch, Stop};
use crate::race::scenario::Scenario;

/// Two containers start within milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// The text of a configuration file.
#[derive(Debug)]
pub struct Config(String);

/// Where the way out of all networks is.
#[derive(Debug, Clone, Copy)]
pub enum Uplink<'a> {
    /// There is none.
    None,
    /// Sockets of the daemon.
    Sockets,
    /// A TAP in this namespace, on [`outside`](super::outside)'s network.
    Tap(&'a Netns),
}

impl Config {
    /// The daemon's part, with sockets and state in `dir`, and an I/O engine.
    pub fn new(dir: &Scratch, uplink: Uplink<'_>, io: &str) -> Self {
        let kind = match uplink {
            Uplink::None => "kind = \"none\"".to_owned(),
            Uplink::Sockets => "kind = \"sockets\"".to_owned(),
            Uplink::Tap(netns) => format!(
                "kind = \"tap\"\nnetns = {:?}\nname = \"{LINK}\"\naddress = \"{HOST}/24\"\nhost = \"{OUTSIDE}/24\"",
                netns.name()
            ),
        };
        let (control, state) = (dir.file("control.sock"), dir.file("state"));
        Self(format!("[daemon]\ncontrol = {control:?}\nstate = {state:?}\nio = {io:?}\n\n[uplink]\n{kind}\n"))
    }

    /// `[limits]`, of an uplink that takes packets.
    pub fn limits(mut self, limits: &[(&str, u32)]) -> Self {
        if !limits.is_empty() {
            self.0.push_str("\n[limits]\n");
        }
        limits.iter().for_each(|(key, limit)| _ = writeln!(self.0, "{key} = {limit}"));
        self
    }

    /// `[vxlan]`, with more lines for it.
    pub fn vxlan(mut self, local: Ipv4Addr, peers: &[Ipv4Addr], lines: &[String]) -> Self {
        let peers: Vec<_> = peers.iter().map(|peer| format!("\"{peer}\"")).collect();
        let _ = write!(self.0, "\n[vxlan]\nlocal = \"{local}\"\npeers = [{}]\n", peers.join(", "));
        lines.iter().for_each(|line| _ = writeln!(self.0, "{line}"));
        self
    }

    /// `[cluster]`: what the host is called, where etcd is, and seconds that it lives without a word.
    pub fn cluster(mut self, name: &str, etcd: &str, ttl: u32) -> Self {
        let _ = write!(self.0, "\n[cluster]\nname = {name:?}\netcd = [{etcd:?}]\nttl = {ttl}\n");
        self
    }

    /// A network, with more lines for it.
    pub fn network(mut self, name: &str, subnet: &str, lines: &[String]) -> Self {
        // Writing into a String cannot fail.
        let _ = write!(self.0, "\n[[network]]\nname = {name:?}\nsubnet = {subnet:?}\n");
        lines.iter().for_each(|line| _ = writeln!(self.0, "{line}"));
        self
    }

    /// A container on it, made by the daemon, with more lines for its interface.
    pub fn container(mut self, netns: &Netns, network: &str, ip: Ipv4Addr, lines: &[String]) -> Self {
        let name = netns.name();
        let _ = write!(
            self.0,
            "\n[[container]]\nname = {name:?}\ncreate = true\n[[container.interface]]\nnetwork = {network:?}\nip = \"{ip}\"\n"
        );
        lines.iter().for_each(|line| _ = writeln!(self.0, "{line}"));
        self
    }
}

/// A daemon that said `ready`.
#[derive(Debug)]
pub struct Daemon {
    /// The keeper; the engine is its child.
    pub process: Process,
    /// From the start of the process to its `ready` line.
    pub ready_after: Duration,
}

/// Builds the daemon, if we were started by cargo; else the one beside our executable must do.
///
/// # Errors
/// When it does not compile.
pub fn build() -> Result<()> {
    let Some(workspace) = std::env::var_os("CARGO_MANIFEST_DIR") else { return Ok(()) };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "-p", "vswitchd", "--bin", "vswitchd"]).current_dir(workspace);
    let status = command.status().map_err(Error::io("start cargo"))?;
    if status.success() {
        return Ok(());
    }
    let command = "cargo build --release --bin vswitchd".to_owned();
    Err(Error::Command { command, status: status.to_string(), stderr: "see above".into() })
}

/// The release build of the daemon: beside our own executable, or beside its profile's folder.
fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(Error::io("find our own executable"))?;
    let beside = own.with_file_name("vswitchd");
    let release =
        own.parent().and_then(|profile| profile.parent()).map(|target| target.join("release/vswitchd"));
    release.into_iter().chain([beside]).find(|path| path.is_file()).ok_or_else(|| Error::Missing {
        what: "vswitchd".into(),
        hint: format!("is not beside {}: run the race by cargo, or build both", own.display()),
    })
}

/// Starts the daemon in a namespace (`None`: ours) and waits for `ready`.
///
/// # Errors
/// When it ends first or takes longer than `limit`.
pub fn daemon(dir: &Scratch, netns: Option<&Netns>, config: &Config, limit: Duration) -> Result<Daemon> {
    let file = dir.file("race.toml");
    fs::write(&file, &config.0).map_err(Error::io(format!("write {file}")))?;
    let argv = [binary()?.display().to_string(), "--config".into(), file];
    let start = Instant::now();
    let mut process = Process::start(dir, netns.map(Netns::name), &argv, Stop::Term)?;
    process.wait_line("ready", limit)?;
    Ok(Daemon { process, ready_after: start.elapsed() })
}

/// A table of a daemon whose control socket is in `dir`, from its API.
///
/// # Errors
/// When it does not answer.
pub fn ask(dir: &Scratch, table: &str) -> Result<serde_json::Value> {
    let path = dir.file("control.sock");
    let mut stream = UnixStream::connect(&path).map_err(Error::io(format!("connect to {path}")))?;
    let question = format!("GET /v1/{table} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).map_err(Error::io("ask the daemon"))?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(Error::io("hear the daemon"))?;
    answer("vswitchd", text.split_once("\r\n\r\n").map_or("", |(_, body)| body))
}

/// Two containers on one network.
pub(super) fn switched(family: &Family, dir: Scratch, io: &str) -> Result<Lab> {
    let (a, b) = (Netns::expected(family.name("a")), Netns::expected(family.name("b")));
    let [of_a, of_b] = ADDRESSES;
    // The subnet's first address is kept for a gateway; here the first container has it.
    let lines = ["storm = 0".to_owned(), format!("gateway = \"{of_a}\"")];
    let config = Config::new(&dir, Uplink::None, io)
        .network("race", "10.99.0.0/24", &lines)
        .container(&a, "race", of_a, &[])
        .container(&b, "race", of_b, &[]);
    let Daemon { process, .. } = daemon(&dir, None, &config, LIMIT)?;
    let ways = between(&a, &b, ADDRESSES);
    Ok(Lab::new(dir, vec![process], vec![a, b], ways))
}

/// Two containers on two networks, of which the one may open connections to the other. In [`Scenario::Dnat`] the other is
/// asked as those are whose l4 ports are published. Where it stands beside [`translated`] the daemon has the same uplink and
/// tables as there: what differs is the packet's way.
pub(super) fn routed(family: &Family, dir: Scratch, scenario: Scenario, io: &str) -> Result<Lab> {
    let world = (scenario != Scenario::Route).then(|| World::apart(family)).transpose()?;
    let uplink = world.as_ref().map_or(Uplink::None, |world| Uplink::Tap(&world.outside));
    let (a, b) = (Netns::expected(family.name("a")), Netns::expected(family.name("b")));
    let addresses = [Ipv4Addr::new(10, 99, 1, 2), Ipv4Addr::new(10, 99, 2, 2)];
    let [of_a, of_b] = addresses;
    let lines = ["storm = 0".to_owned(), "routes_to = [\"two\"]".to_owned()];
    let [storm, _] = &lines;
    let config = Config::new(&dir, uplink, io)
        .network("one", "10.99.1.0/24", &lines)
        .network("two", "10.99.2.0/24", std::slice::from_ref(storm))
        .container(&a, "one", of_a, &[])
        .container(&b, "two", of_b, &[]);
    let Daemon { process, .. } = daemon(&dir, world.as_ref().map(|world| &world.host), &config, LIMIT)?;
    let mut ways = between(&a, &b, addresses);
    ways.iter_mut().for_each(|(_, ends)| ends.published = scenario == Scenario::Dnat);
    let netns = [a, b].into_iter().chain(world.into_iter().flat_map(|world| [world.host, world.outside]));
    Ok(Lab::new(dir, vec![process], netns.collect(), ways))
}

/// The l4 ports of the loads, published.
fn published() -> String {
    let (first, last) = Service::PORTS;
    format!("publish = [\"{first}-{last}:{first}-{last}\", \"{first}-{last}:{first}-{last}/udp\"]")
}

/// A container whose way out is a TAP outside, with an address of the daemon's there.
pub(super) fn translated(family: &Family, dir: Scratch, scenario: Scenario, io: &str) -> Result<Lab> {
    let world = World::apart(family)?;
    let container = Netns::expected(family.name("a"));
    let lines = if scenario == Scenario::Dnat { vec![published()] } else { Vec::new() };
    let config = Config::new(&dir, Uplink::Tap(&world.outside), io)
        .network("race", "10.99.0.0/24", &["storm = 0".to_owned()])
        .container(&container, "race", CONTAINER, &lines);
    let Daemon { process, .. } = daemon(&dir, Some(&world.host), &config, LIMIT)?;
    Ok(world.into_lab(scenario, dir, vec![process], container, CONTAINER))
}

/// A container whose way out is sockets of a daemon on the host.
pub(super) fn uplinked(family: &Family, dir: Scratch, scenario: Scenario, io: &str) -> Result<Lab> {
    let world = World::create(family)?;
    let container = Netns::expected(family.name("a"));
    let lines = if scenario == Scenario::Publish { vec![published()] } else { Vec::new() };
    let config = Config::new(&dir, Uplink::Sockets, io)
        .network("race", "10.99.0.0/24", &["storm = 0".to_owned()])
        .container(&container, "race", CONTAINER, &lines);
    let Daemon { process, .. } = daemon(&dir, Some(&world.host), &config, LIMIT)?;
    Ok(world.into_lab(scenario, dir, vec![process], container, CONTAINER))
}

/// A daemon on each of two hosts, and a container of each on one network.
pub(super) fn overlaid(family: &Family, dir: Scratch, io: &str) -> Result<Lab> {
    let dirs = [dir, hosts::second(family)?];
    let hosts = Hosts::create(family)?;
    hosts.address(hosts::LINK)?;
    let containers = [Netns::expected(family.name("a")), Netns::expected(family.name("b"))];
    let [one, other] = UNDERLAY;
    let lines = ["storm = 0".to_owned(), format!("vni = {VNI}")];
    let mut daemons = Vec::new();
    for ((((dir, host), container), address), (local, remote)) in
        dirs.iter().zip(&hosts.both).zip(&containers).zip(CONTAINERS).zip([(one, other), (other, one)])
    {
        let config = Config::new(dir, Uplink::None, io)
            .vxlan(local, &[remote], &[])
            .network("race", "10.99.0.0/24", &lines)
            .container(container, "race", address, &[]);
        daemons.push(daemon(dir, Some(host), &config, LIMIT)?.process);
    }
    Ok(hosts.into_lab(dirs, daemons, containers))
}
