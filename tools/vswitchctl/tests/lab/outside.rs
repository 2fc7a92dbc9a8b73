//! The uplink as packets: a TAP in a namespace that plays the world outside, and a NIC.

use serde_json::Value;

use crate::harness::{Daemon, Host, text, wait_for};

crate::as_both!(a_tap_leads_outside, the_uplink_goes_down_and_comes_back, nobody_outside_opens_anything);
crate::on_other_engine!(a_tap_leads_outside, the_uplink_goes_down_and_comes_back);

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
