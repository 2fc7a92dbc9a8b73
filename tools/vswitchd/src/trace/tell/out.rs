//! What came out, by which ports and in which form.

use switch::drop::DropReason;
use switch::flow::Gso;
use switch::parse::parse;
use switch::port::PortId;
use switch::verdict::{Action, Hop as Way, Verdict};
use switch::vnet::VnetHdr;

use super::{Teller, dropped, hex};
use crate::api::rows::{TraceOut, TracePacket, TracePort};
use crate::trace::line::line;

impl Teller<'_> {
    pub(super) fn tx(&self) -> Vec<String> {
        let late = self.run.drop.filter(|_| {
            matches!(self.run.verdict, Some(Verdict::Forward(Action { hop: None, .. }) | Verdict::Flood))
                && self.run.drop != Some(DropReason::Storm)
        });
        let mut lines = match late {
            Some(reason) => vec![dropped(reason)],
            None => self.forms(),
        };
        lines.extend(self.tunnelled());
        if late.is_some() {
            return lines;
        }
        let gso = |vnet: &VnetHdr| vnet.gso_type != VnetHdr::GSO_NONE;
        let super_frames = self.run.out.iter().any(|(_, vnet, _)| gso(vnet));
        let whole = self.run.packet.as_ref().is_ok_and(|packet| packet.meta.gso != Gso::None);
        if super_frames && whole {
            lines.push("as one super-frame".into());
        }
        lines
    }

    /// In which form a frame of a VLAN leaves by which ports.
    fn forms(&self) -> Vec<String> {
        let bridged =
            matches!(self.run.verdict, Some(Verdict::Forward(Action { hop: None, .. }) | Verdict::Flood));
        let Some(vid) = self.run.packet.as_ref().ok().map(|packet| packet.meta.vid).filter(|vid| *vid != 0)
        else {
            return Vec::new();
        };
        let is_tagged = |port: PortId, bytes: &[u8], vnet: &VnetHdr| {
            parse(bytes, vnet, port, 0).is_ok_and(|packet| packet.meta.vid == vid)
        };
        let mut lines = Vec::new();
        for (tagged, text) in
            [(true, format!("with the tag of VLAN {vid}")), (false, "without its tag".into())]
        {
            let to: Vec<String> = self
                .run
                .out
                .iter()
                .filter(|(port, vnet, bytes)| is_tagged(*port, bytes, vnet) == tagged)
                .map(|(port, ..)| self.names.port(*port))
                .collect();
            if bridged && !to.is_empty() {
                lines.push(format!("{text} to {}", to.join(", ")));
            }
        }
        lines
    }

    /// What came out; equal packets once, with all their ports.
    pub(super) fn out(&self) -> Vec<TraceOut> {
        // The packet itself comes first, and then what had to be asked because of it.
        let itself = match self.run.verdict {
            // All that came out was said about it.
            _ if self.run.drop.is_some() => 0,
            Some(Verdict::Forward(Action { hop: Some(Way { cut: Some(_), .. }), .. })) => 0,
            Some(Verdict::Forward(_)) => 1,
            Some(Verdict::Flood) => usize::MAX,
            _ => 0,
        };
        let mut out: Vec<TraceOut> = Vec::new();
        let mut tunnelled = self.run.tunnelled.clone();
        for (index, (port, vnet, bytes)) in self.run.out.iter().enumerate() {
            let made = index >= itself;
            let hex = hex(bytes);
            let datagrams = tunnelled.iter().position(|(to, became)| to == port && became.is_ok());
            let datagrams = datagrams.and_then(|at| tunnelled.remove(at).1.ok());
            let tunnel = datagrams.and_then(|datagrams| self.names.hosts.to(*port, datagrams));
            let place = TracePort { tunnel, ..self.names.row(self.snapshot, *port) };
            match out.iter_mut().find(|one| one.packet.hex == hex) {
                Some(one) => one.ports.push(place),
                None => {
                    let parsed = parse(bytes, vnet, *port, 0);
                    let text = line(bytes, parsed.as_ref().map_err(|reason| *reason));
                    let packet = TracePacket { text, length: bytes.len() as u64, hex };
                    out.push(TraceOut { packet, made, ports: vec![place] });
                }
            }
        }
        out
    }
}
