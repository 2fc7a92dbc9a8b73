//! Who gets which address, and how: chosen and remembered, or by DHCP, with a real client and with a hostile one.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Daemon, Host, run, skipped, wait_for};
use crate::{as_both, by_two_workers};

as_both!(
    an_address_is_the_same_again,
    a_client_gets_the_interface_s_address,
    a_guest_gets_a_lease_and_keeps_it,
    a_port_that_starves_the_pool_starves_itself,
);
by_two_workers!(a_client_gets_the_interface_s_address,);

/// Network `blue` with DHCP, and these containers in it; `free` names its address.
fn dhcp_lab(host: &Host, containers: &[&str]) -> String {
    let lab = host.lab(containers, "mtu = 1400\ndhcp = true");
    let netns = host.name("free");
    format!(
        "{lab}[[container]]\nname = \"free\"\nnetns = \"{netns}\"\ncreate = true\n\
         [[container.interface]]\nnetwork = \"blue\"\nip = \"10.1.0.9\"\n"
    )
}

fn address(daemon: &Daemon, container: &str) -> String {
    daemon.port(container)["addresses"][0].as_str().unwrap().to_owned()
}

fn an_address_is_the_same_again(host: Host) {
    let (both, one, other) =
        (host.lab(&["a", "b"], ""), host.lab(&["b"], ""), host.lab(&["c", "b", "a"], ""));
    let mut daemon = host.start(&both);
    assert_eq!([address(&daemon, "a"), address(&daemon, "b")], ["10.1.0.2/24", "10.1.0.3/24"]);
    // Removed, and added again behind another that came meanwhile.
    daemon.reload(&one);
    daemon.restart();
    assert_eq!(address(&daemon, "b"), "10.1.0.3/24");
    daemon.reload(&other);
    let after = ["a", "b", "c"].map(|name| address(&daemon, name));
    assert_eq!(after, ["10.1.0.2/24", "10.1.0.3/24", "10.1.0.4/24"]);
    daemon.ping("a", "b");
    // Out and in at run time.
    daemon.ctl(&["network", "disconnect", "blue", "a"]);
    daemon.ctl(&["network", "disconnect", "blue", "c"]);
    daemon.ctl(&["network", "connect", "blue", "c"]);
    daemon.ctl(&["network", "connect", "blue", "a"]);
    assert_eq!([address(&daemon, "a"), address(&daemon, "c")], ["10.1.0.2/24", "10.1.0.4/24"]);
    let taken = daemon.try_ctl(&["network", "connect", "blue", "d", "--ip", "10.1.0.4"]);
    let said = String::from_utf8(taken.stderr).unwrap();
    assert!(said.contains("`eth0` of container `c`"), "{said}");
    let inspected: Value =
        serde_json::from_str(&daemon.ctl(&["network", "inspect", "blue", "--json"])).unwrap();
    assert_eq!(inspected["addresses"]["used"], 3);
    assert_eq!(inspected["addresses"]["room"], 253);
    daemon.stop();
}

/// A script for `udhcpc`: says what it was told, and does it to the interface. Nothing else of the container or the host
/// is touched.
const SCRIPT: &str = "\
#!/bin/sh
case \"$1\" in
bound|renew)
    echo \"got $1 $interface $ip/$mask router=$router dns=$dns mtu=$mtu lease=$lease hostname=$hostname server=$serverid\"
    ip address replace \"$ip/$mask\" dev \"$interface\"
    ip link set \"$interface\" mtu \"$mtu\"
    [ -z \"$router\" ] || ip route replace default via \"$router\" dev \"$interface\"
    ;;
esac
";

pub fn script(host: &Host) -> PathBuf {
    let script = host.write("dhcp.sh", SCRIPT);
    let mut permissions = std::fs::metadata(&script).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(&script, permissions).unwrap();
    script
}

/// What a client in a container was told.
#[track_caller]
pub fn udhcpc(daemon: &Daemon, container: &str, interface: &str, script: &str) -> String {
    let mut words = vec!["busybox", "udhcpc", "-i", interface, "-f", "-q", "-n", "-s", script, "-O", "mtu"];
    words.extend(["-t", "5", "-T", "1", "-A", "1"]);
    let output = daemon.try_exec(container, &words);
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\nlog:\n{}", daemon.log());
    said.lines().find(|line| line.starts_with("got ")).unwrap_or_else(|| panic!("{said}")).to_owned()
}

fn a_client_gets_the_interface_s_address(host: Host) {
    let script = script(&host);
    let script = script.to_str().unwrap();
    let configuration = dhcp_lab(&host, &["vm"]);
    let mut daemon = host.start(&configuration);
    // Known and shown, but not set; whoever names an address has it as ever.
    assert_eq!(address(&daemon, "vm"), "10.1.0.2/24");
    let addresses = daemon.link("vm", "eth0")["addr_info"].as_array().unwrap().clone();
    assert!(addresses.iter().all(|address| address["family"] != "inet"), "{addresses:?}");
    daemon.ping("free", "10.1.0.1");

    let got = udhcpc(&daemon, "vm", "eth0", script);
    for part in [
        "got bound eth0 10.1.0.2/24 ",
        "router=10.1.0.1 ",
        "dns=10.1.0.1 ",
        "mtu=1400 ",
        "lease=3600 ",
        "hostname=vm ",
        "server=10.1.0.1",
    ] {
        assert!(got.contains(part), "no {part:?} in {got}");
    }
    daemon.ping("vm", "10.1.0.9");
    daemon.ping("free", "10.1.0.2");
    assert_eq!(daemon.link("vm", "eth0")["mtu"], 1400);
    // Nobody else may have it while nothing is set: it is the port's.
    daemon.exec("free", &["ip", "address", "add", "10.1.0.2/32", "dev", "eth0"]);
    daemon.try_exec("free", &["ping", "-c", "1", "-W", "1", "-I", "10.1.0.2", "10.1.0.1"]);
    assert!(daemon.dropped("spoofed_ip") + daemon.dropped("spoofed_arp") > 0);
    // The one that has its address set is told the same.
    let free = udhcpc(&daemon, "free", "eth0", script);
    assert!(free.starts_with("got bound eth0 10.1.0.9/24 "), "{free}");
    daemon.restart();
    assert!(udhcpc(&daemon, "vm", "eth0", script).starts_with("got bound eth0 10.1.0.2/24 "));
    daemon.take_over();
    assert!(udhcpc(&daemon, "vm", "eth0", script).starts_with("got bound eth0 10.1.0.2/24 "));
    daemon.assert_conserved();
    daemon.stop();
}

/// The leases of `blue`, by address.
fn leases(daemon: &Daemon) -> Vec<(String, String)> {
    let text = daemon.ctl(&["network", "inspect", "blue", "--json"]);
    let inspected: Value = serde_json::from_str(&text).unwrap();
    let rows = inspected["leases"].as_array().unwrap().iter();
    let word = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.filter(|row| row["state"] == "bound").map(|row| (word(row, "address"), word(row, "mac"))).collect()
}

/// By unicast, as a client does that has its address: renews it, says which message answered, gives it back.
pub const RENEW_AND_RELEASE: &str = "\
import socket, sys
ip = socket.inet_aton(sys.argv[1])
server = socket.inet_aton('10.1.0.1')
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'guest')
s.bind((sys.argv[1], 68))
s.settimeout(5)
def message(kind, options):
    head = bytes([1, 1, 6, 0]) + b'lab1' + bytes(4) + ip + bytes(12) + bytes.fromhex('020000000007') + bytes(202)
    s.sendto(head + b'\\x63\\x82\\x53\\x63\\x35\\x01' + bytes([kind]) + options + b'\\xff', ('10.1.0.1', 67))
message(3, b'')
answer = s.recv(2000)
print(answer[answer.index(b'\\x35\\x01') + 2], socket.inet_ntoa(answer[16:20]))
message(7, b'\\x36\\x04' + server)
";

fn a_guest_gets_a_lease_and_keeps_it(host: Host) {
    let script = script(&host);
    let script = script.to_str().unwrap();
    let configuration = dhcp_lab(&host, &["vm", "other"]);
    let mut daemon = host.start(&configuration);
    // A machine nested in the container: another MAC behind the same port.
    let guest = |daemon: &Daemon, mac: &str| {
        let words = ["ip", "link", "add", "link", "eth0", "name", "guest", "address", mac, "type", "macvlan"];
        let made = daemon.try_exec("vm", &words);
        if made.status.success() {
            daemon.exec("vm", &["ip", "link", "set", "guest", "up"]);
        }
        made.status.success()
    };
    if !guest(&daemon, "02:00:00:00:00:07") {
        skipped("this kernel has no macvlan");
        return daemon.stop();
    }
    let got = udhcpc(&daemon, "vm", "guest", script);
    assert!(got.starts_with("got bound guest 10.1.0.254/24 router=10.1.0.1 "), "{got}");
    let lease = ("10.1.0.254".to_owned(), "02:00:00:00:00:07".to_owned());
    assert_eq!(leases(&daemon), std::slice::from_ref(&lease));
    daemon.exec("vm", &["ping", "-c", "1", "-W", "5", "-I", "guest", "10.1.0.9"]);
    // A lease is its port's like any other address, and no container gets it.
    daemon.exec("free", &["ip", "address", "add", "10.1.0.254/32", "dev", "eth0"]);
    daemon.try_exec("free", &["ping", "-c", "1", "-W", "1", "-I", "10.1.0.254", "10.1.0.1"]);
    assert!(daemon.dropped("spoofed_ip") + daemon.dropped("spoofed_arp") > 0);
    // It outlives the engine that gave it, and the daemon.
    let engine = daemon.engine();
    run("kill", &["-KILL", &engine.to_string()]);
    daemon.wait_engine_after(engine);
    assert_eq!(leases(&daemon), std::slice::from_ref(&lease));
    daemon.restart();
    assert_eq!(leases(&daemon), [lease]);
    assert!(guest(&daemon, "02:00:00:00:00:07"));
    let again = udhcpc(&daemon, "vm", "guest", script);
    assert!(again.starts_with("got bound guest 10.1.0.254/24 "), "{again}");
    let renewed = daemon.exec("vm", &["python3", "-c", RENEW_AND_RELEASE, "10.1.0.254"]);
    assert_eq!(renewed, "5 10.1.0.254\n");
    // Given back, and somebody else does not get it.
    wait_for("the lease to end", || leases(&daemon).is_empty().then_some(()));
    daemon.exec("vm", &["ip", "link", "del", "guest"]);
    assert!(guest(&daemon, "02:00:00:00:00:08"));
    let next = udhcpc(&daemon, "vm", "guest", script);
    assert!(next.starts_with("got bound guest 10.1.0.253/24 "), "{next}");
    daemon.assert_conserved();
    daemon.stop();
}

/// Asks for an address again and again, as another client each time: 3000 messages, by turns good and broken.
const STARVE: &str = "\
import os, socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
own = s.getsockname()[4]
def add(total, data):
    for i in range(0, len(data) - 1, 2):
        total += data[i] << 8 | data[i + 1]
    while total > 0xffff:
        total = (total & 0xffff) + (total >> 16)
    return total
sent = 0
for i in range(3000):
    mac = b'\\x02\\x11' + i.to_bytes(4, 'big')
    head = bytes([1, 1, 6 if i % 7 else 255, 0]) + os.urandom(4) + bytes(20) + mac + bytes(202) + b'\\x63\\x82\\x53\\x63'
    options = [b'\\x35\\x01\\x01\\xff', b'\\x35\\x01\\x01\\x0c\\xff', b'\\x79\\x09\\xc8' + bytes(8), os.urandom(12)]
    message = head + options[0 if i % 3 else i // 3 % 4].ljust(60, b'\\0')
    udp = (68).to_bytes(2, 'big') + (67).to_bytes(2, 'big') + (8 + len(message)).to_bytes(2, 'big') + b'\\0\\0' + message
    ip = bytearray(b'\\x45\\0' + (20 + len(udp)).to_bytes(2, 'big') + bytes(4) + b'\\x40\\x11\\0\\0' + bytes(4) + b'\\xff' * 4)
    ip[10:12] = (0xffff - add(0, bytes(ip))).to_bytes(2, 'big')
    try:
        s.send(b'\\xff' * 6 + own + b'\\x08\\0' + bytes(ip) + udp)
        sent += 1
    except OSError:
        pass
print(sent)
";

fn a_port_that_starves_the_pool_starves_itself(host: Host) {
    let script = script(&host);
    let script = script.to_str().unwrap();
    let configuration = dhcp_lab(&host, &["vm", "bad"]);
    let daemon = host.start(&configuration);
    let flood = daemon.background("bad", &["python3", "-c", STARVE]);
    let got = udhcpc(&daemon, "vm", "eth0", script);
    assert!(got.starts_with("got bound eth0 10.1.0.2/24 "), "{got}");
    let sent: u64 = flood.finish().trim().parse().unwrap();
    assert!(sent > 1000, "{sent}");
    let text = daemon.ctl(&["network", "inspect", "blue", "--json"]);
    let inspected: Value = serde_json::from_str(&text).unwrap();
    let held = inspected["leases"].as_array().unwrap().len();
    assert!(held <= 16, "{held} addresses for one port");
    let dhcp = &inspected["dhcp"];
    let limited = dhcp["limited"].as_u64().unwrap() + daemon.dropped("service_queue");
    assert!(limited > 500, "{dhcp}");
    // Nothing of it reached the neighbours, and the service goes on.
    assert!(udhcpc(&daemon, "free", "eth0", script).starts_with("got bound eth0 10.1.0.9/24 "));
    daemon.assert_conserved();
    daemon.stop();
}
