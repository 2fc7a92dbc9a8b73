//! What waits against a list; and that nobody waits at another's cost.

use proptest::prelude::*;
use switch::flow::{self, Body, Csum, FlowKey, Gso, L3, Meta};
use switch::mac::MacAddr;

use super::*;

/// A fragment of packet `id` that came by `port`.
pub(crate) fn fragment(id: u32, port: u16, fragment: flow::Fragment) -> Packet {
    let meta = Meta {
        port: PortId(port),
        dst: MacAddr([2; 6]),
        src: MacAddr([6; 6]),
        vid: 0,
        vlan: None,
        inner_vlan: None,
        ethertype: 0x0800,
        l3: L3::V4,
        l3_off: 14,
        l4_off: 34,
        headers_len: 34,
        frame_len: 64,
        l3_end: 64,
        ttl: 64,
        tos: 0,
        df: false,
        fragment,
        fragment_id: id,
        gso: Gso::None,
        csum: Csum::Full,
        tcp: None,
        body: Body::None,
    };
    Packet { key: FlowKey { zone: port, ..FlowKey::NONE }, meta }
}

fn later(id: u32, port: u16) -> Packet {
    fragment(id, port, flow::Fragment::Later)
}

#[test]
fn they_go_on_in_the_order_in_which_they_came() {
    let mut waiting = Waiting::default();
    for byte in 0..4 {
        assert!(waiting.keep(&later(7, 1), &[byte; 100], Tick::from_millis(0)));
        assert!(waiting.keep(&later(8, 1), &[9; 100], Tick::from_millis(0)));
    }
    assert_eq!(waiting.next_ready(), None);
    waiting.first_came(&later(7, 1));
    for byte in 0..4 {
        assert_eq!(waiting.next_ready(), Some((PortId(1), &[byte; 100][..])));
    }
    assert_eq!(waiting.next_ready(), None);
    assert!(!waiting.is_empty());
}

#[test]
fn a_port_has_its_share_and_no_more() {
    let mut waiting = Waiting::default();
    let kept = |waiting: &mut Waiting, port, len| {
        (0..2000)
            .take_while(|id| waiting.keep(&later(*id, port), &vec![1; len], Tick::from_millis(0)))
            .count()
    };
    for port in 0..4 {
        assert_eq!(kept(&mut waiting, port, 1500), BYTES / 4 / 1536, "port {port}");
    }
    assert_eq!(kept(&mut Waiting::default(), 1, 60), SHARE);
    assert!(!Waiting::default().keep(&later(1, 1), &vec![1; BYTES / 4 + 1], Tick::from_millis(0)));
    assert!(!Waiting::default().keep(&later(1, 1), &[], Tick::from_millis(0)));
}

#[test]
fn one_that_waits_takes_nothing_from_those_that_do_not() {
    let mut waiting = Waiting::default();
    assert!(waiting.keep(&later(0, 1), &[1; 1500], Tick::from_millis(0)));
    for id in 1..2000 {
        assert!(waiting.keep(&later(id, 2), &[2; 1500], Tick::from_millis(1)), "{id}");
        waiting.first_came(&later(id, 2));
        assert_eq!(waiting.next_ready(), Some((PortId(2), &[2; 1500][..])));
    }
}

#[test]
fn who_waited_too_long_is_named() {
    let mut waiting = Waiting::default();
    let at = Tick::from_millis;
    assert_eq!(waiting.deadline(), None);
    assert!(waiting.keep(&later(1, 1), &[1], at(100)));
    assert!(waiting.keep(&later(2, 2), &[2], at(300)));
    assert_eq!(waiting.deadline(), Some(at(2100)));
    assert_eq!(waiting.overdue(at(2099)), None);
    assert_eq!(waiting.overdue(at(2100)), Some(PortId(1)));
    assert_eq!(waiting.overdue(at(2100)), None);
    assert_eq!(waiting.deadline(), Some(at(2300)));
    assert!(waiting.forget(PortId(2)));
    assert!(!waiting.forget(PortId(2)));
    assert!(waiting.is_empty());
    assert_eq!(waiting.deadline(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Keep(u32, u16, usize),
    First(u32, u16),
    Ready,
    Pass(u64),
    Forget(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u32..6, 0u16..6, 1usize..9000).prop_map(|(id, port, len)| Step::Keep(id, port, len)),
        2 => (0u32..6, 0u16..6).prop_map(|(id, port)| Step::First(id, port)),
        3 => Just(Step::Ready),
        1 => (0u64..900).prop_map(Step::Pass),
        1 => (0u16..6).prop_map(Step::Forget),
    ]
}

proptest! {
    #[test]
    fn what_waits_is_a_list(steps in proptest::collection::vec(step(), 1..200)) {
        let mut waiting = Waiting::default();
        // Packet, port, bytes, since when, ready.
        let mut list: Vec<(u32, u16, Vec<u8>, u64, bool)> = Vec::new();
        let mut now = 0;
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Keep(id, port, len) => {
                    let bytes = vec![at as u8; len];
                    let has: usize = list.iter().filter(|it| it.1 == port).map(|it| it.2.len().div_ceil(BLOCK)).sum();
                    let kept = waiting.keep(&later(id, port), &bytes, Tick::from_millis(now));
                    prop_assert!(!kept || has + len.div_ceil(BLOCK) <= SHARE);
                    // With no more than what three ports may have, there is room in any case.
                    let all: usize = list.iter().map(|it| it.2.len().div_ceil(BLOCK)).sum();
                    prop_assert!(kept || has + len.div_ceil(BLOCK) > SHARE || all > SHARE);
                    if kept {
                        list.push((id, port, bytes, now, false));
                    }
                }
                Step::First(id, port) => {
                    waiting.first_came(&later(id, port));
                    list.iter_mut().filter(|it| (it.0, it.1) == (id, port)).for_each(|it| it.4 = true);
                }
                Step::Ready => {
                    let expected = list.iter().position(|it| it.4).map(|at| list.remove(at));
                    let expected = expected.as_ref().map(|it| (PortId(it.1), &it.2[..]));
                    prop_assert_eq!(waiting.next_ready(), expected);
                }
                Step::Pass(millis) => {
                    now += millis;
                    while let Some(port) = waiting.overdue(Tick::from_millis(now)) {
                        let late = list.iter().position(|it| now - it.3 >= PATIENCE);
                        prop_assert_eq!(late.map(|at| list.remove(at).1), Some(port.0));
                    }
                    prop_assert!(list.iter().all(|it| now - it.3 < PATIENCE));
                }
                Step::Forget(port) => {
                    while waiting.forget(PortId(port)) {}
                    list.retain(|it| it.1 != port);
                }
            }
            prop_assert_eq!(waiting.is_empty(), list.is_empty());
            let oldest = list.iter().find(|it| !it.4).map(|it| Tick::from_millis(it.3 + PATIENCE));
            prop_assert_eq!(waiting.deadline(), oldest);
            let blocks: usize = list.iter().map(|it| it.2.len().div_ceil(BLOCK)).sum();
            prop_assert_eq!(waiting.used.iter().filter(|used| **used).count(), blocks);
        }
    }
}
