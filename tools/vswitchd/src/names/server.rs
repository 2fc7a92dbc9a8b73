//! The name server on the gateways' addresses: takes questions in, answers what is ours, asks others for the rest.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use switch::port::{NetworkId, PortId};
use switch::punt::{Parcel, Punt};
use tokio::task::JoinSet;

use super::counts::Counts;
use super::datagram;
use super::forward::{self, By};
use super::message::{self, Limit, Outcome};
use super::resolvers::{Resolvers, Upstream};
use super::stream::{Question, Streams, Ticket};
use super::table::Names;

/// Questions that others are asked at a time, for all containers: each has a socket.
const FORWARDED: usize = 512;
/// The part of what is left of them that one port may have.
const SHARE: usize = 4;
/// How often it is said that nobody answers.
const SAID: Duration = Duration::from_secs(60);
const UDP: u8 = 17;

/// What the control plane and the name server know together.
pub struct Shared {
    /// Who is called what.
    pub names: ArcSwap<Names>,
    /// What was done.
    pub counts: Counts,
    /// The host's resolvers.
    resolvers: Mutex<Resolvers>,
}

impl Shared {
    /// Nobody has a name yet.
    pub fn new(resolvers: Resolvers) -> Self {
        Self { names: ArcSwap::default(), counts: Counts::default(), resolvers: Mutex::new(resolvers) }
    }

    /// The host's resolvers as of now.
    pub fn upstream(&self) -> Arc<Upstream> {
        self.resolvers.lock().unwrap_or_else(PoisonError::into_inner).current(Instant::now())
    }
}

/// The name server.
pub struct Server {
    shared: Arc<Shared>,
    punt: Arc<Punt>,
    streams: Streams,
    forwarded: JoinSet<Done>,
    by_port: HashMap<PortId, usize>,
    said: Option<Instant>,
}

/// Where an answer goes.
enum Back {
    Datagram { slot: Address, from: SocketAddr, to: SocketAddr, limit: Limit },
    Stream(Ticket),
}

/// Whose a slot is, while the slot itself is used by others.
struct Address {
    port: PortId,
    network: NetworkId,
    epoch: u32,
    mac: switch::mac::MacAddr,
}

/// A question that others were asked.
pub struct Done {
    port: PortId,
    question: Vec<u8>,
    back: Back,
    answer: Option<Vec<u8>>,
}

impl Server {
    /// A server that takes its packets from `punt` and puts its answers there.
    pub fn new(shared: Arc<Shared>, punt: Arc<Punt>) -> Self {
        let streams = Streams::new(Arc::clone(&punt));
        Self { shared, punt, streams, forwarded: JoinSet::new(), by_port: HashMap::new(), said: None }
    }

    /// Takes in a packet to a gateway's address and l4 port 53.
    pub fn packet(&mut self, parcel: Box<Parcel>, now: Instant) {
        match protocol(parcel.packet()) {
            Some(UDP) => self.datagram(parcel),
            _ => {
                let names = self.shared.names.load();
                let mtu = names.asker(parcel.port, parcel.network).map_or(0, |asker| asker.zone().mtu);
                let mut questions = Vec::new();
                self.streams.packet(parcel, mtu.max(576), now, &mut questions);
                self.answer_streams(questions, now);
            }
        }
    }

    /// When [`Server::due`] has something to do.
    pub fn next(&self) -> Option<Instant> {
        self.streams.next()
    }

    /// Ends what takes too long.
    pub fn due(&mut self, now: Instant) {
        let mut questions = Vec::new();
        self.streams.due(now, &mut questions);
        self.answer_streams(questions, now);
    }

    /// The next question that others have answered, or not; without one it is never ready.
    pub async fn forwarded(&mut self) -> Option<Done> {
        match self.forwarded.join_next().await {
            Some(done) => done.ok(),
            None => std::future::pending().await,
        }
    }

    /// Says what others said.
    pub fn done(&mut self, done: Done, now: Instant) {
        let Done { port, question, back, answer } = done;
        if let Some(count) = self.by_port.get_mut(&port) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_port.remove(&port);
            }
        }
        let id = message::id(&question).unwrap_or(0);
        let limit = match &back {
            Back::Datagram { limit, .. } => *limit,
            Back::Stream(_) => Limit::STREAM,
        };
        let passed_on = answer.and_then(|answer| message::passed_on(answer, id, limit));
        let answer = passed_on.unwrap_or_else(|| {
            self.shared.counts.failed.add();
            self.say(now, "no resolver of the host answers");
            message::failure(&question)
        });
        match back {
            Back::Datagram { slot, from, to, .. } => {
                let Some(mut parcel) = self.punt.take() else { return };
                let Address { port, network, epoch, mac } = slot;
                (parcel.port, parcel.network, parcel.epoch, parcel.mac) = (port, network, epoch, mac);
                parcel.fill(|out| datagram::write(from, to, &answer, out));
                self.punt.send(parcel);
            }
            Back::Stream(ticket) => {
                let mut questions = Vec::new();
                self.streams.answer(&ticket, &answer, now, &mut questions);
                self.answer_streams(questions, now);
            }
        }
    }

    fn datagram(&mut self, mut parcel: Box<Parcel>) {
        let counts = &self.shared.counts;
        let Some(asked) = datagram::read(parcel.packet()) else {
            counts.malformed.add();
            return self.punt.give_back(parcel);
        };
        counts.udp.add();
        let (from, to) = (asked.to, asked.from);
        let names = self.shared.names.load();
        let Some(asker) = names.asker(parcel.port, parcel.network) else {
            return self.punt.give_back(parcel);
        };
        let most = Limit(datagram::room(usize::from(asker.zone().mtu), to.ip()).min(MOST));
        let answer = match self.count(message::consider(asked.payload, &asker, most)) {
            Outcome::Answered(answer) | Outcome::Refused(answer) | Outcome::Malformed(Some(answer)) => answer,
            Outcome::Malformed(None) => return self.punt.give_back(parcel),
            Outcome::Forward(limit) => {
                let slot = Address {
                    port: parcel.port,
                    network: parcel.network,
                    epoch: parcel.epoch,
                    mac: parcel.mac,
                };
                let question = asked.payload.to_vec();
                match self.forward(parcel.port, question, Back::Datagram { slot, from, to, limit }, By::Udp) {
                    Ok(()) => return self.punt.give_back(parcel),
                    Err(answer) => answer,
                }
            }
        };
        // In the slot that it came in: it needs no other.
        parcel.fill(|out| datagram::write(from, to, &answer, out));
        self.punt.send(parcel);
    }

    /// Answers questions by TCP, and those that become readable by that.
    fn answer_streams(&mut self, mut questions: Vec<Question>, now: Instant) {
        while let Some(question) = questions.pop() {
            let Question { ticket, port, network, bytes } = question;
            self.shared.counts.tcp.add();
            let names = self.shared.names.load_full();
            let outcome = match names.asker(port, network) {
                Some(asker) => self.count(message::consider(&bytes, &asker, Limit::STREAM)),
                None => Outcome::Malformed(None),
            };
            let answer = match outcome {
                Outcome::Answered(answer) | Outcome::Refused(answer) | Outcome::Malformed(Some(answer)) => {
                    answer
                }
                Outcome::Malformed(None) => {
                    self.streams.refuse(&ticket, now);
                    continue;
                }
                Outcome::Forward(_) => match self.forward(port, bytes, Back::Stream(ticket), By::Tcp) {
                    Ok(()) => continue,
                    Err(answer) => answer,
                },
            };
            self.streams.answer(&ticket, &answer, now, &mut questions);
        }
        let counts = &self.shared.counts;
        (0..std::mem::take(&mut self.streams.refused)).for_each(|_| counts.over_quota.add());
        (0..std::mem::take(&mut self.streams.malformed)).for_each(|_| counts.malformed.add());
    }

    fn count(&self, outcome: Outcome) -> Outcome {
        let counts = &self.shared.counts;
        match &outcome {
            Outcome::Answered(_) => counts.answered.add(),
            Outcome::Refused(_) => counts.refused.add(),
            Outcome::Malformed(_) => counts.malformed.add(),
            Outcome::Forward(_) => {}
        }
        outcome
    }

    /// Asks others.
    ///
    /// # Errors
    /// What is said at once, where nobody can be asked.
    fn forward(&mut self, port: PortId, question: Vec<u8>, back: Back, by: By) -> Result<(), Vec<u8>> {
        let upstream = self.shared.upstream();
        let counts = &self.shared.counts;
        if upstream.servers.is_empty() {
            counts.no_resolver.add();
            self.say(Instant::now(), "the host names no resolver");
            return Err(message::failure(&question));
        }
        let names = self.shared.names.load_full();
        let may = move |resolver| names.may_ask(port, by.proto(), resolver);
        if !upstream.servers.iter().any(|resolver| may(*resolver)) {
            counts.refused.add();
            return Err(message::refusal(&question));
        }
        let own = self.by_port.get(&port).copied().unwrap_or(0);
        if own >= FORWARDED.saturating_sub(self.forwarded.len()) / SHARE {
            counts.over_quota.add();
            return Err(message::failure(&question));
        }
        counts.forwarded.add();
        *self.by_port.entry(port).or_default() += 1;
        self.forwarded.spawn(async move {
            let answer = forward::ask(question.clone(), by, upstream, may).await;
            Done { port, question, back, answer }
        });
        Ok(())
    }

    /// Logs, but not for each question.
    fn say(&mut self, now: Instant, what: &str) {
        if self.said.is_none_or(|said| now.saturating_duration_since(said) >= SAID) {
            self.said = Some(now);
            tracing::warn!(
                path = super::resolvers::PATH,
                "{what}: containers are told that names cannot be found now"
            );
        }
    }
}

/// Bytes of the longest answer that fits into a slot, whatever the network takes.
const MOST: usize = 1500 - 48;

/// The protocol of an IP packet.
fn protocol(packet: &[u8]) -> Option<u8> {
    let at = if packet.first()? >> 4 == 4 { 9 } else { 6 };
    packet.get(at).copied()
}
