//! What holds for any bytes given as a configuration: of the corpus and of the fuzz target alike.

#![allow(clippy::panic, clippy::unwrap_used, reason = "the lints know `#[test]`, not what it calls")]

#[path = "overlaid.rs"]
mod overlaid;

use std::collections::HashSet;

use vswitchd::config::{Config, ConfigErrors, Context, Family, HOST, MAX_ERRORS, Paths, diff, parse_with};

/// Paths that no machine has.
fn context(previous: Option<&Config>) -> Context<'_> {
    let paths = Paths { control: "/test/control.sock".into(), state: "/test/state".into() };
    Context { paths, previous, memory: None }
}

/// Parses, and panics where the result is not one to work with. `name` is what messages call the text.
pub fn check(name: &str, text: &[u8]) -> Result<Config, ConfigErrors> {
    let result = parse_with(name, text, &context(None));
    match &result {
        Ok(config) => sound(name, text, config),
        Err(errors) => precise(name, text, errors),
    }
    result
}

/// What `text` means while `old` runs is as sound as what it means alone (`fresh`): the same things, and no interface
/// that stays without an address of its own choice moves.
#[allow(dead_code, reason = "the corpus is of single files")]
pub fn reload(text: &[u8], old: &Config, fresh: &Config) {
    // A file may leave addresses open that are all taken now, so that it can be right alone and not after another.
    let Ok(new) = parse_with("reload.toml", text, &context(Some(old))) else { return };
    unique(&new);
    let names = |config: &Config| -> Vec<String> {
        config.interfaces().map(|(c, i)| format!("{} {} {}", c.name, i.name, i.network)).collect()
    };
    assert_eq!(names(&new), names(fresh));
    let (forth, back) = (diff(old, &new), diff(&new, old));
    assert_eq!(forth.is_empty(), back.is_empty());
    assert_eq!(forth.interfaces_added.len(), back.interfaces_removed.len());
    let again = parse_with("reload.toml", text, &context(Some(&new)));
    assert_eq!(again.as_ref(), Ok(&new), "a reload of what runs already");
}

/// A valid configuration: each thing is there once, it can be shown, and a reload of the same text changes nothing.
fn sound(name: &str, text: &[u8], config: &Config) {
    unique(config);
    let itself = diff(config, config);
    assert!(itself.is_empty(), "{itself:?}");
    let shown = serde_json::to_value(config).unwrap();
    assert_eq!(shown["networks"].as_array().map(Vec::len), Some(config.networks.len()));
    let again = parse_with(name, text, &context(Some(config)));
    assert_eq!(again.as_ref(), Ok(config), "a reload of the same text");
    assert_eq!(parse_with(name, text, &context(None)).as_ref(), Ok(config), "the same text once more");
}

/// Each name, address and MAC is there once, and where it may be.
fn unique(config: &Config) {
    let mut taken = HashSet::new();
    let host = config.host();
    let legs = host.iter().flat_map(|host| host.interfaces.iter().map(move |leg| (host, leg)));
    for (container, interface) in config.interfaces().chain(legs) {
        let network = config.network(&interface.network).unwrap();
        assert!(taken.insert(format!("name {} {}", container.netns.key(), interface.name)));
        assert!(taken.insert(format!("mac {} {}", network.name, interface.mac)));
        assert!(!interface.mac.is_group() && interface.mac.to_u64() != 0);
        // The host's leg has IPv4 only.
        for family in
            Family::BOTH.into_iter().filter(|family| container.name != HOST || *family == Family::V4)
        {
            assert_eq!(interface.ip_of(family).is_some(), network.subnet_of(family).is_some());
        }
        for (ip, subnet) in interface.ips().zip(network.subnets()) {
            assert!(taken.insert(format!("ip {} {}", network.name, ip.addr())));
            assert!(subnet.contains(&ip.addr()) && ip.prefix_len() == subnet.prefix_len());
        }
        let is_gateway = |gateway| interface.ips().any(|ip| ip.addr() == gateway);
        assert!(network.reserved_macs().all(|(mac, gateway)| mac != interface.mac || is_gateway(gateway)));
    }
    one_plan_a_zone(config);
    overlaid::overlaid(config, &mut taken);
}

/// Networks that are connected have no address in common, and nothing leads out of a zone.
fn one_plan_a_zone(config: &Config) {
    let indices = config.zone_indices();
    for zone in config.zones() {
        let subnets: Vec<_> = zone.iter().flat_map(|network| network.subnets()).collect();
        assert!(zone.len() == 1 || zone.iter().all(|network| network.subnets().next().is_some()));
        for (place, one) in subnets.iter().enumerate() {
            assert!(subnets[place + 1..].iter().all(|other| !one.contains(other) && !other.contains(one)));
        }
        let mut to = zone.iter().flat_map(|from| config.destinations(from));
        assert!(to.all(|to| !to.internal && indices[to.name.as_str()] == indices[zone[0].name.as_str()]));
    }
    for route in &config.routes {
        let network = config.network(&route.network).unwrap();
        let family = Family::of(route.destination.addr());
        assert!(network.is_routed() && !route.via.is_empty());
        for via in &route.via {
            assert!(network.subnet_of(family).unwrap().contains(via));
            assert!(network.reserved_of(family) != Some(*via));
        }
        assert!(route.mtu.is_none_or(|mtu| mtu <= network.mtu));
    }
}

/// Errors: there are some and not too many, each points into the text and begins with one line.
fn precise(name: &str, text: &[u8], errors: &ConfigErrors) {
    let errors = errors.errors();
    assert!((1..=MAX_ERRORS).contains(&errors.len()), "{} errors", errors.len());
    let lines = text.split(|byte| *byte == b'\n').count();
    for error in errors {
        let first = error.first_line();
        assert!(
            first.starts_with(&format!("{name}:")) && !first.contains(['\n', '\r', '\0', '\u{1b}']),
            "{first:?}"
        );
        assert!((1..=lines).contains(&error.line) && error.column > 0, "{first}");
        assert_eq!(error.excerpt.lines().count(), 3, "{:?}", error.excerpt);
    }
}
