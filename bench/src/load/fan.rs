//! One datagram from each of some sockets to each of many addresses: as many flows as pairs.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use super::udp::{PAYLOAD, Sent};
use super::{repeat, span};
use crate::error::{Error, Result};

/// Whom to send to.
#[derive(Debug, Clone, clap::Args)]
pub struct Fan {
    /// The first address, and the l4 port that all of them have.
    #[arg(long)]
    to: SocketAddrV4,
    /// Marks the datagrams of one step.
    #[arg(long)]
    tag: u32,
    /// How many flows there are.
    #[arg(long)]
    flows: u32,
    /// How many addresses follow each other; each socket sends to all of them before the next one does.
    #[arg(long)]
    addresses: u32,
    /// Datagrams per second.
    #[arg(long)]
    rate: u64,
    /// Go on for so long, over and over in leaps; 0: each flow once.
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
}

/// The l4 port of the first socket: who fans again has the same flows.
const FIRST: u16 = 20_000;
/// Flows from one that is met to the next: prime, so that all are met, and far, so that none is near the last one.
const LEAP: u64 = 15_485_863;

struct Fanner {
    first: u32,
    port: u16,
    addresses: u32,
    sockets: Vec<UdpSocket>,
    frame: [u8; PAYLOAD],
    sent: u64,
    refused: u64,
}

impl Fanner {
    fn new(fan: &Fan) -> Result<Self> {
        let addresses = fan.addresses.max(1);
        let bind = |port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(Error::io("bind"));
        let count = u16::try_from(fan.flows.div_ceil(addresses)).unwrap_or(u16::MAX);
        let sockets = (FIRST..FIRST.saturating_add(count)).map(bind).collect::<Result<_>>()?;
        let mut frame = [0u8; PAYLOAD];
        if let Some(head) = frame.first_chunk_mut() {
            *head = fan.tag.to_be_bytes();
        }
        let (first, port) = (u32::from(*fan.to.ip()), fan.to.port());
        Ok(Self { first, port, addresses, sockets, frame, sent: 0, refused: 0 })
    }

    /// Sends one datagram of a flow.
    fn one(&mut self, flow: u32) -> bool {
        let (socket, address) = (flow / self.addresses, flow % self.addresses);
        let to = (Ipv4Addr::from(self.first.wrapping_add(address)), self.port);
        let socket = self.sockets.get(usize::try_from(socket).unwrap_or(usize::MAX));
        let taken = socket.is_some_and(|socket| socket.send_to(&self.frame, to).is_ok());
        let count = if taken { &mut self.sent } else { &mut self.refused };
        *count = count.saturating_add(1);
        taken
    }
}

pub(super) fn send(fan: &Fan) -> Result<Sent> {
    let mut fanner = Fanner::new(fan)?;
    let start = Instant::now();
    if fan.seconds > 0.0 {
        let (mut flow, all) = (0, u64::from(fan.flows.max(1)));
        repeat(fan.rate, span(fan.seconds), || {
            flow = (flow + LEAP) % all;
            fanner.one(u32::try_from(flow).unwrap_or_default());
            Ok(())
        })?;
    } else {
        each_once(fan, &mut fanner, start)?;
    }
    Ok(Sent { sent: fanner.sent, refused: fanner.refused, seconds: start.elapsed().as_secs_f64() })
}

/// Each flow once, none left out where the machine was slow.
fn each_once(fan: &Fan, fanner: &mut Fanner, start: Instant) -> Result<()> {
    let expected = Duration::from_secs_f64(f64::from(fan.flows) / fan.rate.max(1) as f64);
    let deadline = start + expected.saturating_mul(4).max(Duration::from_secs(5));
    let mut flow = 0;
    while flow < fan.flows && Instant::now() < deadline {
        let left = f64::from(fan.flows - flow) / fan.rate.max(1) as f64;
        repeat(fan.rate, span(left), || {
            if flow < fan.flows && fanner.one(flow) {
                flow += 1;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaps_meet_every_flow() {
        for all in [1_000_u64, 1_000_000] {
            let mut flow = 0;
            let met: std::collections::HashSet<u64> = (0..all)
                .map(|_| {
                    flow = (flow + LEAP) % all;
                    flow
                })
                .collect();
            assert_eq!(met.len() as u64, all);
        }
    }

    #[test]
    fn each_flow_is_a_socket_and_an_address() {
        let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, sink.local_addr().unwrap().port());
        let fan = Fan { to, tag: 7, flows: 3, addresses: 1, rate: 1_000, seconds: 0.0 };
        assert_eq!(send(&fan).unwrap().sent, 3);
        sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut bytes = [0; 64];
        let from: std::collections::HashSet<_> =
            (0..3).map(|_| sink.recv_from(&mut bytes).unwrap().1).collect();
        assert_eq!(from.len(), 3);
        assert!(bytes.starts_with(&7_u32.to_be_bytes()));
    }
}
