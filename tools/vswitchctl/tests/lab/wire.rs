//! Frames made by hand, put on a container's wire and looked for on others.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};

use crate::harness::{Daemon, PYTHON};

const PROGRAM: &str = include_str!("wire.py");

pub type Mac = [u8; 6];
pub const BROADCAST: Mac = [0xff; 6];

/// The MAC that is made from an address of network blue.
pub fn mac(host: u8) -> Mac {
    [0x02, 0x42, 10, 1, 0, host]
}

/// An address of network blue.
pub fn ip(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, host)
}

pub fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An ARP packet; `operation` 1 asks, 2 answers.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    for (mac, ip) in [sender, target] {
        packet.extend(mac);
        packet.extend(ip.octets());
    }
    packet
}

/// The ones' complement sum of RFC 1071.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub fn ipv4(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// UDP without a checksum, which IPv4 allows.
pub fn udp(payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x10, 0, 0x20, 0];
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A TCP segment with ACK; its checksum is the bare pseudo-header sum, for the kernel to complete.
pub fn tcp(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len() as u16).to_be_bytes();
    let pseudo = !checksum(&[&from.octets(), &to.octets(), &[0, 6], &len]);
    let mut segment = vec![0x10, 0, 0x20, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x10, 0];
    segment.extend(pseudo.to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    segment
}

/// An unsolicited neighbour advertisement of `target`, with the target link-layer address `at`, to all nodes.
pub fn advertisement(from: Mac, target: [u8; 16], at: Mac) -> Vec<u8> {
    advertisement_by(target, from, target, at)
}

/// The same from the address `source`.
pub fn advertisement_by(source: [u8; 16], from: Mac, target: [u8; 16], at: Mac) -> Vec<u8> {
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(target);
    message.extend([2, 1]);
    message.extend(at);
    let len = (message.len() as u32).to_be_bytes();
    let sum = checksum(&[&source, &all_nodes, &len, &[0, 0, 0, 58], &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0, 0, message.len() as u8, 58, 255];
    packet.extend(source);
    packet.extend(all_nodes);
    packet.extend(message);
    ethernet([0x33, 0x33, 0, 0, 0, 1], from, 0x86dd, &packet)
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who looks at everything that comes into a container.
pub struct Listener {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Listener {
    /// Frames with `needle` in them.
    #[track_caller]
    pub fn start(daemon: &Daemon, container: &str, needle: &[u8]) -> Self {
        let words = [PYTHON, "-c", PROGRAM, "listen", "eth0", &hex(needle)];
        let mut command = daemon.exec_command(container, &words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "a listener in {container}");
        Self { child, out }
    }

    /// What came in, in hex.
    pub fn heard(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        self.child.wait().unwrap();
        text.lines().filter(|line| !line.is_empty()).map(String::from).collect()
    }
}

/// Who counts what comes into a container with a needle in it, and what of that is for others.
pub struct Watch {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Watch {
    #[track_caller]
    pub fn start(daemon: &Daemon, container: &str, needle: &[u8], others: &[Mac]) -> Self {
        let mut words = vec![PYTHON.to_owned(), "-c".to_owned(), PROGRAM.to_owned()];
        words.extend(["watch".to_owned(), "eth0".to_owned(), hex(needle)]);
        words.extend(others.iter().map(|mac| hex(mac)));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = daemon.exec_command(container, &words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "a watch in {container}");
        Self { child, out }
    }

    /// How many came in, how many of these were for others, and the first of those.
    pub fn counted(mut self) -> (u64, u64, String) {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.out.read_to_string(&mut text).unwrap();
        self.child.wait().unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let [seen, strange, first] = words[..] else { panic!("{text:?}") };
        (seen.parse().unwrap(), strange.parse().unwrap(), first.to_owned())
    }
}

/// Frames to be mutated, each with its virtio header in front: those that the parser is tested with.
pub fn bases() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../switch/tests/corpus/parse");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Runs one of the senders of `wire.py` with `frames` as its input; how many the kernel took.
#[track_caller]
pub fn put(daemon: &Daemon, container: &str, words: &[&str], frames: &[Vec<u8>]) -> u64 {
    let mut command = daemon.exec_command(container, &[&[PYTHON, "-c", PROGRAM], words].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: String = frames.iter().map(|frame| hex(frame) + "\n").collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{container}: {words:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    said.split_whitespace().next().and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{said:?}"))
}

/// Sends frames as they are.
#[track_caller]
pub fn send(daemon: &Daemon, container: &str, frames: &[Vec<u8>]) -> u64 {
    put(daemon, container, &["send", "eth0", "1", "plain"], frames)
}
