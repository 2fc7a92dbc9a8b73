//! A daemon with fixed rows behind the real server, and the built `vswitchctl` asking it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use switch::mac::MacAddr;
use tokio::sync::mpsc;
use vswitchd::api::rows::*;
use vswitchd::api::{Answer, ApiError, ApiErrorKind, Call, Reply, Request, server};
use vswitchd::ipam::lease::LeaseState;
use vswitchd::wire::Target;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A folder of this test alone, removed at its end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vswitchctl-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub struct Daemon {
    folder: Folder,
    asked: Arc<Mutex<Vec<Request>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Daemon {
    pub fn start() -> Self {
        Self::start_with(answer)
    }

    pub fn start_with(answer: fn(&Request) -> Reply) -> Self {
        let folder = Folder::new();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (calls, mut mailbox) = mpsc::channel::<Call>(16);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&asked);
        runtime.spawn(async move {
            while let Some(call) = mailbox.recv().await {
                let reply = answer(&call.request);
                record.lock().unwrap().push(call.request);
                // A client that gave up is no fault.
                let _ = call.reply.send(reply);
            }
        });
        let entered = runtime.enter();
        let listener = tokio::net::UnixListener::bind(folder.0.join("control.sock")).unwrap();
        drop(entered);
        let uid = rustix::process::geteuid().as_raw();
        runtime.spawn(server::serve(listener, calls, uid, std::future::pending()));
        Self { folder, asked, runtime: Some(runtime) }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.0.join("control.sock")
    }

    /// Runs `vswitchctl --socket S` with these words.
    pub fn run(&self, line: &str) -> Output {
        run_at(&self.socket(), line)
    }

    /// The same; it must succeed and say nothing on stderr.
    pub fn good(&self, line: &str) -> String {
        let output = self.run(line);
        let (out, err) = texts(&output);
        assert_eq!((output.status.code(), err.as_str()), (Some(0), ""), "{line}: {out}");
        out
    }

    /// What the daemon was asked last.
    pub fn asked(&self) -> Request {
        self.asked.lock().unwrap().last().unwrap().clone()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

pub fn command(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vswitchctl"));
    command.arg("--socket").arg(socket).stdin(Stdio::null());
    command
}

pub fn run_at(socket: &Path, line: &str) -> Output {
    command(socket).args(line.split_whitespace()).output().unwrap()
}

pub fn with_stdin(socket: &Path, line: &str, text: &[u8]) -> Output {
    let mut command = command(socket);
    command.args(line.split_whitespace());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may stop reading before the end.
    let _ = child.stdin.take().unwrap().write_all(text);
    child.wait_with_output().unwrap()
}

pub fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

pub fn port(number: Option<u16>, container: &str) -> PortRow {
    let waiting = number.is_none();
    PortRow {
        port: number,
        network: "blue".into(),
        container: container.into(),
        iface: "eth0".into(),
        mac: "02:42:0a:01:00:0a".parse().unwrap(),
        addresses: vec!["10.1.0.10/24".parse().unwrap(), "fd00:1::a/64".parse().unwrap()],
        vlan: waiting.then_some(10),
        trunk: if waiting { vec![20, 21, 22, 40] } else { Vec::new() },
        isolated: waiting,
        state: if waiting { PortState::Waiting } else { PortState::Up },
        reason: waiting.then(|| "/run/netns/db: No such file or directory".into()),
        mtu: 1500,
        io: "tap".into(),
        gso: if waiting { Gso::Off } else { Gso::Full },
        worker: 0,
        rx_frames: 12,
        rx_bytes: 3456,
        tx_frames: 7,
        tx_bytes: 890,
        drops: 1,
    }
}

pub fn network(name: &str) -> NetworkRow {
    NetworkRow {
        name: name.into(),
        subnet: Some("10.1.0.0/24".parse().unwrap()),
        subnet6: None,
        vlan: None,
        vni: None,
        transparent: false,
        snooping: false,
        mtu: 1500,
        icc: true,
        spoof: Spoof::Claimed,
        ageing: 300,
        fdb_limit: 8192,
        fdb_used: 2,
        storm: 10_000,
        ports: 2,
        origin: Origin::File,
    }
}

fn container(name: &str) -> ContainerRow {
    ContainerRow {
        name: name.into(),
        netns: format!("docker:{name}"),
        state: PortState::Up,
        reason: None,
        interfaces: vec!["eth0".into(), "eth1".into()],
        command: Some(CommandState::Running),
        origin: Origin::Api,
    }
}

pub fn fdb() -> Vec<FdbRow> {
    let row = |port, vlan, mac: &str, age, network: &str, container: &str, r#type| FdbRow {
        port,
        vlan,
        mac: mac.parse().unwrap(),
        age,
        network: network.into(),
        container: container.into(),
        iface: "eth0".into(),
        r#type,
    };
    vec![
        row(12, 10, "02:42:0a:01:00:0b", Some(297), "blue", "database", FdbType::Dynamic),
        row(3, 0, "02:42:0a:01:00:0a", None, "blue", "web", FdbType::Static),
        row(4, 0, "02:42:0a:02:00:0a", Some(0), "red", "x", FdbType::Dynamic),
    ]
}

fn nat() -> Vec<NatRow> {
    let row = NatRow {
        address: None,
        ports: "8080".into(),
        protocol: "tcp".into(),
        container: "web".into(),
        iface: "eth0".into(),
        target: Some([10, 1, 0, 10].into()),
        target_ports: "80".into(),
        state: NatState::Up,
        clients: 7,
        publish: "8080:80/tcp".into(),
        origin: Origin::File,
        reason: None,
    };
    let failed = NatRow {
        address: Some([127, 0, 0, 1].into()),
        ports: "9000-9010".into(),
        protocol: "udp".into(),
        target_ports: "53-63".into(),
        state: NatState::Failed,
        clients: 0,
        publish: "127.0.0.1:9000-9010:53-63/udp".into(),
        origin: Origin::Api,
        reason: Some("Address already in use".into()),
        ..row.clone()
    };
    vec![row, failed]
}

fn connection() -> ConnectionRow {
    ConnectionRow {
        protocol: Transport::Tcp,
        direction: Direction::In,
        container: "web".into(),
        iface: "eth0".into(),
        source: "198.18.0.1:40000".parse().unwrap(),
        destination: "10.1.0.10:80".parse().unwrap(),
        state: "established".into(),
        idle: 2,
        bytes_out: 1500,
        bytes_in: 300,
        local: "198.18.0.10:8080".parse().ok(),
        peer: "198.18.0.1:40000".parse().ok(),
    }
}

fn routes() -> Vec<RouteRow> {
    let row = |network: &str, destination: &str, via: Option<&str>, r#type| RouteRow {
        network: network.into(),
        destination: destination.parse().unwrap(),
        via: via.into_iter().map(|via| via.parse().unwrap()).collect(),
        mtu: None,
        to: Some(network.into()),
        r#type,
    };
    vec![
        row("blue", "10.1.0.0/24", None, RouteType::Connected),
        row("blue", "10.8.0.0/16", Some("10.1.0.10"), RouteType::Static),
        row("red", "10.2.0.0/24", None, RouteType::Connected),
    ]
}

fn neighbors() -> Vec<NeighborRow> {
    let row = |network: &str, address: &str, container: &str| NeighborRow {
        network: network.into(),
        address: address.parse().unwrap(),
        mac: "02:42:0a:01:00:0a".parse().unwrap(),
        port: 3,
        container: container.into(),
        iface: "eth0".into(),
        age: 1,
        state: NeighborState::Reachable,
    };
    vec![row("blue", "10.1.0.10", "web"), row("red", "10.2.0.10", "x")]
}

fn stats() -> Stats {
    static READINGS: AtomicU32 = AtomicU32::new(1);
    let reading = u64::from(READINGS.fetch_add(1, Ordering::Relaxed));
    let row = StatsRow {
        port: 3,
        network: "blue".into(),
        container: "web".into(),
        iface: "eth0".into(),
        rx_frames: 1000 * reading,
        rx_bytes: 100_000 * reading,
        tx_frames: 5,
        tx_bytes: 500,
        drops: 0,
        rx_pps: 77,
        rx_bps: 88_000,
        tx_pps: 0,
        tx_bps: 0,
    };
    let worker = WorkerRow { rx: 1005, forwarded: 1000, drops: 5, batches: 40, ..WorkerRow::default() };
    Stats { at_ms: 1000 * reading, ports: vec![row], workers: vec![worker] }
}

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 100,
        engine_pid: 101,
        uptime_s: 3600,
        engine_restarts: 0,
        rootless: true,
        kernel: "6.18.0".into(),
        capabilities: "none".into(),
        io: IoStatus { engine: IoEngine::Epoll, why: "io = epoll".into() },
        workers: 1,
        config: "tools/labs/two-hosts.toml".into(),
        generation: 4,
        ports: PortCounts { up: 2, down: 0, waiting: 1, failed: 0 },
        offloads: OffloadStatus { taken: vec!["csum".into(), "tso4".into()], gso_writes: true },
        dns: DnsStatus::default(),
        limits: LimitStatus { ports: 4096, networks: 1024, fdb: 65536, open_files: 65536 },
        uplink: UplinkStatus {
            kind: "sockets".into(),
            connections: 2,
            max_connections: 16384,
            ping: None,
            counters: [("masked".to_owned(), 3), ("opened".to_owned(), 5), ("refused".to_owned(), 0)].into(),
            ..UplinkStatus::default()
        },
        overlay: Some(OverlayStatus {
            local: "198.18.1.1".parse().unwrap(),
            port: 4789,
            failed: None,
            mtu: 1500,
            udp_gso: true,
            udp_gso_why: "udp_gso = on".into(),
            datagrams: 7,
            reserved: 1,
            too_big: 0,
        }),
    }
}

fn drops(ports: bool) -> Vec<DropRow> {
    let row = |reason: &str, frames, explanation: &str| DropRow {
        reason: reason.into(),
        frames,
        explanation: explanation.into(),
        port: ports.then(|| DropPort {
            port: 3,
            network: "blue".into(),
            container: "web".into(),
            iface: "eth0".into(),
        }),
    };
    vec![row("storm", 17, "beyond the port's limit"), row("tx_full", 0, "the queue was full")]
}

pub fn cluster() -> ClusterDetail {
    let host = |host: &str, last: u8, me| ClusterHostRow {
        host: host.into(),
        vtep: std::net::IpAddr::from([198, 18, 1, last]),
        age: 60,
        members: 1,
        me,
        held: false,
    };
    ClusterDetail {
        name: "h1".into(),
        state: StoreState::Connected,
        store: "http://198.18.1.254:2379".into(),
        since: Some(61),
        held: None,
        hosts: vec![host("h1", 1, true), host("h2", 2, false)],
        networks: vec![ClusterNetworkRow {
            network: "blue".into(),
            vni: 100,
            subnet: Some("10.1.0.0/24".parse().unwrap()),
            subnet6: None,
            hosts: 2,
            members: 2,
        }],
        members: vec![ClusterMemberRow {
            vni: 100,
            mac: "02:42:0a:01:00:0c".parse().unwrap(),
            addresses: vec!["10.1.0.12".parse().unwrap(), "fd00:1::12".parse().unwrap()],
            names: vec!["web".into(), "www".into()],
            host: "h2".into(),
            vtep: "198.18.1.2".parse().unwrap(),
            age: 59,
        }],
        refused: vec![RefusedRow { key: "/hosts/h3".into(), why: "its VTEP is ours".into() }],
        refused_total: 1,
    }
}

pub fn vteps() -> Vec<VtepRow> {
    let row = |network: &str, vni, told, flood| VtepRow {
        network: network.into(),
        vni,
        vtep: "198.18.1.2".parse().unwrap(),
        port: 4095,
        told,
        flood,
        macs: 2,
        mtu: 1450,
        age: 60,
        rx_frames: 10,
        rx_bytes: 1000,
        tx_frames: 20,
        tx_bytes: 2000,
        drops: 1,
    };
    vec![row("blue", 100, ToldBy::Peer, true), row("red", 200, ToldBy::Static, false)]
}

pub fn groups() -> Vec<GroupRow> {
    let row = |group: &str, port: Option<u16>, r#type| GroupRow {
        vlan: 0,
        group: group.parse().unwrap(),
        port,
        age: 17,
        network: "blue".into(),
        container: port.map_or_else(String::new, |_| "web".into()),
        iface: port.map_or_else(String::new, |_| "eth0".into()),
        r#type,
    };
    vec![
        row("224.0.0.1", None, GroupType::Querier),
        row("239.1.1.1", Some(3), GroupType::Member),
        GroupRow {
            vlan: 10,
            network: "red".into(),
            container: "db".into(),
            ..row("ff02::2", Some(4), GroupType::Router)
        },
    ]
}

/// The fixed rows.
pub fn answer(request: &Request) -> Reply {
    let done = |changed, details: &[&str]| {
        Answer::Done(Done { changed, details: details.iter().map(ToString::to_string).collect() })
    };
    Ok(match request {
        Request::Fdb => Answer::Fdb(fdb()),
        Request::Routes => Answer::Routes(routes()),
        Request::Neighbors => Answer::Neighbors(neighbors()),
        Request::Groups => Answer::Groups(groups()),
        Request::Vxlan => Answer::Vxlan(vteps()),
        Request::Cluster => Answer::Cluster(Some(Box::new(cluster()))),
        Request::Ports => Answer::Ports(vec![port(Some(3), "web"), port(None, "db")]),
        Request::Networks => Answer::Networks(vec![network("blue"), network("red")]),
        Request::Network { name } if name == "blue" => Answer::Network(NetworkDetail {
            network: network(name),
            interfaces: vec![port(Some(3), "web")],
            fdb: FdbStats { current: 2, max: 8192, r#static: 1, learned: 9, moved: 1, ..FdbStats::default() },
            addresses: Some(AddressStats { room: 253, used: 2, free: 251, resting: 4 }),
            leases: vec![LeaseRow {
                address: "10.1.0.254".parse().unwrap(),
                mac: MacAddr([2, 0, 0, 0, 0, 7]),
                client: "01020000000007".into(),
                container: "web".into(),
                iface: "eth0".into(),
                left: 3599,
                state: LeaseState::Bound,
            }],
            dhcp: Some(DhcpStats::default()),
        }),
        Request::Network { name } | Request::NetworkRemove { name } if name != "blue" => {
            return Err(ApiError::new(ApiErrorKind::NotFound, format!("no network {name}")));
        }
        Request::NetworkCreate(create) => Answer::NetworkRow(network(&create.name)),
        Request::Connect { interface, .. } => Answer::Port(port(None, &interface.container)),
        Request::Containers => Answer::Containers(["web", "db", "x"].map(container).into()),
        Request::Nat | Request::Publish(_) => Answer::Nat(nat()),
        Request::Connections(_) => Answer::Connections(vec![connection()]),
        Request::Target { container } => Answer::Target(Target {
            user_ns: None,
            net_ns: match container.strip_prefix("pid") {
                Some(pid) => format!("/proc/{pid}/ns/net").into(),
                None if container == "gone" => "/nowhere/net".into(),
                None => "/proc/self/ns/net".into(),
            },
            container: container.clone(),
            mounts: Vec::new(),
        }),
        Request::Drops { ports } => Answer::Drops(drops(*ports)),
        Request::Stats => Answer::Stats(stats()),
        Request::Status => Answer::Status(Box::new(status())),
        Request::Config => Answer::Config(json!({"network": [{"name": "blue"}]})),
        Request::FdbFlush(_) => done(3, &[]),
        Request::Reload => done(0, &[]),
        Request::Apply { text, .. } if text.contains("bad") => {
            let faults = vec!["x.toml:1:1: unknown key `bad`".into(), "x.toml:2:1: more".into()];
            return Err(ApiError::faults("refused", faults));
        }
        Request::Apply { .. } => done(2, &["container web added", "container db removed"]),
        _ => done(1, &[]),
    })
}
