//! `egress`: what a container may open connections to, first match, for what is routed or leaves by the uplink.

use std::fmt;

use ipnet::IpNet;
use switch::flow::{FlowKey, Fragment, Packet};
use switch::parse::{PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP};

/// One line: what it is about, and whether that is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Allow or deny.
    pub allow: bool,
    /// Destinations; `None`: all of both families.
    pub to: Option<IpNet>,
    /// Protocol and l4 ports.
    pub what: What,
}

/// What is sent there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// Anything.
    All,
    /// TCP to these l4 ports, first and last.
    Tcp(u16, u16),
    /// UDP to these l4 ports, first and last.
    Udp(u16, u16),
    /// ICMP and ICMPv6.
    Icmp,
}

impl Rule {
    fn matches(&self, key: &FlowKey, later: bool) -> bool {
        // A later fragment has no l4 ports. It is worth nothing without the first one, which has.
        let within = |first, last| later || (first..=last).contains(&key.dport);
        let what = match self.what {
            What::All => true,
            What::Tcp(first, last) => key.proto == PROTO_TCP && within(first, last),
            What::Udp(first, last) => key.proto == PROTO_UDP && within(first, last),
            What::Icmp => matches!(key.proto, PROTO_ICMP | PROTO_ICMPV6),
        };
        what && self.to.is_none_or(|to| to.contains(&key.dst.to_canonical()))
    }
}

/// Whether these rules allow the packet; where none matches it is allowed.
pub fn allows(rules: &[Rule], packet: &Packet) -> bool {
    if packet.meta.fragment != Fragment::Later {
        return allows_key(rules, &packet.key);
    }
    // It may belong to a packet that any of these allows; its first fragment is judged by all of them in turn.
    let mut matching = rules.iter().filter(|rule| rule.matches(&packet.key, true)).peekable();
    matching.peek().is_none() || matching.any(|rule| rule.allow)
}

/// Whether these rules allow a connection.
pub fn allows_key(rules: &[Rule], key: &FlowKey) -> bool {
    rules.iter().find(|rule| rule.matches(key, false)).is_none_or(|rule| rule.allow)
}

/// As the configuration writes it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allow { "allow" } else { "deny" })?;
        if let Some(to) = self.to {
            write!(f, " {to}")?;
        }
        let (name, first, last) = match self.what {
            What::All if self.to.is_some() => return Ok(()),
            What::All => return f.write_str(" all"),
            What::Icmp => return f.write_str(" icmp"),
            What::Tcp(first, last) => ("tcp", first, last),
            What::Udp(first, last) => ("udp", first, last),
        };
        match (first, last) {
            (1, u16::MAX) => write!(f, " {name}"),
            _ if first == last => write!(f, " {name}/{first}"),
            _ => write!(f, " {name}/{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{parse, udp4, udp6};

    fn to(address: &str, proto: u8, dport: u16) -> Packet {
        let address: std::net::IpAddr = address.parse().unwrap();
        let mut packet = parse(&if address.is_ipv4() { udp4(0, &[], &[]) } else { udp6(&[]) });
        packet.key.dst = match address {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            std::net::IpAddr::V6(v6) => v6,
        };
        (packet.key.proto, packet.key.dport) = (proto, dport);
        packet
    }

    fn rule(allow: bool, net: Option<&str>, what: What) -> Rule {
        Rule { allow, to: net.map(|net| net.parse().unwrap()), what }
    }

    #[test]
    fn the_first_match_counts_and_without_one_it_is_allowed() {
        let rules = [
            rule(false, Some("10.9.0.0/16"), What::All),
            rule(true, Some("10.0.0.0/8"), What::Tcp(443, 443)),
            rule(true, None, What::Udp(53, 53)),
            rule(true, Some("fd00::/8"), What::Icmp),
            rule(false, None, What::All),
        ];
        for (address, proto, port, allowed) in [
            ("10.1.2.3", PROTO_TCP, 443, true),
            ("10.1.2.3", PROTO_TCP, 444, false),
            ("10.1.2.3", PROTO_UDP, 443, false),
            ("10.9.2.3", PROTO_TCP, 443, false),
            ("10.9.2.3", PROTO_UDP, 53, false),
            ("192.0.2.1", PROTO_UDP, 53, true),
            ("2001:db8::1", PROTO_UDP, 53, true),
            ("2001:db8::1", PROTO_TCP, 443, false),
            ("fd01::1", PROTO_ICMPV6, 0x8000, true),
            ("10.1.2.3", PROTO_ICMP, 0x0800, false),
            ("10.1.2.3", 132, 443, false),
        ] {
            assert_eq!(allows(&rules, &to(address, proto, port)), allowed, "{address} {proto} {port}");
        }
        assert!(allows(&rules[..4], &to("192.0.2.1", PROTO_TCP, 80)));
        assert!(allows(&[], &to("192.0.2.1", PROTO_TCP, 80)));
    }

    #[test]
    fn a_later_fragment_goes_where_its_first_may_go() {
        let rules = [
            rule(false, None, What::Udp(1, 52)),
            rule(true, None, What::Udp(53, 53)),
            rule(false, None, What::All),
        ];
        let mut packet = to("192.0.2.1", PROTO_UDP, 0);
        packet.meta.fragment = Fragment::Later;
        assert!(allows(&rules, &packet));
        packet.key.proto = PROTO_TCP;
        assert!(!allows(&rules, &packet));
        packet.meta.fragment = Fragment::First;
        (packet.key.proto, packet.key.dport) = (PROTO_UDP, 54);
        assert!(!allows(&rules, &packet));
    }
}
