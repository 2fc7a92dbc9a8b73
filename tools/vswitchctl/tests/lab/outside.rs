//! The uplink as packets: a TAP in a namespace that plays the world outside, and a NIC.

use std::process::Stdio;

use serde_json::Value;

use crate::harness::{As, Daemon, Host, PYTHON, run, text, wait_for};
use crate::publish::free;

crate::as_both!(a_tap_leads_outside, the_uplink_goes_down_and_comes_back, nobody_outside_opens_anything);
crate::on_other_engine!(a_tap_leads_outside, the_uplink_goes_down_and_comes_back, a_nic_leads_outside);
crate::by_two_workers!(a_nic_leads_outside);

/// The uplink in the namespace of container `far`, which has no interface of its own, and network `blue` with container
/// `a`, which leaves with its own address.
fn lab(host: &Host, more: &str) -> String {
    let far = host.name("far");
    let uplink = format!(
        "[uplink]\nkind = \"tap\"\nnetns = \"{far}\"\naddress = \"198.18.0.10/24\"\naddress6 = \"fd00:9::10/64\"\n\
         host = \"198.18.0.1/24\"\nhost6 = \"fd00:9::1/64\"\n{more}\n"
    );
    let far = format!("[[container]]\nname = \"far\"\nnetns = \"{far}\"\ncreate = true\n");
    host.lab(&["a"], "subnet6 = \"fd00:1::/64\"\nnat = false") + &uplink + &far
}

/// Starts it, and waits until the far side knows its way back.
fn start(host: Host, more: &str) -> Daemon {
    let configuration = lab(&host, more);
    let daemon = host.start(&configuration);
    daemon.wait_state("-outside", "up");
    back(&daemon);
    daemon
}

/// Where the far side finds the containers.
fn back(daemon: &Daemon) {
    daemon.exec("far", &["ip", "route", "replace", "10.1.0.0/24", "via", "198.18.0.10"]);
    daemon.exec("far", &["ip", "-6", "route", "replace", "fd00:1::/64", "via", "fd00:9::10"]);
}

fn uplink(daemon: &Daemon) -> Value {
    daemon.port("-outside")
}

fn a_tap_leads_outside(host: Host) {
    let daemon = start(host, "");
    let port = uplink(&daemon);
    assert_eq!((&port["network"], &port["iface"]), (&"uplink".into(), &"vsw0".into()), "{port}");
    assert_eq!(daemon.rows("networks").len(), 1, "it is no network of the file");
    assert_eq!(daemon.rows("containers").len(), 2);

    // Its addresses answer, and the far side has no default route by us.
    for ours in ["198.18.0.10", "fd00:9::10"] {
        daemon.ping("far", ours);
    }
    let routes = daemon.exec("far", &["ip", "route"]) + &daemon.exec("far", &["ip", "-6", "route"]);
    assert!(!routes.contains("default"), "{routes}");
    // A container reaches it, and what is behind it, with its own address.
    daemon.exec("far", &["ip", "address", "add", "192.0.2.7/32", "dev", "lo"]);
    daemon.exec("far", &["ip", "address", "add", "2001:db8::7/128", "dev", "lo"]);
    for far in ["198.18.0.1", "192.0.2.7", "fd00:9::1", "2001:db8::7"] {
        daemon.ping("a", far);
    }
    let neighbors = daemon.rows("neighbors");
    let known = |row: &&Value| row["network"] == "uplink" && row["address"] == "198.18.0.1";
    assert!(neighbors.iter().any(|row| known(&row)), "{neighbors:?}");
    let routes = daemon.rows("routes");
    let default =
        routes.iter().find(|row| row["network"] == "blue" && row["destination"] == "0.0.0.0/0").unwrap();
    assert_eq!((&default["via"], &default["to"]), (&"198.18.0.1".into(), &"uplink".into()));
    let status = &daemon.rows("status")[0]["uplink"];
    assert_eq!(status["kind"], "tap", "{status}");
    daemon.assert_conserved();
    daemon.stop();
}

fn the_uplink_goes_down_and_comes_back(host: Host) {
    let daemon = start(host, "");
    daemon.ping("a", "198.18.0.1");
    daemon.exec("far", &["ip", "link", "set", "vsw0", "down"]);
    let output = daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", "198.18.0.1"]);
    assert!(!output.status.success(), "{}", text(&output));
    assert_eq!(uplink(&daemon)["state"], "down");
    daemon.exec("far", &["ip", "link", "set", "vsw0", "up"]);
    back(&daemon);
    for far in ["198.18.0.1", "fd00:9::1"] {
        wait_for("an answer", || {
            let output = daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", far]);
            output.status.success().then_some(())
        });
    }
    assert_eq!(uplink(&daemon)["state"], "up");
    daemon.assert_conserved();
    daemon.stop();
}

fn nobody_outside_opens_anything(host: Host) {
    let daemon = start(host, "");
    daemon.ping("a", "198.18.0.1");
    for (name, to) in [("a container", "10.1.0.2"), ("its gateway", "10.1.0.1"), ("a container", "fd00:1::2")]
    {
        let output = daemon.try_exec("far", &["ping", "-n", "-c", "1", "-W", "1", to]);
        assert!(!output.status.success(), "{name}: {}", text(&output));
    }
    assert!(daemon.dropped("prohibited") > 0);
    // Nor has anybody there an address of ours.
    daemon.exec("far", &["ip", "address", "add", "10.1.0.77/32", "dev", "lo"]);
    let before = daemon.dropped("reverse_path");
    let output = daemon.try_exec("far", &["ping", "-n", "-c", "1", "-W", "1", "-I", "10.1.0.77", "10.1.0.2"]);
    assert!(!output.status.success(), "{}", text(&output));
    assert!(daemon.dropped("reverse_path") > before);
    // A router is asked for and does not tell.
    let heard = uplink(&daemon)["tx_frames"].as_u64();
    let _ = daemon.try_exec("far", &["sh", "-c", "command -v rdisc6 && rdisc6 -1 -r 1 -w 500 vsw0"]);
    assert!(heard.is_some());
    daemon.assert_conserved();
    daemon.stop();
}

/// A host in whose namespace the daemon runs, with a NIC `eth9` whose other end is `peer` in a namespace of its own, which
/// has 198.18.0.1 and fd00:9::1; that namespace.
pub fn with_nic(host: &mut Host) -> (String, String) {
    let (home, far) = (host.netns("home"), host.netns("far"));
    run("ip", &["-n", &home, "link", "set", "lo", "up"]);
    let link = ["-n", &home, "link", "add", "eth9", "type", "veth", "peer", "name", "peer", "netns", &far];
    run("ip", &link);
    run("ip", &["-n", &home, "link", "set", "eth9", "up"]);
    run("ip", &["-n", &far, "link", "set", "peer", "up"]);
    run("ip", &["-n", &far, "address", "add", "198.18.0.1/24", "dev", "peer"]);
    run("ip", &["-n", &far, "address", "add", "fd00:9::1/64", "dev", "peer", "nodad"]);
    run("ip", &["-n", &far, "route", "add", "10.1.0.0/24", "via", "198.18.0.10"]);
    run("ip", &["-n", &far, "route", "add", "fd00:1::/64", "via", "fd00:9::10"]);
    host.before = vec!["nsenter".into(), format!("--net=/run/netns/{home}"), "--".into()];
    (home, far)
}

pub const NIC: &str = "[uplink]\nkind = \"nic\"\ndevice = \"eth9\"\naddress = \"198.18.0.10/24\"\n\
                   address6 = \"fd00:9::10/64\"\ngateway = \"198.18.0.1\"\ngateway6 = \"fd00:9::1\"\n";

fn start_by_nic(host: Host) -> Daemon {
    let configuration = host.lab(&["a"], "subnet6 = \"fd00:1::/64\"\nnat = false") + NIC;
    host.start(&configuration)
}

fn pings_soon(daemon: &Daemon, to: &str) {
    wait_for(&format!("an answer of {to}"), || {
        let output = daemon.try_exec("a", &["ping", "-n", "-c", "1", "-W", "1", to]);
        output.status.success().then_some(())
    });
}

#[test]
fn by_a_nic() {
    let Some(host) = Host::new(As::Root) else { return };
    a_nic_leads_outside(host);
}

fn a_nic_leads_outside(mut host: Host) {
    let (home, far) = with_nic(&mut host);
    let mac = || run("ip", &["-n", &home, "-o", "link", "show", "eth9"]);
    let before = mac();
    let daemon = start_by_nic(host);
    let port = uplink(&daemon);
    let state = (&port["state"], &port["iface"], &port["io"], &port["mac"]);
    let wanted = (&"up".into(), &"eth9".into(), &"nic".into(), &"02:42:c6:12:00:0a".into());
    assert_eq!(state, wanted, "{port}");
    for to in ["198.18.0.10", "fd00:9::10"] {
        run("ip", &["netns", "exec", &far, "ping", "-n", "-c", "1", "-W", "5", to]);
    }
    for to in ["198.18.0.1", "fd00:9::1"] {
        daemon.ping("a", to);
    }
    // Super-frames and partial checksums, both ways.
    let serve = ["netns", "exec", &far, "iperf3", "-s", "-p", "5201"];
    let mut server = std::process::Command::new("ip").args(serve).stdout(Stdio::null()).spawn().unwrap();
    for way in ["--client=198.18.0.1", "--reverse"] {
        let sent = wait_for("a measurement", || {
            let words = ["iperf3", "-J", "-p", "5201", "-n", "50M", "--client=198.18.0.1", way];
            let output = daemon.try_exec("a", &words);
            let said: Value = serde_json::from_slice(&output.stdout).ok()?;
            said["end"]["sum_received"]["bytes"].as_u64()
        });
        // What is on its way when the sender has done is not counted.
        assert!(sent >= 40_000_000, "{way}: {sent}");
    }
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(mac(), before, "the NIC is as it was");

    // It goes down and comes back, and goes and comes.
    run("ip", &["-n", &home, "link", "set", "eth9", "down"]);
    wait_for("its rest", || {
        daemon.reason("-outside").contains("\"eth9\", for [uplink]: it is down").then_some(())
    });
    run("ip", &["-n", &home, "link", "set", "eth9", "up"]);
    daemon.wait_state("-outside", "up");
    pings_soon(&daemon, "198.18.0.1");
    run("ip", &["-n", &home, "link", "del", "eth9"]);
    wait_for("its end", || daemon.reason("-outside").contains("no such interface").then_some(()));
    let link = ["-n", &home, "link", "add", "eth9", "type", "veth", "peer", "name", "peer", "netns", &far];
    run("ip", &link);
    run("ip", &["-n", &far, "link", "set", "peer", "up"]);
    run("ip", &["-n", &far, "address", "add", "198.18.0.1/24", "dev", "peer"]);
    run("ip", &["-n", &far, "route", "add", "10.1.0.0/24", "via", "198.18.0.10"]);
    run("ip", &["-n", &home, "link", "set", "eth9", "mtu", "1400", "up"]);
    daemon.wait_state("-outside", "up");
    pings_soon(&daemon, "198.18.0.1");
    assert_eq!(uplink(&daemon)["mtu"], 1400);

    // It outlives the engine.
    let engine = daemon.engine();
    run("kill", &["-KILL", &engine.to_string()]);
    daemon.wait_engine_after(engine);
    pings_soon(&daemon, "198.18.0.1");
    daemon.assert_conserved();
    daemon.stop();
}

#[test]
fn tagged_frames_and_those_to_others_do_not_come_in_by_a_nic() {
    let Some(mut host) = Host::new(As::Root) else { return };
    let (home, far) = with_nic(&mut host);
    let daemon = start_by_nic(host);
    daemon.ping("a", "198.18.0.1");
    // The NIC's own address is the host's: what is for it is not ours.
    run("ip", &["-n", &home, "address", "add", "198.18.0.2/24", "dev", "eth9"]);
    run("ip", &["netns", "exec", &far, "ping", "-n", "-c", "1", "-W", "5", "198.18.0.2"]);
    let heard = || uplink(&daemon)["rx_frames"].as_u64().unwrap();
    run("ip", &["netns", "exec", &far, "ping", "-n", "-c", "1", "-W", "5", "198.18.0.2"]);
    let before = heard();
    run(
        "ip",
        &["netns", "exec", &far, "ping", "-n", "-c", "20", "-i", "0.01", "-W", "5", "-q", "198.18.0.2"],
    );
    let after = heard();
    assert!(after - before < 20, "{before} {after}");
    // Another VLAN of the wire is another world.
    let before = heard();
    let tagged = "import socket\n\
                  s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
                  s.bind(('peer', 0))\n\
                  for n in range(20):\n\
                  \u{20}for dst in '0242c612000a', 'ffffffffffff', '020000000001':\n\
                  \u{20} s.send(bytes.fromhex(dst + '020000000002' + '8100001e' + '0800') + bytes(46))\n\
                  s.send(bytes.fromhex('0242c612000a' + '020000000002' + '88b5') + bytes(46))\n";
    run("ip", &["netns", "exec", &far, PYTHON, "-c", tagged]);
    // The last one has no tag, and comes after all the others.
    wait_for("the one without a tag", || (heard() > before).then_some(()));
    assert!(heard() - before < 20);
    daemon.assert_conserved();
    daemon.stop();
}

#[test]
fn who_may_not_have_the_nic_is_told() {
    if Host::new(As::Root).is_none() {
        return; // nobody else makes a NIC to be refused
    }
    let Some(mut host) = Host::new(As::User) else { return };
    with_nic(&mut host);
    let configuration = host.lab(&["a"], "subnet6 = \"fd00:1::/64\"") + NIC;
    let daemon = host.start(&configuration);
    assert!(daemon.ready.contains("1 failed"), "{}", daemon.ready);
    let reason = daemon.reason("-outside");
    for part in ["\"eth9\"", "[uplink]", "not permitted", "CAP_NET_RAW", "as root"] {
        assert!(reason.contains(part), "{part:?} in {reason}");
    }
    daemon.stop();
}

#[test]
fn who_may_not_make_the_tap_is_told() {
    let Some(host) = Host::new(As::User) else { return };
    let tap = "[uplink]\nkind = \"tap\"\naddress = \"198.18.0.10/24\"\nhost = \"198.18.0.1/24\"\n";
    let configuration = host.lab(&["a"], "") + tap;
    let daemon = host.start(&configuration);
    let reason = daemon.reason("-outside");
    for part in ["\"vsw0\"", "[uplink]", "not permitted", "CAP_NET_ADMIN", "`netns`"] {
        assert!(reason.contains(part), "{part:?} in {reason}");
    }
    daemon.stop();
}

crate::as_both!(what_leaves_has_our_address, what_is_published_comes_in);

/// The same lab, masqueraded.
fn start_masqueraded(host: Host, interface: &str, more: &str) -> Daemon {
    let configuration = lab(&host, more).replace("nat = false\n", "");
    let blue = "network = \"blue\"\n";
    let configuration = configuration.replacen(blue, &format!("{blue}{interface}\n"), 1);
    let daemon = host.start(&configuration);
    daemon.wait_state("-outside", "up");
    daemon
}

fn what_leaves_has_our_address(host: Host) {
    let daemon = start_masqueraded(host, "", "");
    // The far side knows no way to the containers, and needs none.
    for to in ["198.18.0.1", "fd00:9::1"] {
        daemon.ping("a", to);
    }
    let server = "import socket\ns = socket.create_server(('', 7000), family=socket.AF_INET6, dualstack_ipv6=True)\n\
                  while True:\n c, who = s.accept()\n c.sendall(who[0].encode())\n c.close()\n";
    let serving = daemon.background("far", &[PYTHON, "-c", server]);
    let asks = "import socket,sys\nprint(socket.create_connection((sys.argv[1], 7000), 5).recv(99).decode())";
    for (to, seen) in [("198.18.0.1", "::ffff:198.18.0.10"), ("fd00:9::1", "fd00:9::10")] {
        let said = wait_for("an answer", || {
            let output = daemon.try_exec("a", &[PYTHON, "-c", asks, to]);
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        });
        assert_eq!(said.trim(), seen);
    }
    let rows = daemon.rows("connections");
    let tcp =
        rows.iter().find(|row| row["protocol"] == "tcp" && row["destination"] == "198.18.0.1:7000").unwrap();
    assert_eq!((&tcp["container"], &tcp["direction"]), (&"a".into(), &"out".into()), "{tcp}");
    assert!(tcp["local"].as_str().unwrap().starts_with("198.18.0.10:"), "{tcp}");
    let only = daemon.ctl(&["--json", "show", "connections", "--protocol", "icmp"]);
    let only: Vec<Value> = serde_json::from_str(&only).unwrap();
    assert!(!only.is_empty() && only.iter().all(|row| row["protocol"] == "icmp"), "{only:?}");
    let status = &daemon.rows("status")[0]["uplink"];
    assert_eq!(status["addresses"], serde_json::json!(["198.18.0.10", "fd00:9::10"]), "{status}");
    assert_eq!(status["gateways"][0], serde_json::json!({ "address": "198.18.0.1", "known": true }));
    assert_eq!((&status["port"]["iface"], &status["port"]["state"]), (&"vsw0".into(), &"up".into()));
    drop(serving);

    // Another address, under traffic: what leaves from now on has it.
    let configuration = lab(&daemon.host, "").replace("nat = false\n", "");
    let moved = configuration.replace("198.18.0.10/24", "198.18.0.20/24");
    let said = daemon.reload(&moved);
    assert!(said.contains("uplink changed"), "{said}");
    daemon.ping("a", "198.18.0.1");
    daemon.ping("far", "198.18.0.20");
    let output = daemon.try_exec("far", &["ping", "-n", "-c", "1", "-W", "1", "198.18.0.10"]);
    assert!(!output.status.success(), "{}", text(&output));
    let rows = daemon.rows("connections");
    let local = |row: &Value| row["local"].as_str().unwrap_or_default().to_owned();
    assert!(rows.iter().any(|row| local(row).starts_with("198.18.0.20:")), "{rows:?}");
    wait_for("the end of what had the old one", || {
        let rows = daemon.rows("connections");
        rows.iter().all(|row| !local(row).starts_with("198.18.0.10:")).then_some(())
    });
    daemon.assert_conserved();
    daemon.stop();
}

fn what_is_published_comes_in(host: Host) {
    let local = free(1);
    let published = format!("publish = [\"8080-8081:80-81\", \"127.0.0.1:{local}:80\"]");
    let daemon = start_masqueraded(host, &published, "");
    let server = "import socket\ns = socket.create_server(('', 80), family=socket.AF_INET6, dualstack_ipv6=True)\n\
                  while True:\n c, who = s.accept()\n c.sendall(who[0].encode())\n c.close()\n";
    let serving = daemon.background("a", &[PYTHON, "-c", server]);
    let asks = "import socket,sys\nprint(socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).recv(99).decode())";
    // Whoever is refused before is a client as well.
    wait_for("its socket", || daemon.exec("a", &["ss", "-Hltn"]).contains(":80 ").then_some(()));
    for (to, seen) in [("198.18.0.10", "::ffff:198.18.0.1"), ("fd00:9::10", "fd00:9::1")] {
        let said = wait_for("an answer", || {
            let output = daemon.try_exec("far", &[PYTHON, "-c", asks, to, "8080"]);
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        });
        assert_eq!(said.trim(), seen, "the client's own address");
    }
    let rows = daemon.rows("nat");
    let range = rows.iter().find(|row| row["ports"] == "8080-8081").unwrap();
    assert_eq!((&range["address"], &range["state"]), (&"198.18.0.10".into(), &"up".into()), "{range}");
    assert_eq!(range["clients"], 2, "one of each family: {range}");
    // With an address of the host's it is a socket, and its client is shown as the gateway.
    let words = ["-c", asks, "127.0.0.1", &local.to_string()];
    let output = std::process::Command::new(PYTHON).args(words).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "::ffff:10.1.0.1", "{}", text(&output));
    // What is not published is not there, and what is published no more neither.
    let refused = "import socket,sys\ntry:\n socket.create_connection((sys.argv[1], int(sys.argv[2])), 1)\nexcept OSError:\n print('no')";
    assert_eq!(daemon.exec("far", &[PYTHON, "-c", refused, "198.18.0.10", "8082"]).trim(), "no");
    assert!(daemon.dropped("nat_unpublished") > 0);
    daemon.ctl(&["unpublish", "a", "8080-8081:80-81"]);
    assert_eq!(daemon.exec("far", &[PYTHON, "-c", refused, "198.18.0.10", "8080"]).trim(), "no");
    daemon.ctl(&["publish", "a", "8080:80"]);
    assert!(daemon.exec("far", &[PYTHON, "-c", asks, "198.18.0.10", "8080"]).contains("198.18.0.1"));
    drop(serving);
    daemon.assert_conserved();
    daemon.stop();
}
