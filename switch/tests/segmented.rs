//! Kernel stacks over a port that takes no super-frames: what arrives as one is written as segments. Needs root (or a
//! user namespace) and `/dev/net/tun`.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command as Process, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use switch::decide::bridge;
use switch::drop::DropReason;
use switch::fdb::Fdb;
use switch::flow::Packet;
use switch::io::epoll::EpollIo;
use switch::io::uring::{UringIo, probe};
use switch::io::{Io, Wait};
use switch::mac::MacAddr;
use switch::mailbox::{Command, Mailbox};
use switch::port::{NetworkId, PortId};
use switch::snapshot::{Claims, Network, Port, Snapshot, Spoof};
use switch::stats::Counters;
use switch::sys::{netns, tun};
use switch::worker::Worker;

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// By which the worker reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Epoll,
    Uring,
}

const ENGINES: [Engine; 2] = [Engine::Epoll, Engine::Uring];

/// A worker on a thread of its own, until it is told to stop.
fn work<I: Io + Send + 'static>(io: I, snapshot: Snapshot) -> (Arc<Counters>, JoinHandle<()>) {
    let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
    let mut worker =
        Worker::new(io, 128, 2, snapshot, |packet: &Packet, network: &Network| bridge(&packet.meta, network));
    let counters = Arc::clone(worker.counters());
    let thread = std::thread::spawn(move || {
        while !worker.io.stopped() {
            worker.step(Wait::Sleep).unwrap();
        }
    });
    (counters, thread)
}

/// Two namespaces with a TAP each, and a worker between them. The first port takes super-frames, the second none.
struct Lab {
    homes: [OwnedFd; 2],
    mailbox: Arc<Mailbox>,
    counters: Arc<Counters>,
    worker: Option<JoinHandle<()>>,
}

impl Lab {
    /// `None`: not here, which is said, and which fails where `CI` is set.
    fn new(engine: Engine) -> Option<Self> {
        if let (Engine::Uring, Err(why)) = (engine, probe()) {
            assert!(std::env::var("CI").is_err(), "no io_uring: {why}");
            println!("skipped: no io_uring: {why}");
            return None;
        }
        let made = home(1).and_then(|first| Ok([first, home(2)?]));
        let [(first, one), (second, two)] = match made {
            Ok(homes) => homes,
            Err(why) => {
                assert!(std::env::var("CI").is_err(), "no TAP in a namespace of our own: {why}");
                println!("skipped: no TAP in a namespace of our own: {why}");
                return None;
            }
        };
        let port = |_| Some(Port::new(NetworkId(0), MacAddr::ZERO, Box::default()));
        let network = Network {
            zone: 0,
            mtu: 1500,
            vlan: 0,
            icc: true,
            transparent: false,
            spoof: Spoof::Off,
            storm: 0,
            fdb: Arc::new(Fdb::new(64).unwrap()),
            groups: None,
            members: Box::new([PortId(0), PortId(1)]),
            claims: Claims::default(),
            told: Arc::default(),
        };
        let snapshot = Snapshot {
            generation: 1,
            ports: (0..2).map(port).collect(),
            networks: Box::new([Some(network)]),
            tables: (),
        };
        let mailbox = Arc::new(Mailbox::new(2).unwrap());
        for (number, (tap, gso)) in [(one, true), (two, false)].into_iter().enumerate() {
            mailbox
                .tell(Command::Attach { port: PortId(number as u16), tap: Arc::new(tap), gso, reads: true })
                .unwrap();
        }
        let for_it = Arc::clone(&mailbox);
        let (counters, thread) = match engine {
            Engine::Epoll => work(EpollIo::new(2, for_it).unwrap(), snapshot),
            Engine::Uring => work(UringIo::new(2, for_it).unwrap(), snapshot),
        };
        Some(Self { homes: [first, second], mailbox, counters, worker: Some(thread) })
    }

    fn inside<T: Send>(&self, home: usize, work: impl FnOnce() -> T + Send) -> T {
        netns::in_netns(self.homes[home].as_fd(), work).unwrap()
    }

    /// Both ends of a connection; a socket stays in the namespace in which it was made.
    fn connect(&self, from: usize, to: SocketAddr) -> (TcpStream, TcpStream) {
        let listener = self.inside(1 - from, || TcpListener::bind(to).unwrap());
        let to = listener.local_addr().unwrap();
        let sender = self.inside(from, || TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        let (receiver, _) = listener.accept().unwrap();
        for end in [&sender, &receiver] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
            end.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        (sender, receiver)
    }

    /// Ends the worker: every frame has had a fate.
    fn finish(mut self) -> Arc<Counters> {
        self.mailbox.tell(Command::Stop).unwrap();
        self.worker.take().unwrap().join().unwrap();
        let worker = &self.counters.worker;
        assert_eq!(worker.unaccounted(), 0);
        for reason in [DropReason::TxError, DropReason::BadOffload, DropReason::ExceedsMtu] {
            assert_eq!(worker.drops[reason as usize].get(), 0, "{}", reason.name());
        }
        Arc::clone(&self.counters)
    }
}

/// A namespace with a TAP `eth0` that has the addresses number `host` of the lab.
fn home(host: u8) -> Result<(OwnedFd, OwnedFd), String> {
    let home = netns::create().map_err(|errno| errno.to_string())?;
    let tap = netns::in_netns(home.as_fd(), || {
        let (tap, _) = tun::create("eth0").map_err(|error| error.to_string())?;
        tun::set_offloads(&tap).map_err(|error| error.to_string())?;
        let lines = format!(
            "link set lo up\naddress add 10.77.0.{host}/24 dev eth0\n\
             address add fd77::{host}/64 dev eth0 nodad\nlink set eth0 up\n"
        );
        for line in lines.lines() {
            let status = Process::new("ip").args(line.split(' ')).status();
            if !status.is_ok_and(|status| status.success()) {
                return Err(format!("ip {line}"));
            }
        }
        Ok(tap)
    });
    Ok((home, tap.map_err(|errno| errno.to_string())??))
}

/// Bytes that look random and are the same every time.
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).take(8 * MIB / 8).flatten().collect()
}

fn stream(engine: Engine, from: usize, to: &str) -> Option<Arc<Counters>> {
    let lab = Lab::new(engine)?;
    let sent = pattern();
    let (mut sender, mut receiver) = lab.connect(from, to.parse().unwrap());
    let mut received = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sender.write_all(&sent).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        receiver.read_to_end(&mut received).unwrap();
    });
    assert!(sent == received, "{} bytes sent, {} came, not the same", sent.len(), received.len());
    Some(lab.finish())
}

#[test]
fn a_stream_to_a_port_that_takes_no_super_frames() {
    for (engine, to) in ENGINES.iter().flat_map(|it| [(it, "10.77.0.2:0"), (it, "[fd77::2]:0")]) {
        let Some(counters) = stream(*engine, 0, to) else { continue };
        let segmented = counters.worker.segmented.get();
        assert!(segmented > 8, "{to}: {segmented} super-frames were segmented");
        let from = counters.port(PortId(0)).unwrap();
        assert!(from.rx_bytes.get() / from.rx_frames.get() > 3000, "{to}: super-frames came");
    }
}

#[test]
fn a_stream_from_it_keeps_its_super_frames() {
    for (engine, to) in ENGINES.iter().flat_map(|it| [(it, "10.77.0.1:0"), (it, "[fd77::1]:0")]) {
        let Some(counters) = stream(*engine, 1, to) else { continue };
        assert_eq!(counters.worker.segmented.get(), 0, "{to}");
    }
}

/// One datagram of 40 segments with a number in each, by `UDP_SEGMENT`.
const SEGMENTS: &str = "\
import socket, sys
role, host = sys.argv[1], sys.argv[2]
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
if role == 'receive':
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    s.bind((host, 5011))
    s.settimeout(20)
    print('ready', flush=True)
    for number in range(40):
        data = s.recv(65535)
        assert data == number.to_bytes(2, 'big') * 700, (number, len(data), data[:4])
else:
    s.setsockopt(socket.SOL_UDP, 103, 1400)
    s.sendto(b''.join(number.to_bytes(2, 'big') * 700 for number in range(40)), (host, 5011))
";

#[test]
fn datagrams_to_it_are_cut_where_the_sender_said() {
    for (engine, host) in ENGINES.iter().flat_map(|it| [(it, "10.77.0.2"), (it, "fd77::2")]) {
        let Some(lab) = Lab::new(*engine) else { continue };
        let python = |role| {
            let mut python = Process::new("/usr/bin/python3");
            python.args(["-c", SEGMENTS, role, host]);
            python
        };
        let mut receiver = lab.inside(1, || python("receive").stdout(Stdio::piped()).spawn().unwrap());
        let mut ready = [0; 6];
        receiver.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert!(lab.inside(0, || python("send").status().unwrap()).success());
        let deadline = Instant::now() + 2 * PATIENCE;
        let status = loop {
            if let Some(status) = receiver.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "{host}: the receiver does not end");
            std::thread::sleep(Duration::from_millis(10)); // the pace of looking
        };
        assert!(status.success(), "{host}");
        lab.finish();
    }
}
