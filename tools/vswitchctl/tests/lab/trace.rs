//! `trace` in a lab that runs: what it says is what a real packet then meets, and it changes nothing.

use serde_json::Value;

use crate::as_both;
use crate::harness::{Daemon, Host, text};

as_both!(a_trace_says_what_a_packet_meets, routed_prefixes_and_others_sources);

fn lab(host: &Host, more: &str) -> String {
    let mut text = String::from(
        "[uplink]\nkind = \"none\"\n[[network]]\nname = \"blue\"\nsubnet = \"10.1.0.0/24\"\nroutes_to = [\"red\"]\n\
         [[network]]\nname = \"red\"\nsubnet = \"10.2.0.0/24\"\nroutes_to = [\"blue\"]\n",
    );
    for (name, network, ip) in
        [("a", "blue", "10.1.0.10"), ("c", "blue", "10.1.0.11"), ("b", "red", "10.2.0.10")]
    {
        let netns = host.name(name);
        text += &format!(
            "[[container]]\nname = \"{name}\"\nnetns = \"{netns}\"\ncreate = true\n\
             [[container.interface]]\nnetwork = \"{network}\"\nip = \"{ip}\"\n"
        );
    }
    host.configuration(&(text + more))
}

fn trace(daemon: &Daemon, words: &str) -> Value {
    let mut line = vec!["--json", "trace"];
    line.extend(words.split(' '));
    serde_json::from_str(&daemon.ctl(&line)).unwrap()
}

#[track_caller]
fn is(row: &Value, verdict: &str, reason: Option<&str>) {
    assert_eq!((row["verdict"].as_str(), row["reason"].as_str()), (Some(verdict), reason), "{row:#}");
}

fn a_trace_says_what_a_packet_meets(host: Host) {
    let configuration = lab(&host, "");
    let daemon = host.start(&configuration);
    is(&trace(&daemon, "--from a --to 10.2.0.10 --tcp 80"), "held", None);
    daemon.ping("a", "10.2.0.10");
    let traced = trace(&daemon, "--from a --to 10.2.0.10 --icmp --length 84");
    is(&traced, "forward", None);
    let out = &traced["out"][0];
    assert_eq!((&out["ports"][0]["container"], &out["made"]), (&"b".into(), &false.into()));
    let b = daemon.port("b")["mac"].as_str().unwrap().to_owned();
    let line = format!(
        "02:42:0a:02:00:01 > {b}, IPv4 10.1.0.10 > 10.2.0.10: ICMP echo request, id 1, ttl 63, length 84"
    );
    assert_eq!(out["packet"]["text"], line);
    for (words, verdict, reason) in [
        ("--from a --to 10.2.0.10 --ttl 1", "drop", Some("ttl_exceeded")),
        ("--from a --to 10.9.9.9 --udp 53", "drop", Some("no_route")),
        ("--from a --to 10.1.0.1", "local", None),
        ("--from a --to 10.1.0.1 --arp", "local", None),
        ("--from a --to 10.2.0.10 --src-ip 10.1.0.11", "drop", Some("spoofed_ip")),
        ("--from a --to 10.2.0.10 --src-ip 10.2.0.77", "drop", Some("reverse_path")),
        ("--from a --to 10.2.0.10 --length 2000 --df", "drop", Some("exceeds_mtu")),
        ("--from a --hex 0011", "drop", Some("truncated_frame")),
    ] {
        is(&trace(&daemon, words), verdict, reason);
        assert_eq!(reason.map_or(0, |reason| daemon.dropped(reason)), 0, "nothing is counted: {words}");
    }
    let free = trace(&daemon, "--from a --to 10.1.0.11 --src-mac 02:00:00:00:00:99");
    assert!(
        free["steps"].to_string().contains("02:00:00:00:00:99 is new and would be learned here"),
        "{free:#}"
    );
    assert!(daemon.rows("fdb").iter().all(|row| row["mac"] != "02:00:00:00:00:99"));
    // The frame that came out of one trace goes into the next.
    let hex = out["packet"]["hex"].as_str().unwrap();
    is(&trace(&daemon, &format!("--from b --hex {hex}")), "drop", Some("spoofed_mac"));
    let printed = daemon.ctl(&["trace", "--from", "a", "--to", "10.2.0.10", "--tcp", "443"]);
    for line in
        ["Packet: ", "parse   ", "decide  ", "apply   TTL 64 -> 63", "Verdict: forward\n", "  0x0000:  0242"]
    {
        assert!(printed.contains(line), "no {line:?} in {printed}");
    }
    for (words, code, said) in [
        (&["--from", "nobody", "--to", "10.1.0.1"][..], 1, "no container nobody"),
        (
            &["--from", "a", "--interface", "eth7", "--to", "10.1.0.1"],
            1,
            "a has no interface eth7; it has: eth0",
        ),
        (&["--from", "a", "--to", "10.1.0.99"], 1, "nobody is known to have 10.1.0.99"),
        (&["--from", "a"], 2, "required"),
        (&["--from", "a", "--hex", "0g"], 2, "not a hexadecimal digit"),
    ] {
        let output = daemon.try_ctl(&[&["trace"][..], words].concat());
        assert_eq!(output.status.code(), Some(code), "{words:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains(said), "{words:?}: {error}{}", text(&output));
    }
    daemon.assert_conserved();
    daemon.stop();
}

/// `b` is a router with 10.8.0.0/16 behind it, `c` says that it is another network's.
fn routed_prefixes_and_others_sources(host: Host) {
    let route = "[[route]]\nnetwork = \"red\"\ndestination = \"10.8.0.0/16\"\nvia = \"10.2.0.10\"\n";
    let configuration = lab(&host, route);
    let daemon = host.start(&configuration);
    daemon.exec("b", &["ip", "address", "add", "10.8.3.4/32", "dev", "lo"]);
    daemon.exec("b", &["ping", "-c", "1", "-W", "5", "-I", "10.8.3.4", "10.1.0.10"]);
    daemon.exec("a", &["ping", "-c", "1", "-W", "5", "10.8.3.4"]);
    assert_eq!(daemon.dropped("reverse_path"), 0);
    daemon.exec("c", &["ip", "address", "add", "10.2.0.77/32", "dev", "lo"]);
    let spoofed = daemon.try_exec("c", &["ping", "-c", "1", "-W", "1", "-I", "10.2.0.77", "10.2.0.10"]);
    assert!(!spoofed.status.success());
    assert!(daemon.dropped("reverse_path") > 0);
    is(&trace(&daemon, "--from b --to 10.1.0.10 --src-ip 10.8.3.4"), "forward", None);
    is(&trace(&daemon, "--from c --to 10.2.0.10 --src-ip 10.8.3.4"), "drop", Some("reverse_path"));
    daemon.assert_conserved();
    daemon.stop();
}
