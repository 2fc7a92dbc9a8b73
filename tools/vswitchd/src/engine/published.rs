//! Published l4 ports: what the configuration wants, what the keeper has listen for it, and what workers are told.
//!
//! Something listens as long as the container's interface is up, and not a moment longer: clients of a container that
//! waits are refused by the kernel, and its l4 ports of the host are free for others. When it is back they are asked for
//! again, a chosen one by its number.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::control::Control;
use super::keeper::Keeper;
use super::records::Outcome;
use crate::api::rows::{NatRow, NatState, Origin};
use crate::config::{Protocol, Publish, Range};
use crate::wire::{Answer, Listen, Op, Refusal, RefusalKind};

/// A worker lets a socket go with its next batch, and only then its l4 port is free: so often, and so far apart, it is
/// asked for.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Which entry it is: container, interface, entry.
pub type Key = (String, String, Publish);

/// All entries of `publish` that are wanted or not yet closed.
#[derive(Default)]
pub struct PublishedPorts {
    records: BTreeMap<Key, Record>,
    /// The last id given.
    last_id: u64,
    /// What an engine before this one had listen.
    inherited: Vec<Listen>,
}

/// One entry.
#[derive(Default)]
pub struct Record {
    pub state: State,
    /// The l4 port that was chosen, where one was.
    chosen: u16,
    /// Clients so far.
    pub clients: Arc<AtomicU64>,
}

impl Record {
    /// What the keeper was asked for.
    pub fn listen(&self, key: &Key) -> Listen {
        listen(key, self.chosen)
    }
}

/// Where an entry stands.
#[derive(Default)]
pub enum State {
    /// Nothing listens: the container is not there.
    #[default]
    Waiting,
    /// The keeper was asked.
    Opening,
    /// Clients are served, from this l4 port of the host on.
    Listening(u16, Vec<Socket>),
    /// The host said no, and why.
    Failed(String),
}

/// One l4 port's socket.
pub struct Socket {
    /// [`nat::sockets::Published::id`].
    pub id: u64,
    pub fd: Arc<OwnedFd>,
}

/// What the keeper answered.
pub type Listened = Result<(u16, Vec<OwnedFd>), Refusal>;

impl PublishedPorts {
    /// `inherited` is what an engine before this one had listen.
    pub fn new(inherited: Vec<Listen>) -> Self {
        Self { inherited, ..Self::default() }
    }

    /// Entries that are served, with their sockets.
    pub fn listening(&self) -> impl Iterator<Item = (&Key, &Record, &[Socket])> {
        self.records.iter().filter_map(|(key, record)| match &record.state {
            State::Listening(_, sockets) => Some((key, record, sockets.as_slice())),
            _ => None,
        })
    }

    /// Whether an answer of the keeper is awaited.
    pub fn is_under_way(&self) -> bool {
        self.records.values().any(|record| matches!(record.state, State::Opening))
    }

    /// How many entries the host refused.
    pub fn failed(&self) -> usize {
        self.records.values().filter(|record| matches!(record.state, State::Failed(_))).count()
    }

    /// Those that were refused are asked for again by the next reconciliation.
    pub fn retry_failed(&mut self) {
        for record in self.records.values_mut() {
            if let State::Failed(_) = record.state {
                record.state = State::Waiting;
            }
        }
    }

    /// Why the host refused an entry, if it did.
    pub fn refusal(&self, key: &Key) -> Option<&str> {
        match &self.records.get(key)?.state {
            State::Failed(reason) => Some(reason),
            _ => None,
        }
    }
}

fn listen(key: &Key, prefer: u16) -> Listen {
    let (container, interface, publish) = key.clone();
    Listen { container, interface, publish, prefer }
}

impl Control {
    /// Brings what listens to what is wanted: asks for sockets of interfaces that are up, closes all others.
    pub(super) fn reconcile_published(&mut self) {
        let wanted: BTreeMap<Key, bool> = self
            .desired
            .interfaces()
            .flat_map(|(container, interface)| {
                let port = self.ports.find(&container.name, &interface.name);
                let up = port.and_then(|id| self.ports.get(id)).is_some_and(|port| port.is_up());
                let key =
                    |publish: &Publish| (container.name.clone(), interface.name.clone(), publish.clone());
                interface.publish.iter().map(move |publish| (key(publish), up)).collect::<Vec<_>>()
            })
            .collect();
        for inherited in std::mem::take(&mut self.published.inherited) {
            let key = (inherited.container.clone(), inherited.interface.clone(), inherited.publish.clone());
            if wanted.get(&key) == Some(&true) {
                self.published.records.entry(key).or_default().chosen = inherited.prefer;
            } else {
                self.unlisten(inherited);
            }
        }
        let known: Vec<Key> = self.published.records.keys().cloned().collect();
        for key in known {
            let up = wanted.get(&key).copied();
            if up != Some(true) {
                self.close_published(&key, up.is_none());
            }
        }
        for (key, up) in wanted {
            let record = self.published.records.entry(key.clone()).or_default();
            if up && matches!(record.state, State::Waiting) {
                self.open_published(&key);
            }
        }
    }

    fn open_published(&mut self, key: &Key) {
        let runs = self.uplink.runs();
        let Some(record) = self.published.records.get_mut(key) else { return };
        if !runs {
            let reason = "the uplink takes effect at the next start of the daemon".into();
            record.state = State::Failed(reason);
            return;
        }
        record.state = State::Opening;
        let (asked, key) = (listen(key, record.chosen), key.clone());
        let keeper = Arc::clone(&self.keeper);
        self.jobs.spawn(async move { Outcome::Listening(key, fetch(&keeper, asked).await) });
    }

    /// Nothing listens for an entry any more; `gone`: it is not wanted either.
    fn close_published(&mut self, key: &Key, gone: bool) {
        let Some(record) = self.published.records.get_mut(key) else { return };
        // While the keeper's answer is awaited it is closed when that comes.
        let closes = match std::mem::take(&mut record.state) {
            State::Listening(first, _) => Some(first),
            State::Opening if !gone => {
                record.state = State::Opening;
                None
            }
            _ => None,
        };
        let asked = closes.map(|first| listen(key, first));
        if gone {
            self.published.records.remove(key);
        }
        if let Some(asked) = asked {
            self.unlisten(asked);
        }
    }

    fn unlisten(&mut self, listen: Listen) {
        self.ask(Op::Unlisten(listen), |result| {
            if let Err(refusal) = result {
                tracing::error!(%refusal, "not closed");
            }
            Outcome::Nothing
        });
    }

    /// The keeper's answer.
    pub(super) fn listening(&mut self, key: Key, result: Listened) {
        self.unpublished = true;
        let port = self.ports.find(&key.0, &key.1);
        let up = port.and_then(|id| self.ports.get(id)).is_some_and(|port| port.is_up());
        let record = match self.published.records.get_mut(&key) {
            Some(record) if matches!(record.state, State::Opening) => record,
            // Taken back and asked for once more, which was answered first: these are the same sockets.
            Some(Record { state: State::Listening(..), .. }) => return,
            _ => return self.unlisten(listen(&key, 0)),
        };
        record.state = State::Waiting;
        match result {
            Ok((first, _)) if !up => {
                record.chosen = first;
                self.unlisten(listen(&key, first));
            }
            Ok((first, sockets)) => {
                record.chosen = first;
                let mut id = self.published.last_id;
                let numbered = sockets.into_iter().map(|fd| {
                    id += 1;
                    Socket { id, fd: Arc::new(fd) }
                });
                record.state = State::Listening(first, numbered.collect());
                self.published.last_id = id;
            }
            Err(refusal) => {
                tracing::error!(%refusal, "not published");
                record.state = State::Failed(refusal.to_string());
            }
        }
    }

    pub(super) fn nat_rows(&self) -> Vec<NatRow> {
        let rows = self.desired.interfaces().flat_map(|(container, interface)| {
            interface.publish.iter().map(move |publish| (container, interface, publish))
        });
        rows.map(|(container, interface, publish)| {
            let key = (container.name.clone(), interface.name.clone(), publish.clone());
            let record = self.published.records.get(&key);
            let (state, reason) = match record.map(|record| &record.state) {
                Some(State::Listening(..)) => (NatState::Up, None),
                Some(State::Failed(reason)) => (NatState::Failed, Some(reason.clone())),
                Some(State::Opening) => (NatState::Waiting, Some("being opened".into())),
                _ => (NatState::Waiting, Some("the container is not there".into())),
            };
            let first = match record.map_or(0, |record| record.chosen) {
                chosen if publish.host == 0 => chosen,
                _ => publish.host,
            };
            let in_file = self.file.container(&container.name).is_some_and(|known| {
                known.interfaces.iter().any(|i| i.name == interface.name && i.publish.contains(publish))
            });
            NatRow {
                address: publish.address,
                ports: Range(first, publish.count).to_string(),
                protocol: publish.protocol.to_string(),
                container: container.name.clone(),
                iface: interface.name.clone(),
                target: interface.ips().next().map(|ip| ip.addr()),
                target_ports: Range(publish.port, publish.count).to_string(),
                state,
                clients: record.map_or(0, |record| record.clients.load(std::sync::atomic::Ordering::Relaxed)),
                publish: publish.to_string(),
                origin: if in_file { Origin::File } else { Origin::Api },
                reason,
            }
        })
        .collect()
    }
}

/// The number of the protocol, as in IP packets.
pub fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => switch::parse::PROTO_TCP,
        Protocol::Udp => switch::parse::PROTO_UDP,
    }
}

/// Asks the keeper until all sockets are here.
async fn fetch(keeper: &Keeper, listen: Listen) -> Listened {
    let count = usize::from(listen.publish.count);
    let mut sockets: Vec<OwnedFd> = Vec::new();
    let mut tries = 0;
    loop {
        let skip = u16::try_from(sockets.len()).unwrap_or(u16::MAX);
        match keeper.ask(Op::Listen { listen: listen.clone(), skip }).await {
            Ok((Answer::Listening(first), more)) => {
                let none = more.is_empty();
                sockets.extend(more);
                if sockets.len() >= count || none {
                    return Ok((first, sockets));
                }
            }
            Err(refusal) if refusal.kind == RefusalKind::Exists && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(refusal) => return Err(refusal),
            Ok(_) => {
                let asked = format!("publish {}", listen.publish);
                return Err(Refusal::new(RefusalKind::Failed, asked, "the keeper answered something else"));
            }
        }
    }
}
