//! A container's root filters its own interface with XDP, which runs within our writes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::harness::{As, Daemon, Host, PYTHON, Train, text, wait_for};
use crate::traffic::Stream;
use crate::{as_both, on_other_engine};

as_both!(a_filter_of_its_own_costs_nobody_else);
on_other_engine!(a_filter_of_its_own_costs_nobody_else);

const PROGRAM: &str = include_str!("xdp.py");
const DROP: &str = "1";
/// Back to where it came from.
const BOUNCE: &str = "3";

/// A program on `a`'s interface, until this is dropped; `None`: the host lets no container have one.
struct Filter(Child);

impl Filter {
    #[track_caller]
    fn start(daemon: &Daemon, verdict: &str) -> Option<Self> {
        let mut command = daemon.exec_command("a", &[PYTHON, "-c", PROGRAM, "eth0", verdict]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let filter = Self(child);
        match said.trim() {
            "on" => Some(filter),
            said => {
                assert_eq!(said, "EPERM");
                None
            }
        }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn a_filter_of_its_own_costs_nobody_else(host: Host) {
    let configuration = host.lab(&["a", "b", "c"], "");
    let user = host.who == As::User;
    let daemon = host.start(&configuration);
    let train = Train::start(&daemon, "b", "10.1.0.4");
    daemon.ping("b", "a");
    for verdict in [DROP, BOUNCE] {
        let Some(filter) = Filter::start(&daemon, verdict) else {
            assert!(user, "root may");
            break;
        };
        let spoofed = daemon.dropped("spoofed_mac");
        let output = daemon.try_exec("b", &["ping", "-n", "-c", "3", "-i", "0.1", "-W", "1", "10.1.0.2"]);
        assert!(text(&output).contains("100% packet loss"), "{}", text(&output));
        if verdict == BOUNCE {
            // They come back with the MAC of who sent them.
            wait_for("what came back", || (daemon.dropped("spoofed_mac") >= spoofed + 3).then_some(()));
        }
        assert_eq!(daemon.state("a"), "up");
        drop(filter);
        daemon.ping("b", "a");
    }
    // As fast as ever, super-frames and all.
    let bytes = Stream::start(&daemon, "b", "a", "10.1.0.2", 32).finish();
    assert!(bytes >= 32 << 20, "{bytes}");
    train.assert_lost_nothing();
    daemon.assert_conserved();
    daemon.stop();
}
