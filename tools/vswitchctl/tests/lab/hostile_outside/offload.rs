//! H33: frames whose checksum is their NIC's to complete, and super-frames, on their way out: whoever gets them can.

use std::process::Command;

use super::{A, A6, FAR, FAR6, MAGIC, Place, Stage, Told, US, US6, WIRE, framed};
use crate::harness::{As, Host, PYTHON, run, skipped};
use crate::outside::{NIC, with_nic};
use crate::packet::{Ip, TCP, UDP};
use crate::wire::hex;

crate::as_both!(what_is_to_be_completed_leaves_as_such);

const NEEDS: u8 = 1;

/// Frames of `a` with a virtio header in front, whose checksum is the sum of the pseudo-header alone; two of them are to be
/// cut into segments.
fn partial(mark: &[u8]) -> Vec<Vec<u8>> {
    let long = mark.repeat(160);
    let all: [(Ip, u8, u16); 6] = [
        (Ip::udp((A, 1000), (FAR, 9), mark), 0, 0),
        (Ip::tcp((A, 1000), (FAR, 9), 2, [1, 0], mark), 0, 0),
        (Ip::udp((A6, 1000), (FAR6, 9), mark), 0, 0),
        (Ip::tcp((A6, 1000), (FAR6, 9), 2, [1, 0], mark), 0, 0),
        (Ip::tcp((A, 1000), (FAR, 9), 16, [2, 0], &long), 1, 1000),
        (Ip::tcp((A6, 1000), (FAR6, 9), 16, [2, 0], &long), 4, 1000),
    ];
    let one = |(mut ip, kind, size): (Ip, u8, u16)| {
        let (start, offset) = (if ip.is_v4() { 34 } else { 54 }, if ip.proto == TCP { 16 } else { 6 });
        let bare = bare(&ip);
        ip.l4[usize::from(offset)..][..2].copy_from_slice(&bare.to_be_bytes());
        let words = [start + 20, size, start, offset].map(u16::to_le_bytes).concat();
        [&[NEEDS, kind][..], &words, &framed(Place::Inside, &ip.bytes())].concat()
    };
    all.into_iter().map(one).collect()
}

/// The sum of a packet's pseudo-header.
fn bare(ip: &Ip) -> u16 {
    let octets = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let len = (ip.l4.len() as u32).to_be_bytes();
    !crate::wire::checksum(&[&octets(ip.src), &octets(ip.dst), &len, &[0, 0, 0, ip.proto]])
}

/// What was heard, in hex, is right as it is or where it is completed as its header says; whether it is right as it is.
#[track_caller]
fn judged(frame: &str) -> (Ip, bool) {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let bytes: Vec<u8> = frame.as_bytes().chunks(2).map(digits).collect();
    let (vnet, frame) = bytes.split_at(10);
    if vnet[0] & NEEDS == 0 {
        return (Ip::parse(frame).unwrap(), true); // which looks at the checksum
    }
    let word = |at: usize| usize::from(u16::from_le_bytes([vnet[at], vnet[at + 1]]));
    let (start, at) = (word(6), word(6) + word(8));
    // Ask for the addresses, whatever the sum is.
    let mut whole = frame.to_vec();
    let end = 14
        + if frame[12..14] == [8, 0] {
            usize::from(u16::from_be_bytes([frame[16], frame[17]]))
        } else {
            40 + usize::from(u16::from_be_bytes([frame[18], frame[19]]))
        };
    let sum = crate::wire::checksum(&[&frame[start..end]]);
    let sum = if sum == 0 && at - start == 6 { 0xffff } else { sum };
    whole[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    (Ip::parse(&whole).unwrap(), false)
}

#[track_caller]
fn assert_all(frames: &[String], completed: bool) {
    let all: Vec<_> = frames.iter().map(|frame| judged(frame)).collect();
    for (proto, ours) in [(UDP, US), (TCP, US), (UDP, US6), (TCP, US6)] {
        let of = all.iter().filter(|(ip, _)| ip.proto == proto && ip.src.to_string() == ours);
        assert!(of.count() >= 1, "{proto} of {ours} among {all:?}");
    }
    assert!(!completed || all.iter().all(|(_, whole)| *whole), "{all:?}");
    let payload = |address: &str| -> usize {
        let of = all
            .iter()
            .filter(|(ip, _)| ip.src.to_string() == address && ip.proto == TCP && ip.l4[13] & 2 == 0);
        of.map(|(ip, _)| ip.l4.len() - 20).sum()
    };
    assert_eq!((payload(US), payload(US6)), (18 * 160, 18 * 160), "super-frames arrive whole: {all:?}");
}

fn what_is_to_be_completed_leaves_as_such(host: Host) {
    let mut stage = Stage::new(host);
    let mark = [MAGIC, &[0, 0]].concat();
    stage.send(Place::Inside, "vnet", &partial(&mark));
    let mut frames = Vec::new();
    crate::harness::wait_for("all of it", || {
        frames.extend(Stage::heard(&mut stage.outside).into_iter().map(|(_, frame)| frame));
        (frames.len() >= 6).then_some(())
    });
    assert_all(&frames, false);
    stage.unharmed();
}

/// By a NIC that completes nothing and cuts nothing: it is the kernel that must do so, and that it can only if it is told.
#[test]
fn what_leaves_by_a_nic_is_completed() {
    let Some(mut host) = Host::new(As::Root) else { return };
    if Command::new("ethtool").arg("--version").output().is_err() {
        return skipped("there is no ethtool");
    }
    let (home, far) = with_nic(&mut host);
    for offload in ["tx", "tso", "gso"] {
        run("ip", &["netns", "exec", &home, "ethtool", "-K", "eth9", offload, "off"]);
    }
    let configuration = host.lab(&["a"], "subnet6 = \"fd00:1::/64\"") + NIC;
    let daemon = host.start(&configuration);
    for to in [FAR, FAR6] {
        daemon.ping("a", to);
    }
    let needle = hex(MAGIC);
    let mut listener = Command::new("ip");
    listener.args(["netns", "exec", &far, PYTHON, "-u", "-c", WIRE, "peer", &needle]);
    let mut outside = Told::of(listener, "the peer".to_owned());
    let mut inside = Told::start(&daemon, "a", WIRE, &["eth0", &needle]);
    let lines: Vec<String> = partial(&[MAGIC, &[0, 0]].concat()).iter().map(|frame| hex(frame)).collect();
    assert_eq!(inside.ask(&format!("vnet {}\n{}", lines.len(), lines.join("\n"))), "6");
    let mut frames = Vec::new();
    crate::harness::wait_for("all of it, cut", || {
        frames.extend(Stage::heard(&mut outside).into_iter().map(|(_, frame)| frame));
        (frames.len() >= 10).then_some(())
    });
    assert_all(&frames, true);
    daemon.assert_conserved();
    daemon.stop();
}
