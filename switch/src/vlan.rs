//! Which VLANs a port carries, and in which form (IEEE 802.1Q-2018 clauses 6.9 and 8.6): rules, no bytes. Those are
//! `tag.rs`'s.
//!
//! Only the outer tag counts, whatever its TPID: what is behind it (QinQ) is payload, and passes as it is.

use std::fmt;
use std::sync::Arc;

use crate::drop::DropReason;
use crate::flow::Meta;

/// Lowest and highest VLAN identifier there is (IEEE 802.1Q-2018 table 9-2).
pub const VIDS: std::ops::RangeInclusive<u16> = 1..=4094;

/// A set of VLANs: one bit each.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet([u64; 64]);

impl VlanSet {
    /// Whether the VLAN is one of them.
    #[inline]
    pub fn contains(&self, vid: u16) -> bool {
        self.0.get(usize::from(vid / 64)).is_some_and(|word| word >> (vid % 64) & 1 == 1)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        VIDS.filter(|vid| self.contains(*vid))
    }
}

impl FromIterator<u16> for VlanSet {
    /// What is no VLAN identifier is left out.
    fn from_iter<I: IntoIterator<Item = u16>>(vids: I) -> Self {
        let mut set = Self([0; 64]);
        for vid in vids.into_iter().filter(|vid| VIDS.contains(vid)) {
            if let Some(word) = set.0.get_mut(usize::from(vid / 64)) {
                *word |= 1 << (vid % 64);
            }
        }
        set
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Which VLANs a port carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tagging {
    /// All, tagged; what is untagged is in none (VLAN 0).
    #[default]
    All,
    /// This one, untagged; 0: what has no tag, and nothing else.
    Access(u16),
    /// Some, tagged.
    Trunk {
        /// Those.
        vlans: Arc<VlanSet>,
        /// One more, untagged.
        native: Option<u16>,
    },
    /// This one, tagged, where the kernel has taken the tag off what comes in and has let nothing else through: a packet
    /// socket.
    Stripped(u16),
}

/// How a frame is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Without a tag, or with one that says no more than a priority.
    Untagged,
    /// With the tag of its VLAN in front.
    Tagged,
}

impl Form {
    /// The one that a frame has now.
    pub const fn of(meta: &Meta) -> Self {
        match meta.vlan {
            Some(tag) if tag.vid() != 0 => Self::Tagged,
            _ => Self::Untagged,
        }
    }
}

impl Tagging {
    /// The VLAN of its untagged frames; of a port that carries all they are in none.
    pub const fn untagged(&self) -> Option<u16> {
        match self {
            Self::All | Self::Access(0) => None,
            Self::Access(vid) | Self::Stripped(vid) => Some(*vid),
            Self::Trunk { native, .. } => *native,
        }
    }

    /// The VLANs that it carries tagged; of a port that carries all none is named.
    pub fn tagged(&self) -> impl Iterator<Item = u16> + '_ {
        let vlans = match self {
            Self::Trunk { vlans, .. } => Some(vlans.iter()),
            Self::All | Self::Access(_) | Self::Stripped(_) => None,
        };
        vlans.into_iter().flatten()
    }

    /// Ingress (IEEE 802.1Q-2018 clauses 6.9.1 and 8.6.2): the VLAN of a frame that came in by this port.
    ///
    /// # Errors
    /// The port does not carry it.
    #[inline]
    pub fn classify(&self, meta: &Meta) -> Result<u16, DropReason> {
        // A priority tag is none (clause 6.9.1): its VID is 0.
        let said = meta.vlan.map_or(0, |tag| tag.vid());
        match self {
            Self::All => Some(said),
            Self::Access(vid) | Self::Stripped(vid) => (said == 0).then_some(*vid),
            Self::Trunk { native: Some(native), .. } if said == 0 => Some(*native),
            // Between two bridges, and not in any VLAN: it goes by trunks as it goes by a cable. Only a `transparent`
            // network admits such frames.
            Self::Trunk { .. } if said == 0 => meta.dst.is_reserved_group().then_some(0),
            Self::Trunk { vlans, .. } => vlans.contains(said).then_some(said),
        }
        .ok_or(DropReason::VlanNotAllowed)
    }

    /// Egress (IEEE 802.1Q-2018 clauses 8.6.4 and 8.8.2): the form in which a classified frame leaves by this port; `None`:
    /// the port does not carry its VLAN.
    #[inline]
    pub fn form(&self, meta: &Meta) -> Option<Form> {
        let tagged = |carried: bool| carried.then_some(Form::Tagged);
        match (self, meta.vid) {
            (Self::All, 0) => Some(Form::Untagged),
            (Self::All, _) => Some(Form::Tagged),
            (Self::Access(own), vid) => (*own == vid).then_some(Form::Untagged),
            (Self::Stripped(own), vid) => tagged(*own == vid),
            (Self::Trunk { native: Some(native), .. }, vid) if *native == vid => Some(Form::Untagged),
            // The same as above: a trunk with a native VLAN has no place for what is in none.
            (Self::Trunk { native: None, .. }, 0) => meta.dst.is_reserved_group().then_some(Form::Untagged),
            (Self::Trunk { vlans, .. }, vid) => tagged(vlans.contains(vid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::VlanTag;
    use crate::mac::MacAddr;
    use crate::parse::parse;
    use crate::port::PortId;
    use crate::vnet::VnetHdr;

    fn meta(dst: MacAddr, vid: Option<u16>) -> Meta {
        let frame = [&dst.0[..], &[2, 0, 0, 0, 0, 1, 0x88, 0xb5], &[0; 46]].concat();
        let mut meta = parse(&frame, &VnetHdr::default(), PortId(0), 0).unwrap().meta;
        meta.vlan = vid.map(|vid| VlanTag { tpid: 0x8100, tci: 0xe000 | vid });
        meta
    }

    fn trunk(native: Option<u16>) -> Tagging {
        Tagging::Trunk { vlans: Arc::new([10, 20, 4094].into_iter().collect()), native }
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let set: VlanSet = [4094, 1, 10, 64, 63, 0, 4095, 60_000].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 10, 63, 64, 4094]);
        assert!(!set.contains(0) && !set.contains(4095) && !set.contains(65_535));
        assert_eq!(format!("{set:?}"), "{1, 10, 63, 64, 4094}");
    }

    #[test]
    fn what_comes_in_is_in_one_vlan_or_refused() {
        let station = MacAddr([2, 0, 0, 0, 0, 9]);
        let no = Err(DropReason::VlanNotAllowed);
        for (tagging, untagged, priority, ten, thirty) in [
            (Tagging::All, Ok(0), Ok(0), Ok(10), Ok(30)),
            (Tagging::Access(10), Ok(10), Ok(10), no, no),
            (Tagging::Access(0), Ok(0), Ok(0), no, no),
            (Tagging::Stripped(10), Ok(10), Ok(10), no, no),
            (trunk(None), no, no, Ok(10), no),
            (trunk(Some(30)), Ok(30), Ok(30), Ok(10), no),
        ] {
            let said = [None, Some(0), Some(10), Some(30)].map(|vid| tagging.classify(&meta(station, vid)));
            assert_eq!(said, [untagged, priority, ten, thirty], "{tagging:?}");
        }
    }

    #[test]
    fn what_goes_out_has_the_form_of_the_port() {
        let (un, tag) = (Some(Form::Untagged), Some(Form::Tagged));
        for (tagging, zero, ten, thirty) in [
            (Tagging::All, un, tag, tag),
            (Tagging::Access(10), None, un, None),
            (Tagging::Access(0), un, None, None),
            (Tagging::Stripped(10), None, tag, None),
            (trunk(None), None, tag, None),
            (trunk(Some(30)), None, tag, un),
        ] {
            let form = |vid| tagging.form(&Meta { vid, ..meta(MacAddr([2; 6]), None) });
            assert_eq!([0, 10, 30].map(form), [zero, ten, thirty], "{tagging:?}");
        }
    }

    #[test]
    fn what_two_bridges_say_to_each_other_passes_trunks_untagged() {
        let lldp = meta(MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x0e]), None);
        assert_eq!(trunk(None).classify(&lldp), Ok(0));
        let forms = |tagging: &Tagging| tagging.form(&Meta { vid: 0, ..lldp });
        assert_eq!(forms(&trunk(None)), Some(Form::Untagged));
        assert_eq!(forms(&Tagging::All), Some(Form::Untagged));
        assert_eq!(forms(&trunk(Some(30))), None, "that one has its untagged frames in VLAN 30");
        assert_eq!(forms(&Tagging::Access(10)), None);
    }
}
