//! `trace` across hosts: what it says is what a packet then meets.

use serde_json::Value;

use super::Lab;
use super::hosts::Wanted;
use crate::as_both;
use crate::harness::{Daemon, Host, run, wait_for};

as_both!(a_trace_says_which_host);

fn trace(daemon: &Daemon, words: &str) -> Value {
    let mut line = vec!["--json", "trace"];
    line.extend(words.split(' '));
    serde_json::from_str(&daemon.ctl(&line)).unwrap()
}

/// Whether one of its lines has these words.
fn says(row: &Value, words: &str) -> bool {
    let steps = row["steps"].as_array().into_iter().flatten();
    let mut lines = steps.flat_map(|step| step["lines"].as_array().into_iter().flatten());
    lines.any(|line| line.as_str().is_some_and(|line| line.contains(words)))
}

#[track_caller]
fn is(row: &Value, verdict: &str, reason: Option<&str>, words: &str) {
    assert_eq!((row["verdict"].as_str(), row["reason"].as_str()), (Some(verdict), reason), "{row:#}");
    assert!(says(row, words), "no {words:?} in {row:#}");
}

fn a_trace_says_which_host(host: Host) {
    let lab = Lab::new(host, 2, false, &Wanted::default());
    let [one, two] = &lab.daemons[..] else { panic!("two daemons") };
    let to = "--from c --to 10.1.0.12 --dst-mac 02:42:0a:01:00:0c";
    let nobody = "--from c --to 10.1.0.12 --dst-mac 02:42:0a:01:00:63";
    is(&trace(one, nobody), "flood", None, "on other hosts to 198.18.1.2");
    one.ping("c", "10.1.0.12");
    let row = trace(one, to);
    is(&row, "forward", None, "is behind host 198.18.1.2 (port 4095): learned from there");
    assert!(says(&row, "VXLAN of VNI 100, 198.18.1.1 > 198.18.1.2:4789: one packet of 134 bytes"), "{row:#}");
    let there = &row["out"][0]["ports"][0];
    assert_eq!((&there["container"], &there["iface"]), (&"-vtep".into(), &"198.18.1.2".into()));
    assert_eq!((&there["tunnel"]["told"], &there["tunnel"]["datagrams"]), (&"peer".into(), &1.into()));
    // The frame that leaves here arrives there.
    let hex = row["out"][0]["packet"]["hex"].as_str().unwrap();
    let came = trace(two, &format!("--vtep 198.18.1.1 --hex {hex}"));
    is(&came, "forward", None, "198.18.1.1 is on blue: `peers` names it");
    assert_eq!(came["out"][0]["ports"][0]["container"], "c");
    // And what is not believed.
    for (words, reason, said) in [
        (format!("--vtep 198.18.1.7 --hex {hex}"), "vxlan_unknown_vtep", "known on VNI 100: 198.18.1.1"),
        (format!("--vtep 198.18.1.1 --vni 7 --hex {hex}"), "vxlan_unknown_vni", "VXLAN of VNI 7"),
        (
            "--vtep 198.18.1.1 --to 10.1.0.12 --src-ip 10.1.0.99 --src-mac 02:42:0a:01:00:0c".to_owned(),
            "spoofed_mac",
            "02:42:0a:01:00:0c was given to c eth0",
        ),
    ] {
        is(&trace(two, &words), "drop", Some(reason), said);
        assert_eq!(two.dropped(reason), 0, "nothing is counted");
    }
    let netns = one.host.before[1].strip_prefix("--net=/run/netns/").unwrap().to_owned();
    run("ip", &["-n", &netns, "route", "add", "198.18.1.2", "dev", "u0", "mtu", "1300"]);
    wait_for("the path to be known", || {
        one.try_exec("c", &["ping", "-n", "-M", "do", "-c", "1", "-W", "1", "-s", "1400", "10.1.0.12"]);
        (super::vtep(one, "198.18.1.2")["mtu"] == 1250).then_some(())
    });
    let long = trace(one, &format!("{to} --length 1400 --df"));
    is(&long, "drop", Some("too_big"), "the way to 198.18.1.2 takes IP packets of 1250 bytes");
    let unknown = one.try_ctl(&["trace", "--vtep", "198.18.1.2", "--to", "10.1.0.11"]);
    let error = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(error.contains("say src_ip"), "{error}");
    lab.stop();
}
