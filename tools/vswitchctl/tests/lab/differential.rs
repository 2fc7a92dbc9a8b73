//! The same frames through the kernel's forwarding, masquerade and DNAT, and through ours: the same comes out.
//!
//! 100 000 valid frames of 2 000 flows, made by chance from a seed. Out: UDP with a checksum and without, TCP that opens and
//! that is under way, echo requests, a protocol without l4 ports, fragments in order; all sizes, TTLs and traffic classes,
//! with IP options, with DF and without, padded and not. In: the answers to these, ICMP errors about them, and what is for
//! a published l4 port. Compared is the whole IP packet, identifier and checksums with it. What is not compared, and why:
//!
//! - MAC addresses, and the padding behind a packet: each link's own.
//! - The identification of what leaves in fragments: one of ours (RFC 6864). The checksum over it must be right.
//! - The order of packets: two workers may change that between flows.
//! - Which l4 port is chosen where the own one is taken: here it never is, so that both keep it.
//! - Options that a router would write into (record route, timestamps): both do, each with its own time.
//! - TCP that is no connection (an answer without a question, a SYN into what is under way): the kernel calls it invalid
//!   and lets it out with the address of the container; we translate it, or drop it by name.

use std::process::Command;

use crate::harness::{As, Daemon, Host, PYTHON, run, skipped, text, wait_for};
use crate::{by_two_workers, on_other_engine};

const PROGRAM: &str = include_str!("differential.py");
const FRAMES: &str = "100000";
const SEED: &str = "5";
/// Whoever gets the answers would answer them.
const QUIET: &str = "table ip quiet { chain in { type filter hook input priority 0; policy drop; }; }";

#[test]
fn one_hundred_thousand_frames_leave_as_by_the_kernel() {
    if let Some(host) = Host::new(As::Root) {
        frames_leave_as_by_the_kernel(host);
    }
}

on_other_engine!(frames_leave_as_by_the_kernel);
by_two_workers!(frames_leave_as_by_the_kernel);

/// A client, a router that masquerades, and what is outside: names of their namespaces.
struct Kernel {
    client: String,
    outside: String,
}

impl Kernel {
    fn new(host: &mut Host) -> Self {
        let [client, router, outside] = ["kc", "kr", "kf"].map(|short| host.netns(short));
        let in_router = |words: &[&str]| run("ip", &[&["netns", "exec", &router][..], words].concat());
        // Nobody of IPv6 says anything unasked.
        for netns in [&client, &router, &outside] {
            run("ip", &["netns", "exec", netns, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
        }
        for (mine, netns, theirs) in [("in0", &client, "eth0"), ("out0", &outside, "eth0")] {
            let pair = ["link", "add", mine, "netns", &router, "type", "veth", "peer", "name", theirs];
            run("ip", &[&pair[..], &["netns", netns]].concat());
        }
        for (netns, interface, mac, address) in [
            (&client, "eth0", "02:42:0a:01:00:02", "10.1.0.2/24"),
            (&router, "in0", "02:42:0a:01:00:01", "10.1.0.1/24"),
            (&router, "out0", "02:42:c6:12:00:0a", "198.18.0.10/24"),
            (&outside, "eth0", "02:42:c6:12:00:01", "198.18.0.1/24"),
        ] {
            run("ip", &["-n", netns, "link", "set", interface, "address", mac]);
            run("ip", &["-n", netns, "address", "add", address, "dev", interface]);
            run("ip", &["-n", netns, "link", "set", interface, "up"]);
        }
        in_router(&["ip", "route", "add", "default", "via", "198.18.0.1"]);
        let rules = "table ip nat {
            chain out { type nat hook postrouting priority srcnat; oifname out0 masquerade; }
            chain in { type nat hook prerouting priority dstnat; iifname out0 udp dport 20080 dnat to 10.1.0.2:80; }
        }";
        in_router(&["nft", rules]);
        in_router(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        // Whose other direction is never seen has no window to be in.
        in_router(&["sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_be_liberal=1"]);
        run("ip", &["netns", "exec", &outside, "sysctl", "-qw", "net.ipv4.ip_forward=0"]);
        run("ip", &["-n", &client, "route", "add", "default", "via", "10.1.0.1"]);
        run("ip", &["netns", "exec", &client, "ping", "-n", "-c", "1", "-W", "5", "198.18.0.1"]);
        run("ip", &["netns", "exec", &client, "nft", QUIET]);
        Self { client, outside }
    }
}

/// The same with an uplink of ours: `a`, and `far` outside.
fn start(host: Host) -> Daemon {
    let [a, far] = ["a", "far"].map(|short| host.name(short));
    let lab = host.configuration(&format!(
        "[uplink]\nkind = \"tap\"\nnetns = \"{far}\"\naddress = \"198.18.0.10/24\"\nhost = \"198.18.0.1/24\"\n\
         [[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\n\
         [[container]]\nname = \"a\"\nnetns = \"{a}\"\ncreate = true\n\
         [[container.interface]]\nnetwork = \"blue\"\npublish = [\"20080:80/udp\"]\n\
         [[container]]\nname = \"far\"\nnetns = \"{far}\"\ncreate = true\n"
    ));
    let daemon = host.start(&lab);
    daemon.wait_state("-outside", "up");
    daemon.exec("far", &["sysctl", "-qw", "net.ipv4.ip_forward=0"]);
    wait_for("the way out", || {
        let ping = daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "198.18.0.1"]);
        ping.status.success().then_some(())
    });
    daemon.exec("a", &["nft", QUIET]);
    daemon
}

fn frames_leave_as_by_the_kernel(mut host: Host) {
    if Command::new("nft").arg("--version").output().is_err() {
        return skipped("there is no nft");
    }
    let kernel = Kernel::new(&mut host);
    let [a, far] = ["a", "far"].map(|short| host.name(short));
    let daemon = start(host);
    let lanes = [format!("{}/eth0/{}/eth0", kernel.client, kernel.outside), format!("{a}/eth0/{far}/vsw0")];
    let words = ["-c", PROGRAM, FRAMES, SEED, &lanes[0], &lanes[1]];
    let output = Command::new(PYTHON).args(words).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}\n{:?}", daemon.rows("drops"));
    let counted = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = counted.split_whitespace().skip(1).map(|word| word.rsplit('=').next().unwrap());
    let compared: u32 = numbers.next().unwrap().parse().unwrap();
    let kinds: Vec<u32> = numbers.map(|number| number.parse().unwrap()).collect();
    assert!(compared >= 100_000, "{said}");
    assert!(kinds.len() == 12 && kinds.iter().all(|number| *number > 500), "of all kinds: {said}");
    daemon.assert_conserved();
    daemon.stop();
}
