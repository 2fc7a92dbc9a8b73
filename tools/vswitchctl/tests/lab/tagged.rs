//! A NIC whose uplink is in a VLAN. This kernel may have no VLAN devices, so the other side is a second daemon in that VLAN,
//! and a packet socket that looks at what is on the wire between them.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::harness::{As, Daemon, Host, PYTHON, run, wait_for};

crate::on_other_engine!(two_labs_meet_in_a_vlan);
crate::by_two_workers!(two_labs_meet_in_a_vlan);

/// Counts the frames that come by `eth9`, by the tag that the kernel took off them and tells beside them, until the end of
/// its input.
const TAGS: &str = "\
import collections, select, socket, struct, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.setsockopt(263, 8, 1)
s.setsockopt(263, 23, 1)
s.bind(('eth9', 0))
print('ready', flush=True)
seen = collections.Counter()
while True:
    ready, _, _ = select.select([s, sys.stdin], [], [])
    if s in ready:
        frame, beside, _, _ = s.recvmsg(70000, 128)
        status, tci, tpid = struct.unpack_from('=I12xHH', beside[0][2])
        if frame[6:8] == b'\\x02\\x42':
            seen[f'{tpid:04x}.{tci & 0xfff}' if status & 16 else 'none'] += 1
    elif not sys.stdin.buffer.read1(65536):
        break
print(*sorted(seen))
";

/// Frames to everybody and to us that are in other VLANs, or in none, and one that is in ours.
const OTHERS: &str = "\
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth9', 0))
def send(dst, tag):
    s.send(bytes.fromhex(dst + '020000000002' + tag + '88b5') + bytes(46))
for n in range(20):
    for dst in '0242c612000a', 'ffffffffffff':
        for tag in '', '8100001f', '81000000', '88a8001e', '8100001f8100001e':
            send(dst, tag)
send('0242c612000a', '8100001e')
";

/// The uplink in VLAN 30 of `eth9`, with address 198.18.0.LAST.
fn by_nic(host: &Host, last: u8, vlan: &str, interface: &str) -> String {
    let lab = host.lab(&["a"], "").replacen(
        "network = \"blue\"\n",
        &format!("network = \"blue\"\n{interface}\n"),
        1,
    );
    format!("{lab}[uplink]\nkind = \"nic\"\ndevice = \"eth9\"\naddress = \"198.18.0.{last}/24\"\n{vlan}\n")
}

/// Both ends of a wire, `eth9` in each of two namespaces, in which daemons will run.
fn wired(host: &mut Host, other: &mut Host) -> [String; 2] {
    let ends = [host.netns("home"), other.netns("home")];
    let [one, two] = &ends;
    run("ip", &["-n", one, "link", "add", "eth9", "type", "veth", "peer", "name", "eth9", "netns", two]);
    for (host, end) in [(host, one), (other, two)] {
        run("ip", &["-n", end, "link", "set", "lo", "up"]);
        run("ip", &["-n", end, "link", "set", "eth9", "up"]);
        host.before = vec!["nsenter".into(), format!("--net=/run/netns/{end}"), "--".into()];
    }
    ends
}

/// Starts [`TAGS`]. The end of its input is its end.
fn looking(netns: &str) -> Child {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns, PYTHON, "-u", "-c", TAGS]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    child
}

#[test]
fn by_a_nic_in_a_vlan() {
    let Some(host) = Host::new(As::Root) else { return };
    two_labs_meet_in_a_vlan(host);
}

fn two_labs_meet_in_a_vlan(mut host: Host) {
    let Some(mut other) = Host::new(As::Root) else { return };
    let [_, far] = wired(&mut host, &mut other);
    let configuration = by_nic(&host, 10, "vlan = 30", "");
    let here = host.start(&configuration);
    let configuration = by_nic(&other, 20, "vlan = 30", "publish = [\"5201:5201\"]");
    let there = other.start(&configuration);
    for daemon in [&here, &there] {
        daemon.wait_state("-outside", "up");
        assert_eq!(daemon.port("-outside")["vlan"], 30);
    }
    let tags = looking(&far);
    here.ping("a", "198.18.0.20");
    // The tag does not count for the MTU, nor does it make room.
    here.exec("a", &["ping", "-n", "-c", "1", "-W", "5", "-M", "do", "-s", "1472", "198.18.0.20"]);
    let larger =
        here.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1473", "198.18.0.20"]);
    assert!(!larger.status.success());
    // Super-frames and partial checksums, both ways, translated at both ends.
    let mut server =
        there.exec_command("a", &["iperf3", "-s", "-p", "5201"]).stdout(Stdio::null()).spawn().unwrap();
    for way in ["--client=198.18.0.20", "--reverse"] {
        let sent = wait_for("a measurement", || {
            let words = ["iperf3", "-J", "-p", "5201", "-n", "50M", "--client=198.18.0.20", way];
            let said: Value = serde_json::from_slice(&here.try_exec("a", &words).stdout).ok()?;
            said["end"]["sum_received"]["bytes"].as_u64()
        });
        assert!(sent >= 40_000_000, "{way}: {sent}");
    }
    server.kill().unwrap();
    server.wait().unwrap();
    let seen = String::from_utf8(tags.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(seen.trim(), "8100.30", "all that is on the wire has the tag");
    // Other VLANs, and what has no tag, are other worlds.
    let heard = |daemon: &Daemon| daemon.port("-outside")["rx_frames"].as_u64().unwrap();
    let before = heard(&here);
    run("ip", &["netns", "exec", &far, PYTHON, "-c", OTHERS]);
    // The last one is ours.
    wait_for("the one with our tag", || (heard(&here) > before).then_some(()));
    assert!(heard(&here) - before < 20, "{} {before}", heard(&here));
    for daemon in [&here, &there] {
        daemon.assert_conserved();
    }
    moves_to_another(&here, &there);
    here.stop();
    there.stop();
}

/// A reload takes them to another VLAN, one after the other, and where frames have no tag.
fn moves_to_another(here: &Daemon, there: &Daemon) {
    for vlan in ["vlan = 31", ""] {
        for (daemon, last, interface) in [(here, 10, ""), (there, 20, "publish = [\"5201:5201\"]")] {
            daemon.host.write("lab.toml", &by_nic(&daemon.host, last, vlan, interface));
            daemon.ctl(&["reload"]);
            daemon.wait_state("-outside", "up");
            if last == 10 {
                let output = here.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "198.18.0.20"]);
                assert!(!output.status.success(), "they are apart: {vlan:?}");
            }
        }
        wait_for("an answer", || {
            let output = here.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "198.18.0.20"]);
            output.status.success().then_some(())
        });
    }
}
