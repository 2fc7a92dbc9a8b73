//! What a restart of the cluster's store costs those who merely forward: nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{MARGIN, Row, row};
use crate::error::{Error, Result};
use crate::load::udp::{Received, Sent};
use crate::ns::{Family, Netns};
use crate::process::{self, Process, Scratch, Stop};
use crate::race::bars::Bound;
use crate::race::peers::hosts::{self, CONTAINERS, Hosts, LINK, UNDERLAY, VNI};
use crate::race::peers::vswitchd::{self, Config, Uplink};
use crate::race::peers::{answer, words};

/// Where etcd is: beside the first host's daemon.
const PORT: u16 = 2379;
/// Seconds of each run, and frames in one of them.
const SECONDS: f64 = 16.0;
const RATE: u64 = 5_000;
/// Seconds that a host lives without a word; for longer than that the store is away.
const LEASE: u32 = 2;
const AWAY: Duration = Duration::from_secs(5);
/// What tells the frames that count from those before.
const TAG: u32 = 7;

/// Two hosts that know each other by the store only.
struct Cluster {
    etcd: Option<Process>,
    // Before their hosts and folders.
    _daemons: Vec<Process>,
    containers: [Netns; 2],
    hosts: Hosts,
    dirs: [Scratch; 2],
}

impl Cluster {
    fn start() -> Result<Self> {
        let family = Family::random()?;
        let dirs = [Scratch::create(family.prefix())?, hosts::second(&family)?];
        let hosts = Hosts::create(&family)?;
        hosts.address(LINK)?;
        for host in &hosts.both {
            host.ip(&["link", "set", "lo", "up"])?;
        }
        let containers = [Netns::expected(family.name("a")), Netns::expected(family.name("b"))];
        let mut cluster = Self { etcd: None, _daemons: Vec::new(), containers, hosts, dirs };
        cluster.begin()?;
        let lines = ["storm = 0".to_owned(), format!("vni = {VNI}")];
        for (at, name) in ["h1", "h2"].into_iter().enumerate() {
            let (Some(dir), Some(host)) = (cluster.dirs.get(at), cluster.hosts.both.get(at)) else {
                continue;
            };
            let (Some(container), Some(local)) = (cluster.containers.get(at), UNDERLAY.get(at)) else {
                continue;
            };
            let address = CONTAINERS.get(at).copied().unwrap_or(Ipv4Addr::UNSPECIFIED);
            let config = Config::new(dir, Uplink::None, "auto")
                .vxlan(*local, &[], &[])
                .cluster(name, &cluster.url(), LEASE)
                .network("race", "10.99.0.0/24", &lines)
                .container(container, "race", address, &[]);
            let daemon = vswitchd::daemon(dir, Some(host), &config, MARGIN)?;
            cluster._daemons.push(daemon.process);
        }
        for dir in &cluster.dirs {
            process::until("the other host", MARGIN, || {
                Ok(vswitchd::ask(dir, "vxlan")?.as_array().is_some_and(|rows| rows.len() == 1))
            })?;
        }
        Ok(cluster)
    }

    fn url(&self) -> String {
        let [address, _] = UNDERLAY;
        format!("http://{address}:{PORT}")
    }

    fn begin(&mut self) -> Result<()> {
        let ([dir, _], [host, _]) = (&self.dirs, &self.hosts.both);
        let (url, peer, data) = (self.url(), "http://127.0.0.1:2380", dir.file("etcd"));
        let etcd = ["etcd", "--data-dir", &data, "--log-level", "error", "--listen-client-urls", &url];
        let more = ["--advertise-client-urls", &url, "--listen-peer-urls", peer];
        let peers = format!("default={peer}");
        let rest = ["--initial-advertise-peer-urls", peer, "--initial-cluster", &peers];
        let argv = words(&[&etcd[..], &more, &rest].concat());
        self.etcd = Some(Process::start(dir, Some(host.name()), &argv, Stop::Kill)?);
        process::until("an answer of etcd", MARGIN, || Ok(self.revision().is_ok()))
    }

    /// A question to etcd's JSON gateway.
    fn ask(&self, path: &str, body: &serde_json::Value) -> Result<serde_json::Value> {
        let [address, _] = UNDERLAY;
        let [host, _] = &self.hosts.both;
        let body = body.to_string();
        let answered = host.within(|| {
            let mut stream = TcpStream::connect(SocketAddr::from((address, PORT))).map_err(Error::io("connect to etcd"))?;
            stream.set_read_timeout(Some(MARGIN)).map_err(Error::io("wait for etcd"))?;
            let length = body.len();
            let question = format!(
                "POST /v3/kv/{path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.write_all(question.as_bytes()).map_err(Error::io("ask etcd"))?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map_err(Error::io("hear etcd"))?;
            Ok(text)
        })?;
        let body = answered.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        answer(
            "etcd",
            body.get(body.find('{').unwrap_or(0)..=body.rfind('}').unwrap_or(0)).unwrap_or_default(),
        )
    }

    fn revision(&self) -> Result<String> {
        let said = self.ask("range", &serde_json::json!({"key": "eA=="}))?;
        let revision = said.pointer("/header/revision").and_then(serde_json::Value::as_str);
        revision
            .map(str::to_owned)
            .ok_or_else(|| Error::Missing { what: "etcd".into(), hint: "says no revision".into() })
    }

    fn compact(&self) -> Result<()> {
        let revision = self.revision()?;
        // Where nothing was written since the last time it is no new revision, and refused.
        let _ = self.ask("compaction", &serde_json::json!({"revision": revision, "physical": true}))?;
        Ok(())
    }

    /// How many frames go from one container to the other, and how many of them are lost, while something happens.
    fn lost(&mut self, what: impl FnOnce(&mut Self, Instant) -> Result<()>) -> Result<Fate> {
        let [a, b] = &self.containers;
        let ([one, two], [_, to]) = (&self.dirs, CONTAINERS);
        let mut receiver = Process::load(two, b.name(), &words(&["udp-recv", "--tag", &TAG.to_string()]))?;
        let to = format!("{to}:{}", receiver.wait_line("ready", MARGIN)?);
        let send = |tag: u32, seconds: f64| {
            let (tag, rate, seconds) = (tag.to_string(), RATE.to_string(), seconds.to_string());
            words(&["udp-send", "--to", &to, "--tag", &tag, "--rate", &rate, "--seconds", &seconds])
        };
        // Addresses are resolved first.
        let _: Sent = answer("a load", &Process::load(one, a.name(), &send(TAG + 1, 0.2))?.finish(MARGIN)?)?;
        let sender = Process::load(one, a.name(), &send(TAG, SECONDS))?;
        what(self, Instant::now())?;
        let limit = Duration::from_secs_f64(SECONDS).saturating_add(MARGIN);
        let Sent { sent, .. } = answer("a load", &sender.finish(limit)?)?;
        receiver.close_stdin();
        let Received { received } = answer("a load", &receiver.finish(MARGIN)?)?;
        Ok(Fate { sent, lost: sent.saturating_sub(received) })
    }
}

/// What became of a run's frames.
struct Fate {
    sent: u64,
    lost: u64,
}

/// # Errors
/// When etcd or a daemon does not start, a load fails, or we are interrupted.
pub(super) fn measure() -> Result<Vec<Row>> {
    process::find_program("etcd").ok_or_else(|| Error::Missing {
        what: "etcd".into(),
        hint: "is not installed (etcd-server)".into(),
    })?;
    let mut cluster = Cluster::start()?;
    let without = cluster.lost(|_, _| Ok(()))?;
    let with = cluster.lost(|cluster, began| {
        for _ in 0..2 {
            cluster.compact()?;
            cluster.etcd = None;
            std::thread::sleep(AWAY);
            cluster.begin()?;
            cluster.compact()?;
        }
        let end = Duration::from_secs_f64(SECONDS);
        if began.elapsed() > end {
            return Err(Error::Deadline { what: "two restarts of etcd".into(), limit: end });
        }
        Ok(())
    })?;
    Ok(vec![
        row("frames between two hosts, etcd undisturbed", without.sent as f64, "frames"),
        row("of these lost", without.lost as f64, "frames"),
        row(
            "frames while etcd was away twice for longer than a lease, and compacted",
            with.sent as f64,
            "frames",
        ),
        row("of these lost (at most as many as without)", with.lost as f64, "frames")
            .must(Bound::AtMost(without.lost as f64)),
    ])
}
