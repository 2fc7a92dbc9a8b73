//! Containers that mean harm. Each time: what came out where, which counter rose, and that a neighbour lost nothing.

use std::net::Ipv4Addr;
use std::process::Stdio;

use crate::harness::{Daemon, Host, PYTHON, Train, cpu_seconds, resident, run, text, wait_for};
use crate::wire::{
    BROADCAST, Listener, Watch, advertisement, advertisement_by, arp, bases, checksum, ethernet, ip, ipv4,
    mac, put, send, tcp, udp,
};
use crate::{as_both, by_two_workers, on_other_engine};

as_both!(
    a_container_plays_with_its_interface,
    a_container_changes_its_mtu,
    a_container_bridges_its_interface,
    a_spoofer_is_not_heard,
    strict_means_ones_own_address,
    offload_headers_that_lie_are_dropped,
    twenty_thousand_addresses_leave_the_neighbours_theirs,
    a_loop_is_a_storm_and_is_limited,
    garbage_is_garbage,
    who_does_not_read_holds_up_nobody,
    networks_do_not_leak,
    too_few_descriptors_fail_new_ports_only,
    a_hundred_thousand_mutated_frames_cost_the_neighbours_nothing,
);

on_other_engine!(
    a_hundred_thousand_mutated_frames_cost_the_neighbours_nothing,
    a_container_plays_with_its_interface,
    a_container_changes_its_mtu,
    a_container_bridges_its_interface,
    a_spoofer_is_not_heard,
    strict_means_ones_own_address,
    offload_headers_that_lie_are_dropped,
    twenty_thousand_addresses_leave_the_neighbours_theirs,
    a_loop_is_a_storm_and_is_limited,
    garbage_is_garbage,
    who_does_not_read_holds_up_nobody,
    networks_do_not_leak,
    too_few_descriptors_fail_new_ports_only,
);
by_two_workers!(too_few_descriptors_fail_new_ports_only,);

const MAGIC: &[u8] = b"<vswitch-magic>!";

/// A frame of `from` to everybody that anyone may send.
fn hello(from: u8) -> Vec<u8> {
    ethernet(BROADCAST, mac(from), 0x88b5, MAGIC)
}

/// The neighbours whose pings must not be lost: b (10.1.0.3) and c (10.1.0.4) of a lab in which a (10.1.0.2) is
/// hostile.
fn lab(host: Host, containers: &[&str], network: &str) -> (Daemon, Train, u32) {
    let configuration = host.lab(containers, network);
    let daemon = host.start(&configuration);
    let train = Train::start(&daemon, "b", "10.1.0.4");
    let engine = daemon.engine();
    (daemon, train, engine)
}

/// What every attack must leave: the same engine, neighbours that lost nothing, no frame without a reason.
#[track_caller]
fn unharmed((daemon, train, engine): (Daemon, Train, u32)) {
    train.assert_lost_nothing();
    assert_eq!(daemon.engine(), engine, "the engine died");
    daemon.assert_conserved();
    assert_eq!(daemon.state("b"), "up");
    daemon.stop();
}

fn a_container_plays_with_its_interface(host: Host) {
    let lab = lab(host, &["a", "b", "c"], "");
    let daemon = &lab.0;
    daemon.ping("a", "b");

    daemon.exec("a", &["ip", "link", "set", "eth0", "down"]);
    let downs = daemon.dropped("tx_down");
    // Nobody tells us about links elsewhere: a frame that cannot be delivered does.
    send(daemon, "b", &[hello(3), hello(3), hello(3)]);
    daemon.wait_state("a", "down");
    assert_eq!(daemon.reason("a"), "set down in the container");
    let frame = ethernet(mac(2), mac(3), 0x88b5, MAGIC);
    send(daemon, "b", &[frame]);
    wait_for("tx_down to be counted", || (daemon.dropped("tx_down") > downs).then_some(()));
    daemon.exec("a", &["ip", "link", "set", "eth0", "up"]);
    send(daemon, "b", &[hello(3)]);
    daemon.wait_state("a", "up");
    daemon.ping("a", "b");

    daemon.exec("a", &["ip", "link", "set", "eth0", "address", "02:00:00:00:00:aa"]);
    // A neighbour's kernel does not believe in a new MAC within a second of the old one.
    daemon.exec("b", &["ip", "neigh", "del", "10.1.0.2", "dev", "eth0"]);
    daemon.ping("a", "b");
    let learned = daemon
        .rows("fdb")
        .into_iter()
        .any(|row| row["container"] == "a" && row["mac"] == "02:00:00:00:00:aa");
    assert!(learned, "a free MAC may be used, and is learned");

    daemon.exec("a", &["ip", "link", "set", "eth0", "down"]);
    daemon.exec("a", &["ip", "link", "set", "eth0", "name", "other"]);
    daemon.exec("a", &["ip", "link", "set", "other", "up"]);
    daemon.ping("a", "b");
    daemon.wait_state("a", "up");

    // A queue of none: what it sends it throws away itself.
    daemon.exec("a", &["ip", "link", "set", "other", "txqueuelen", "0"]);
    let output = daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "10.1.0.3"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(daemon.state("a"), "up");
    for length in ["1", "100000"] {
        daemon.exec("a", &["ip", "link", "set", "other", "txqueuelen", length]);
        daemon.ping("a", "b");
    }
    // Shapes its own traffic.
    let shape = [
        "qdisc", "replace", "dev", "other", "root", "tbf", "rate", "1mbit", "burst", "10kb", "latency", "1ms",
    ];
    daemon.exec("a", &[&["tc"][..], &shape].concat());
    daemon.try_exec("a", &["ping", "-n", "-q", "-f", "-c", "500", "-s", "1400", "-W", "1", "10.1.0.3"]);
    daemon.exec("a", &["tc", "qdisc", "del", "dev", "other", "root"]);
    daemon.ping("a", "b");
    daemon.exec("a", &["ip", "link", "del", "other"]);
    daemon.wait_state("a", "down");
    daemon.ctl(&["reload"]);
    daemon.ping("a", "b");
    unharmed(lab);
}

fn a_container_changes_its_mtu(host: Host) {
    let lab = lab(host, &["a", "b", "c"], "");
    let daemon = &lab.0;
    daemon.exec("a", &["ip", "link", "set", "eth0", "mtu", "68"]);
    daemon.ping("a", "b");
    daemon.exec("a", &["ip", "link", "set", "eth0", "mtu", "65521"]);
    daemon.ping("a", "b");
    let listener = Listener::start(daemon, "b", MAGIC);
    let payload = |len: usize| [MAGIC, &vec![7; len - MAGIC.len()]].concat();
    let sizes = [1500, 1501, 1600, 9000, 65_521];
    let frames: Vec<_> = sizes.iter().map(|len| ethernet(mac(3), mac(2), 0x88b5, &payload(*len))).collect();
    assert_eq!(send(daemon, "a", &frames), 5, "the kernel takes them all");
    wait_for("long frames to be dropped", || (daemon.dropped("exceeds_mtu") >= 4).then_some(()));
    let output =
        daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "-M", "dont", "-s", "20000", "10.1.0.3"]);
    assert_eq!(output.status.code(), Some(1), "a ping in one frame of 20 kB: {}", text(&output));
    let heard: Vec<_> = listener.heard().iter().map(|frame| frame.len() / 2).collect();
    assert_eq!(heard, [1514], "only what fits arrives");
    // What the others' kernels segment is judged by its segments: they send and receive as ever.
    daemon.exec("a", &["ip", "link", "set", "eth0", "mtu", "1500"]);
    daemon.exec("a", &["ping", "-n", "-c", "1", "-W", "5", "-s", "20000", "10.1.0.3"]);
    unharmed(lab);
}

fn a_container_bridges_its_interface(host: Host) {
    let lab = lab(host, &["a", "b", "c"], "");
    let daemon = &lab.0;
    let script = "ip link add br0 type bridge && ip link set eth0 master br0 && ip addr flush dev eth0 && \
                  ip addr add 10.1.0.2/24 dev br0 && ip link set br0 up";
    daemon.exec("a", &["sh", "-c", script]);
    daemon.ping("a", "b");
    daemon.ping("b", "10.1.0.2");
    assert_eq!(daemon.state("a"), "up");
    daemon.exec("a", &["ip", "link", "del", "br0"]);
    unharmed(lab);
}

fn a_spoofer_is_not_heard(host: Host) {
    let lab = lab(host, &["a", "b", "c", "d"], "");
    let daemon = &lab.0;
    let listeners = ["b", "c", "d"].map(|name| Listener::start(daemon, name, MAGIC));
    let magic = udp(MAGIC);
    let with_magic = |packet: Vec<u8>| [packet, MAGIC.to_vec()].concat();
    let neighbor6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x42, 0x0a, 0xff, 0xfe, 1, 0, 4];
    // Its own link-local address, as its kernel makes it.
    let own6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x42, 0x0a, 0xff, 0xfe, 1, 0, 2];
    let nd = advertisement_by(own6, mac(2), neighbor6, mac(4));
    let attacks: [(&str, Vec<Vec<u8>>); 4] = [
        (
            "spoofed_mac",
            vec![
                ethernet(BROADCAST, mac(4), 0x88b5, MAGIC),
                ethernet(mac(3), mac(4), 0x0800, &ipv4(17, ip(2), ip(3), &magic)),
            ],
        ),
        (
            "spoofed_arp",
            vec![
                ethernet(mac(3), mac(2), 0x0806, &with_magic(arp(2, (mac(2), ip(4)), (mac(3), ip(3))))),
                ethernet(BROADCAST, mac(2), 0x0806, &with_magic(arp(1, (mac(2), ip(4)), ([0; 6], ip(4))))),
                ethernet(BROADCAST, mac(2), 0x0806, &with_magic(arp(2, (mac(2), ip(1)), (mac(2), ip(1))))),
                ethernet(mac(3), mac(2), 0x0806, &with_magic(arp(2, (mac(4), ip(2)), (mac(3), ip(3))))),
            ],
        ),
        (
            "spoofed_ip",
            vec![
                ethernet(mac(3), mac(2), 0x0800, &ipv4(17, ip(4), ip(3), &magic)),
                ethernet(BROADCAST, mac(2), 0x0800, &ipv4(17, ip(1), Ipv4Addr::BROADCAST, &magic)),
                // Behind a priority tag it is the same claim.
                ethernet(
                    mac(3),
                    mac(2),
                    0x8100,
                    &[&[0, 0, 8, 0][..], &ipv4(17, ip(4), ip(3), &magic)].concat(),
                ),
            ],
        ),
        ("spoofed_nd", vec![nd]),
    ];
    for (reason, frames) in attacks {
        let before = daemon.dropped(reason);
        let sent = send(daemon, "a", &frames);
        assert_eq!(sent, frames.len() as u64);
        let mut now = 0;
        wait_for(&format!("{sent} drops of {reason}"), || {
            now = daemon.dropped(reason) - before;
            (now >= sent).then_some(())
        });
        assert_eq!(now, sent, "{reason}");
    }
    // The same container's honest frame gets through, and nothing else did.
    send(daemon, "a", &[hello(2)]);
    for (name, listener) in ["b", "c", "d"].iter().zip(listeners) {
        wait_for("flooding", || (counter(daemon, "flooded") > 0).then_some(()));
        let heard = listener.heard();
        assert_eq!(heard.len(), 1, "{name} heard {heard:?}");
        assert!(heard[0].starts_with("ffffffffffff02420a010002"), "{name} heard {heard:?}");
    }
    // Nobody's entry moved to the spoofer.
    for row in daemon.rows("fdb") {
        let owner = match row["mac"].as_str().unwrap() {
            "02:42:0a:01:00:04" => "c",
            "02:42:0a:01:00:02" => "a",
            _ => continue,
        };
        assert_eq!(row["container"], owner, "{row}");
    }
    unharmed(lab);
}

fn counter(daemon: &Daemon, name: &str) -> u64 {
    daemon.rows("stats")[0]["workers"][0][name].as_u64().unwrap()
}

fn strict_means_ones_own_address(host: Host) {
    let lab = lab(host, &["a", "b", "c"], "spoof = \"strict\"");
    let daemon = &lab.0;
    daemon.ping("a", "b");
    daemon.exec("a", &["ip", "link", "set", "eth0", "address", "02:00:00:00:00:aa"]);
    let output = daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "10.1.0.3"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(daemon.dropped("spoofed_mac") > 0);
    assert!(daemon.rows("fdb").iter().all(|row| row["mac"] != "02:00:00:00:00:aa"));
    daemon.exec("a", &["ip", "link", "set", "eth0", "address", "02:42:0a:01:00:02"]);
    daemon.ping("a", "b");
    // A free address is still not one's own.
    daemon.exec("a", &["ip", "addr", "add", "10.1.0.99/24", "dev", "eth0"]);
    let output = daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "-I", "10.1.0.99", "10.1.0.3"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(daemon.dropped("spoofed_ip") > 0);
    unharmed(lab);
}

/// A `virtio_net_hdr` in host order.
fn vnet(flags: u8, gso_type: u8, [hdr_len, gso_size, csum_start, csum_offset]: [u16; 4]) -> Vec<u8> {
    let mut header = vec![flags, gso_type];
    for field in [hdr_len, gso_size, csum_start, csum_offset] {
        header.extend(field.to_le_bytes());
    }
    header
}

fn offload_headers_that_lie_are_dropped(host: Host) {
    let lab = lab(host, &["a", "b", "c", "d"], "");
    let daemon = &lab.0;
    let body = [MAGIC, &[0x55; 3000]].concat();
    let of_tcp = |to: u8, len: usize| {
        ethernet(mac(to), mac(2), 0x0800, &ipv4(6, ip(2), ip(to), &tcp(ip(2), ip(to), &body[..len])))
    };
    let of_udp = |len: usize| {
        let mut datagram = udp(&body[..len]);
        let len = (datagram.len() as u16).to_be_bytes();
        let pseudo = !checksum(&[&ip(2).octets(), &ip(3).octets(), &[0, 17], &len]);
        datagram[6..8].copy_from_slice(&pseudo.to_be_bytes());
        ethernet(mac(3), mac(2), 0x0800, &ipv4(17, ip(2), ip(3), &datagram))
    };
    let fragment = |mut frame: Vec<u8>| {
        frame[20..22].copy_from_slice(&[0x20, 0]); // more fragments
        frame[24..26].copy_from_slice(&[0, 0]);
        let sum = checksum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let an_arp = ethernet(mac(3), mac(2), 0x0806, &arp(1, (mac(2), ip(2)), ([0; 6], ip(3))));
    let huge = {
        let body = [MAGIC, &[0x55; 60_000][..]].concat();
        ethernet(mac(3), mac(2), 0x0800, &ipv4(6, ip(2), ip(3), &tcp(ip(2), ip(3), &body)))
    };
    let mut attacks: Vec<Vec<u8>> = Vec::new();
    for size in [0, 1, 8, 47, 1461, 65_535] {
        attacks.push([vnet(1, 1, [54, size, 34, 16]), of_tcp(3, 3000)].concat());
        attacks.push([vnet(1, 1, [54, size, 34, 16]), huge.clone()].concat());
        attacks.push([vnet(1, 5, [42, size, 34, 6]), of_udp(3000)].concat());
    }
    for kind in [2, 3, 4, 5, 6, 7, 0x42, 0x80, 0x81, 0x84, 0xff] {
        attacks.push([vnet(1, kind, [54, 1000, 34, 16]), of_tcp(3, 3000)].concat());
        attacks.push([vnet(0, kind, [54, 1000, 0, 0]), of_tcp(3, 3000)].concat());
    }
    for (start, offset) in
        [(0, 0), (34, 0), (14, 10), (34, 17), (1000, 16), (34, 60_000), (65_535, 65_535), (53, 16)]
    {
        attacks.push([vnet(1, 0, [54, 0, start, offset]), of_tcp(3, 100)].concat());
        attacks.push([vnet(1, 1, [54, 1000, start, offset]), of_tcp(3, 3000)].concat());
    }
    for hdr_len in [0, 1, 13, 33, 5000, 65_535] {
        attacks.push([vnet(1, 1, [hdr_len, 1000, 34, 16]), of_tcp(3, 3000)].concat());
    }
    attacks.push([vnet(1, 0, [42, 0, 34, 6]), an_arp.clone()].concat());
    attacks.push([vnet(1, 0, [42, 0, 14, 6]), an_arp].concat());
    attacks.push([vnet(1, 1, [54, 1000, 34, 16]), fragment(of_tcp(3, 3000))].concat());
    attacks.push([vnet(1, 5, [42, 1000, 34, 6]), fragment(of_udp(3000))].concat());
    for flags in [2, 4, 5, 0x80, 0xff] {
        attacks.push([vnet(flags, 0, [0, 0, 34, 16]), of_tcp(3, 100)].concat());
    }
    let gso = daemon.port("b")["gso"].clone();
    for _ in 0..10 {
        // Some the kernel refuses; with those that it hands on we deal.
        let taken = put(daemon, "a", &["send", "eth0", "10", "vnet"], &attacks);
        assert!(taken > 0);
    }
    let rx = || daemon.port("a")["rx_frames"].as_u64().unwrap();
    wait_for("hostile headers to arrive", || {
        (daemon.dropped("bad_offload") > 0 && rx() > 1000).then_some(())
    });
    eprintln!("taken by the kernel and judged here: {} frames, drops {:?}", rx(), daemon.rows("drops"));
    assert_eq!(daemon.port("b")["gso"], gso, "lies of a cost b its super-frames");
    // Fragments cannot be super-frames, which the kernel does not mind. (Their payload is a multiple of 8 bytes.) None gets through, each has its name.
    let listener = Listener::start(daemon, "d", MAGIC);
    let lie = [vnet(1, 1, [54, 1000, 34, 16]), fragment(of_tcp(5, 3004))].concat();
    let before = daemon.dropped("bad_offload");
    let taken = put(daemon, "a", &["send", "eth0", "100", "vnet"], &[lie]);
    assert_eq!(taken, 100, "the kernel hands them on");
    wait_for("all to be dropped", || (daemon.dropped("bad_offload") == before + taken).then_some(()));
    assert_eq!(listener.heard(), [] as [String; 0]);
    daemon.ping("a", "b");
    unharmed(lab);
}

fn twenty_thousand_addresses_leave_the_neighbours_theirs(host: Host) {
    let lab = lab(host, &["a", "b", "c"], "fdb_limit = 1024\nstorm = 2000");
    let daemon = &lab.0;
    daemon.ping("b", "a");
    daemon.ping("c", "a");
    let sent = put(daemon, "a", &["addresses", "eth0", "20000", "02420a010002"], &[]);
    assert!(sent > 0);
    // What the interface's own queue could not hold never came to us.
    let port = || daemon.port("a")["rx_frames"].as_u64().unwrap();
    wait_for("them to arrive", || (port() >= sent / 2).then_some(()));
    assert!(daemon.dropped("storm") > 0, "unknown destinations are held to the storm limit");
    let rows = daemon.rows("fdb");
    assert!(rows.len() <= 1024, "{} entries", rows.len());
    for (container, mac) in [("b", "02:42:0a:01:00:03"), ("c", "02:42:0a:01:00:04")] {
        let kept = rows.iter().any(|row| row["container"] == container && row["mac"] == mac);
        assert!(kept, "{container}'s entry was pushed out");
    }
    unharmed(lab);
}

fn a_loop_is_a_storm_and_is_limited(host: Host) {
    let second =
        "[[container.interface]]\nnetwork = \"blue\"\nip = \"10.1.0.9\"\n[[container]]\nname = \"b\"";
    let configuration =
        host.lab(&["a", "b", "c"], "storm = 1000").replacen("[[container]]\nname = \"b\"", second, 1);
    let daemon = host.start(&configuration);
    let train = Train::start(&daemon, "b", "10.1.0.4");
    let engine = daemon.engine();
    let lab = (daemon, train, engine);
    let daemon = &lab.0;
    let script = "ip link add br0 type bridge && ip link set eth0 master br0 && ip link set eth1 master br0 && \
                  ip addr flush dev eth0 && ip addr flush dev eth1 && ip link set br0 up";
    daemon.exec("a", &["sh", "-c", script]);
    // What comes back with a neighbour's address is no storm: it is that neighbour's address on another port.
    let frames: Vec<_> = std::iter::repeat_n(hello(3), 50).collect();
    send(daemon, "b", &frames);
    wait_for("the loop to be cut", || (daemon.dropped("spoofed_mac") >= 50).then_some(()));
    // A broadcast from an address of nobody's goes round and round, until the budget is spent and the loop runs dry.
    let frame = ethernet(BROADCAST, [2, 9, 9, 9, 9, 9], 0x88b5, MAGIC);
    put(daemon, "a", &["send", "br0", "50", "plain"], &[frame]);
    wait_for("the storm to be limited", || (daemon.dropped("storm") >= 50).then_some(()));
    daemon.ping("c", "b");
    daemon.exec("a", &["ip", "link", "del", "br0"]);
    let moved = daemon.rows("fdb").into_iter().find(|row| {
        matches!(row["mac"].as_str(), Some("02:42:0a:01:00:03" | "02:42:0a:01:00:04"))
            && row["container"] == "a"
    });
    assert_eq!(moved, None, "a neighbour's address moved to the loop");
    unharmed(lab);
}

fn garbage_is_garbage(host: Host) {
    const FRAMES: u64 = 50_000;
    let lab = lab(host, &["a", "b", "c"], "");
    let daemon = &lab.0;
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 6][..], &arp(1, (mac(2), ip(2)), ([0; 6], ip(3)))].concat();
    let options = {
        let mut packet = ipv4(17, ip(2), ip(3), &udp(MAGIC));
        packet[0] = 0x46;
        packet.splice(20..20, [0x83, 7, 4, 10]);
        packet
    };
    let extension = |next: u8| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 40, next, 64];
        packet.extend([0xfe; 32]);
        packet.extend([44, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 7, 43, 0, 0, 0]);
        packet.extend([6; 20]);
        packet
    };
    let seeds = [
        hello(2),
        ethernet(BROADCAST, mac(2), 0x0806, &arp(1, (mac(2), ip(2)), ([0; 6], ip(3)))),
        ethernet(mac(3), mac(2), 0x0800, &ipv4(17, ip(2), ip(3), &udp(MAGIC))),
        ethernet(mac(3), mac(2), 0x0800, &ipv4(6, ip(2), ip(3), &tcp(ip(2), ip(3), MAGIC))),
        ethernet(mac(3), mac(2), 0x0800, &options),
        ethernet(
            mac(3),
            mac(2),
            0x0800,
            &ipv4(1, ip(2), ip(3), &[3, 4, 0, 0, 0, 0, 5, 0x78, 0x45, 0, 0, 28]),
        ),
        ethernet(
            mac(3),
            mac(2),
            0x8100,
            &[&[0, 10, 0x81, 0, 0, 20, 8, 0][..], &ipv4(17, ip(2), ip(3), &udp(MAGIC))].concat(),
        ),
        ethernet(mac(3), mac(2), snap.len() as u16, &snap),
        ethernet(mac(3), mac(2), 0x86dd, &extension(0)),
        ethernet(mac(3), mac(2), 0x86dd, &extension(44)),
        advertisement(mac(2), [0xfe; 16], mac(2)),
        ethernet([1, 0x80, 0xc2, 0, 0, 0], mac(2), 38, &[0x42, 0x42, 3, 0, 0, 0, 0]),
    ];
    let before = daemon.port("a")["rx_frames"].as_u64().unwrap();
    let sent = put(
        daemon,
        "a",
        &["garbage", "eth0", &FRAMES.to_string(), &crate::harness::random().to_string()],
        &seeds,
    );
    assert!(sent > FRAMES / 2, "the kernel took {sent} of {FRAMES}");
    // What the interface's own queue could not hold never came to us.
    wait_for("garbage to arrive", || {
        (daemon.port("a")["rx_frames"].as_u64().unwrap() - before >= sent / 2).then_some(())
    });
    let reasons: Vec<_> =
        daemon.rows("drops").iter().map(|row| row["reason"].as_str().unwrap().to_owned()).collect();
    for reason in
        ["bad_source_mac", "reserved_group", "malformed_arp", "malformed_ipv4", "malformed_ipv6", "bad_vlan"]
    {
        assert!(reasons.iter().any(|seen| seen == reason), "no {reason} among {reasons:?}");
    }
    daemon.ping("a", "b");
    unharmed(lab);
}

fn who_does_not_read_holds_up_nobody(host: Host) {
    let lab = lab(host, &["a", "b", "c", "d"], "");
    let daemon = &lab.0;
    let receiver = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('', 9))\nprint('ready', flush=True)\nwhile True: s.recv(65536)";
    let mut command = daemon.exec_command("a", &[PYTHON, "-c", receiver]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    run("kill", &["-STOP", &child.id().to_string()]);
    daemon.ping("d", "a");
    let flood = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.connect(('10.1.0.2', 9))\n\
                 for n in range(30000):\n try: s.send(bytes(1400))\n except OSError: pass";
    daemon.exec("d", &[PYTHON, "-c", flood]);
    // The container's kernel threw them away; its interface and everybody else are as they were. The first ping may
    // still find the sender's own queue full.
    daemon.exec("d", &["ping", "-n", "-c", "5", "-i", "0.1", "-W", "5", "10.1.0.2"]);
    run("kill", &["-KILL", &child.id().to_string()]);
    child.wait().unwrap();
    unharmed(lab);
}

fn networks_do_not_leak(host: Host) {
    let colors = ["blue", "red"];
    let mut text = String::new();
    for (n, color) in colors.iter().enumerate() {
        text += &format!("[[network]]\nname = \"{color}\"\nsubnet = \"10.{}.0.0/24\"\n", n + 1);
    }
    let names = ["blue0", "blue1", "red0", "red1"];
    for name in names {
        let (netns, network) = (host.name(name), name.trim_end_matches(char::is_numeric));
        text += &format!(
            "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n[[container.interface]]\nnetwork = \"{network}\"\n"
        );
    }
    let configuration = host.configuration(&text);
    let daemon = host.start(&configuration);
    let magic = |color: &str| format!("<magic of {color}>").into_bytes();
    // Everybody looks for the other network's magic, and one of each for its own.
    let foreign: Vec<_> = names
        .iter()
        .map(|name| {
            Listener::start(&daemon, name, &magic(if name.starts_with("blue") { "red" } else { "blue" }))
        })
        .collect();
    let own: Vec<_> = ["blue1", "red1"]
        .iter()
        .map(|name| Listener::start(&daemon, name, &magic(name.trim_end_matches('1'))))
        .collect();
    let red = |host: u8| [0x02, 0x42, 10, 2, 0, host];
    let ends = [("blue0", mac(2), mac(3), red(3)), ("red0", red(2), red(3), mac(3))];
    for (name, from, neighbor, stranger) in ends {
        let payload = udp(&magic(name.trim_end_matches('0')));
        let n = from[3];
        let address = |net: u8, host: u8| Ipv4Addr::new(10, net, 0, host);
        let mut frames = Vec::new();
        // To the neighbour, to everybody, to a group, to the other network's container, to nobody; with every tag.
        for to in [neighbor, BROADCAST, [1, 0, 0x5e, 1, 2, 3], stranger, [2, 9, 9, 9, 9, 9]] {
            for other in [n, 3 - n] {
                let packet = ipv4(17, address(n, 2), address(other, 3), &payload);
                frames.push(ethernet(to, from, 0x0800, &packet));
                for vid in [1u8, 10] {
                    frames.push(ethernet(to, from, 0x8100, &[&[0, vid, 8, 0][..], &packet].concat()));
                }
            }
        }
        assert_eq!(send(&daemon, name, &frames), frames.len() as u64);
        let sent = frames.len() as u64;
        wait_for("them to pass", || (daemon.port(name)["rx_frames"].as_u64().unwrap() >= sent).then_some(()));
    }
    daemon.assert_conserved();
    for (name, listener) in names.iter().zip(foreign) {
        assert_eq!(listener.heard(), [] as [String; 0], "in {name} of the other network's");
    }
    for listener in own {
        assert!(listener.heard().len() >= 12, "the magic is found where it belongs");
    }
    let output = daemon.try_exec("blue0", &["ping", "-n", "-c", "1", "-W", "1", "10.2.0.3"]);
    assert!(!output.status.success(), "{}", crate::harness::text(&output));
    daemon.stop();
}

fn too_few_descriptors_fail_new_ports_only(mut host: Host) {
    const LIMIT: &str = "--nofile=64:64";
    host.around = ["prlimit", LIMIT, "--"].map(String::from).to_vec();
    let who = host.who;
    let lab = lab(host, &["a", "b", "c"], "");
    let daemon = &lab.0;
    let (mut made, mut refused) = (0, Vec::new());
    for n in 0..64 {
        let name = format!("more{n}");
        let netns = daemon.host.name(&name);
        let output = daemon.try_ctl(&["network", "connect", "blue", &name, "--netns", &netns, "--create"]);
        if output.status.success() && daemon.state(&name) == "up" {
            made += 1;
        } else {
            refused.push(
                String::from_utf8_lossy(&output.stderr).into_owned()
                    + &String::from_utf8_lossy(&output.stdout),
            );
            if refused.len() == 3 {
                break;
            }
        }
    }
    assert!(made >= 3, "{who:?}: only {made} were made: {refused:?}");
    assert!(!refused.is_empty(), "{made} ports with {LIMIT}");
    for said in &refused {
        assert!(said.contains("Too many open files") || said.contains("descriptors"), "{said:?}");
    }
    daemon.ping("a", "b");
    let engine = daemon.engine();
    let before = (cpu_seconds(engine), cpu_seconds(daemon.pid()));
    std::thread::sleep(std::time::Duration::from_secs(1)); // the measure is a second of its time
    assert!(cpu_seconds(engine) - before.0 < 0.5, "the engine spins");
    assert!(cpu_seconds(daemon.pid()) - before.1 < 0.5, "the keeper spins");
    // One goes, another comes.
    daemon.ctl(&["network", "disconnect", "blue", "more0"]);
    daemon.ping("a", "c");
    unharmed(lab);
}

/// `bench own --figures hostile` does it with a million.
fn a_hundred_thousand_mutated_frames_cost_the_neighbours_nothing(host: Host) {
    const FRAMES: &str = "100000";
    let mut configuration = host.lab(&["a", "b", "c", "d"], "");
    let apart = host.name("e");
    configuration.push_str(&format!(
        "[[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\n[[container]]\nname = \"e\"\n\
         netns = \"{apart}\"\ncreate = true\n[[container.interface]]\nnetwork = \"red\"\n"
    ));
    let daemon = host.start(&configuration);
    let train = Train::start(&daemon, "b", "10.1.0.4");
    let engine = daemon.engine();
    let memory = resident(engine);
    let third = Watch::start(&daemon, "d", MAGIC, &[mac(3), mac(4)]);
    let elsewhere = Watch::start(&daemon, "e", MAGIC, &[]);
    let seed = crate::harness::random();
    eprintln!("seed {seed}");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let others: Vec<String> =
        [(mac(3), 3), (mac(4), 4), (mac(5), 5), (mac(1), 1), (BROADCAST, 255), ([6; 6], 9)]
            .iter()
            .map(|(mac, host)| format!("{}/10.1.0.{host}", hex(mac)))
            .chain([format!("{}/10.2.0.2", hex(&mac(1)))])
            .collect();
    let (seed, needle, own) = (seed.to_string(), hex(MAGIC), hex(&mac(2)));
    let mut words = vec!["hostile", "eth0", FRAMES, "20000", &seed, &needle, &own, "10.1.0.2"];
    words.extend(others.iter().map(String::as_str));
    let taken = put(&daemon, "a", &words, &bases());
    assert!(taken > 50_000, "the kernel took {taken}");
    let rx = || daemon.port("a")["rx_frames"].as_u64().unwrap();
    wait_for("the frames to arrive", || (rx() > taken / 2).then_some(()));
    let (heard, strange, first) = third.counted();
    assert!(heard > 0, "what is for everybody arrives");
    assert_eq!(strange, 0, "d heard what is for others: {first}");
    assert_eq!(elsewhere.counted(), (0, 0, "-".to_owned()), "a frame left its network");
    let grown = resident(engine).saturating_sub(memory);
    assert!(grown < 32 << 20, "the engine grew by {grown} bytes");
    eprintln!("{taken} taken, {} read, {heard} heard, grown by {grown} bytes", rx());
    unharmed((daemon, train, engine));
}
