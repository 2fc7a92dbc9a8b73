//! A MAC address (IEEE 802, 48 bit).

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A MAC address, in the order of the wire.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// `00:00:00:00:00:00`, never a legal source.
    pub const ZERO: Self = Self([0; 6]);

    /// The group bit: multicast or broadcast (IEEE 802-2014 section 8.2.2).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// `01:80:c2:00:00:00` to `:0f`: never relayed by a bridge (IEEE 802.1D-2004 section 7.12.6).
    pub const fn is_reserved_group(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0, 0, last] if last <= 0x0f)
    }

    /// The address as the low 48 bits of a word, first octet highest.
    pub const fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The inverse of [`MacAddr::to_u64`]; the high 16 bits are ignored.
    pub const fn from_u64(word: u64) -> Self {
        let [_, _, a, b, c, d, e, f] = word.to_be_bytes();
        Self([a, b, c, d, e, f])
    }

    /// The link-local address with the modified EUI-64 of this MAC (RFC 4291 section 2.5.6 and appendix A), which a
    /// kernel gives an interface by itself.
    pub const fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six pairs of hexadecimal digits with colons between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a MAC address is six pairs of hexadecimal digits: 02:42:0a:01:00:0a")]
pub struct ParseMacError;

impl FromStr for MacAddr {
    type Err = ParseMacError;

    /// # Errors
    /// [`ParseMacError`] unless the text is exactly `xx:xx:xx:xx:xx:xx`.
    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let mut octets = [0u8; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(ParseMacError)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() { Err(ParseMacError) } else { Ok(Self(octets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_link_local_address_is_that_of_the_kernel() {
        let mac: MacAddr = "02:42:0a:01:00:01".parse().unwrap();
        assert_eq!(mac.link_local(), "fe80::42:aff:fe01:1".parse::<Ipv6Addr>().unwrap());
    }

    proptest! {
        #[test]
        fn text_and_word_round_trip(octets: [u8; 6]) {
            let mac = MacAddr(octets);
            prop_assert_eq!(mac.to_string().parse::<MacAddr>(), Ok(mac));
            prop_assert_eq!(MacAddr::from_u64(mac.to_u64()), mac);
        }
    }

    #[test]
    fn refuses_what_is_not_a_mac() {
        for text in [
            "",
            "02:42:0a:01:00",
            "02:42:0a:01:00:0a:0b",
            "2:42:0a:01:00:0a",
            "02:42:0a:01:00:+a",
            "02-42-0a-01-00-0a",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(ParseMacError), "{text}");
        }
    }

    #[test]
    fn reserved_group_is_sixteen_addresses() {
        assert!(MacAddr([1, 0x80, 0xc2, 0, 0, 0x0f]).is_reserved_group());
        assert!(!MacAddr([1, 0x80, 0xc2, 0, 0, 0x10]).is_reserved_group());
    }
}
