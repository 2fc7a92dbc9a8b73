//! `[limits]` and `[timeouts]`: most of it is about what an uplink translates that takes packets.

use super::model::{Daemon, Uplink};
use super::outside::{Limits, Timeouts};
use super::problem::Problem;
use super::report::Reporter;
use super::schema::Section;
use super::uplink::{RawOutside, word};
use super::value::Bounds;

/// Keys of `[limits]` that are about what is translated.
const OF_CONNECTIONS: [&str; 5] =
    ["connections", "connections_per_container", "mappings", "mappings_per_container", "fragments"];

/// `[limits]`.
pub(super) fn limits(
    section: &Section<'_>,
    settings: &mut Daemon,
    outside: Option<&mut RawOutside>,
    reporter: &mut Reporter<'_>,
) {
    let mut limits = Limits::default();
    let bounds = |key, low, high, why| Bounds { key, low, high, why };
    let errors = &mut settings.icmp_errors;
    let second = "ICMP errors a second; 0: none";
    numbers(
        section,
        [
            (bounds("icmp_errors", 0, 1_000_000, second), &mut errors.all),
            (bounds("icmp_errors_per_container", 0, 1_000_000, second), &mut errors.per_container),
        ],
        reporter,
    );
    let connections = "connections, all of them held in memory";
    let mappings = "an address has 64512 l4 ports for each protocol that are not reserved";
    numbers(
        section,
        [
            (bounds("connections", 64, 1 << 22, connections), &mut limits.connections),
            (
                bounds("connections_per_container", 0, 1 << 22, "0: as many as leave room for others"),
                &mut limits.connections_per_container,
            ),
            (bounds("mappings", 64, 64_000, mappings), &mut limits.mappings),
            (bounds("mappings_per_container", 1, 64_000, mappings), &mut limits.mappings_per_container),
            (bounds("fragments", 16, 1 << 16, "packets whose fragments are followed"), &mut limits.fragments),
        ],
        reporter,
    );
    match outside {
        Some(raw) => raw.outside.limits = limits,
        // A wrong uplink has been reported.
        None if settings.uplink.takes_packets() => {}
        None => {
            for key in OF_CONNECTIONS {
                if let Some(span) = section.place(key) {
                    let (kinds, kind) = (&["tap", "nic"][..], word(settings.uplink));
                    reporter.add(&span, || Problem::OtherKind { key, kinds, kind });
                }
            }
        }
    }
}

/// `[timeouts]`.
pub(super) fn timeouts(
    section: &Section<'_>,
    kind: Uplink,
    outside: Option<&mut RawOutside>,
    reporter: &mut Reporter<'_>,
) {
    let mut timeouts = Timeouts::default();
    let seconds = |key, low, why| Bounds { key, low, high: 1_000_000, why };
    numbers(
        section,
        [
            (seconds("udp", 120, "seconds (RFC 4787 REQ-5: not less than two minutes)"), &mut timeouts.udp),
            (
                seconds("tcp_established", 7440, "seconds (RFC 5382 REQ-5: not less than 2 hours 4 minutes)"),
                &mut timeouts.tcp_established,
            ),
            (
                seconds("tcp_transitory", 240, "seconds (RFC 5382 REQ-5: not less than 4 minutes)"),
                &mut timeouts.tcp_transitory,
            ),
            (seconds("icmp", 60, "seconds (RFC 5508 REQ-2: not less than 60)"), &mut timeouts.icmp),
            (seconds("others", 60, "seconds; the usual is 300"), &mut timeouts.others),
        ],
        reporter,
    );
    match outside {
        Some(raw) => raw.outside.timeouts = timeouts,
        None => without_effect("[timeouts]", section, kind, reporter),
    }
}

fn numbers<const N: usize>(
    section: &Section<'_>,
    keys: [(Bounds, &mut u32); N],
    reporter: &mut Reporter<'_>,
) {
    for (bounds, field) in keys {
        if let Some(at) = section.number(bounds.key)
            && let Some(number) = reporter.check(&at.span, bounds.check(&at.value))
        {
            *field = number;
        }
    }
}

fn without_effect(what: &'static str, section: &Section<'_>, kind: Uplink, reporter: &mut Reporter<'_>) {
    // A wrong uplink has been reported.
    if !kind.takes_packets() {
        reporter.add(&section.span, || Problem::OtherKind {
            key: what,
            kinds: &["tap", "nic"],
            kind: word(kind),
        });
    }
}
