//! Multicast between hosts, with `snooping`: who listens is known of other hosts as well.

use super::hosts::Wanted;
use super::{Lab, vtep};
use crate::as_both;
use crate::groups::{GROUP, GROUP6, Member, NEEDLE, PROGRAM, known};
use crate::harness::{Host, PYTHON, wait_for};
use crate::wire::{Listener, hex};

as_both!(who_joins_on_another_host_gets_it_and_nobody_else);

fn who_joins_on_another_host_gets_it_and_nobody_else(host: Host) {
    let lab = Lab::new(host, 3, false, &Wanted { network: "snooping = true\n", ..Wanted::default() });
    let [one, two, three] = &lab.daemons[..] else { panic!("three daemons") };
    let member = Member::join(two, "c", &[GROUP, GROUP6]);
    let there = lab.underlay.address(2);
    for group in [GROUP, GROUP6] {
        // Host 2 has a member, and the first host knows behind which host that is.
        wait_for("the member", || (known(two, group, "member") == ["c"]).then_some(()));
        wait_for("the member, from afar", || {
            let rows = one.rows("groups").into_iter();
            let mut rows = rows.filter(|row| row["group"] == group && row["type"] == "member");
            rows.any(|row| row["iface"] == there.as_str()).then_some(())
        });
        wait_for("answers", || {
            let line = ["trace", "--from", "c", "--to", group, "--udp", "5000"];
            one.ctl(&line).contains("to those who listen").then_some(())
        });
        let frames = |to: u8| vtep(one, &lab.underlay.address(to))["tx_frames"].as_u64().unwrap();
        let before = [frames(2), frames(3)];
        let listeners = [two, three].map(|it| Listener::start(it, "c", NEEDLE));
        one.exec("c", &[PYTHON, "-c", PROGRAM, "send", "10", &hex(NEEDLE), group]);
        wait_for("ten datagrams", || (frames(2) >= before[0] + 10).then_some(()));
        lab.daemons.iter().for_each(|daemon| daemon.assert_conserved());
        assert_eq!(listeners.map(|it| it.heard().len()), [10, 0], "{group}");
        // Nor are they carried to a host where nobody listens: a query or report may have gone there meanwhile.
        assert!(frames(3) < before[1] + 10, "{group}: {} frames", frames(3) - before[1]);
    }
    // And when he leaves it ends.
    member.end();
    wait_for("nobody to listen", || {
        let all = one.rows("groups");
        let mut rows = all.iter().filter(|row| row["group"] == GROUP && row["type"] == "member");
        rows.next().is_none().then_some(())
    });
    lab.stop();
}
