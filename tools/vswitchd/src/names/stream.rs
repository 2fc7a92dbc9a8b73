//! Questions by TCP (RFC 7766), which ends here: smoltcp plays the gateway's side.
//!
//! Containers are hostile: connections are few for each and for all, each has a deadline that only a whole question or
//! a whole answer puts off, and what is no question ends it.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket};
use switch::mac::MacAddr;
use switch::port::{NetworkId, PortId};
use switch::punt::{MAX_PACKET, Parcel, Punt};

/// Connections of one port.
const PER_PORT: usize = 8;
/// Connections of all.
const ALL: usize = 128;
/// How long a connection may be without a whole question, or with an answer that nobody fetches (RFC 7766 section
/// 6.2.3: a few seconds).
const IDLE: Duration = Duration::from_secs(10);
/// Questions of one connection that are under way; the next is read when one is answered.
const UNDER_WAY: usize = 4;
/// Bytes of the longest question; usual ones have less than 100.
const LONGEST: usize = 2048;
/// Bytes of a header: the shortest.
const SHORTEST: usize = 12;
/// Bytes of an answer that are under way.
const TX_BUFFER: usize = 8192;
/// Bytes of an IP packet that we send or are sent.
const MTU: usize = 1500;
const _: () = assert!(MTU <= MAX_PACKET);
const DNS: u16 = 53;

/// Whose connections these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    port: PortId,
    network: NetworkId,
    epoch: u32,
    mac: MacAddr,
    /// Our address.
    local: IpAddr,
}

/// A connection, for as long as its answers are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    key: Key,
    connection: u64,
}

/// A whole question.
#[derive(Debug)]
pub struct Question {
    /// Where its answer goes.
    pub ticket: Ticket,
    /// By which port it came.
    pub port: PortId,
    /// Of which network that is.
    pub network: NetworkId,
    /// Its message.
    pub bytes: Vec<u8>,
}

/// All connections.
pub struct Streams {
    punt: Arc<Punt>,
    stacks: HashMap<Key, Stack>,
    started: Instant,
    next_id: u64,
    /// Connections that were refused because there are too many.
    pub refused: u64,
    /// Connections that were ended because of what was said.
    pub malformed: u64,
}

/// One side of a cable with one container at the other end.
struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    connections: Vec<Connection>,
    /// When smoltcp or a connection wants to be looked at.
    due: Option<Instant>,
}

struct Connection {
    id: u64,
    socket: SocketHandle,
    deadline: Instant,
    /// Questions whose answers are not there yet.
    waiting: usize,
    /// Answers, and how much of the first was given to the socket.
    answers: VecDeque<Vec<u8>>,
    given: usize,
}

impl Streams {
    /// None yet.
    pub fn new(punt: Arc<Punt>) -> Self {
        Self { punt, stacks: HashMap::new(), started: Instant::now(), next_id: 0, refused: 0, malformed: 0 }
    }

    /// Takes in a TCP packet.
    pub fn packet(&mut self, parcel: Box<Parcel>, mtu: u16, now: Instant, questions: &mut Vec<Question>) {
        let Some(segment) = Segment::of(parcel.packet()) else {
            self.malformed += 1;
            return self.punt.give_back(parcel);
        };
        let Parcel { port, network, epoch, mac, .. } = *parcel;
        let key = Key { port, network, epoch, mac, local: segment.local };
        let mtu = usize::from(mtu).min(MTU);
        if segment.opens && !self.knows(&key, segment.remote) {
            self.open(key, mtu, now);
        }
        let moment = self.moment(now);
        let punt = Arc::clone(&self.punt);
        let stack = self.stacks.entry(key).or_insert_with(|| Stack::new(&key, punt, mtu, moment));
        stack.wire.arrived = Some(parcel.packet().to_vec());
        self.punt.give_back(parcel);
        self.run(&key, now, questions);
    }

    /// Looks at what is due by now.
    pub fn due(&mut self, now: Instant, questions: &mut Vec<Question>) {
        let due: Vec<Key> = self
            .stacks
            .iter()
            .filter(|(_, stack)| stack.due.is_some_and(|due| due <= now))
            .map(|(key, _)| *key)
            .collect();
        for key in due {
            self.run(&key, now, questions);
        }
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        self.stacks.values().filter_map(|stack| stack.due).min()
    }

    /// Answers a question, if its connection is there still.
    pub fn answer(&mut self, ticket: &Ticket, answer: &[u8], now: Instant, questions: &mut Vec<Question>) {
        let connection = self
            .stacks
            .get_mut(&ticket.key)
            .and_then(|stack| stack.connections.iter_mut().find(|known| known.id == ticket.connection));
        let Some(connection) = connection else { return };
        connection.waiting = connection.waiting.saturating_sub(1);
        if let Ok(length) = u16::try_from(answer.len()) {
            connection.answers.push_back([&length.to_be_bytes(), answer].concat());
            connection.deadline = now + IDLE;
        }
        self.run(&ticket.key, now, questions);
    }

    /// Ends the connection of a question that makes no sense.
    pub fn refuse(&mut self, ticket: &Ticket, now: Instant) {
        let Some(stack) = self.stacks.get_mut(&ticket.key) else { return };
        let Stack { sockets, connections, .. } = stack;
        if let Some(connection) = connections.iter().find(|known| known.id == ticket.connection) {
            sockets.get_mut::<Socket<'_>>(connection.socket).abort();
        }
        self.run(&ticket.key, now, &mut Vec::new());
    }

    fn moment(&self, now: Instant) -> Moment {
        let millis = now.saturating_duration_since(self.started).as_millis();
        Moment::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    /// Whether this is a connection already, and its first packet came again.
    fn knows(&self, key: &Key, remote: SocketAddr) -> bool {
        self.stacks.get(key).is_some_and(|stack| {
            stack.connections.iter().any(|connection| {
                let peer = stack.sockets.get::<Socket<'_>>(connection.socket).remote_endpoint();
                peer.is_none_or(|peer| SocketAddr::new(peer.addr.into(), peer.port) == remote)
            })
        })
    }

    /// Makes room for one more connection, if there may be one. Without it smoltcp refuses it.
    fn open(&mut self, key: Key, mtu: usize, now: Instant) {
        let own = self.count(|other| other.port == key.port);
        if own >= PER_PORT || (self.count(|_| true) >= ALL && !self.make_room(own, now)) {
            self.refused += 1;
            return;
        }
        let (moment, id) = (self.moment(now), self.next_id);
        self.next_id += 1;
        let punt = Arc::clone(&self.punt);
        let stack = self.stacks.entry(key).or_insert_with(|| Stack::new(&key, punt, mtu, moment));
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(LONGEST + 2), buffer(TX_BUFFER));
        socket.set_nagle_enabled(false);
        if socket.listen((IpAddress::from(key.local), DNS)).is_err() {
            return;
        }
        let socket = stack.sockets.add(socket);
        let (waiting, answers, given) = (0, VecDeque::new(), 0);
        stack.connections.push(Connection { id, socket, deadline: now + IDLE, waiting, answers, given });
    }

    fn count(&self, of: impl Fn(&Key) -> bool) -> usize {
        self.stacks.iter().filter(|(key, _)| of(key)).map(|(_, stack)| stack.connections.len()).sum()
    }

    /// The port with the most connections loses its oldest, if it has more than `own`.
    fn make_room(&mut self, own: usize, now: Instant) -> bool {
        let mut by_port: HashMap<PortId, usize> = HashMap::new();
        for (key, stack) in &self.stacks {
            *by_port.entry(key.port).or_default() += stack.connections.len();
        }
        let Some((port, most)) = by_port.into_iter().max_by_key(|(_, count)| *count) else { return false };
        let of_port = self.stacks.iter_mut().filter(|(key, _)| key.port == port);
        let oldest = of_port
            .flat_map(|(key, stack)| stack.connections.iter_mut().map(move |connection| (*key, connection)))
            .min_by_key(|(_, connection)| connection.id);
        let Some((key, oldest)) = oldest.filter(|_| most > own + 1) else { return false };
        oldest.deadline = now;
        self.run(&key, now, &mut Vec::new());
        true
    }

    /// Moves everything of one container on, as far as it goes now.
    fn run(&mut self, key: &Key, now: Instant, questions: &mut Vec<Question>) {
        let moment = self.moment(now);
        let Some(stack) = self.stacks.get_mut(key) else { return };
        let Stack { interface, sockets, wire, connections, due } = stack;
        interface.poll(moment, wire, sockets);
        for connection in connections.iter_mut() {
            let socket = sockets.get_mut::<Socket<'_>>(connection.socket);
            // Who waits for an answer waits for others, who have deadlines of their own.
            if connection.deadline <= now && connection.waiting == 0 {
                socket.abort();
            }
            connection.write(socket, now);
            match connection.read(socket, now) {
                Ok(read) => questions.extend(read.into_iter().map(|bytes| Question {
                    ticket: Ticket { key: *key, connection: connection.id },
                    port: key.port,
                    network: key.network,
                    bytes,
                })),
                Err(NoQuestion) => {
                    self.malformed += 1;
                    socket.abort();
                }
            }
            connection.end(socket);
        }
        interface.poll(moment, wire, sockets);
        connections.retain(|connection| {
            let ended = matches!(
                sockets.get::<Socket<'_>>(connection.socket).state(),
                State::Closed | State::TimeWait | State::Listen
            );
            if ended {
                drop(sockets.remove(connection.socket));
            }
            !ended
        });
        let by_tcp = interface.poll_delay(moment, sockets).map(|delay| now + Duration::from(delay));
        let idle = connections.iter().filter(|connection| connection.waiting == 0);
        *due = idle.map(|connection| connection.deadline).chain(by_tcp).min();
        if connections.is_empty() {
            self.stacks.remove(key);
        }
    }
}

/// What was said is no question.
struct NoQuestion;

impl Connection {
    /// The questions that are whole.
    fn read(&mut self, socket: &mut Socket<'_>, now: Instant) -> Result<Vec<Vec<u8>>, NoQuestion> {
        let mut questions = Vec::new();
        while self.waiting + self.answers.len() < UNDER_WAY {
            let mut length = [0; 2];
            if socket.peek_slice(&mut length) != Ok(length.len()) {
                break;
            }
            let length = usize::from(u16::from_be_bytes(length));
            if !(SHORTEST..=LONGEST).contains(&length) {
                return Err(NoQuestion);
            }
            if socket.recv_queue() < 2 + length {
                break;
            }
            let mut message = vec![0; 2 + length];
            if socket.recv_slice(&mut message) != Ok(message.len()) {
                return Err(NoQuestion);
            }
            questions.push(message.split_off(2));
            self.waiting += 1;
            self.deadline = now + IDLE;
        }
        Ok(questions)
    }

    /// Gives the socket as much of the answers as it takes.
    fn write(&mut self, socket: &mut Socket<'_>, now: Instant) {
        while let Some(answer) = self.answers.front() {
            let rest = answer.get(self.given..).unwrap_or_default();
            match socket.send_slice(rest) {
                Ok(sent) if sent < rest.len() => {
                    self.given += sent;
                    return;
                }
                Ok(_) => {}
                Err(_) => return, // it is over; whoever looks at its state sees it
            }
            self.given = 0;
            self.answers.pop_front();
            self.deadline = now + IDLE;
        }
    }

    /// Ends the connection after the last answer, if the other side did.
    fn end(&self, socket: &mut Socket<'_>) {
        if self.waiting == 0 && self.answers.is_empty() && socket.state() == State::CloseWait {
            socket.close();
        }
    }
}

impl Stack {
    fn new(key: &Key, punt: Arc<Punt>, mtu: usize, now: Moment) -> Self {
        let mut wire = Wire { punt, key: *key, arrived: None, mtu };
        let mut config = Config::new(HardwareAddress::Ip);
        let mut seed = [0; 8];
        // Without randomness the numbers of a connection can be guessed, by whoever can send in its container's name.
        let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        config.random_seed = u64::from_ne_bytes(seed);
        let mut interface = Interface::new(config, &mut wire, now);
        // Everybody is right there: at the other end of the cable.
        let own = IpCidr::new(IpAddress::from(key.local), 0);
        interface.update_ip_addrs(|addresses| _ = addresses.push(own));
        Self { interface, sockets: SocketSet::new(Vec::new()), wire, connections: Vec::new(), due: None }
    }
}

/// What of a TCP packet decides whose it is.
struct Segment {
    local: IpAddr,
    remote: SocketAddr,
    /// SYN without ACK.
    opens: bool,
}

impl Segment {
    fn of(packet: &[u8]) -> Option<Self> {
        let (local, remote, proto, l4): (IpAddr, IpAddr, _, &[u8]) = match packet.first()? >> 4 {
            4 => {
                let ip = Ipv4Packet::new_checked(packet).ok()?;
                let l4 = packet.get(usize::from(ip.header_len())..usize::from(ip.total_len()))?;
                (ip.dst_addr().into(), ip.src_addr().into(), ip.next_header(), l4)
            }
            6 => {
                let ip = Ipv6Packet::new_checked(packet).ok()?;
                let l4 = packet.get(ip.header_len()..ip.total_len())?;
                (ip.dst_addr().into(), ip.src_addr().into(), ip.next_header(), l4)
            }
            _ => return None,
        };
        let tcp = TcpPacket::new_checked(l4).ok().filter(|_| proto == IpProtocol::Tcp)?;
        let remote = SocketAddr::new(remote, tcp.src_port());
        Some(Self { local, remote, opens: tcp.syn() && !tcp.ack() })
    }
}

/// The cable: what arrived, and the slots that what is sent goes into.
struct Wire {
    punt: Arc<Punt>,
    key: Key,
    arrived: Option<Vec<u8>>,
    /// Bytes of an IP packet that goes by it.
    mtu: usize,
}

struct Arrived(Vec<u8>);

struct Sent<'w>(&'w Punt, Key);

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Arrived, Sent<'_>)> {
        let arrived = self.arrived.take()?;
        Some((Arrived(arrived), Sent(&self.punt, self.key)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Sent<'_>> {
        Some(Sent(&self.punt, self.key))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        // Without a free slot it is lost on the way, and TCP says it again.
        if let Some(mut slot) = self.0.take() {
            let Key { port, network, epoch, mac, .. } = self.1;
            (slot.port, slot.network, slot.epoch, slot.mac) = (port, network, epoch, mac);
            slot.fill(|space| {
                space.get_mut(..len)?.copy_from_slice(&packet);
                Some(len)
            });
            self.0.send(slot);
        }
        result
    }
}
