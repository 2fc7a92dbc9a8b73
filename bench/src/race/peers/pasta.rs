//! pasta, of passt: TCP and UDP of one namespace as sockets, by a TAP in it.

use std::time::Duration;

use super::lab::{Lab, Service};
use super::outside::{CONTAINER, GATEWAY, OUTSIDE, World};
use super::words;
use crate::error::Result;
use crate::ns::{Family, Netns};
use crate::process::{self, Process, Scratch, Stop};
use crate::race::scenario::Scenario;

pub(super) fn start(family: &Family, dir: Scratch, scenario: Scenario, mtu: u16) -> Result<Lab> {
    let world = World::create(family)?;
    let container = Netns::create(family.name("a"))?;
    let mut pasta =
        Process::start(&dir, Some(world.host.name()), &command(&container, scenario, mtu), Stop::Term)?;
    let routed = || {
        pasta.check_alive()?;
        Ok(container.ip(&["route", "get", &OUTSIDE.to_string()]).is_ok())
    };
    process::until("the TAP of pasta", Duration::from_secs(5), routed)?;
    Ok(world.into_lab(scenario, dir, vec![pasta], container, CONTAINER))
}

fn command(container: &Netns, scenario: Scenario, mtu: u16) -> Vec<String> {
    let path = container.path().display().to_string();
    let (mtu, address, gateway) = (mtu.to_string(), CONTAINER.to_string(), GATEWAY.to_string());
    let mut argv = words(&["pasta", "--foreground", "--stderr", "--config-net", "-4", "--ns-ifname", "eth0"]);
    argv.extend(words(&["--mtu", &mtu, "--address", &address, "--netmask", "24", "--gateway", &gateway]));
    // The namespace belongs to the user namespace we are in, and root's: as "nobody", the default, it could not enter.
    argv.extend(words(&["--netns-only", "--runas", "0", "--netns", &path]));
    let (first, last) = Service::PORTS;
    let ports = if scenario == Scenario::Publish { format!("{first}-{last}") } else { "none".to_owned() };
    argv.extend(words(&["-t", &ports, "-u", &ports, "-T", "none", "-U", "none"]));
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_only_where_they_are_published() {
        let netns = Netns::expected("vsb-test-a".into());
        let line = |scenario| command(&netns, scenario, 1500).join(" ");
        assert!(line(Scenario::Egress).ends_with("-t none -u none -T none -U none"));
        assert!(line(Scenario::Publish).ends_with("-t 5201-5204 -u 5201-5204 -T none -U none"));
        assert!(line(Scenario::Egress).contains("--mtu 1500 --address 10.99.0.2"));
    }
}
