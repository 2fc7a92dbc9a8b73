//! An engine that does what it is told: one JSON request a connection on the control socket.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use switch::sys::{fds, netns};
use vswitchd::channel::Channel;
use vswitchd::keeper::MAX_CONFIG;
use vswitchd::wire::{Answer, AttachSpec, Begin, CommandState, NetnsRef, Op, Refusal, ToEngine, ToKeeper};

/// What a test asks.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Pass on to the keeper.
    Op(Op),
    /// What do you know?
    Status,
    /// Tell the keeper that this configuration runs now.
    Keep(String),
    /// Say this last word.
    Fatal(String),
    /// Make so many containers (`prefix0`, `prefix1`, ...), all requests at once.
    Many { prefix: String, count: usize },
    /// Pass on to the keeper, one after the other without waiting for answers.
    Together(Vec<Op>),
    /// The container's first frame with this EtherType, if one is there.
    Frame { container: String, ifname: String, ethertype: u16 },
}

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Answer(Result<Answer, Refusal>),
    Answers(Vec<Result<Answer, Refusal>>),
    Status(Status),
    Config(String),
    Milliseconds(u128),
    Frame(Option<Vec<u8>>),
    Done,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    pub begin: Begin,
    pub config: String,
    /// Container, interface, still alive.
    pub taps: Vec<(String, String, bool)>,
    /// How many of them were handed over by the keeper unasked.
    pub adopted: usize,
    /// Containers of the daemon from which this one took over.
    pub known: Vec<String>,
    pub reloads: usize,
    /// What was told of commands, in order.
    pub commands: Vec<(String, CommandState)>,
    /// `/proc/self/status`.
    pub process: String,
    /// The network namespace it runs in.
    pub netns: (u64, u64),
}

struct Engine {
    channel: Channel,
    taps: HashMap<(String, String), OwnedFd>,
    adopted: usize,
    known: Vec<String>,
    reloads: usize,
    commands: Vec<(String, CommandState)>,
    stubborn: bool,
    next: u64,
}

/// `engine [die|deaf|stubborn]`
pub fn main(mode: &[&str]) -> ExitCode {
    let channel = Channel::from_stdin().unwrap();
    switch::sys::drop_all_capabilities().unwrap();
    if mode == ["die"] {
        return ExitCode::from(7);
    }
    if mode == ["deaf"] {
        drop(channel);
        loop {
            std::thread::park();
        }
    }
    let stubborn = mode == ["stubborn"];
    let mut engine = Engine {
        channel,
        taps: HashMap::new(),
        adopted: 0,
        known: Vec::new(),
        reloads: 0,
        commands: Vec::new(),
        stubborn,
        next: 0,
    };
    let (begin, listener, config) = engine.begin();
    let line = format!("ready {} adopted {}", begin.restarts, engine.adopted);
    engine.channel.send(&ToKeeper::Ready { line }, &[]).unwrap();
    listener.set_nonblocking(false).unwrap();
    loop {
        let mut set = [PollFd::new(&engine.channel, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        poll(&mut set, None).unwrap();
        let [from_keeper, from_test] = set.map(|fd| !fd.revents().is_empty());
        if from_keeper {
            let reply = engine.listen();
            assert!(reply.is_none(), "nobody asked");
        }
        if from_test {
            let (stream, _) = listener.accept().unwrap();
            engine.serve(&stream, &begin, &config);
        }
    }
}

impl Engine {
    fn begin(&mut self) -> (Begin, UnixListener, String) {
        loop {
            let (message, mut descriptors) = self.channel.recv::<ToEngine>().unwrap().unwrap();
            match message {
                ToEngine::Adopt { spec, .. } => {
                    self.adopted += 1;
                    self.taps.insert((spec.container, spec.ifname), descriptors.pop().unwrap());
                }
                ToEngine::Known(known) => self.known.push(known.container),
                ToEngine::Begin(begin) => {
                    let config = fds::read_text(descriptors.pop().unwrap(), MAX_CONFIG).unwrap();
                    let listener = descriptors.pop().unwrap().into();
                    if begin.stand_by {
                        self.stand_by(&config);
                    }
                    return (begin, listener, config);
                }
                other => panic!("{other:?} before begin"),
            }
        }
    }

    /// As the configuration says: `fail` ends, `wait` waits for ever, anything else is good.
    fn stand_by(&self, config: &str) {
        match config {
            "fail" => {
                self.channel.send(&ToKeeper::Fatal { reason: "bad configuration".into() }, &[]).unwrap();
                std::process::exit(1);
            }
            "wait" => {}
            _ => self.channel.send(&ToKeeper::Standing, &[]).unwrap(),
        }
        match self.channel.recv::<ToEngine>().unwrap() {
            Some((ToEngine::Go, _)) => {}
            None => std::process::exit(9),
            Some((other, _)) => panic!("{other:?} instead of go"),
        }
    }

    /// One message; a reply is handed back.
    fn listen(&mut self) -> Option<(u64, Result<Answer, Refusal>, Vec<OwnedFd>)> {
        let Some((message, descriptors)) = self.channel.recv::<ToEngine>().unwrap() else {
            std::process::exit(9)
        };
        match message {
            ToEngine::Reply { id, result } => return Some((id, result, descriptors)),
            ToEngine::Reload => self.reloads += 1,
            ToEngine::Command { container, state, .. } => self.commands.push((container, state)),
            ToEngine::Shutdown if !self.stubborn => std::process::exit(0),
            ToEngine::Shutdown => {}
            other => panic!("{other:?} after begin"),
        }
        None
    }

    fn request(&mut self, op: Op) -> u64 {
        self.next += 1;
        self.channel.send(&ToKeeper::Request { id: self.next, op }, &[]).unwrap();
        self.next
    }

    fn ask(&mut self, op: Op) -> Reply {
        let key = match &op {
            Op::Attach(spec) => Some((spec.container.clone(), spec.ifname.clone())),
            Op::Detach { container, ifname } => {
                self.taps.remove(&(container.clone(), ifname.clone()));
                None
            }
            Op::Release { container } => {
                self.taps.retain(|(owner, _), _| owner != container);
                None
            }
            _ => None,
        };
        let id = self.request(op);
        loop {
            if let Some((answered, result, mut descriptors)) = self.listen() {
                assert_eq!(answered, id);
                match result {
                    Ok(Answer::Attached(_)) => {
                        self.taps.insert(key.unwrap(), descriptors.pop().unwrap());
                    }
                    Ok(Answer::Config) => {
                        return Reply::Config(
                            fds::read_text(descriptors.pop().unwrap(), MAX_CONFIG).unwrap(),
                        );
                    }
                    _ => {}
                }
                return Reply::Answer(result);
            }
        }
    }

    fn many(&mut self, prefix: &str, count: usize) -> u128 {
        let start = Instant::now();
        let mut waiting = HashMap::new();
        for number in 0..count {
            let name = format!("{prefix}{number}");
            let id = self.request(Op::Attach(spec(&name, number as u16)));
            waiting.insert(id, name);
        }
        while !waiting.is_empty() {
            if let Some((id, result, mut descriptors)) = self.listen() {
                result.unwrap();
                let name = waiting.remove(&id).unwrap();
                self.taps.insert((name, "eth0".to_owned()), descriptors.pop().unwrap());
            }
        }
        start.elapsed().as_millis()
    }

    fn together(&mut self, ops: Vec<Op>) -> Vec<Result<Answer, Refusal>> {
        let mut waiting: HashMap<_, _> =
            ops.into_iter().enumerate().map(|(number, op)| (self.request(op), number)).collect();
        let mut answers = Vec::new();
        while !waiting.is_empty() {
            if let Some((id, result, _closed)) = self.listen() {
                answers.push((waiting.remove(&id).unwrap(), result));
            }
        }
        answers.sort_by_key(|(number, _)| *number);
        answers.into_iter().map(|(_, result)| result).collect()
    }

    fn serve(&mut self, stream: &UnixStream, begin: &Begin, config: &str) {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        let Ok(ask) = serde_json::from_str(&line) else { return }; // a probe
        let reply = match ask {
            Ask::Op(op) => self.ask(op),
            Ask::Status => Reply::Status(Status {
                pid: std::process::id(),
                begin: begin.clone(),
                config: config.to_owned(),
                taps: self
                    .taps
                    .iter()
                    .map(|((c, i), fd)| (c.clone(), i.clone(), fds::is_alive(fd).unwrap()))
                    .collect(),
                adopted: self.adopted,
                known: self.known.clone(),
                reloads: self.reloads,
                commands: self.commands.clone(),
                process: std::fs::read_to_string("/proc/self/status").unwrap(),
                netns: netns::identity(netns::current().unwrap()).unwrap(),
            }),
            Ask::Keep(text) => {
                let file = fds::memory_file("kept", text.as_bytes()).unwrap();
                self.channel.send(&ToKeeper::Keep, &[file.as_fd()]).unwrap();
                Reply::Done
            }
            Ask::Fatal(reason) => {
                self.channel.send(&ToKeeper::Fatal { reason }, &[]).unwrap();
                Reply::Done
            }
            Ask::Many { prefix, count } => Reply::Milliseconds(self.many(&prefix, count)),
            Ask::Together(ops) => Reply::Answers(self.together(ops)),
            Ask::Frame { container, ifname, ethertype } => {
                let tap = self.taps.get(&(container, ifname)).unwrap();
                Reply::Frame(first_frame(tap, ethertype))
            }
        };
        let mut stream = stream;
        let _visitor_gone = writeln!(stream, "{}", serde_json::to_string(&reply).unwrap());
    }
}

fn first_frame(tap: &OwnedFd, ethertype: u16) -> Option<Vec<u8>> {
    let mut frame = vec![0; 70_000];
    while let Ok(n) = rustix::io::read(tap, &mut frame) {
        if n > 24 && frame[22..24] == ethertype.to_be_bytes() {
            return Some(frame[10..n].to_vec());
        }
    }
    None
}

/// A container of its own namespace, `10.1.x.y`.
pub fn spec(name: &str, number: u16) -> AttachSpec {
    let [high, low] = number.to_be_bytes();
    AttachSpec {
        container: name.to_owned(),
        netns: NetnsRef::Name(name.to_owned()),
        create: true,
        ifname: "eth0".to_owned(),
        mac: format!("02:42:0a:01:{high:02x}:{low:02x}"),
        mtu: 1500,
        gso_max_size: None,
        addresses: vec![(IpAddr::from([10, 1, high, low]), 16)],
        default_via: vec![IpAddr::from([10, 1, 255, 254])],
        nic: false,
        vlan: None,
    }
}
