//! Messages of the domain name system (RFC 1035): what is asked, and what is said to it. Pure; any bytes may come in.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::table::{Asker, Found};

/// How long an answer of ours may be remembered, seconds: containers come and go.
const TTL: u32 = 5;
/// Bytes of a header (RFC 1035 section 4.1.1).
const HEADER: usize = 12;
/// Bytes of a UDP answer to who says nothing about it (RFC 1035 section 4.2.1).
pub const PLAIN: usize = 512;
/// Bytes of a UDP answer of ours whatever the other takes, and what we say that we take (DNS flag day 2020).
pub const LARGEST: u16 = 1232;

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is answered.
    Answered(Vec<u8>),
    /// It is nothing that may be asked here.
    Refused(Vec<u8>),
    /// It makes no sense; where it is known whose question it is, this is said.
    Malformed(Option<Vec<u8>>),
    /// Others are asked; the answer may have so many bytes.
    Forward(Limit),
}

/// Bytes that an answer may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub usize);

impl Limit {
    /// Of a stream, which has a length field of 16 bits (RFC 1035 section 4.2.2).
    pub const STREAM: Self = Self(65_535);
}

/// What `asker` is to be told when it says `bytes`, in at most `most` bytes.
pub fn consider(bytes: &[u8], asker: &Asker<'_>, most: Limit) -> Outcome {
    let Some(header) = Header::of(bytes) else { return Outcome::Malformed(None) };
    // An answer nobody asked for is not answered: two servers would talk for ever.
    if header.is_response {
        return Outcome::Malformed(None);
    }
    if header.opcode != 0 {
        return Outcome::Refused(header.bare(ResponseCode::NotImp));
    }
    let malformed = || Outcome::Malformed(Some(header.bare(ResponseCode::FormErr)));
    if header.questions != 1 || question(bytes).is_none() {
        return malformed();
    }
    let Ok(message) = Message::from_vec(bytes) else { return malformed() };
    let Some(query) = message.queries.first() else { return malformed() };
    let mut reply = reply_to(&message);
    let limit = limit(&message, most);
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        // RFC 6891 section 6.1.3.
        reply.metadata.response_code = ResponseCode::BADVERS;
        return Outcome::Refused(encode(&reply, limit));
    }
    if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY)
        || matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR)
    {
        reply.metadata.response_code = ResponseCode::Refused;
        return Outcome::Refused(encode(&reply, limit));
    }
    match asker.look_up(query.name(), query.query_type()) {
        Found::NotOurs if asker.forwards() => return Outcome::Forward(limit),
        Found::NotOurs => {
            reply.metadata.response_code = ResponseCode::Refused;
            return Outcome::Refused(encode(&reply, limit));
        }
        Found::Addresses(addresses) => {
            reply.answers = addresses.iter().map(|address| record(query.name(), data(*address))).collect();
        }
        Found::Pointer(name) => reply.answers = vec![record(query.name(), RData::PTR(PTR(name)))],
        Found::Empty => {}
        Found::Nothing => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    reply.metadata.authoritative = true;
    let ours = if most == Limit::STREAM { limit } else { Limit(limit.0.min(usize::from(LARGEST))) };
    Outcome::Answered(encode(&reply, ours))
}

/// The answer when nobody could be asked, or nobody answered.
pub fn failure(bytes: &[u8]) -> Vec<u8> {
    only(bytes, ResponseCode::ServFail)
}

/// The answer when nobody may be asked for this container.
pub fn refusal(bytes: &[u8]) -> Vec<u8> {
    only(bytes, ResponseCode::Refused)
}

/// An answer that is nothing but `code`.
fn only(bytes: &[u8], code: ResponseCode) -> Vec<u8> {
    let bare = || Header::of(bytes).map_or_else(Vec::new, |header| header.bare(code));
    let Ok(message) = Message::from_vec(bytes) else { return bare() };
    let mut reply = reply_to(&message);
    reply.metadata.response_code = code;
    reply.to_vec().unwrap_or_else(|_| bare())
}

/// Another's answer, with the id of the question and in at most `limit` bytes: cut off by its rules (RFC 2181 section
/// 9), if need be, so that the question is asked again by TCP.
pub fn passed_on(mut answer: Vec<u8>, id: u16, limit: Limit) -> Option<Vec<u8>> {
    answer.first_chunk_mut::<2>()?.copy_from_slice(&id.to_be_bytes());
    if answer.len() <= limit.0 {
        return Some(answer);
    }
    Message::from_vec(&answer).ok()?.truncate().to_vec().ok().filter(|cut| cut.len() <= limit.0)
}

/// The id of a message.
pub fn id(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|id| u16::from_be_bytes(*id))
}

/// Whether `answer` is one to `query` (RFC 5452 section 9.1): the id, and the question to the letter. What went wrong may
/// be said without the question.
pub fn is_answer(answer: &[u8], query: &[u8]) -> bool {
    let (Some(ours), Some(theirs)) = (Header::of(query), Header::of(answer)) else { return false };
    let same_question = match theirs.questions {
        0 => theirs.rcode != 0,
        1 => question(answer).zip(question(query)).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b)),
        _ => false,
    };
    theirs.is_response && theirs.id == ours.id && same_question
}

/// Whether another server may know better than this answer says: SERVFAIL, NOTIMP, REFUSED.
pub fn is_failure(answer: &[u8]) -> bool {
    Header::of(answer).is_none_or(|header| matches!(header.rcode, 2 | 4 | 5))
}

/// The question of a message: name, type and class. The first name of a message has nothing that it could be compressed
/// by.
fn question(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*bytes.get(at)?);
        if length > 63 {
            return None;
        }
        at = at.checked_add(1 + length)?;
        if length == 0 {
            break;
        }
    }
    bytes.get(HEADER..at.checked_add(4)?)
}

/// What of a header decides before the rest is looked at.
#[derive(Debug, Clone, Copy)]
struct Header {
    id: u16,
    is_response: bool,
    opcode: u8,
    recursion_desired: bool,
    rcode: u8,
    questions: u16,
}

impl Header {
    fn of(bytes: &[u8]) -> Option<Self> {
        let &[a, b, high, low, c, d, ..] = bytes.first_chunk::<HEADER>()?;
        Some(Self {
            id: u16::from_be_bytes([a, b]),
            is_response: high & 0x80 != 0,
            opcode: high >> 3 & 0xf,
            recursion_desired: high & 1 != 0,
            rcode: low & 0xf,
            questions: u16::from_be_bytes([c, d]),
        })
    }

    /// An answer without anything but a code.
    fn bare(self, code: ResponseCode) -> Vec<u8> {
        let [a, b] = self.id.to_be_bytes();
        let high = 0x80 | self.opcode << 3 | u8::from(self.recursion_desired);
        vec![a, b, high, 0x80 | code.low(), 0, 0, 0, 0, 0, 0, 0, 0]
    }
}

fn reply_to(message: &Message) -> Message {
    let mut reply = Message::new(message.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = message.metadata.recursion_desired;
    reply.metadata.checking_disabled = message.metadata.checking_disabled;
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&message.queries);
    if let Some(theirs) = &message.edns {
        // RFC 6891 section 6.1.1: who says it is told.
        let mut edns = Edns::new();
        edns.set_max_payload(LARGEST);
        edns.set_dnssec_ok(theirs.flags().dnssec_ok);
        reply.set_edns(edns);
    }
    reply
}

/// What the asker takes, and the way there.
fn limit(message: &Message, most: Limit) -> Limit {
    if most == Limit::STREAM {
        return most;
    }
    let takes = message.edns.as_ref().map_or(PLAIN, |edns| usize::from(edns.max_payload()).max(PLAIN));
    Limit(takes.min(most.0))
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

/// The bytes of a message of ours; what does not fit says so, and is asked for again by TCP.
fn encode(message: &Message, limit: Limit) -> Vec<u8> {
    let whole = message.to_vec().unwrap_or_default();
    if !whole.is_empty() && whole.len() <= limit.0 {
        return whole;
    }
    message.truncate().to_vec().unwrap_or_default()
}
