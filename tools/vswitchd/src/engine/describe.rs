//! What a reload changed, a line each.

use std::fmt::Display;

use crate::config::{Diff, InterfaceKey};

/// The lines of a difference, in the order in which it is brought about.
pub fn describe(diff: &Diff) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |line: String| lines.push(line);
    let interface = |key: &InterfaceKey| format!("interface {} {}", key.container, key.name);
    for field in &diff.daemon {
        say(format!("daemon: {field} takes effect at the next start"));
    }
    if diff.host_loopback {
        say("host_loopback changed".into());
    }
    if diff.limits {
        say("limits: what is translated has as much room as before; it takes effect at the next start".into());
    }
    if diff.icmp_errors {
        say("icmp_errors changed".into());
    }
    if diff.outside {
        say("uplink changed".into());
    }
    if diff.vxlan {
        say("vxlan changed".into());
    }
    if diff.cluster {
        say("cluster changed".into());
    }
    for key in &diff.interfaces_removed {
        say(format!("{} removed", interface(key)));
    }
    for name in &diff.networks_removed {
        say(format!("network {name} removed"));
    }
    for change in &diff.networks_changed {
        say(format!("network {}: {} changed", change.name, list(&change.fields)));
    }
    for name in &diff.networks_added {
        say(format!("network {name} added"));
    }
    if diff.routes {
        say("routes changed".into());
    }
    for name in &diff.containers_removed {
        say(format!("container {name} removed"));
    }
    for change in &diff.containers_changed {
        say(format!("container {}: {} changed", change.name, list(&change.fields)));
    }
    for name in &diff.containers_added {
        say(format!("container {name} added"));
    }
    for change in &diff.interfaces_changed {
        say(format!("{}: {} changed", interface(&change.key), list(&change.fields)));
    }
    for key in &diff.interfaces_added {
        say(format!("{} added", interface(key)));
    }
    lines
}

fn list<T: Display>(fields: &[T]) -> String {
    fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
