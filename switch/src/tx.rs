//! Eighth hop: into the out port, or ports, in the form that each of them wants. What is only queued is booked when its
//! outcome is known ([`Books`]).

use crate::books::{Books, Copies, Ticket};
use crate::drop::DropReason;
use crate::flow::{Meta, Packet};
use crate::frame::{Frame, Pool};
use crate::groups::{Groups, Reach};
use crate::io::{Io, Sent};
use crate::port::PortId;
use crate::snapshot::{Network, Port, View};
use crate::tag;
use crate::vlan::Form;

/// To one port, which must carry its VLAN. The frame was not written anywhere yet.
///
/// # Errors
/// Why the port did not take it; it has been counted.
pub fn forward<I: Io>(
    io: &mut I,
    pool: &mut Pool,
    frame: &Frame,
    meta: &mut Meta,
    (out, port): (PortId, &Port),
    books: &mut Books,
) -> Result<(), DropReason> {
    let sent = match port.tagging.form(meta) {
        Some(form) => {
            let frame = tag::shape(form, meta, pool, frame);
            io.tx(pool, out, &frame, meta, Ticket::ALONE, books).map(|sent| (sent, frame.len()))
        }
        None => Err(DropReason::VlanNotAllowed),
    };
    match sent {
        Ok((Sent::Now, len)) => books.forwarded(out, len),
        Ok((Sent::Queued, _)) => {}
        Err(reason) => {
            books.counters.drop_frame(out, reason);
            return Err(reason);
        }
    }
    Ok(())
}

/// To every member of the network that carries its VLAN, but the one it came from; what is for a group, where somebody
/// looks, to those who listen to it. The frame counts once, its copies apart.
pub fn flood<I: Io>(
    io: &mut I,
    pool: &mut Pool,
    frame: &Frame,
    packet: &Packet,
    (network, view): (&Network, View<'_>),
    books: &mut Books,
) {
    let meta = &packet.meta;
    let ticket = books.open().or_else(|| {
        io.flush(pool, books); // what is queued is over after that, and so are floods of this batch
        books.open()
    });
    let Some(ticket) = ticket else { return books.counters.drop_frame(meta.port, DropReason::TxFull) };
    let audience = Audience::new(packet, network, view);
    let mut copies = Copies::default();
    // Once queued a frame must not change. In a VLAN that is tagged on some ports and not on others it goes to those of its
    // own form first, and to the others as a second frame.
    let form = Form::of(meta);
    let mut others = false;
    for &out in &network.members {
        match audience.form(out) {
            Ok(other) if other != form => others = true,
            Ok(_) => {
                let sent = io.tx(pool, out, frame, meta, ticket, books);
                booked(sent, out, frame.len(), &mut copies, books);
            }
            Err(why) => copies.lost = copies.lost.or(why),
        }
    }
    if others {
        in_other_form(io, pool, frame, &audience, (ticket, &mut copies), books);
    }
    if audience.listeners.is_some() {
        copies.lost = copies.lost.or(Some(DropReason::NoListener));
    }
    books.close(ticket, meta.port, copies);
}

/// To those who are to have it in the form that it has not.
#[cold]
fn in_other_form<I: Io>(
    io: &mut I,
    pool: &mut Pool,
    frame: &Frame,
    audience: &Audience<'_>,
    (ticket, copies): (Ticket, &mut Copies),
    books: &mut Books,
) {
    let meta = &audience.packet.meta;
    let other = tag::copy(meta, pool, frame).or_else(|| {
        io.flush(pool, books); // a ring keeps what is queued: where that is all there is, it goes out now
        tag::copy(meta, pool, frame)
    });
    let form = Form::of(meta);
    for &out in &audience.network.members {
        if audience.form(out).is_ok_and(|other| other != form) {
            let sent = match &other {
                Some((frame, meta)) => io.tx(pool, out, frame, meta, ticket, books),
                None => Err(DropReason::TxFull),
            };
            booked(sent, out, other.map_or(0, |(frame, _)| frame.len()), copies, books);
        }
    }
    if let Some((frame, _)) = &other {
        pool.release(frame);
    }
}

fn booked(sent: Result<Sent, DropReason>, out: PortId, len: usize, copies: &mut Copies, books: &mut Books) {
    match sent {
        Ok(Sent::Now) => {
            copies.sent += 1;
            books.taken(out, len);
        }
        Ok(Sent::Queued) => copies.queued += 1,
        Err(reason) => {
            copies.lost = Some(reason);
            books.copy_lost(out, reason);
        }
    }
}

/// Who is to have a flooded frame, and in which form.
struct Audience<'a> {
    packet: &'a Packet,
    network: &'a Network,
    view: View<'a>,
    isolated: bool,
    /// It comes from another host.
    remote: bool,
    spared: Option<PortId>,
    /// Where it does not go to all.
    listeners: Option<(&'a Groups, Reach)>,
}

impl<'a> Audience<'a> {
    fn new(packet: &'a Packet, network: &'a Network, view: View<'a>) -> Self {
        let from = view.port(packet.meta.port);
        let isolated = from.is_some_and(|from| from.isolated);
        let remote = from.is_some_and(|from| from.remote.is_some());
        let listeners =
            network.groups.as_deref().and_then(|groups| match groups.reach(packet, &network.members) {
                Reach::All(_) => None,
                reach => Some((groups, reach)),
            });
        Self { packet, network, view, isolated, remote, spared: network.claims.spared(packet), listeners }
    }

    /// The form in which `out` has it; or why not, where there is more to say than that it is none of its business.
    #[inline]
    fn form(&self, out: PortId) -> Result<Form, Option<DropReason>> {
        if out == self.packet.meta.port || Some(out) == self.spared {
            return Err(None);
        }
        let port = self.view.port(out).ok_or(None)?;
        if let Some((groups, reach)) = self.listeners
            && !groups.reaches(reach, self.packet, out)
            // Every other host hears who listens here: it sends what is for a group to those hosts only.
            && !(matches!(reach, Reach::Routers) && port.remote.is_some())
        {
            return Err(None);
        }
        if self.isolated && port.isolated {
            return Err(Some(DropReason::Isolated));
        }
        if let Some(there) = port.remote {
            // Whoever sent it has sent it there as well.
            if self.remote {
                return Err(Some(DropReason::SplitHorizon));
            }
            if !there.floods {
                return Err(None);
            }
        }
        port.tagging.form(&self.packet.meta).ok_or(None)
    }
}
