//! The states of a TCP connection, as seen by somebody on its way (RFC 5382 sections 4 and 5, RFC 7857 section 2).
//!
//! Nothing is dropped for its sequence number but a reset: that one says that the connection is over, and who believes
//! it from anybody can be made to forget (RFC 5961 section 3; over nine of ten NATs were, see "ReDAN", NDSS 2025). A reset
//! is believed whose number lies between what its receiver has acknowledged and what its sender has sent, which is what
//! the sender's own kernel would write. The ends look for themselves, too.

#[cfg(test)]
mod tests;

use switch::flow::TcpMeta;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Scale of a window whose SYN we did not see: the largest that an ordinary kernel offers, that of Linux with 32 MiB of
/// buffer. Too small a window would hide what is sent, and nothing would be believed any more.
const SCALE: u8 = 10;
/// RFC 7323 section 2.3: what is more is taken for this.
const MAX_SCALE: u8 = 14;
/// Scale of a side that offers none, or has not been heard.
const NO_SCALE: u8 = 15;
/// How far behind what was sent an acknowledgment that opens a connection may be: data may have come with the SYN, and
/// more after it (RFC 7413).
const EARLY: u32 = 1 << 17;
/// The same of a connection that was picked up: as much as can be on its way.
const LATE: u32 = 1 << 26;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the container.
    Out,
    /// To it.
    In,
}

impl Way {
    pub(super) const fn bit(self) -> u8 {
        match self {
            Self::Out => 1,
            Self::In => 2,
        }
    }

    const fn back(self) -> Self {
        match self {
            Self::Out => Self::In,
            Self::In => Self::Out,
        }
    }
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// One SYN was seen.
    SynSent,
    /// One each way, in whatever order (RFC 5382 section 4.2 REQ-2: simultaneous open).
    SynReceived,
    /// Its beginning was not seen: it was there before us, or was idle too long.
    PickedUp,
    /// The long timeout is for this one alone.
    Established,
    /// One side has closed.
    FinWait,
    /// Both have.
    Closing,
    /// A reset was seen. It stays for 4 min (RFC 7857 section 2.2): if the reset's sender goes on, it was not his.
    Reset,
}

impl Stage {
    /// As `show connections` writes it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::PickedUp => "picked-up",
            Self::Established => "established",
            Self::FinWait => "fin-wait",
            Self::Closing => "closing",
            Self::Reset => "reset",
        }
    }
}

/// What one word of a connection says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) stage: Stage,
    /// Of [`Way::bit`]s: who opened it, who was heard, who closed, who reset.
    pub(super) opened: u8,
    heard: u8,
    closed: u8,
    reset: u8,
    /// Of each way: the window scale, [`NO_SCALE`]: not offered (yet).
    scales: [u8; 2],
    /// The last SYN's number.
    syn: u32,
}

impl State {
    pub(super) fn to_word(self) -> u64 {
        let [out, back] = self.scales;
        u64::from(self.syn) << 32
            | u64::from(out & 15) << 16
            | u64::from(back & 15) << 20
            | u64::from(self.opened & 3) << 4
            | u64::from(self.heard & 3) << 6
            | u64::from(self.closed & 3) << 8
            | u64::from(self.reset & 3) << 10
            | self.stage as u64
    }

    pub(super) fn from_word(word: u64) -> Self {
        let two = |shift: u32| (word >> shift) as u8 & 3;
        Self {
            stage: Self::stage_of(word),
            opened: two(4),
            heard: two(6),
            closed: two(8),
            reset: two(10),
            scales: [(word >> 16) as u8 & 15, (word >> 20) as u8 & 15],
            syn: (word >> 32) as u32,
        }
    }

    /// The stage alone.
    pub(super) const fn stage_of(word: u64) -> Stage {
        match word & 15 {
            0 => Stage::SynSent,
            1 => Stage::SynReceived,
            3 => Stage::Established,
            4 => Stage::FinWait,
            5 => Stage::Closing,
            6 => Stage::Reset,
            _ => Stage::PickedUp,
        }
    }

    /// How many bits a window of this way is to be shifted by. Both must have offered it (RFC 7323 section 2.2).
    const fn scale(&self, way: Way) -> u8 {
        let [out, back] = self.scales;
        if out == NO_SCALE || back == NO_SCALE {
            return 0;
        }
        match way {
            Way::Out => out,
            Way::In => back,
        }
    }
}

/// What one side has said: the highest number that it has acknowledged, the end of what it has sent, and its window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) ack: u32,
    pub(super) end: u32,
    /// Bytes; of nobody who was not heard it is 0.
    pub(super) window: u32,
    /// Something was acknowledged.
    pub(super) acks: bool,
    /// Something was sent.
    pub(super) sends: bool,
}

impl Side {
    pub(super) fn to_words(self) -> [u64; 2] {
        let numbers = u64::from(self.ack) << 32 | u64::from(self.end);
        [numbers, u64::from(self.window) << 2 | u64::from(self.acks) << 1 | u64::from(self.sends)]
    }

    pub(super) fn from_words([numbers, rest]: [u64; 2]) -> Self {
        Self {
            ack: (numbers >> 32) as u32,
            end: numbers as u32,
            window: (rest >> 2) as u32,
            acks: rest & 2 != 0,
            sends: rest & 1 != 0,
        }
    }
}

/// A packet's consequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) state: State,
    /// Of the side that sent it.
    pub(super) sender: Side,
    /// Whether the connection is in use by it: a reset is no use (RFC 7857 section 7).
    pub(super) refreshes: bool,
    /// What both have said before is over.
    pub(super) reopens: bool,
}

/// Whether a packet may open a connection.
pub(super) const fn opens(tcp: &TcpMeta) -> bool {
    tcp.flags & RST == 0
}

/// The state of a connection that this packet opens.
pub(super) fn begin(tcp: &TcpMeta, way: Way) -> Step {
    let syn = tcp.flags & (SYN | ACK) == SYN;
    let state = State {
        stage: if syn { Stage::SynSent } else { Stage::PickedUp },
        opened: way.bit(),
        heard: way.bit(),
        closed: if tcp.flags & FIN != 0 { way.bit() } else { 0 },
        reset: 0,
        scales: if syn { scales([NO_SCALE; 2], tcp, way) } else { [SCALE; 2] },
        syn: tcp.seq,
    };
    Step {
        state,
        sender: said(Side::default(), &Side::default(), &state, tcp, way),
        refreshes: true,
        reopens: true,
    }
}

/// What `tcp`, going `way`, makes of a connection; `sender` and `receiver` are what the two have said. `None`: a reset
/// that is not believed.
pub(super) fn step(state: State, sender: Side, receiver: Side, tcp: &TcpMeta, way: Way) -> Option<Step> {
    if tcp.flags & RST != 0 {
        return believed(&state, &sender, &receiver, tcp, way).then(|| {
            let state = State { stage: Stage::Reset, reset: state.reset | way.bit(), ..state };
            Step { state, sender, refreshes: false, reopens: false }
        });
    }
    let over = match state.stage {
        Stage::Closing | Stage::Reset => true,
        // What was picked up was the last word of an older one.
        Stage::PickedUp => state.heard == way.bit(),
        _ => false,
    };
    if over && tcp.flags & (SYN | ACK) == SYN {
        // RFC 9293 section 3.6.1: a new one with the same l4 ports.
        return Some(begin(tcp, way));
    }
    let next = advance(state, &sender, &receiver, tcp, way);
    Some(Step {
        state: next,
        sender: said(sender, &receiver, &next, tcp, way),
        refreshes: true,
        reopens: false,
    })
}

fn advance(mut state: State, sender: &Side, receiver: &Side, tcp: &TcpMeta, way: Way) -> State {
    let syn = tcp.flags & SYN != 0 && (tcp.flags & ACK == 0 || answers(receiver, tcp));
    if syn && !receiver.acks && matches!(state.stage, Stage::SynSent | Stage::SynReceived) {
        state.scales = scales(state.scales, tcp, way);
        if state.opened == way.bit() {
            state.syn = tcp.seq;
        }
    }
    if syn || state.stage != Stage::SynSent {
        state.heard |= way.bit();
    }
    let both = state.heard == 3;
    state.stage = match state.stage {
        Stage::SynSent if both => Stage::SynReceived,
        // Who opened it has the other's SYN. Not anybody: the long timeout is dear.
        Stage::SynReceived if state.opened == way.bit() && acknowledges(receiver, tcp) => Stage::Established,
        Stage::PickedUp if both => Stage::Established,
        // Who has reset it goes on, where the other one waits for more.
        Stage::Reset if state.reset & way.bit() != 0 && receiver.acks && fits(receiver, tcp) => {
            state.reset = 0;
            Stage::Established
        }
        stage => stage,
    };
    // From anybody it would make the timeout a short one: from outside it must follow what was sent, as a reset must. A
    // window is wide, and whoever tries often enough hits it.
    let follows = way == Way::Out || !sender.sends || !receiver.acks || in_flight(sender, receiver, tcp);
    if tcp.flags & FIN != 0 && state.stage != Stage::SynSent && fits(receiver, tcp) && follows {
        state.closed |= way.bit();
    }
    if !matches!(state.stage, Stage::Reset | Stage::SynSent) {
        state.stage = match state.closed {
            0 => state.stage,
            3 => Stage::Closing,
            _ => Stage::FinWait,
        };
    }
    state
}

/// Whether it is no SYN, and acknowledges what the other side said last.
const fn acknowledges(receiver: &Side, tcp: &TcpMeta) -> bool {
    tcp.flags & (SYN | ACK) == ACK && receiver.sends && answers(receiver, tcp)
}

/// Whether it acknowledges what the other side said last, as far as that is known.
const fn answers(receiver: &Side, tcp: &TcpMeta) -> bool {
    !receiver.sends || within(receiver.end, tcp.ack, EARLY)
}

/// Whether it is what its receiver waits for, as far as is known.
const fn fits(receiver: &Side, tcp: &TcpMeta) -> bool {
    let window = if receiver.window == 0 { 1 } else { receiver.window };
    !receiver.acks || within(tcp.seq, receiver.ack, window)
}

/// What a side has said after this packet. What comes from outside and is far from what the container waits for moves
/// nothing: it may be anybody's. What the container says about itself is so.
fn said(mut side: Side, receiver: &Side, state: &State, tcp: &TcpMeta, way: Way) -> Side {
    let syn = tcp.flags & SYN != 0;
    let opening = matches!(state.stage, Stage::SynSent | Stage::SynReceived);
    if way == Way::In && state.stage == Stage::SynSent && !syn {
        return side;
    }
    let flags = u32::from(syn).wrapping_add(u32::from(tcp.flags & FIN != 0));
    let end = tcp.seq.wrapping_add(tcp.payload).wrapping_add(flags);
    let next = !side.sends || after(end, side.end) || (syn && opening && !receiver.acks);
    if next && (way == Way::Out || fits(receiver, tcp)) {
        (side.end, side.sends) = (end, true);
    }
    if tcp.flags & ACK != 0 {
        // Nobody acknowledges what was not sent, nor for the first time what was sent long ago.
        let early = if opening { EARLY } else { LATE };
        let sent = match side.acks {
            _ if way == Way::Out || !receiver.sends => true,
            true => !after(tcp.ack, receiver.end),
            false => within(receiver.end, tcp.ack, early),
        };
        if sent && (!side.acks || !after(side.ack, tcp.ack)) {
            let scale = if syn { 0 } else { state.scale(way) };
            (side.ack, side.window, side.acks) = (tcp.ack, u32::from(tcp.window) << scale, true);
        }
    }
    side
}

/// Whether its number lies between what its receiver has acknowledged and what its sender has sent.
const fn in_flight(sender: &Side, receiver: &Side, tcp: &TcpMeta) -> bool {
    let flight = sender.end.wrapping_sub(receiver.ack);
    within(tcp.seq, receiver.ack, if flight < 1 << 31 { flight.saturating_add(1) } else { 1 })
}

fn believed(state: &State, sender: &Side, receiver: &Side, tcp: &TcpMeta, way: Way) -> bool {
    if state.stage == Stage::Reset {
        return true; // it makes no difference
    }
    // RFC 9293 section 3.5.1: it asked for a new connection, and the other side answered by an old one.
    if state.stage == Stage::SynSent && state.opened == way.bit() && way == Way::Out {
        return true;
    }
    // RFC 9293 section 3.10.7.3: who refuses a SYN acknowledges it. Data may have come with it (RFC 7413).
    if state.stage == Stage::SynSent && state.opened == way.back().bit() {
        let sent = receiver.end.wrapping_sub(state.syn).clamp(1, 1 << 16);
        return tcp.flags & ACK != 0 && within(tcp.ack, state.syn.wrapping_add(1), sent);
    }
    let end = if sender.sends { sender.end } else { tcp.seq };
    match (receiver.acks, sender.sends) {
        (true, true) => in_flight(sender, receiver, tcp),
        (true, false) => tcp.seq == receiver.ack,
        // It takes back what it has sent.
        (false, true) => tcp.seq == end || tcp.seq == state.syn,
        (false, false) => false,
    }
}

/// With what this packet offers.
fn scales([out, back]: [u8; 2], tcp: &TcpMeta, way: Way) -> [u8; 2] {
    let offered = tcp.scale.map_or(NO_SCALE, |scale| scale.min(MAX_SCALE));
    match way {
        Way::Out => [offered, back],
        Way::In => [out, offered],
    }
}

/// Whether `number` is one of the `len` from `first` on.
const fn within(number: u32, first: u32, len: u32) -> bool {
    number.wrapping_sub(first) < len
}

/// Whether `a` comes after `b` (RFC 9293 section 3.4).
const fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}
