//! H27: who opens all that can be opened, and who opens something meanwhile.

use super::{A, FAR, Place, Stage, US};
use crate::harness::{Host, resident};

crate::as_both!(who_opens_everything_leaves_the_others_their_share);
crate::by_two_workers!(who_opens_everything_leaves_the_others_their_share);

fn who_opens_everything_leaves_the_others_their_share(host: Host) {
    let mut stage = Stage::new(host);
    let memory = resident(stage.engine);
    let floods = [
        (Place::Inside, format!("syns 192.0.2.1 9 100000 02420a010001 02420a010002 {A}")),
        (Place::Inside, format!("sources 192.0.2.1 70000 02420a010001 02420a010002 {A}")),
        (Place::Outside, format!("strangers {US} 8080 100000 0242c612000a 0242c6120001 198.18.1.0")),
    ];
    for (by, words) in floods {
        // Four flows each time: TCP and UDP, of both families.
        stage.neighbor.tell("open 50");
        stage.flood(by, &words);
        assert_eq!(stage.neighbor.line(), "0", "of the neighbour's flows failed: {words}");
        stage.check();
    }
    // A container has no more than its share of l4 ports.
    let drops = stage.drops();
    assert!(drops["nat_quota"] > 20_000, "{drops:?}");
    let grown = resident(stage.engine).saturating_sub(memory);
    assert!(grown < 256 << 20, "the engine grew by {grown} bytes");
    // Its own flows go on: what it has it may use.
    stage.daemon.ping("a", FAR);
    stage.unharmed();
}
