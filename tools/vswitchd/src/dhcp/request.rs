//! What a client says: bytes -> [`Request`], strictly.
//!
//! Only the options that matter are read, each by itself. The crate's decoder of whole messages would panic on a hardware
//! address longer than its field, and takes an options field that ends in the middle of an option.

use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::Message;
use dhcproto::v4::{Flags, HType, MAGIC, MessageType, Opcode, OptionCode};
use switch::mac::MacAddr;

use crate::ipam::lease::ClientId;

/// Fixed fields and magic cookie (RFC 2131 section 2, RFC 2132 section 2).
const FIXED: usize = 240;
const COOKIE: usize = 236;

/// What is wrong with a message: it is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than its fixed fields.
    #[error("shorter than a message")]
    Short,
    /// A reply, from whoever plays server.
    #[error("not a request")]
    NotARequest,
    /// Not Ethernet, or a length that is none of Ethernet's.
    #[error("not an Ethernet address")]
    Hardware,
    /// A group or zero as a client's MAC.
    #[error("no host has this MAC address")]
    Mac,
    /// BOOTP, or something else.
    #[error("no magic cookie")]
    Cookie,
    /// An option is longer than what is left.
    #[error("an option ends beyond the message")]
    Cut,
    /// An option twice, of a wrong length, or with a value that it cannot have.
    #[error("option {0} is wrong")]
    Option(u8),
    /// No message type: BOOTP.
    #[error("no message type")]
    NoType,
    /// By a relay agent; there is none on a network of ours.
    #[error("by a relay")]
    Relayed,
}

/// A client's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it asks for.
    pub kind: MessageType,
    /// Its transaction.
    pub xid: u32,
    /// Its flags: answered as they are.
    pub flags: Flags,
    /// The address it has.
    pub ciaddr: Ipv4Addr,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its name for itself.
    pub client: ClientId,
    /// Option 61 as it was sent, to be sent back (RFC 6842 section 3).
    pub client_id: Option<Vec<u8>>,
    /// The address it would like (option 50).
    pub asked: Option<Ipv4Addr>,
    /// The server it means (option 54).
    pub server: Option<Ipv4Addr>,
    /// For how long, seconds (option 51).
    pub lease_time: Option<u32>,
}

impl Request {
    /// Reads the payload of a UDP datagram.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let message = Message::new(bytes).map_err(|_| Malformed::Short)?;
        if message.opcode() != Opcode::BootRequest {
            return Err(Malformed::NotARequest);
        }
        if message.htype() != HType::Eth || message.hlen() != 6 {
            return Err(Malformed::Hardware);
        }
        let mac = MacAddr(*message.chaddr().first_chunk().ok_or(Malformed::Hardware)?);
        if mac.is_group() || mac == MacAddr::ZERO {
            return Err(Malformed::Mac);
        }
        // RFC 2131 section 4.1: a relay agent says where it is; on our networks nobody relays.
        if !message.giaddr().is_unspecified() {
            return Err(Malformed::Relayed);
        }
        if bytes.get(COOKIE..FIXED) != Some(&MAGIC[..]) {
            return Err(Malformed::Cookie);
        }
        whole(bytes.get(FIXED..).unwrap_or_default())?;
        let options = Options::read(&message)?;
        let client = match &options.client_id {
            Some(id) => {
                ClientId::new(id).map_err(|_| Malformed::Option(u8::from(OptionCode::ClientIdentifier)))?
            }
            None => ClientId::of_mac(mac),
        };
        Ok(Self {
            kind: options.kind.ok_or(Malformed::NoType)?,
            xid: message.xid(),
            flags: message.flags(),
            ciaddr: message.ciaddr(),
            mac,
            client,
            client_id: options.client_id,
            asked: options.asked,
            server: options.server,
            lease_time: options.lease_time,
        })
    }
}

/// Whether the options are whole, to their end (RFC 2132 section 2).
fn whole(mut options: &[u8]) -> Result<(), Malformed> {
    loop {
        match options {
            [] | [255, ..] => return Ok(()),
            [0, rest @ ..] => options = rest,
            [_, length, rest @ ..] => options = rest.get(usize::from(*length)..).ok_or(Malformed::Cut)?,
            [_] => return Err(Malformed::Cut),
        }
    }
}

#[derive(Default)]
struct Options {
    kind: Option<MessageType>,
    client_id: Option<Vec<u8>>,
    asked: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    lease_time: Option<u32>,
}

impl Options {
    fn read(message: &Message<'_>) -> Result<Self, Malformed> {
        let mut options = Self::default();
        for option in message.opts() {
            let code = option.code();
            let wrong = Malformed::Option(u8::from(code));
            let data = option.data();
            match code {
                OptionCode::MessageType => once(&mut options.kind, kind(data), wrong)?,
                OptionCode::RequestedIpAddress => once(&mut options.asked, address(data), wrong)?,
                OptionCode::ServerIdentifier => once(&mut options.server, address(data), wrong)?,
                OptionCode::AddressLeaseTime => {
                    once(&mut options.lease_time, address(data).map(Ipv4Addr::to_bits), wrong)?;
                }
                OptionCode::ClientIdentifier => once(&mut options.client_id, Some(data.to_vec()), wrong)?,
                // RFC 2131 section 4.1: a client that fills `sname` and `file` with options; none that asks for an address
                // has so many, and reading them is where servers went wrong.
                OptionCode::OptionOverload => return Err(wrong),
                _ => {}
            }
        }
        Ok(options)
    }
}

fn once<T>(place: &mut Option<T>, value: Option<T>, wrong: Malformed) -> Result<(), Malformed> {
    if place.is_some() || value.is_none() {
        return Err(wrong);
    }
    *place = value;
    Ok(())
}

fn address(data: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from)
}

fn kind(data: &[u8]) -> Option<MessageType> {
    match data {
        [kind] => Some(MessageType::from(*kind)),
        _ => None,
    }
}
