//! First packets from thousands of l4 ports of one container, UDP and TCP, and somebody outside who answers each. Both are
//! raw: no kernel could hold so many sockets, and none says a word of its own.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use switch::checksum;

use super::raw::eth0;
use super::{finish_flag, print, ready, repeat, span};
use crate::error::{Error, Result};

const UDP: u8 = 17;
const TCP: u8 = 6;
const ETHERNET: usize = 14;
const L4: usize = ETHERNET + 20;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Who asks, and who answers: echo.
const PORT: u16 = 7;
/// How often what was not answered is asked again: a raw socket's queue may overflow, which is no fault of ours.
const ROUNDS: u32 = 4;
/// For the questions of one round, at least.
const LEAST: Duration = Duration::from_secs(5);
/// The last answers may take this long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who asks whom.
#[derive(Debug, Clone, clap::Args)]
pub struct Dial {
    /// The container's own address.
    #[arg(long)]
    own: Ipv4Addr,
    /// Its gateway's MAC address, in hexadecimal.
    #[arg(long)]
    gateway: String,
    /// Whom it asks.
    #[arg(long)]
    to: Ipv4Addr,
    /// The first l4 port.
    #[arg(long)]
    first: u16,
    /// How many, of UDP and of TCP each.
    #[arg(long)]
    count: u16,
    /// Packets per second.
    #[arg(long)]
    rate: u64,
}

/// What it says at its end: l4 ports that had an answer, and it was theirs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Dialled {
    /// Of UDP.
    pub udp: u64,
    /// Of TCP.
    pub tcp: u64,
}

/// What whoever answers says at its end.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Answered {
    /// End points that wrote by UDP.
    pub udp: u64,
    /// End points that wrote by TCP.
    pub tcp: u64,
    /// Those of both that two end points of containers had.
    pub shared: u64,
}

/// What a packet says, and what is said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    proto: u8,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    sport: u16,
    dport: u16,
    /// Who asked, whatever became of addresses and l4 ports: in the payload of UDP, the number of a SYN, and in answers.
    asker: u32,
    answer: bool,
}

impl Said {
    fn question(own: Ipv4Addr, sport: u16, to: Ipv4Addr, proto: u8) -> Self {
        let [.., c, d] = own.octets();
        let [e, f] = sport.to_be_bytes();
        let asker = u32::from_be_bytes([c, d, e, f]);
        Self { proto, src: own, dst: to, sport, dport: PORT, asker, answer: false }
    }

    fn answered(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, answer: true, ..self }
    }

    fn l4(self) -> Vec<u8> {
        let mut bytes = [self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat();
        if self.proto == UDP {
            bytes.extend([0, 16, 0, 0]);
            bytes.extend(self.asker.to_be_bytes());
            bytes.extend([0, 0, 0, u8::from(self.answer)]);
        } else {
            let (seq, ack) = if self.answer { (0, self.asker.wrapping_add(1)) } else { (self.asker, 0) };
            bytes.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
            bytes.extend([0x50, if self.answer { SYN | ACK } else { SYN }, 0xff, 0xff, 0, 0, 0, 0]);
        }
        let length = u32::try_from(bytes.len()).unwrap_or_default();
        let [src, dst] = [self.src, self.dst].map(|address| address.to_ipv6_mapped());
        let sum = checksum::add(checksum::sum(&bytes), checksum::pseudo(src, dst, self.proto, length));
        // UDP's 0 would say that there is none (RFC 768).
        let field = if self.proto == UDP && sum == 0xffff { 0xffff } else { !sum };
        put(&mut bytes, if self.proto == UDP { 6 } else { 16 }, field);
        bytes
    }

    fn frame(self, to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
        let l4 = self.l4();
        let [high, low] = u16::try_from(L4 - ETHERNET + l4.len()).unwrap_or_default().to_be_bytes();
        let mut ip = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, self.proto, 0, 0];
        ip.extend([self.src.octets(), self.dst.octets()].concat());
        let field = !checksum::sum(&ip);
        put(&mut ip, 10, field);
        [&to[..], &from, &[8, 0], &ip, &l4].concat()
    }

    /// What an Ethernet frame says, if it is of ours.
    fn read(frame: &[u8]) -> Option<Self> {
        let proto = byte(frame, 23)?;
        if word(frame, 12)? != 0x0800 || byte(frame, 14)? != 0x45 || ![UDP, TCP].contains(&proto) {
            return None;
        }
        let (src, dst) = (Ipv4Addr::from(long(frame, 26)?), Ipv4Addr::from(long(frame, 30)?));
        let (asker, answer) = if proto == UDP {
            (long(frame, L4 + 8)?, byte(frame, L4 + 15)? == 1)
        } else {
            match byte(frame, L4 + 13)? {
                SYN => (long(frame, L4 + 4)?, false),
                flags if flags == SYN | ACK => (long(frame, L4 + 8)?.wrapping_sub(1), true),
                _ => return None,
            }
        };
        Some(Self { proto, src, dst, sport: word(frame, L4)?, dport: word(frame, L4 + 2)?, asker, answer })
    }
}

fn put(bytes: &mut [u8], at: usize, field: u16) {
    if let Some(place) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = field.to_be_bytes();
    }
}

fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Six bytes of hexadecimal.
fn mac(text: &str) -> Result<[u8; 6]> {
    let wrong = || Error::Answer { who: "dial", detail: format!("{text} is no MAC address") };
    let number = u64::from_str_radix(text, 16).map_err(|_| wrong())?;
    let [_, _, mac @ ..] = number.to_be_bytes();
    Ok(mac)
}

/// Which l4 ports have had their answer: of UDP, and behind them those of TCP.
struct Had(Vec<AtomicBool>);

impl Had {
    fn of(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|had| had.load(Ordering::Relaxed))
    }

    fn count(&self, protocol: usize) -> u64 {
        self.0
            .iter()
            .skip(protocol * self.0.len() / 2)
            .take(self.0.len() / 2)
            .map(|had| u64::from(had.load(Ordering::Relaxed)))
            .sum()
    }
}

pub(super) fn dial(dial: &Dial) -> Result<Dialled> {
    let (link, mut sender, mut receiver) = eth0(Duration::from_millis(50))?;
    let (own, gateway) = (link.mac.unwrap_or_default().octets(), mac(&dial.gateway)?);
    let count = usize::from(dial.count);
    let had = Arc::new(Had((0..2 * count).map(|_| AtomicBool::new(false)).collect()));
    let done = Arc::new(AtomicBool::new(false));
    let question = |index: usize| {
        let port = dial.first.wrapping_add(u16::try_from(index % count.max(1)).unwrap_or_default());
        Said::question(dial.own, port, dial.to, if index < count { UDP } else { TCP })
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let Ok(Some(said)) = receiver.next().map(Said::read) else { continue };
                let index = usize::from(said.dport.wrapping_sub(dial.first));
                let index = if said.proto == UDP { index } else { count.saturating_add(index) };
                let ours = usize::from(said.dport.wrapping_sub(dial.first)) < count;
                if ours && said == question(index).answered() {
                    had.0.get(index).inspect(|had| had.store(true, Ordering::Relaxed));
                }
            }
        });
        let mut all = Ok(());
        for _ in 0..ROUNDS {
            let left: Vec<usize> = (0..2 * count).filter(|index| !had.of(*index)).collect();
            let seconds = |left: usize| span(left as f64 / dial.rate.max(1) as f64);
            let deadline = Instant::now() + seconds(left.len()).saturating_mul(4).max(LEAST);
            let mut left = left.into_iter();
            // A pace that the machine cannot keep leaves some out: nobody is to be.
            while left.len() > 0 && all.is_ok() && Instant::now() < deadline {
                all = repeat(dial.rate, seconds(left.len()), || {
                    if let Some(index) = left.next() {
                        let frame = question(index).frame(gateway, own);
                        // A full queue: it is asked again.
                        let _ = sender.send_to(&frame, None);
                    }
                    Ok(())
                });
            }
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline && (0..2 * count).any(|index| !had.of(index)) {
                thread::sleep(Duration::from_millis(5));
            }
        }
        done.store(true, Ordering::Relaxed);
        all
    })?;
    Ok(Dialled { udp: had.count(0), tcp: had.count(1) })
}

/// Answers whoever asks an address, and remembers who did.
pub(super) fn answer(at: Ipv4Addr) -> Result<()> {
    let (link, mut sender, mut receiver) = eth0(Duration::from_millis(50))?;
    let own = link.mac.unwrap_or_default().octets();
    let done = finish_flag();
    ready(PORT)?;
    let (mut askers, mut shared) = (HashMap::new(), 0_u64);
    while !done.load(Ordering::Relaxed) {
        let Ok(frame) = receiver.next() else { continue };
        let Some(said) = Said::read(frame).filter(|said| said.dst == at && !said.answer) else { continue };
        let from = frame.get(6..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        let before = askers.insert((said.proto, said.src, said.sport), said.asker);
        shared = shared.saturating_add(u64::from(before.is_some_and(|before| before != said.asker)));
        // A full queue: it asks again.
        let _ = sender.send_to(&said.answered().frame(from, own), None);
    }
    let of = |wanted| askers.keys().filter(|(proto, ..)| *proto == wanted).count() as u64;
    print(&Answered { udp: of(UDP), tcp: of(TCP), shared })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_and_sound() {
        let (own, to) = (Ipv4Addr::new(10, 99, 0, 2), Ipv4Addr::new(198, 19, 0, 1));
        for proto in [UDP, TCP] {
            let question = Said::question(own, 2_000, to, proto);
            for said in [question, question.answered()] {
                let frame = said.frame([2; 6], [4; 6]);
                assert_eq!(Said::read(&frame), Some(said));
                assert_eq!(checksum::sum(&frame[ETHERNET..L4]), 0xffff);
                let l4 = &frame[L4..];
                let [src, dst] = [said.src, said.dst].map(|address| address.to_ipv6_mapped());
                let pseudo = checksum::pseudo(src, dst, proto, l4.len() as u32);
                assert_eq!(checksum::add(checksum::sum(l4), pseudo), 0xffff);
            }
        }
    }

    #[test]
    fn a_mac_is_six_bytes() {
        assert_eq!(mac("02420a630001").unwrap(), [2, 0x42, 0x0a, 0x63, 0, 1]);
        mac("02:42").unwrap_err();
    }
}
