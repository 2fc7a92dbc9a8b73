//! Frames with made-up MAC addresses, straight onto `eth0`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender, NetworkInterface};
use serde::{Deserialize, Serialize};

use super::udp::Received;
use super::{finish_flag, print, ready, repeat, span};
use crate::error::{Error, Result};

/// "Local experimental" (IEEE 802): no stack answers it.
pub(super) const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// A 64-byte Ethernet frame less its checksum.
const LENGTH: usize = 60;
/// The broadcast address.
pub(super) const EVERYONE: [u8; 6] = [0xff; 6];
/// Steps from one sampled address to the next; odd, so that every address of a power of two is met.
const STRIDE: u32 = 7919;

/// What to send.
#[derive(Debug, Clone, clap::Args)]
pub struct Send {
    /// Who to whom.
    #[arg(long)]
    kind: Kind,
    /// How many made-up addresses there are.
    #[arg(long, default_value_t = 1)]
    entries: u32,
    /// Frames per second; 0 is full blast.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// How long; learning goes through the addresses once instead.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// Whose addresses the frames carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// From every made-up address once, to everyone.
    Learn,
    /// From us to the made-up addresses.
    Unicast,
    /// From us to everyone.
    Broadcast,
}

/// What the sender says at its end.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RawSent {
    /// Frames the kernel took.
    pub sent: u64,
}

/// The made-up address of an index: locally administered, unicast.
pub fn made_up(index: u32) -> [u8; 6] {
    let [a, b, c, d] = index.to_be_bytes();
    [0x06, 0xbe, a, b, c, d]
}

/// The index of a made-up address.
pub(super) const fn index(mac: [u8; 6]) -> Option<u32> {
    match mac {
        [0x06, 0xbe, a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    }
}

type Sender = Box<dyn DataLinkSender>;
type Receiver = Box<dyn DataLinkReceiver>;

pub(super) fn eth0(timeout: Duration) -> Result<(NetworkInterface, Sender, Receiver)> {
    let missing =
        || Error::Missing { what: "eth0".into(), hint: "is not in this namespace, or not Ethernet".into() };
    let link =
        pnet_datalink::interfaces().into_iter().find(|link| link.name == "eth0").ok_or_else(missing)?;
    let config = Config { read_timeout: Some(timeout), ..Config::default() };
    match pnet_datalink::channel(&link, config).map_err(Error::io("a raw socket on eth0"))? {
        Channel::Ethernet(sender, receiver) => Ok((link, sender, receiver)),
        _ => Err(missing()),
    }
}

pub(super) fn send(what: &Send) -> Result<RawSent> {
    let (link, mut sender, receiver) = eth0(Duration::from_millis(100))?;
    drop(receiver);
    let own = link.mac.unwrap_or_default().octets();
    let mut sent = 0u64;
    let mut put = |destination: [u8; 6], source: [u8; 6]| {
        let frame = frame(destination, source);
        // A full queue is the load's doing: not sent, not an error.
        if matches!(sender.send_to(&frame, None), Some(Ok(()))) {
            sent = sent.saturating_add(1);
            return true;
        }
        false
    };
    if what.kind == Kind::Learn {
        learn(what, put)?;
        return Ok(RawSent { sent });
    }
    let mut index = 0u32;
    repeat(what.rate, span(what.seconds), || {
        index = index.wrapping_add(STRIDE) % what.entries.max(1);
        put(if what.kind == Kind::Unicast { made_up(index) } else { EVERYONE }, own);
        Ok(())
    })?;
    Ok(RawSent { sent })
}

/// Once through all addresses, none left out.
fn learn(what: &Send, mut put: impl FnMut([u8; 6], [u8; 6]) -> bool) -> Result<()> {
    let mut index = 0u32;
    let limit = Duration::from_secs_f64(f64::from(what.entries) / what.rate.max(1) as f64).saturating_mul(4);
    let deadline = Instant::now() + limit.max(Duration::from_secs(10));
    while index < what.entries && Instant::now() < deadline {
        let left = f64::from(what.entries - index) / what.rate.max(1) as f64;
        repeat(what.rate, span(left), || {
            if index < what.entries && put(EVERYONE, made_up(index)) {
                index += 1;
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn frame(destination: [u8; 6], source: [u8; 6]) -> [u8; LENGTH] {
    let mut frame = [0u8; LENGTH];
    let head = destination.into_iter().chain(source).chain(ETHERTYPE);
    frame.iter_mut().zip(head).for_each(|(to, from)| *to = from);
    frame
}

pub(super) fn receive() -> Result<()> {
    let (_, _sender, mut receiver) = eth0(Duration::from_millis(50))?;
    let done = finish_flag();
    ready(0)?;
    let mut received = 0u64;
    loop {
        match receiver.next() {
            Ok(frame) if frame.get(12..14) == Some(&ETHERTYPE) => received = received.saturating_add(1),
            Ok(_) => {}
            // A timeout: quiet since the sender ended, if it has.
            Err(_) if done.load(Ordering::Relaxed) => return print(&Received { received }),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_addresses_are_unicast_and_differ() {
        let all: std::collections::HashSet<_> = (0..65_536).map(made_up).collect();
        assert_eq!(all.len(), 65_536);
        assert!((0..65_536).all(|at| index(made_up(at)) == Some(at)));
        assert!(all.iter().all(|mac| mac[0] & 1 == 0 && mac[0] & 2 == 2));
    }

    #[test]
    fn the_stride_meets_every_address() {
        let mut index = 0u32;
        let mut met = std::collections::HashSet::new();
        for _ in 0..65_536 {
            index = index.wrapping_add(STRIDE) % 65_536;
            met.insert(index);
        }
        assert_eq!(met.len(), 65_536);
    }

    #[test]
    fn a_frame_carries_its_addresses() {
        let frame = frame([1; 6], [2; 6]);
        assert_eq!(&frame[..14], &[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x88, 0xb5]);
    }
}
