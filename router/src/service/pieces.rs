//! Echo requests that come in fragments, and their replies, which leave so (RFC 1122 section 3.3.2, RFC 8200 section 4.5).

use switch::drop::DropReason;
use switch::flow::Packet;
use switch::frame::Frame;
use switch::io::Io;
use switch::parse::parse;
use switch::policy::{Desk, Fate, To};
use switch::reassembly::{Added, Late};
use switch::snapshot::View;
use switch::tick::Tick;
use switch::vnet::VnetHdr;

use super::{About, Place, Service};
use crate::icmp::echo;
use crate::icmp::error::Problem;
use crate::tables::Tables;
use crate::{forward, fragment};

impl Service {
    /// Takes a fragment; the last one that was missing is answered.
    #[cold]
    pub(super) fn reassemble<I: Io>(
        &mut self,
        frame: &Frame,
        packet: &Packet,
        place: &Place<'_>,
        desk: &mut Desk<'_, I>,
    ) -> Result<Fate, DropReason> {
        if !forward::header_verifies(desk.bytes(frame), &packet.meta) {
            return Err(DropReason::BadChecksum);
        }
        // What comes too late is of another packet.
        self.due_pieces(place.here.snapshot, place.here.now, desk);
        match self.fragments.add(desk.bytes(frame), packet, place.here.now) {
            Added::Kept => Ok(Fate::Local),
            Added::Refused => Err(DropReason::GatewayFragment),
            Added::Whole(at, len) => {
                let mut bytes = self.fragments.take(at);
                let answered = bytes.get_mut(..len).is_some_and(|whole| answer(whole, packet, place, desk));
                self.fragments.give_back(at, bytes);
                if answered { Ok(Fate::Local) } else { Err(DropReason::GatewayFragment) }
            }
        }
    }

    /// Who sent what is not complete in time is told by whom it was for (RFC 1122 section 3.3.2, RFC 8200 section 4.5: if
    /// the first fragment is there).
    pub(super) fn due_pieces<I: Io>(
        &mut self,
        snapshot: View<'_, Tables>,
        now: Tick,
        desk: &mut Desk<'_, I>,
    ) {
        while let Some(Late { port, mac, first }) = self.fragments.late(now) {
            if let Some(about) = About::packet(first, (mac, port), snapshot) {
                let from = about.packet.key.dst;
                self.say(&about, Problem::Incomplete, Some(from), now, desk);
            }
        }
    }
}

/// Whether it was an echo request, which is answered.
fn answer<I: Io>(whole: &mut [u8], last: &Packet, place: &Place<'_>, desk: &mut Desk<'_, I>) -> bool {
    let (port, zone) = (last.meta.port, last.key.zone);
    let Ok(packet) = parse(whole, &VnetHdr::default(), port, zone) else { return false };
    if echo::reply(whole, &packet).is_err() {
        return false;
    }
    let Ok(reply) = parse(whole, &VnetHdr::default(), port, zone) else { return false };
    let mtu = place.here.network.mtu as usize;
    // RFC 6864 section 4.2: that of the request, which its sender chose so that it does not repeat.
    let id = last.meta.fragment_id;
    for index in 0..fragment::count_of_ours(whole, &reply.meta, mtu) {
        desk.make(To::Port(place.port), None, |buffer, _| {
            fragment::of_ours(whole, &reply.meta, (mtu, id), index, buffer)
        });
    }
    true
}
