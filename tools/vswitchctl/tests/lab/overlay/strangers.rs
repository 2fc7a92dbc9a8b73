//! What comes by the underlay and is not what it should be (research H33 to H40): who sends it, and what becomes of it.

use std::cell::Cell;

use super::hosts::{Listener, Place, Underlay, Wanted, start};
use super::vtep;
use crate::harness::{As, Daemon, Host, PYTHON, Train, run, wait_for};
use crate::wire::{Listener as Sniffer, checksum, hex, ip, ipv4, udp};

/// Sends datagrams from any source: the words are `SOURCE DESTINATION PORT HEX`.
const FORGE: &str = "\
import socket, struct, sys
source, destination, port, payload = sys.argv[1], sys.argv[2], int(sys.argv[3]), bytes.fromhex(sys.argv[4])
count = int(sys.argv[5]) if len(sys.argv) > 5 else 1
lie = int(sys.argv[6]) if len(sys.argv) > 6 else 0
checksum = int(sys.argv[7]) if len(sys.argv) > 7 else 0
tos = int(sys.argv[8]) if len(sys.argv) > 8 else 0
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
udp = struct.pack('!HHHH', 50000, port, 8 + len(payload) + lie, checksum) + payload
ip = struct.pack('!BBHHHBBH4s4s', 0x45, tos, 20 + len(udp), 0, 0, 64, 17, 0,
                 socket.inet_aton(source), socket.inet_aton(destination))
for _ in range(count):
    s.sendto(ip + udp, (destination, 0))
";

const CONTAINER: &str = "02420a01000b";
const REMOTE: &str = "0242c0ffee02";
const GATEWAY: &str = "02420a010001";
/// VXLAN with VNI 100.
const HEADER: &str = "0800000000006400";

/// One of ours at 198.18.1.1, who knows 198.18.1.2 (a namespace that sends whatever a test wants) and nobody else.
struct Lab {
    daemon: Daemon,
    known: Place,
    stranger: Place,
    /// Of both containers.
    listeners: [Listener; 2],
    /// Frames that were to come to one of them.
    expected: Cell<u64>,
    _cable: Host,
}

impl Lab {
    fn new(vxlan: &str) -> Option<Self> {
        let mut host = Host::new(As::Root)?;
        let mut cable = Host::new(As::Root).unwrap();
        let mut underlay = Underlay::new(&mut cable, false);
        let place = underlay.place(&mut host);
        let (known, stranger) = (underlay.place(&mut cable), underlay.place(&mut cable));
        let neighbour = format!(
            "[[container]]\nname = \"n\"\nnetns = \"{}\"\ncreate = true\n[[container.interface]]\nnetwork = \"blue\"\nip = \"10.1.0.30\"\n",
            host.name("n")
        );
        let vxlan = format!("peers = [\"198.18.1.2\"]\n{vxlan}");
        let daemon = start(host, &place, 1, &Wanted { vxlan: &vxlan, rest: &neighbour, ..Wanted::default() });
        let listeners = ["c", "n"].map(|it| Listener::start(&daemon, it));
        Some(Self { daemon, known, stranger, listeners, expected: Cell::new(0), _cable: cable })
    }

    /// A datagram from `place`, which says that it is from `source`.
    fn forge(&self, place: &Place, source: &str, payload: &str, more: &[&str]) {
        let words =
            ["netns", "exec", &place.netns, PYTHON, "-c", FORGE, source, "198.18.1.1", "4789", payload];
        run("ip", &[&words[..], more].concat());
    }

    /// The known host sends this; it is dropped for that reason, and nothing comes out of it.
    #[track_caller]
    fn refused(&self, payload: &str, reason: &str) {
        self.refused_from(&self.known, "198.18.1.2", payload, reason);
    }

    #[track_caller]
    fn refused_from(&self, place: &Place, source: &str, payload: &str, reason: &str) {
        let before = self.daemon.dropped(reason);
        self.forge(place, source, payload, &[]);
        wait_for(&format!("a drop by {reason} of {payload}"), || {
            (self.daemon.dropped(reason) > before).then_some(())
        });
        assert_eq!(self.daemon.dropped(reason), before + 1, "{payload}");
    }

    /// Frames that came from the known host and were not dropped.
    fn came(&self) -> u64 {
        let row = vtep(&self.daemon, "198.18.1.2");
        row["rx_frames"].as_u64().unwrap()
    }

    /// The known host sends this, and it arrives at one container.
    #[track_caller]
    fn taken(&self, payload: &str) {
        let before = self.came();
        self.forge(&self.known, "198.18.1.2", payload, &[]);
        wait_for(&format!("a frame of {payload}"), || (self.came() > before).then_some(()));
        self.expected.set(self.expected.get() + 1);
    }

    /// Of all that was sent, what was to come has come, and nothing else.
    #[track_caller]
    fn stop(self) {
        let came: u64 = self.listeners.into_iter().map(Listener::count).sum();
        assert_eq!(came, self.expected.get(), "frames that came to containers");
        self.daemon.assert_conserved();
        self.daemon.stop();
    }

    /// Where a MAC is, by the FDB.
    fn at(&self, mac: &str) -> Option<String> {
        let rows = self.daemon.rows("fdb");
        let row = rows.iter().find(|row| row["mac"].as_str().unwrap().replace(':', "") == mac)?;
        Some(row["container"].as_str().unwrap().to_owned())
    }
}

/// A frame of an EtherType for experiments.
fn frame(dst: &str, src: &str) -> String {
    format!("{dst}{src}88b5{}", "00".repeat(46))
}

/// ARP in a frame: operation, sender and target.
fn arp(src: &str, operation: u8, sender: (&str, &str), target: (&str, &str)) -> String {
    let to = if operation == 1 { "ffffffffffff" } else { target.0 };
    format!(
        "{to}{src}0806000108000604000{operation}{}{}{}{}{}",
        sender.0,
        sender.1,
        target.0,
        target.1,
        "00".repeat(18)
    )
}

#[test]
fn lengths_headers_and_networks() {
    let Some(lab) = Lab::new("") else { return };
    lab.daemon.ping("n", "10.1.0.11");
    let pings = Train::start(&lab.daemon, "n", "10.1.0.11");
    let whole = format!("{HEADER}{}", frame(CONTAINER, REMOTE));
    // H34: lengths 0 to 7, 8, and up to 13 bytes of a frame.
    for bytes in 0..22 {
        lab.refused_from(&lab.known, "198.18.1.2", whole.get(..2 * bytes).unwrap(), "vxlan_malformed");
    }
    // H35: no I flag, in whatever company.
    for flags in ["00", "f7", "80"] {
        lab.refused(&format!("{flags}{}", whole.get(2..).unwrap()), "vxlan_malformed");
    }
    for vni in ["000000", "000065", "ffffff"] {
        lab.refused(&format!("08000000{vni}00{}", frame(CONTAINER, REMOTE)), "vxlan_unknown_vni");
    }
    // Every reserved bit is accepted, and counted.
    let before = lab.daemon.rows("status")[0]["overlay"]["reserved"].as_u64().unwrap();
    for header in ["88ffffff00006400", "08000000000064ff", "0800000100006401", "ff00000000006400"] {
        lab.taken(&format!("{header}{}", frame(CONTAINER, REMOTE)));
    }
    assert_eq!(lab.daemon.rows("status")[0]["overlay"]["reserved"], before + 4);
    pings.assert_lost_nothing();
    lab.stop();
}

#[test]
fn strict_takes_no_reserved_bits() {
    let Some(lab) = Lab::new("strict = true\n") else { return };
    lab.refused(&format!("88ffffff00006400{}", frame(CONTAINER, REMOTE)), "vxlan_malformed");
    lab.taken(&format!("{HEADER}{}", frame(CONTAINER, REMOTE)));
    lab.stop();
}

#[test]
fn who_it_says_it_is_from() {
    let Some(lab) = Lab::new("") else { return };
    let whole = format!("{HEADER}{}", frame(CONTAINER, REMOTE));
    // H36: somebody whom nobody named. That a source is forged no UDP socket can see: who can write any address on the
    // underlay is a peer, as with every VTEP (RFC 7348 section 7); README says so.
    lab.refused_from(&lab.stranger, "198.18.1.3", &whole, "vxlan_unknown_vtep");
    lab.refused_from(&lab.stranger, "198.18.1.77", &whole, "vxlan_unknown_vtep");
    // From ourselves, from groups and from everybody: the kernel drops them, or we do; nothing comes of it.
    for source in ["198.18.1.1", "224.0.0.5", "255.255.255.255", "198.18.1.255", "127.0.0.1", "0.0.0.0"] {
        lab.forge(&lab.stranger, source, &whole, &[]);
    }
    lab.taken(&whole);
    assert_eq!(lab.at(REMOTE).as_deref(), Some("-vtep"));
    lab.stop();
}

#[test]
fn whose_frame_it_says_it_is() {
    let Some(lab) = Lab::new("") else { return };
    lab.daemon.ping("n", "10.1.0.11");
    let pings = Train::start(&lab.daemon, "n", "10.1.0.11");
    let (n, ip_c, ip_n, gateway_ip, free) = ("02420a01001e", "0a01000b", "0a01001e", "0a010001", "0a010063");
    // H37: as a container that is here.
    lab.refused(&format!("{HEADER}{}", frame(n, CONTAINER)), "spoofed_mac");
    lab.refused(&format!("{HEADER}{}", frame("ffffffffffff", CONTAINER)), "spoofed_mac");
    assert_eq!(lab.at(CONTAINER).as_deref(), Some("c"));
    // As the gateway: every host has it, so frames of it come; it moves nowhere.
    lab.taken(&format!("{HEADER}{}", frame(CONTAINER, GATEWAY)));
    assert_eq!(lab.at(GATEWAY), None);
    // ARP that claims addresses of a container, or of the gateway with another MAC.
    lab.refused(&format!("{HEADER}{}", arp(REMOTE, 2, (REMOTE, ip_c), (n, ip_n))), "spoofed_arp");
    lab.refused(&format!("{HEADER}{}", arp(REMOTE, 2, (CONTAINER, free), (n, ip_n))), "spoofed_arp");
    // To reserved groups, from groups, and with tags.
    lab.refused(&format!("{HEADER}{}", frame("0180c2000000", REMOTE)), "reserved_group");
    lab.refused(&format!("{HEADER}{}", frame(CONTAINER, "01005e000001")), "bad_source_mac");
    lab.refused(&format!("{HEADER}{}", frame(CONTAINER, "000000000000")), "bad_source_mac");
    lab.refused(&format!("{HEADER}{CONTAINER}{REMOTE}8100000a88b5{}", "00".repeat(46)), "vxlan_tagged");
    lab.refused(&format!("{HEADER}{CONTAINER}{REMOTE}88a8000a88b5{}", "00".repeat(46)), "vxlan_tagged");
    // A router advertisement of the other host's gateway: ours has said it already.
    let _ = gateway_ip;
    pings.assert_lost_nothing();
    lab.stop();
}

#[test]
fn vxlan_in_vxlan() {
    let Some(lab) = Lab::new("") else { return };
    // H38: what is in the frame is the container's business: one layer is taken off, and no more.
    let mut payload = frame(CONTAINER, REMOTE);
    for _ in 0..10 {
        let inner = format!("{HEADER}{payload}");
        let udp = 8 + inner.len() / 2;
        let ip = 20 + udp;
        payload = format!(
            "{CONTAINER}{REMOTE}080045{:02x}{ip:04x}0000000040110000c6120102c6120101c35012b5{udp:04x}0000{inner}",
            0
        );
    }
    let before = lab.came();
    lab.forge(&lab.known, "198.18.1.2", &format!("{HEADER}{payload}"), &[]);
    wait_for("one frame", || (lab.came() > before).then_some(()));
    assert_eq!(lab.came(), before + 1);
    // A container that writes to our address outside has no way there: it is not in its network, and there is no uplink.
    let sent = lab.daemon.try_exec(
        "c",
        &[PYTHON, "-c", "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x' * 100, ('198.18.1.1', 4789))"],
    );
    drop(sent);
    assert_eq!(lab.daemon.dropped("vxlan_unknown_vtep") + lab.daemon.dropped("vxlan_malformed"), 0);
    lab.stop();
}

#[test]
fn what_the_kernel_does_not_let_through() {
    let Some(lab) = Lab::new("") else { return };
    let whole = format!("{HEADER}{}", frame(CONTAINER, REMOTE));
    // H39: a UDP length beyond the packet, one that ends early, and a wrong checksum.
    for (lie, checksum) in [("100", "0"), ("0", "1"), ("0", "65534")] {
        lab.forge(&lab.known, "198.18.1.2", &whole, &["1", lie, checksum]);
    }
    lab.taken(&whole);
    lab.stop();
}

#[test]
fn a_mac_that_flaps() {
    let Some(lab) = Lab::new("") else { return };
    let pings = Train::start(&lab.daemon, "n", "10.1.0.11");
    // H40: from here and from there, as fast as it goes. Whoever is heard here is here.
    let roams = "0242c0ffee99";
    let send = format!("{CONTAINER}{roams}88b5aaaa");
    lab.daemon.exec("n", &[PYTHON, "-c", crate::basics::SEND, &send]);
    wait_for("it to be here", || (lab.at(roams)? == "n").then_some(()));
    let send = format!("{HEADER}{}", frame(CONTAINER, roams));
    lab.forge(&lab.known, "198.18.1.2", &send, &["10000"]);
    let mut last = 0;
    wait_for("the last of them", || {
        let before = std::mem::replace(&mut last, lab.came());
        (last > 100 && last == before).then_some(())
    });
    assert_eq!(lab.at(roams).as_deref(), Some("n"));
    pings.assert_lost_nothing();
    // How many of them a container's socket has room for is its own business.
    lab.daemon.stop();
}

/// Congestion that the underlay has marked (RFC 6040 section 4.2): who knows ECN is told, and who does not loses the packet, as
/// by a router that can mark nothing.
#[test]
fn congestion_on_the_underlay() {
    let Some(lab) = Lab::new("") else { return };
    let [there, here] = [50, 11].map(ip);
    let packet = |tos: u8| {
        let mut packet = ipv4(17, there, here, &udp(b"congestion"));
        packet[1] = tos;
        packet[10..12].fill(0);
        let sum = checksum(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        format!("{HEADER}{CONTAINER}{REMOTE}0800{}", hex(&packet))
    };
    let sniffed = Sniffer::start(&lab.daemon, "c", b"congestion");
    // Congestion experienced, outside; inside a transport that knows no ECN, and two that do.
    for (inner, comes) in [(0, false), (2, true), (1, true), (3, true)] {
        let (dropped, came) = (lab.daemon.dropped("vxlan_congested"), lab.came());
        lab.forge(&lab.known, "198.18.1.2", &packet(inner), &["1", "0", "0", "3"]);
        if comes {
            wait_for("the packet", || (lab.came() > came).then_some(()));
        } else {
            wait_for("its drop", || (lab.daemon.dropped("vxlan_congested") > dropped).then_some(()));
        }
        assert_eq!(lab.daemon.dropped("vxlan_congested"), dropped + u64::from(!comes), "{inner}");
    }
    lab.daemon.assert_conserved();
    let tos = |frame: &String| u8::from_str_radix(frame.get(30..32).unwrap(), 16).unwrap();
    let marks: Vec<_> = sniffed.heard().iter().map(|frame| tos(frame) & 3).collect();
    assert_eq!(marks, [3, 3, 3], "who knows ECN is told");
    lab.stop();
}
