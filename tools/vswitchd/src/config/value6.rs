//! Single values of IPv6, and those that are of either family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::problem::Problem;
use super::value;

/// Least MTU of a network with IPv6, bytes (RFC 8200 section 5).
pub(super) const MTU_MIN: u16 = 1280;

/// An IPv6 prefix that hosts can be in.
pub(super) fn subnet6(text: &str) -> Result<Ipv6Net, Problem> {
    let subnet = prefix("subnet6", text, 64)?;
    let refuse = |why: String| Err(Problem::invalid("subnet6", text, why));
    for (special, use_of) in [
        // RFC 4291 section 2.5.2 to 2.5.5: unspecified, loopback, v4-mapped.
        ("::/8", "loopback, IPv4-mapped and other special addresses"),
        ("fe80::/10", "link-local addresses, which every interface has by itself"),
        ("ff00::/8", "multicast"),
    ] {
        if special.parse::<Ipv6Net>().is_ok_and(|special| overlap(&special, &subnet)) {
            return refuse(format!("it meets {special}, which is for {use_of}: try \"fd00:1::/64\""));
        }
    }
    match subnet.prefix_len() {
        // The usual site has a /48 (RFC 6177 section 2); what is shorter takes in the addresses of others.
        ..32 => {
            let near =
                Ipv6Net::new(subnet.addr(), 64).map_or_else(|_| "fd00:1::/64".into(), |n| n.to_string());
            refuse(format!("one network is not that large: the shortest prefix is /32, the usual \"{near}\""))
        }
        128 => refuse("one address is no network: the longest prefix is /127 (RFC 6164)".into()),
        _ => Ok(subnet),
    }
}

/// Whether a network with `subnet6` can have this MTU.
pub(super) fn mtu6(mtu: u16) -> Result<(), Problem> {
    if mtu >= MTU_MIN {
        return Ok(());
    }
    Err(Problem::Invalid {
        key: "mtu",
        found: mtu.to_string(),
        why: "a network with `subnet6` needs 1280 or more (RFC 8200 section 5), or the kernel takes IPv6 off its \
              interfaces"
            .into(),
    })
}

/// What a route can lead to, of either family.
pub(super) fn destination(text: &str) -> Result<IpNet, Problem> {
    if !text.contains(':') {
        return value::destination(text).map(IpNet::V4);
    }
    let destination = prefix("destination", text, 128)?;
    for (special, use_of) in [
        ("::/127", "loopback and unspecified"),
        ("::ffff:0:0/96", "IPv4 in another spelling: write it as IPv4"),
        ("fe80::/10", "link-local addresses, which are never routed"),
        ("ff00::/8", "multicast"),
    ] {
        if special.parse::<Ipv6Net>().is_ok_and(|special| special.contains(&destination)) {
            let why = format!("it is in {special}, which is for {use_of}");
            return Err(Problem::invalid("destination", text, why));
        }
    }
    Ok(IpNet::V6(destination))
}

// An IPv6 prefix without host bits; `usual` is the length that an address alone probably stands for.
fn prefix(key: &'static str, text: &str, usual: u8) -> Result<Ipv6Net, Problem> {
    let refuse = |why: String| Err(Problem::invalid(key, text, why));
    let Ok(prefix) = text.parse::<Ipv6Net>() else {
        return if text.parse::<Ipv4Net>().is_ok() || text.parse::<Ipv4Addr>().is_ok() {
            refuse(format!("`{key}` is an IPv6 prefix; the IPv4 one is `subnet = \"{text}\"`"))
        } else if let Ok(address) = text.parse::<Ipv6Addr>() {
            let near = Ipv6Net::new(address, usual).map_or(address, |net| net.network());
            refuse(format!("it lacks a prefix length: \"{near}/{usual}\""))
        } else {
            refuse("an IPv6 prefix is an address and a length up to 128: \"fd00:1::/64\"".into())
        };
    };
    if prefix != prefix.trunc() {
        return refuse(format!("host bits are set: did you mean \"{}\"?", prefix.trunc()));
    }
    Ok(prefix)
}

fn overlap(one: &Ipv6Net, other: &Ipv6Net) -> bool {
    one.contains(other) || other.contains(one)
}

/// An IPv6 address that one host can have; `key` is `ip6` or `gateway6`.
pub(super) fn address6(key: &'static str, text: &str) -> Result<Ipv6Addr, Problem> {
    let refuse = |why: String| Err(Problem::invalid(key, text, why));
    let Ok(address) = text.parse::<Ipv6Addr>() else {
        return if text.parse::<Ipv4Addr>().is_ok() || text.parse::<Ipv4Net>().is_ok() {
            refuse(format!("it is IPv4: that is `{} = \"{text}\"`", key.trim_end_matches('6')))
        } else if let Ok(prefix) = text.parse::<Ipv6Net>() {
            refuse(format!("the prefix length is the network's: \"{}\"", prefix.addr()))
        } else {
            refuse("an IPv6 address is groups of hexadecimal digits: \"fd00:1::10\"".into())
        };
    };
    if let Some(v4) = address.to_ipv4_mapped() {
        // RFC 6890 table 20.
        return refuse(format!(
            "it is IPv4 in another spelling: that is `{} = \"{v4}\"`",
            key.trim_end_matches('6')
        ));
    }
    if address.is_multicast() {
        return refuse("it is a multicast address, which no host has for itself".into());
    }
    if address.is_unicast_link_local() {
        return refuse("it is link-local: every interface has such an address by itself".into());
    }
    if address.is_unspecified() || address.is_loopback() {
        return refuse("it is no address of a host in a network".into());
    }
    Ok(address)
}

/// An address of either family that one host can have; `key` is `via` or `ip`.
pub(super) fn either(key: &'static str, text: &str) -> Result<IpAddr, Problem> {
    if text.contains(':') {
        return address6(key, text).map(IpAddr::V6);
    }
    value::address(key, text).map(IpAddr::V4)
}
