//! Congestion marks through the tunnel (RFC 6040): what the outer IP header carries, and what the inner one gets.

use switch::checksum::Delta;
use switch::flow::{L3, Meta};
use switch::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// The ECN field of an IP header (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// 00: the transport knows no ECN.
    #[default]
    NotEct,
    /// 01.
    Ect1,
    /// 10.
    Ect0,
    /// 11: congestion was met.
    Ce,
}

impl Ecn {
    /// That of a TOS or traffic class.
    pub const fn of(tos: u8) -> Self {
        match tos & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// As the lower two bits of a TOS or traffic class.
    pub const fn bits(self) -> u8 {
        self as u8
    }

    /// What the outer header carries: the inner field as it is ("normal mode", RFC 6040 section 4.1).
    pub const fn outer(meta: &Meta) -> Self {
        match meta.l3 {
            L3::V4 | L3::V6 => Self::of(meta.tos),
            L3::Arp | L3::Other => Self::NotEct,
        }
    }

    /// Whether an outer header with it changes anything inside ([`Ecn::combine`]).
    pub const fn marks(self) -> bool {
        matches!(self, Self::Ce | Self::Ect1)
    }

    /// What the inner header leaves with that came in with `self`, under `outer` (RFC 6040 section 4.2, figure 4).
    /// `None`: the packet must be dropped, as a router would have dropped it that cannot mark it.
    pub const fn combine(self, outer: Self) -> Option<Self> {
        match (self, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::Ect0 | Self::Ect1, Self::Ce) => Some(Self::Ce),
            (Self::Ect0, Self::Ect1) => Some(Self::Ect1),
            (inner, _) => Some(inner),
        }
    }
}

/// The packet that must be dropped: it met congestion and its transport knows no ECN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Congested;

/// Gives the inner packet of `frame` what the outer header met on the way. Frames that are neither IPv4 nor IPv6, or
/// have a tag, are left alone.
///
/// # Errors
/// It must be dropped.
pub fn combine(frame: &mut [u8], outer: Ecn) -> Result<(), Congested> {
    // Nearly all there are: nothing was met, so nothing is changed.
    if !outer.marks() {
        return Ok(());
    }
    let Some((link, packet)) = frame.split_first_chunk_mut::<14>() else { return Ok(()) };
    let [.., t0, t1] = *link;
    match u16::from_be_bytes([t0, t1]) {
        ETHERTYPE_IPV4 => v4(packet, outer),
        ETHERTYPE_IPV6 => v6(packet, outer),
        _ => Ok(()),
    }
}

fn v4(packet: &mut [u8], outer: Ecn) -> Result<(), Congested> {
    let Some([version, tos, _, _, _, _, _, _, _, _, c0, c1]) = packet.first_chunk_mut() else {
        return Ok(());
    };
    let new = *tos & !3 | Ecn::of(*tos).combine(outer).ok_or(Congested)?.bits();
    let delta = Delta::word(u16::from_be_bytes([*version, *tos]), u16::from_be_bytes([*version, new]));
    // A wrong checksum stays a wrong one.
    [*c0, *c1] = delta.full(u16::from_be_bytes([*c0, *c1])).to_be_bytes();
    *tos = new;
    Ok(())
}

/// RFC 8200 section 3: the traffic class has four bits in each of the first two bytes.
fn v6(packet: &mut [u8], outer: Ecn) -> Result<(), Congested> {
    let Some([_, second]) = packet.first_chunk_mut() else { return Ok(()) };
    let new = Ecn::of(*second >> 4).combine(outer).ok_or(Congested)?;
    *second = *second & !0x30 | new.bits() << 4;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use switch::checksum::sum;

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];

    /// RFC 6040 figure 4, row by row.
    const TABLE: [[Option<Ecn>; 4]; 4] = {
        const N: Option<Ecn> = Some(Ecn::NotEct);
        const O: Option<Ecn> = Some(Ecn::Ect0);
        const I: Option<Ecn> = Some(Ecn::Ect1);
        const C: Option<Ecn> = Some(Ecn::Ce);
        [[N, N, N, None], [O, O, I, C], [I, I, I, C], [C, C, C, C]]
    };

    fn v4_frame(tos: u8) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, tos, 0, 20, 1, 2, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let check = !sum(&frame[14..]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        frame
    }

    #[test]
    fn the_table_of_the_rfc_holds_for_both_families() {
        for (inner, row) in ALL.into_iter().zip(TABLE) {
            for (outer, want) in ALL.into_iter().zip(row) {
                let mut frame = v4_frame(0xb8 | inner.bits());
                assert_eq!(combine(&mut frame, outer).ok().and(want), want, "{inner:?} under {outer:?}");
                if let Some(want) = want {
                    assert_eq!((frame[15], sum(&frame[14..])), (0xb8 | want.bits(), 0xffff));
                }
                let mut frame =
                    [&[0; 12][..], &[0x86, 0xdd, 0x6b, 0x8a | inner.bits() << 4, 0xbc, 0xde]].concat();
                assert_eq!(combine(&mut frame, outer).is_err(), want.is_none());
                let want = want.unwrap_or(inner);
                assert_eq!(frame[14..], [0x6b, 0x8a | want.bits() << 4, 0xbc, 0xde]);
            }
        }
    }

    #[test]
    fn what_is_no_ip_is_left_alone() {
        for ethertype in [[8, 6], [0x81, 0]] {
            let mut frame = v4_frame(0);
            frame[12..14].copy_from_slice(&ethertype);
            let before = frame.clone();
            assert_eq!(combine(&mut frame, Ecn::Ce), Ok(()));
            assert_eq!(frame, before);
        }
        for len in 0..26 {
            let mut frame = v4_frame(0)[..len].to_vec();
            assert_eq!(combine(&mut frame, Ecn::Ce), Ok(()));
        }
    }
}
