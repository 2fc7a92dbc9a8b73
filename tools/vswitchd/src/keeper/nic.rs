//! A NIC of the host as the uplink's port: a packet socket, and nothing of the NIC is changed.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use switch::mac::MacAddr;
use switch::sys::netns;
use switch::sys::packet::{self, PacketError};
use switch::sys::tun::offload;

use super::outside::Identity;
use crate::config::Context;
use crate::config::{Config, OUTSIDE, Paths, parse_with};
use crate::wire::{AttachInfo, AttachSpec, Refusal, RefusalKind};

/// What a packet socket takes: the kernel segments and completes what the NIC cannot.
const OFFLOADS: u32 =
    offload::CSUM | offload::TSO4 | offload::TSO6 | offload::TSO_ECN | offload::USO4 | offload::USO6;

/// Opens it. One that is down or not there is waited for.
///
/// # Errors
/// [`Refusal`].
pub(super) fn open(spec: &AttachSpec) -> Result<(OwnedFd, AttachInfo), Refusal> {
    let asked = format!("NIC {:?}, for [uplink]", spec.ifname);
    let refuse = |error: PacketError| refuse(&asked, error);
    let absent = |answer: &str| Refusal::new(RefusalKind::Absent, &asked, answer);
    let nic = match packet::look(&spec.ifname) {
        Ok(nic) => nic,
        Err(PacketError { errno: Errno::NODEV, .. }) => return Err(absent("there is no such interface")),
        Err(error) => return Err(refuse(error)),
    };
    if !nic.up {
        return Err(absent("it is down"));
    }
    let mac: MacAddr = spec.mac.parse().map_err(|_| {
        Refusal::new(RefusalKind::Failed, &asked, format!("{:?} is no MAC address", spec.mac))
    })?;
    let fd = packet::open(nic.index, mac, spec.vlan).map_err(refuse)?;
    let Identity { netns_id, cookie } = home(&asked)?;
    let info = AttachInfo {
        netns_id,
        netns_cookie: cookie,
        ifindex: nic.index,
        offloads: OFFLOADS,
        gso_writes: true,
        created: false,
        mtu: u16::try_from(nic.mtu).ok(),
    };
    Ok((fd, info))
}

/// The namespace in which the daemon runs.
fn home(asked: &str) -> Result<Identity, Refusal> {
    let failed = |errno| Refusal::of_errno(asked, errno);
    let own = netns::current().map_err(failed)?;
    let netns_id = netns::identity(&own).map_err(failed)?;
    Ok(Identity { netns_id, cookie: netns::cookie(own.as_fd()).map_err(failed)? })
}

fn refuse(asked: &str, error: PacketError) -> Refusal {
    let refusal = Refusal { answer: error.to_string(), ..Refusal::of_errno(asked, error.errno) };
    match error.errno {
        Errno::PERM | Errno::ACCESS => refusal.help(
            "it takes CAP_NET_RAW on the host: run vswitchd as root, or take `kind` = \"tap\" with a `netns` of your own, or \
             \"sockets\"",
        ),
        _ => refusal,
    }
}

/// Whether one of these configurations has such an uplink in the host's own namespace. The engine is not trusted with
/// more than what the file says: by a NIC all of the host's frames could be read.
pub(super) fn is_configured(spec: &AttachSpec, texts: [&str; 2]) -> bool {
    let paths = Paths { control: "/".into(), state: "/".into() };
    let context = Context { paths, previous: None, memory: None };
    let config = |text: &str| parse_with("", text.as_bytes(), &context).ok();
    texts.into_iter().filter_map(config).any(|config| has(&config, spec))
}

fn has(config: &Config, spec: &AttachSpec) -> bool {
    let container = config.outside.as_ref().map(crate::config::Outside::container);
    let nic = config.daemon.uplink == crate::config::Uplink::Nic;
    container.is_some_and(|container| {
        let same = |interface: &crate::config::Interface| {
            // Another VLAN is none of ours.
            interface.name == spec.ifname && interface.vlan == spec.vlan
        };
        container.name == OUTSIDE && spec.nic == nic && container.interfaces.iter().any(same)
    })
}
