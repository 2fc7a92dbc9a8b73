//! The VXLAN header (RFC 7348 section 5): as it lies in a datagram, and what it means.
//!
//! ```text
//! | R R R R I R R R | reserved 24          |
//! | VNI 24                    | reserved 8 |
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The l4 port that IANA gave it.
pub const PORT: u16 = 4789;
/// Bytes of an Ethernet header, the least that an inner frame has.
const ETHERNET_LEN: usize = 14;
/// The I flag: there is a VNI.
const HAS_VNI: u8 = 0x08;

/// A VXLAN network identifier: 24 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vni(u32);

impl Vni {
    /// The largest.
    pub const MAX: Self = Self(0x00ff_ffff);

    /// `None`: more than 24 bits.
    pub const fn new(vni: u32) -> Option<Self> {
        if vni <= Self::MAX.0 { Some(Self(vni)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    const fn from_bytes([a, b, c]: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, a, b, c]))
    }

    const fn to_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }
}

impl std::fmt::Display for Vni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The header as it lies in front of the inner frame.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct VxlanHdr {
    flags: u8,
    reserved: [u8; 3],
    vni: [u8; 3],
    last: u8,
}

const _: () = assert!(size_of::<VxlanHdr>() == VxlanHdr::LEN);

impl VxlanHdr {
    /// Bytes of the header.
    pub const LEN: usize = 8;

    /// The header of a network: the I flag, and all reserved bits 0 (RFC 7348 section 5).
    pub const fn new(vni: Vni) -> Self {
        Self { flags: HAS_VNI, reserved: [0; 3], vni: vni.to_bytes(), last: 0 }
    }

    /// As it is sent.
    pub fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    /// The VNI, where the I flag says that there is one.
    pub const fn vni(&self) -> Option<Vni> {
        if self.flags & HAS_VNI != 0 { Some(Vni::from_bytes(self.vni)) } else { None }
    }

    /// Whether one of the 39 reserved bits is set.
    pub const fn has_reserved(&self) -> bool {
        let [a, b, c] = self.reserved;
        self.flags & !HAS_VNI | a | b | c | self.last != 0
    }
}

/// Reserved bits of a received header that are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reserved {
    /// Accepted, and to be counted: "ignored on receipt" (RFC 7348 section 5).
    #[default]
    Accept,
    /// Dropped, as Linux does: they are those of an extension (GBP, GPE) that we do not speak.
    Strict,
}

/// What a received header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// The network.
    pub vni: Vni,
    /// Whether reserved bits were set.
    pub reserved: bool,
}

/// Why a datagram is not VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum WireError {
    /// Shorter than the header.
    #[error("shorter than a VXLAN header")]
    TooShort,
    /// The I flag is not set (RFC 7348 section 5: it must be for a valid VNI).
    #[error("no I flag")]
    NoVni,
    /// Reserved bits, where they are not accepted.
    #[error("reserved bits are set")]
    Reserved,
    /// Shorter than the header and an Ethernet header.
    #[error("inner frame shorter than an Ethernet header")]
    ShortFrame,
}

impl Repr {
    /// Reads the header of a datagram, behind which an inner frame lies from [`VxlanHdr::LEN`] on.
    ///
    /// # Errors
    /// Why it is not VXLAN.
    #[inline]
    pub fn parse(datagram: &[u8], reserved: Reserved) -> Result<Self, WireError> {
        let (header, frame) = VxlanHdr::ref_from_prefix(datagram).map_err(|_| WireError::TooShort)?;
        let vni = header.vni().ok_or(WireError::NoVni)?;
        let repr = Self { vni, reserved: header.has_reserved() };
        if repr.reserved && reserved == Reserved::Strict {
            return Err(WireError::Reserved);
        }
        if frame.len() < ETHERNET_LEN { Err(WireError::ShortFrame) } else { Ok(repr) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datagram(vni: Vni) -> [u8; 8 + 14] {
        let mut datagram = [0x11; 22];
        VxlanHdr::new(vni).write_to_prefix(&mut datagram).unwrap();
        datagram
    }

    #[test]
    fn the_header_is_that_of_the_rfc() {
        let vni = Vni::new(0x12_3456).unwrap();
        assert_eq!(VxlanHdr::new(vni).as_bytes(), [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!((Vni::new(0x0100_0000), vni.to_string()), (None, "1193046".to_owned()));
    }

    #[test]
    fn lengths_have_names() {
        let whole = datagram(Vni::MAX);
        for len in 0..whole.len() {
            let want = if len < 8 { WireError::TooShort } else { WireError::ShortFrame };
            assert_eq!(Repr::parse(&whole[..len], Reserved::Strict), Err(want), "{len}");
        }
        assert_eq!(Repr::parse(&whole, Reserved::Strict), Ok(Repr { vni: Vni::MAX, reserved: false }));
    }

    /// All bits that are neither the I flag nor of the VNI.
    #[test]
    fn each_reserved_bit_is_seen() {
        let vni = Vni::new(0xaa_5500).unwrap();
        let bits = (0..64).filter(|bit| *bit != 4 && !(32..56).contains(bit));
        assert_eq!(bits.clone().count(), 39);
        for bit in bits {
            let mut datagram = datagram(vni);
            datagram[bit / 8] |= 0x80 >> (bit % 8);
            let seen = Ok(Repr { vni, reserved: true });
            assert_eq!(Repr::parse(&datagram, Reserved::Accept), seen, "bit {bit}");
            assert_eq!(Repr::parse(&datagram, Reserved::Strict), Err(WireError::Reserved), "bit {bit}");
        }
        let mut without = datagram(vni);
        without[0] = 0;
        assert_eq!(Repr::parse(&without, Reserved::Accept), Err(WireError::NoVni));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(vni in 0..=Vni::MAX.get()) {
            let vni = Vni::new(vni).unwrap();
            prop_assert_eq!(Repr::parse(&datagram(vni), Reserved::Strict), Ok(Repr { vni, reserved: false }));
        }

        #[test]
        fn any_bytes_have_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(repr) = Repr::parse(&bytes, Reserved::Accept) {
                prop_assert!(bytes.len() >= 22 && bytes[0] & HAS_VNI != 0);
                prop_assert_eq!(repr.vni.to_bytes(), [bytes[4], bytes[5], bytes[6]]);
            }
        }
    }
}
