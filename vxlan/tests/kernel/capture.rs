//! All frames of a namespace, by a packet socket: those of the VXLAN device and those of the veth under it.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with, sockopt};

use crate::lab::Lab;

/// `htons(ETH_P_ALL)`.
const ALL: u32 = 0x0003_u16.to_be() as u32;
/// MACs of the VXLAN devices, ours first, and of our veth.
const DEVICES: [[u8; 6]; 2] = [[2, 0, 0, 0, 2, 1], [2, 0, 0, 0, 2, 2]];
const VETH: [u8; 6] = [2, 0, 0, 0, 1, 1];

pub struct Capture(OwnedFd);

/// What went through the first namespace, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Frames that the device was given, and the datagrams that it made of them.
    pub given: Vec<Vec<u8>>,
    pub sent: Vec<Vec<u8>>,
    /// Datagrams that came for it, and the frames that it took out of them.
    pub received: Vec<Vec<u8>>,
    pub taken: Vec<Vec<u8>>,
}

impl Capture {
    pub fn start(lab: &Lab) -> Self {
        let socket = lab.inside(0, || {
            let protocol = Protocol::from_raw(ALL.try_into().unwrap());
            socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol)).unwrap()
        });
        sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20).unwrap();
        Self(socket)
    }

    /// What is there, when nothing more comes for a moment.
    pub fn finish(self) -> Exchange {
        let mut exchange = Exchange::default();
        let mut buffer = vec![0; 70_000];
        let mut quiet = Instant::now();
        while quiet.elapsed() < Duration::from_millis(300) {
            match recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => std::thread::yield_now(),
                answer => {
                    exchange.add(&buffer[..answer.unwrap().0]);
                    quiet = Instant::now();
                }
            }
        }
        exchange
    }
}

impl Exchange {
    fn add(&mut self, frame: &[u8]) {
        let (from, rest) = (&frame[6..12], &frame[12..]);
        // IPv4 without options, UDP, to port 4789; what else is on the veth is ARP.
        let tunnel =
            rest.len() > 30 && rest[..3] == [8, 0, 0x45] && rest[11] == 17 && rest[24..26] == [0x12, 0xb5];
        let place = match tunnel {
            true if from == VETH => &mut self.sent,
            true => &mut self.received,
            false if from == DEVICES[0] => &mut self.given,
            false if from == DEVICES[1] => &mut self.taken,
            false => return,
        };
        place.push(if tunnel { rest[30..].to_vec() } else { frame.to_vec() });
    }

    fn lists(&mut self) -> [(&'static str, &mut Vec<Vec<u8>>); 4] {
        let Self { given, sent, received, taken } = self;
        [("given", given), ("sent", sent), ("received", received), ("taken", taken)]
    }

    /// How many bytes each has.
    pub fn summary(&self) -> String {
        let lengths = |list: &Vec<Vec<u8>>| list.iter().map(Vec::len).collect::<Vec<_>>();
        let Self { given, sent, received, taken } = self;
        format!(
            "given {:?} sent {:?} received {:?} taken {:?}",
            lengths(given),
            lengths(sent),
            lengths(received),
            lengths(taken)
        )
    }

    /// As lines of hexadecimal digits.
    pub fn write(mut self) -> String {
        let mut text = String::new();
        for (name, list) in self.lists() {
            for bytes in list {
                write!(text, "{name} ").unwrap();
                bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
                text.push('\n');
            }
        }
        text
    }

    pub fn read(text: &str) -> Self {
        let mut exchange = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, digits) = line.split_once(' ').unwrap();
            let digit = |it: &u8| char::from(*it).to_digit(16).unwrap() as u8;
            let bytes =
                digits.as_bytes().chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect();
            let mut lists = exchange.lists();
            lists.iter_mut().find(|(it, _)| *it == name).unwrap().1.push(bytes);
        }
        exchange
    }
}
