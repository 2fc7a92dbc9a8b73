//! The states, step by step; and that nobody who does not see a connection can end it.

use proptest::prelude::*;

use super::*;

const FIN_ACK: u8 = FIN | ACK;
const SYN_ACK: u8 = SYN | ACK;
const RST_ACK: u8 = RST | ACK;

/// A connection that is told of its segments.
#[derive(Clone, Debug)]
struct Watched {
    state: State,
    out: Side,
    back: Side,
}

impl Watched {
    fn begin(tcp: &TcpMeta, way: Way) -> Self {
        let Step { state, sender, .. } = begin(tcp, way);
        let none = Side::default();
        let (out, back) = if way == Way::Out { (sender, none) } else { (none, sender) };
        Self { state, out, back }
    }

    /// Whether it was believed.
    fn see(&mut self, tcp: &TcpMeta, way: Way) -> bool {
        let (mine, theirs) = match way {
            Way::Out => (&mut self.out, &mut self.back),
            Way::In => (&mut self.back, &mut self.out),
        };
        let Some(next) = step(self.state, *mine, *theirs, tcp, way) else { return false };
        // As they are kept.
        (self.state, *mine) =
            (State::from_word(next.state.to_word()), Side::from_words(next.sender.to_words()));
        if next.reopens {
            *theirs = Side::default();
        }
        true
    }

    fn stage(&self) -> Stage {
        self.state.stage
    }
}

fn segment(flags: u8, seq: u32, ack: u32, payload: u32) -> TcpMeta {
    // 64000 bytes, and that of a SYN is never scaled.
    let (window, scale) = if flags & SYN == 0 { (500, None) } else { (64_000, Some(7)) };
    TcpMeta { flags, seq, ack, window, payload, scale }
}

/// Two ends, from any numbers on.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    out: u32,
    back: u32,
}

/// After the handshake. The client has sent number `out`, the server `back`; both go on at one more.
fn established(way: Way, Numbers { out, back }: Numbers) -> Watched {
    let (client, server) = if way == Way::Out { (out, back) } else { (back, out) };
    let mut it = Watched::begin(&segment(SYN, client, 0, 0), way);
    assert_eq!(it.stage(), Stage::SynSent);
    assert!(it.see(&segment(SYN_ACK, server, client.wrapping_add(1), 0), way.back()));
    assert_eq!(it.stage(), Stage::SynReceived);
    assert!(it.see(&segment(ACK, client.wrapping_add(1), server.wrapping_add(1), 0), way));
    assert_eq!(it.stage(), Stage::Established);
    it
}

const START: Numbers = Numbers { out: 1000, back: 5000 };

#[test]
fn segments_and_the_stages_that_they_lead_to() {
    use Stage::*;
    use Way::*;
    // Each line: what it is called; then segments (way, flags, seq, ack, payload) and the stage after each.
    type Line = (&'static str, &'static [(Way, u8, u32, u32, u32, Stage)]);
    let lines: &[Line] = &[
        (
            "an ordinary one",
            &[
                (Out, SYN, 1000, 0, 0, SynSent),
                (In, SYN_ACK, 5000, 1001, 0, SynReceived),
                (Out, ACK, 1001, 5001, 0, Established),
                (Out, ACK, 1001, 5001, 100, Established),
                (In, ACK, 5001, 1101, 0, Established),
                (Out, FIN_ACK, 1101, 5001, 0, FinWait),
                (In, ACK, 5001, 1102, 10, FinWait),
                (In, FIN_ACK, 5011, 1102, 0, Closing),
                (Out, ACK, 1102, 5012, 0, Closing),
            ],
        ),
        (
            "a SYN that is sent again",
            &[
                (Out, SYN, 1000, 0, 0, SynSent),
                (Out, SYN, 1000, 0, 0, SynSent),
                (In, SYN_ACK, 5000, 1001, 0, SynReceived),
                (In, SYN_ACK, 5000, 1001, 0, SynReceived),
                (Out, ACK, 1001, 5001, 0, Established),
            ],
        ),
        (
            "simultaneous open: RFC 5382 REQ-2, RFC 9293 figure 8",
            &[
                (Out, SYN, 1000, 0, 0, SynSent),
                (In, SYN, 5000, 0, 0, SynReceived),
                (Out, SYN_ACK, 1000, 5001, 0, SynReceived),
                (In, SYN_ACK, 5000, 1001, 0, SynReceived),
                (Out, ACK, 1001, 5001, 20, Established),
            ],
        ),
        (
            "simultaneous open, of which the SYN from outside comes first",
            &[
                (In, SYN, 5000, 0, 0, SynSent),
                (Out, SYN, 1000, 0, 0, SynReceived),
                (Out, SYN_ACK, 1000, 5001, 0, SynReceived),
                (In, SYN_ACK, 5000, 1001, 0, SynReceived),
                (In, ACK, 5001, 1001, 20, Established),
            ],
        ),
        (
            "data with the SYN (RFC 7413), acknowledged and not",
            &[
                (Out, SYN, 1000, 0, 500, SynSent),
                (In, SYN_ACK, 5000, 1001, 0, SynReceived),
                (Out, ACK, 1001, 5001, 500, Established),
            ],
        ),
        ("refused", &[(Out, SYN, 1000, 0, 0, SynSent), (In, RST_ACK, 0, 1001, 0, Reset)]),
        (
            "refused, and asked again",
            &[
                (Out, SYN, 1000, 0, 0, SynSent),
                (In, RST_ACK, 0, 1001, 0, Reset),
                (Out, SYN, 7000, 0, 0, SynSent),
                (In, SYN_ACK, 9000, 7001, 0, SynReceived),
                (Out, ACK, 7001, 9001, 0, Established),
            ],
        ),
        (
            "the other side has an old one (RFC 9293 figure 10)",
            &[
                (Out, SYN, 1000, 0, 0, SynSent),
                (In, ACK, 80_000, 70_000, 0, SynSent),
                (Out, RST, 70_000, 0, 0, Reset),
                (Out, SYN, 1000, 0, 0, SynSent),
                (In, SYN_ACK, 5000, 1001, 0, SynReceived),
            ],
        ),
        (
            "the same from outside",
            &[
                (In, SYN, 1000, 0, 0, SynSent),
                (Out, ACK, 80_000, 70_000, 0, SynSent),
                (In, RST, 70_000, 0, 0, Reset),
                (In, SYN, 1000, 0, 0, SynSent),
            ],
        ),
        (
            "the other side closes first",
            &[
                (Out, SYN, 1000, 0, 0, SynSent),
                (In, SYN_ACK, 5000, 1001, 0, SynReceived),
                (Out, ACK, 1001, 5001, 0, Established),
                (In, FIN_ACK, 5001, 1001, 0, FinWait),
                (Out, FIN_ACK, 1001, 5002, 0, Closing),
                (Out, SYN, 400_000, 0, 0, SynSent),
            ],
        ),
        (
            "closed by a reset, and gone on with by who had sent it: it was not his",
            &[
                (Out, SYN, 1000, 0, 0, SynSent),
                (In, SYN_ACK, 5000, 1001, 0, SynReceived),
                (Out, ACK, 1001, 5001, 0, Established),
                (In, RST, 5001, 0, 0, Reset),
                (Out, ACK, 1001, 5001, 10, Reset),
                (In, ACK, 5001, 1011, 0, Established),
            ],
        ),
        (
            "a SYN in the middle changes nothing (RFC 5961 section 4: it is answered by an acknowledgment)",
            &[
                (Out, SYN, 1000, 0, 0, SynSent),
                (In, SYN_ACK, 5000, 1001, 0, SynReceived),
                (Out, ACK, 1001, 5001, 0, Established),
                (In, SYN, 123_456, 0, 0, Established),
                (Out, SYN, 654_321, 0, 0, Established),
            ],
        ),
        ("begun before us", &[(Out, ACK, 1000, 5000, 10, PickedUp), (In, ACK, 5000, 1010, 10, Established)]),
        (
            "the last word of an old one, and then a new one",
            &[
                (Out, FIN_ACK, 1000, 5000, 0, PickedUp),
                (Out, SYN, 9000, 0, 0, SynSent),
                (In, SYN_ACK, 3000, 9001, 0, SynReceived),
                (Out, ACK, 9001, 3001, 0, Established),
            ],
        ),
    ];
    for (name, segments) in lines {
        let mut it = None::<Watched>;
        for (at, &(way, flags, seq, ack, payload, expected)) in segments.iter().enumerate() {
            let tcp = segment(flags, seq, ack, payload);
            match &mut it {
                None => it = Some(Watched::begin(&tcp, way)),
                Some(it) => assert!(it.see(&tcp, way), "{name}: segment {at} was not believed"),
            }
            assert_eq!(it.as_ref().map(Watched::stage), Some(expected), "{name}: segment {at}");
        }
    }
}

/// Data is on its way in both directions: 300 bytes out and 700 in.
fn with_data_in_flight(numbers: Numbers) -> Watched {
    let mut it = established(Way::Out, numbers);
    let (out, back) = (numbers.out.wrapping_add(1), numbers.back.wrapping_add(1));
    for (way, seq, ack, payload) in [(Way::Out, out, back, 300), (Way::In, back, out, 700)] {
        assert!(it.see(&segment(ACK, seq, ack, payload), way));
    }
    it
}

#[test]
fn a_reset_is_believed_from_what_is_acknowledged_to_what_was_sent_and_nowhere_else() {
    let it = with_data_in_flight(START);
    for (seq, believed) in [(5000, false), (5001, true), (5400, true), (5701, true), (5702, false)] {
        assert_eq!(it.clone().see(&segment(RST, seq, 0, 0), Way::In), believed, "{seq} from outside");
    }
    for (seq, believed) in [(1000, false), (1001, true), (1301, true), (1302, false)] {
        assert_eq!(
            it.clone().see(&segment(RST_ACK, seq, 5001, 0), Way::Out),
            believed,
            "{seq} from the container"
        );
    }
}

#[test]
fn a_refusal_must_acknowledge_the_syn() {
    let it = Watched::begin(&segment(SYN, 1000, 0, 0), Way::Out);
    for (flags, ack, believed) in
        [(RST, 1001, false), (RST_ACK, 1000, false), (RST_ACK, 1001, true), (RST_ACK, 1002, false)]
    {
        assert_eq!(it.clone().see(&segment(flags, 0, ack, 0), Way::In), believed, "{flags:#x} {ack}");
    }
    // With data it may be acknowledged as far as that goes.
    let it = Watched::begin(&segment(SYN, 1000, 0, 100), Way::Out);
    for (ack, believed) in [(1001, true), (1101, true), (1102, false)] {
        assert_eq!(it.clone().see(&segment(RST_ACK, 0, ack, 0), Way::In), believed, "{ack}");
    }
}

#[test]
fn a_window_counts_with_its_scale_if_both_have_offered_one() {
    // 500 << 7 bytes are 64000.
    let mut it = established(Way::Out, START);
    assert!(it.see(&segment(ACK, 5001, 1001, 60_000), Way::In));
    assert_eq!(it.back.end, 65_001);
    let mut it = established(Way::Out, START);
    assert!(it.see(&segment(ACK, 5001 + 64_000, 1001, 10), Way::In));
    assert_eq!(it.back.end, 5001, "beyond the window");
    let mut it = Watched::begin(&segment(SYN, 1000, 0, 0), Way::Out);
    assert!(it.see(&TcpMeta { scale: None, ..segment(SYN_ACK, 5000, 1001, 0) }, Way::In));
    assert!(it.see(&segment(ACK, 1001, 5001, 0), Way::Out));
    assert!(it.see(&segment(ACK, 5501, 1001, 10), Way::In));
    assert_eq!(it.back.end, 5001, "no scale was agreed upon");
    // RFC 7323 section 2.3.
    let it = Watched::begin(&TcpMeta { scale: Some(255), ..segment(SYN, 1000, 0, 0) }, Way::Out);
    assert_eq!(it.state.scales, [MAX_SCALE, NO_SCALE]);
}

#[test]
fn what_was_picked_up_with_much_on_its_way_is_followed() {
    // After a restart: bulk data from outside, and a window whose scale nobody has told us.
    let bulk = |ack| TcpMeta { window: 4000, ..segment(ACK, 1000, ack, 0) };
    let mut it = Watched::begin(&bulk(5000), Way::Out);
    let mut next = 5000u32;
    for _ in 0..100 {
        for _ in 0..50 {
            assert!(it.see(&segment(ACK, next, 1000, 65_000), Way::In));
            next = next.wrapping_add(65_000);
        }
        assert!(it.see(&bulk(next), Way::Out));
    }
    assert_eq!((it.stage(), it.back.end, it.out.ack), (Stage::Established, next, next));
    assert!(!it.clone().see(&segment(RST, next.wrapping_add(1), 0, 0), Way::In));
    assert!(it.see(&segment(RST, next, 0, 0), Way::In));
}

#[test]
fn a_fin_from_nowhere_does_not_shorten_the_timeout() {
    let it = with_data_in_flight(START);
    // The last two are within the window, and follow nothing that was sent.
    for seq in [0, 4000, 5000, 100_000, 1 << 31, 5702, 6000] {
        let mut it = it.clone();
        assert!(it.see(&segment(FIN_ACK, seq, 1001, 0), Way::In), "the end looks at it for itself");
        assert_eq!(it.stage(), Stage::Established, "{seq}");
    }
    let mut it = it.clone();
    assert!(it.see(&segment(FIN_ACK, 5701, 1301, 0), Way::In));
    assert_eq!(it.stage(), Stage::FinWait);
}

#[test]
fn only_who_has_seen_the_syn_gets_the_long_timeout() {
    let mut it = Watched::begin(&segment(SYN, 1000, 0, 0), Way::In);
    assert!(it.see(&segment(SYN_ACK, 5000, 1001, 0), Way::Out));
    assert!(it.see(&segment(ACK, 1001, 777_777, 0), Way::In));
    assert_eq!(it.stage(), Stage::SynReceived, "an acknowledgment of nothing");
    assert!(it.see(&segment(ACK, 1001, 5001, 0), Way::In));
    assert_eq!(it.stage(), Stage::Established);
}

#[test]
fn a_forged_answer_to_a_syn_leaves_the_right_one_its_place() {
    let mut it = Watched::begin(&segment(SYN, 1000, 0, 0), Way::Out);
    for forged in [
        segment(SYN_ACK, 3_000_000_000, 500_000, 0),
        segment(ACK, 3_000_000_000, 77, 100),
        segment(FIN_ACK, 1, 2, 0),
    ] {
        assert!(it.see(&forged, Way::In));
        assert_eq!(it.stage(), Stage::SynSent);
    }
    assert!(it.see(&segment(SYN_ACK, 5000, 1001, 0), Way::In));
    assert!(it.see(&segment(ACK, 1001, 5001, 0), Way::Out));
    assert_eq!((it.stage(), it.back.end, it.out.ack), (Stage::Established, 5001, 5001));
}

fn numbers() -> impl Strategy<Value = Numbers> {
    // Near the end of what 32 bits count as often as anywhere.
    let number = prop_oneof![any::<u32>(), (0u32..4000).prop_map(|n| n.wrapping_sub(2000))];
    (number.clone(), number).prop_map(|(out, back)| Numbers { out, back })
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![Just(Way::Out), Just(Way::In)]
}

proptest! {
    #[test]
    fn words_say_what_was_put_in(word: u64, sides: [u64; 2], stage in 0u64..7) {
        let state = State::from_word(word & !15 | stage);
        prop_assert_eq!(State::from_word(state.to_word()), state);
        prop_assert_eq!(State::stage_of(state.to_word()), state.stage);
        let side = Side::from_words(sides);
        prop_assert_eq!(Side::from_words(side.to_words()), side);
    }

    #[test]
    fn a_side_is_kept_whole(ack: u32, end: u32, window: u32, acks: bool, sends: bool) {
        let side = Side { ack, end, window, acks, sends };
        prop_assert_eq!(Side::from_words(side.to_words()), side);
    }

    #[test]
    fn a_forged_reset_is_believed_between_what_is_acknowledged_and_what_was_sent(
        numbers in numbers(),
        seq: u32,
        near in -900i32..900,
        exact: bool,
        ack: u32,
        flags: u8,
    ) {
        let mut it = with_data_in_flight(numbers);
        let first = numbers.back.wrapping_add(1);
        let seq = if exact { first.wrapping_add_signed(near) } else { seq };
        let before = it.clone();
        let believed = it.see(&segment(flags | RST, seq, ack, 0), Way::In);
        prop_assert_eq!(believed, seq.wrapping_sub(first) <= 700);
        if !believed {
            prop_assert_eq!(it.state, before.state);
        }
        prop_assert_eq!((it.out, it.back), (before.out, before.back));
    }

    #[test]
    fn forged_data_far_away_widens_nothing_that_is_believed(
        numbers in numbers(),
        forged in proptest::collection::vec((64_000u32..=u32::MAX - 1, any::<u32>(), 0u32..70_000, any::<u8>()), 1..20),
    ) {
        let mut it = with_data_in_flight(numbers);
        let (out, back) = (numbers.out.wrapping_add(1), numbers.back.wrapping_add(1));
        for (far, ack, payload, flags) in forged {
            // Beyond the container's window of 64000, anywhere around; an acknowledgment of what was not sent.
            let ack = if ack.wrapping_sub(out) <= 300 { out.wrapping_add(301) } else { ack };
            it.see(&segment(flags & !RST, back.wrapping_add(far), ack, payload), Way::In);
        }
        prop_assert_eq!(it.stage(), Stage::Established);
        prop_assert_eq!((it.back.end, it.back.ack), (back.wrapping_add(700), out));
        let beyond = it.clone().see(&segment(RST, back.wrapping_add(701), 0, 0), Way::In);
        prop_assert!(!beyond);
        prop_assert!(it.see(&segment(RST, back.wrapping_add(700), 0, 0), Way::In));
    }

    #[test]
    fn a_syn_changes_nothing_that_is_established(numbers in numbers(), seq: u32, ack: u32, way in way(), acks: bool) {
        let mut it = with_data_in_flight(numbers);
        let flags = if acks { SYN_ACK } else { SYN };
        prop_assert!(it.see(&segment(flags, seq, ack, 0), way));
        prop_assert_eq!(it.stage(), Stage::Established);
    }

    #[test]
    fn an_honest_connection_is_followed_and_its_reset_believed(
        numbers in numbers(),
        opens in way(),
        steps in proptest::collection::vec((way(), 0u32..60_000, any::<bool>()), 0..60),
        ends in way(),
    ) {
        let mut it = established(opens, numbers);
        // Of each side: what it has sent, and what it has of the other.
        let (mut sent, mut got) = ([numbers.out.wrapping_add(1), numbers.back.wrapping_add(1)], [0u32; 2]);
        (got[0], got[1]) = (sent[1], sent[0]);
        for (way, bytes, hears) in steps {
            let me = usize::from(way == Way::In);
            if hears {
                got[me] = sent[1 - me];
            }
            // As much as the other side's window of 64000 takes.
            let room = 64_000 - sent[me].wrapping_sub(got[1 - me]).min(64_000);
            let bytes = bytes.min(room);
            prop_assert!(it.see(&segment(ACK, sent[me], got[me], bytes), way));
            sent[me] = sent[me].wrapping_add(bytes);
        }
        prop_assert_eq!(it.stage(), Stage::Established);
        prop_assert_eq!((it.out.end, it.back.end), (sent[0], sent[1]));
        let me = usize::from(ends == Way::In);
        prop_assert!(it.see(&segment(RST_ACK, sent[me], got[me], 0), ends));
        prop_assert_eq!(it.stage(), Stage::Reset);
    }

    #[test]
    fn nothing_that_comes_panics(segments in proptest::collection::vec((way(), any::<u8>(), any::<[u32; 3]>(), any::<u16>(), any::<Option<u8>>()), 1..40)) {
        let mut it = None::<Watched>;
        for (way, flags, [seq, ack, payload], window, scale) in segments {
            let tcp = TcpMeta { flags, seq, ack, window, payload, scale };
            match &mut it {
                None => it = Some(Watched::begin(&tcp, way)),
                Some(it) => { it.see(&tcp, way); }
            }
        }
    }
}
