//! What a trace knows of other hosts.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use switch::mac::MacAddr;
use vxlan::encap::Underlay;
use vxlan::settings::Settings;

use super::{By, ETHERNET, Overlay};
use crate::api::rows::ToldBy;
use crate::engine::control::Control;
use crate::trace::{Host, Hosts};

impl From<By> for ToldBy {
    fn from(by: By) -> Self {
        match by {
            By::Static => Self::Static,
            By::Peer => Self::Peer,
            By::Cluster => Self::Cluster,
            By::Group => Self::Group,
        }
    }
}

impl Overlay {
    /// What workers were told last.
    pub fn settings(&self) -> Arc<Settings> {
        self.published.load_full()
    }
}

impl Control {
    /// All other hosts, as a trace names them.
    pub(in crate::engine) fn trace_hosts(&self) -> Hosts {
        let Some(vxlan) = &self.desired.vxlan else { return Hosts::default() };
        let mut hosts = Hosts { local: Some(SocketAddr::new(vxlan.local, vxlan.port)), ..Hosts::default() };
        for (port, tunnel) in self.overlay.tunnels.all() {
            let Some(network) = self.networks.get(tunnel.network).map(|it| &it.config) else { continue };
            let Some(vni) = network.vni else { continue };
            let takes = Underlay::new(self.overlay.underlay_mtu(vxlan, tunnel), tunnel.vtep.is_ipv6());
            let mtu = takes.map_or(0, |it| u32::from(it.inner_mtu(ETHERNET).min(network.mtu)));
            hosts.by_port.insert(port, Host { vtep: tunnel.vtep, vni, told: tunnel.by.into(), mtu });
        }
        let statics: HashMap<(u32, MacAddr), ToldBy> =
            vxlan.statics.iter().map(|told| ((told.vni, told.mac), ToldBy::Static)).collect();
        for (at @ (_, mac), (_, port)) in &self.overlay.placed {
            let vni = hosts.by_port.get(port).map(|host| host.vni);
            let told = vni.and_then(|vni| statics.get(&(vni, *mac)).copied());
            hosts.macs.insert(*at, told.unwrap_or(ToldBy::Cluster));
        }
        hosts
    }

    /// Who is known to be behind another host of a network, as far as that was told.
    pub(in crate::engine) fn behind_host(&self, vni: u32, vtep: IpAddr) -> Vec<(IpAddr, MacAddr)> {
        let statics = self.desired.vxlan.iter().flat_map(|vxlan| &vxlan.statics);
        let statics = statics.filter(|told| told.vni == vni && told.vtep == vtep);
        let statics = statics.filter_map(|told| Some((told.ip?, told.mac)));
        let members = self.overlay.joined.iter().flat_map(|joined| joined.members(vni));
        let members = members.filter(|(_, at)| *at == vtep);
        let members = members.flat_map(|(member, _)| member.ips.iter().map(|ip| (*ip, member.mac)));
        statics.chain(members).collect()
    }
}
