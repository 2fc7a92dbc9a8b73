//! Published l4 ports: what the configuration wants, what the keeper has listen for it, and what workers are told.
//!
//! Something listens as long as the container's interface is up, and not a moment longer: clients of a container that
//! waits are refused by the kernel, and its l4 ports of the host are free for others. When it is back they are asked for
//! again, a chosen one by its number. What the host refused is asked for again as well, every few seconds and a few at a
//! time: whoever has an l4 port now may not have it then.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nat::conntrack::Rule;

use super::control::Control;
use super::keeper::Keeper;
use super::ports::PortRecord;
use super::records::Outcome;
use super::translate::chosen;
use crate::api::rows::{NatRow, NatState, Origin};
use crate::config::{Family, Interface, Protocol, Publish, Range};
use crate::wire::{Answer, Listen, Op, Refusal, RefusalKind};

/// A worker lets a socket go with its next batch, and only then its l4 port is free: so often, and so far apart, it is
/// asked for.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// How often what was refused is asked for again, and how many of it at a time.
const AGAIN: Duration = Duration::from_secs(3);
const AT_A_TIME: usize = 16;

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
    /// When what was refused was asked for again.
    retried: Option<Instant>,
}

/// One entry.
#[derive(Default)]
pub struct Record {
    pub state: State,
    /// The l4 port that was chosen, where one was.
    chosen: u16,
    /// When the host last said no.
    refused: Option<Instant>,
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
    /// The host said no, and why; the keeper was asked once more. `again`: and is to be asked after that, too, by whoever
    /// waits for the answer.
    Retrying { reason: String, again: bool },
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

/// Address outside, state, and why it is not up; `None`: sockets do it.
type Rewritten = Option<(Option<IpAddr>, NatState, Option<String>)>;

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

    /// Whether an answer of the keeper is awaited. What is asked for again by itself nobody waits for.
    pub fn is_under_way(&self) -> bool {
        let awaited = |state: &State| matches!(state, State::Opening | State::Retrying { again: true, .. });
        self.records.values().any(|record| awaited(&record.state))
    }

    /// How many entries the host refused.
    pub fn failed(&self) -> usize {
        self.records.values().filter(|record| record.state.refusal().is_some()).count()
    }

    /// Those that were refused are asked for again by the next reconciliation.
    pub fn retry_failed(&mut self) {
        for record in self.records.values_mut() {
            match &mut record.state {
                State::Retrying { again, .. } => *again = true,
                state @ State::Failed(_) => *state = State::Waiting,
                _ => {}
            }
        }
    }

    /// Those that were refused and are to be asked for again now: at most a few, whoever waits longest first.
    fn due(&mut self, now: Instant) -> Vec<Key> {
        if self.retried.is_some_and(|last| now.saturating_duration_since(last) < AGAIN) {
            return Vec::new();
        }
        let failed = self.records.iter().filter(|(_, record)| matches!(record.state, State::Failed(_)));
        let mut due: Vec<(Option<Instant>, Key)> =
            failed.map(|(key, record)| (record.refused, key.clone())).collect();
        if !due.is_empty() {
            self.retried = Some(now);
        }
        due.sort_by_key(|(refused, _)| *refused);
        due.into_iter().take(AT_A_TIME).map(|(_, key)| key).collect()
    }

    /// Why the host refused an entry, if it did.
    pub fn refusal(&self, key: &Key) -> Option<&str> {
        self.records.get(key)?.state.refusal()
    }
}

impl State {
    fn refusal(&self) -> Option<&str> {
        match self {
            Self::Failed(reason) | Self::Retrying { reason, .. } => Some(reason),
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
                let by_sockets = interface.publish.iter().filter(|publish| !self.by_packets(publish));
                by_sockets.map(move |publish| (key(publish), up)).collect::<Vec<_>>()
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

    /// Whether packets are rewritten for an entry, and nothing listens.
    fn by_packets(&self, publish: &Publish) -> bool {
        self.desired.outside.as_ref().is_some_and(|outside| publish.by_packets(outside))
    }

    /// Where an entry stands for which packets are rewritten, and its address outside.
    fn rewritten(&self, container: &str, interface: &Interface, publish: &Publish) -> Rewritten {
        let outside = self.desired.outside.as_ref().filter(|outside| publish.by_packets(outside))?;
        let first = interface.ips().find_map(|ip| outside.address_of(Family::of(ip.addr())));
        let address = publish.address.or(first);
        let port = self.ports.find(container, &interface.name).and_then(|id| self.ports.get(id));
        let up = port.is_some_and(PortRecord::is_up);
        Some(match address {
            None => (None, NatState::Failed, Some("the uplink has no address of its family".into())),
            Some(_) if up => (address, NatState::Up, None),
            Some(_) => (address, NatState::Waiting, Some("the container is not there".into())),
        })
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
        self.ask_to_listen(key, TRIES);
    }

    fn ask_to_listen(&mut self, key: &Key, tries: u32) {
        let chosen = self.published.records.get(key).map_or(0, |record| record.chosen);
        let (asked, key, keeper) = (listen(key, chosen), key.clone(), Arc::clone(&self.keeper));
        self.jobs.spawn(async move { Outcome::Listening(key, fetch(&keeper, asked, tries).await) });
    }

    /// Asks again for some of what the host refused. Until the answer is there it is refused as before.
    pub(super) fn retry_published(&mut self) {
        if !self.uplink.runs() {
            return; // nothing of it was asked of the host
        }
        for key in self.published.due(Instant::now()) {
            let Some(record) = self.published.records.get_mut(&key) else { continue };
            if let State::Failed(reason) = std::mem::take(&mut record.state) {
                record.state = State::Retrying { reason, again: false };
                self.ask_to_listen(&key, 0);
            }
        }
    }

    /// Nothing listens for an entry any more; `gone`: it is not wanted either.
    fn close_published(&mut self, key: &Key, gone: bool) {
        let Some(record) = self.published.records.get_mut(key) else { return };
        // While the keeper's answer is awaited it is closed when that comes.
        let closes = match std::mem::take(&mut record.state) {
            State::Listening(first, _) => Some(first),
            State::Opening | State::Retrying { .. } if !gone => {
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
        let port = self.ports.find(&key.0, &key.1);
        let up = port.and_then(|id| self.ports.get(id)).is_some_and(|port| port.is_up());
        let record = self.published.records.get_mut(&key);
        if let (Some(record), Err(refusal)) = (record, &result)
            && matches!(record.state, State::Retrying { again: false, .. })
        {
            // The same as before: nothing that packets or the log must hear of.
            tracing::debug!(%refusal, "still not published");
            record.refused = Some(Instant::now());
            record.state = State::Failed(refusal.to_string());
            return;
        }
        self.unpublished = true;
        let record = match self.published.records.get_mut(&key) {
            Some(record) if matches!(record.state, State::Opening | State::Retrying { .. }) => record,
            // Taken back and asked for once more, which was answered first: these are the same sockets.
            Some(Record { state: State::Listening(..), .. }) => return,
            _ => return self.unlisten(listen(&key, 0)),
        };
        // Somebody wants it asked for once more, which is done when this is published.
        let again = matches!(record.state, State::Retrying { .. });
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
            Err(_) if again => {}
            Err(refusal) => {
                tracing::error!(%refusal, "not published");
                record.refused = Some(Instant::now());
                record.state = State::Failed(refusal.to_string());
            }
        }
    }

    /// Those of an entry, of both families.
    fn clients_of(
        &self,
        clients: &[(Rule, u64)],
        (container, interface, publish): (&str, &str, &Publish),
        first: u16,
    ) -> u64 {
        let Some(port) = self.ports.find(container, interface) else { return 0 };
        let entry = (port, number(publish.protocol), first, publish.port);
        let its =
            |(rule, _): &&(Rule, u64)| (rule.owner, rule.proto, rule.first, rule.inside.end.port) == entry;
        clients.iter().filter(its).map(|(_, count)| count).sum()
    }

    /// `clients`: how many there are of what packets are rewritten for.
    pub(super) fn nat_rows(&self, clients: &[(Rule, u64)]) -> Vec<NatRow> {
        let of_packets = self.desired.outside.iter().flat_map(|outside| chosen(&self.desired, outside));
        let chosen: HashMap<Key, u16> = of_packets
            .map(|(container, interface, publish, first)| {
                ((container.to_owned(), interface.name.clone(), publish.clone()), first)
            })
            .collect();
        let rows = self.desired.interfaces().flat_map(|(container, interface)| {
            interface.publish.iter().map(move |publish| (container, interface, publish))
        });
        rows.map(|(container, interface, publish)| {
            let key = (container.name.clone(), interface.name.clone(), publish.clone());
            let record = self.published.records.get(&key);
            let (state, reason) = match record.map(|record| &record.state) {
                Some(State::Listening(..)) => (NatState::Up, None),
                Some(State::Failed(reason) | State::Retrying { reason, .. }) => {
                    (NatState::Failed, Some(reason.clone()))
                }
                Some(State::Opening) => (NatState::Waiting, Some("being opened".into())),
                _ => (NatState::Waiting, Some("the container is not there".into())),
            };
            let by_packets = self.by_packets(publish);
            let rewritten = self.rewritten(&container.name, interface, publish);
            let (address, state, reason) = rewritten.unwrap_or((publish.address, state, reason));
            let first = match record.map_or(0, |record| record.chosen) {
                _ if by_packets => chosen.get(&key).copied().unwrap_or(publish.host),
                given if publish.host == 0 => given,
                _ => publish.host,
            };
            let in_file = self.file.container(&container.name).is_some_and(|known| {
                known.interfaces.iter().any(|i| i.name == interface.name && i.publish.contains(publish))
            });
            NatRow {
                address,
                ports: Range(first, publish.count).to_string(),
                protocol: publish.protocol.to_string(),
                container: container.name.clone(),
                iface: interface.name.clone(),
                target: interface.ips().next().map(|ip| ip.addr()),
                target_ports: Range(publish.port, publish.count).to_string(),
                state,
                clients: match record {
                    Some(record) if !by_packets => record.clients.load(Ordering::Relaxed),
                    _ => self.clients_of(clients, (&container.name, &interface.name, publish), first),
                },
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
        Protocol::Sctp => switch::parse::PROTO_SCTP,
    }
}

/// Asks the keeper until all sockets are here.
async fn fetch(keeper: &Keeper, listen: Listen, mut tries: u32) -> Listened {
    let count = usize::from(listen.publish.count);
    let mut sockets: Vec<OwnedFd> = Vec::new();
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
            Err(refusal) if refusal.kind == RefusalKind::Exists && tries > 0 => {
                tries -= 1;
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
