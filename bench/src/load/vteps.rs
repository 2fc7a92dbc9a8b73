//! The other hosts of an overlay, all of them one namespace: a socket for each, and counts of the raw load that comes out
//! of the tunnel.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use super::raw::{self, ETHERTYPE, EVERYONE};
use super::{finish_flag, print, ready};
use crate::error::{Error, Result};

/// Where VXLAN is heard (RFC 7348 section 5).
const PORT: u16 = 4789;
/// Nothing for this long after the sender ended: the rest is lost.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What came to all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copies {
    /// Frames to everyone, at the host that got fewest of them.
    pub fewest: u64,
    /// The same at the one that got most.
    pub most: u64,
    /// Frames to a made-up address, at the host that it is behind.
    pub right: u64,
    /// The same at another host.
    pub wrong: u64,
}

/// What is in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Everyone,
    /// The index of the made-up address.
    One(u32),
}

/// The raw load in a datagram of a tunnel: 8 bytes of header, then the frame. What containers' kernels say is not counted.
fn content(datagram: &[u8], vni: u32) -> Option<Content> {
    let [_, a, b, c] = vni.to_be_bytes();
    let (head, frame) = datagram.split_first_chunk::<8>()?;
    let ours = head.get(4..7) == Some(&[a, b, c]) && frame.get(12..14) == Some(&ETHERTYPE);
    let destination = frame.first_chunk::<6>().filter(|_| ours)?;
    if *destination == EVERYONE {
        Some(Content::Everyone)
    } else {
        raw::index(*destination).map(Content::One)
    }
}

/// A made-up address is behind the host of its index, counted round and round.
fn counted(heard: &[Vec<Content>]) -> Copies {
    let everyone = |all: &Vec<Content>| all.iter().filter(|it| **it == Content::Everyone).count() as u64;
    let copies = heard.iter().map(everyone);
    let mut found = Copies {
        fewest: copies.clone().min().unwrap_or_default(),
        most: copies.max().unwrap_or_default(),
        ..Copies::default()
    };
    for (host, all) in heard.iter().enumerate() {
        for index in
            all.iter().filter_map(|it| if let Content::One(index) = it { Some(*index) } else { None })
        {
            let right = usize::try_from(index).is_ok_and(|index| index % heard.len() == host);
            let count = if right { &mut found.right } else { &mut found.wrong };
            *count = count.saturating_add(1);
        }
    }
    found
}

pub(super) fn receive(first: Ipv4Addr, count: u32, vni: u32) -> Result<()> {
    let bind = |host: u32| -> Result<UdpSocket> {
        let address = Ipv4Addr::from(u32::from(first).saturating_add(host));
        let socket = UdpSocket::bind((address, PORT)).map_err(Error::io(format!("bind {address}")))?;
        socket.set_nonblocking(true).map_err(Error::io("a socket that does not block"))?;
        Ok(socket)
    };
    let sockets = (0..count).map(bind).collect::<Result<Vec<_>>>()?;
    let mut heard = vec![Vec::new(); sockets.len()];
    let done = finish_flag();
    ready(PORT)?;
    loop {
        let last = done.load(Ordering::Relaxed);
        let mut polled: Vec<_> = sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        let found = poll(&mut polled, Some(&QUIET)).map_err(Error::io("poll"))?;
        if found == 0 && last {
            return print(&counted(&heard));
        }
        for ((socket, polled), heard) in sockets.iter().zip(&polled).zip(&mut heard) {
            if !polled.revents().is_empty() {
                drain(socket, vni, heard)?;
            }
        }
    }
}

fn drain(socket: &UdpSocket, vni: u32, heard: &mut Vec<Content>) -> Result<()> {
    let mut datagram = [0u8; 2048];
    loop {
        match socket.recv(&mut datagram) {
            Ok(length) => heard.extend(content(datagram.get(..length).unwrap_or_default(), vni)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(Error::Io { what: "receive".into(), source: error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(vni: u8, destination: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
        [&[8, 0, 0, 0, 0, 0, vni, 0][..], &destination, &[2; 6], &kind, &[0; 46]].concat()
    }

    #[test]
    fn only_the_raw_load_of_that_network_counts() {
        assert_eq!(content(&datagram(100, EVERYONE, ETHERTYPE), 100), Some(Content::Everyone));
        assert_eq!(content(&datagram(100, raw::made_up(9_999), ETHERTYPE), 100), Some(Content::One(9_999)));
        assert_eq!(content(&datagram(101, EVERYONE, ETHERTYPE), 100), None);
        assert_eq!(content(&datagram(100, EVERYONE, [0x86, 0xdd]), 100), None);
        assert_eq!(content(&datagram(100, [2; 6], ETHERTYPE), 100), None);
        assert_eq!(content(&[8, 0, 0, 0, 0, 0, 100, 0, 1, 2], 100), None);
    }

    #[test]
    fn copies_are_told_by_host() {
        let everyone = Content::Everyone;
        // Address 4 of three hosts is behind the second one.
        let heard = [vec![everyone, Content::One(4)], vec![everyone, everyone, Content::One(4)], vec![]];
        assert_eq!(counted(&heard), Copies { fewest: 0, most: 2, right: 1, wrong: 1 });
        assert_eq!(counted(&[]), Copies::default());
    }
}
