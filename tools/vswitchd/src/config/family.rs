//! The two families of addresses, and what a network and an interface have of each.

use std::net::IpAddr;

use ipnet::IpNet;

use super::model::{Interface, Network};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// What an interface's address is called in the file.
    pub(super) const fn ip_key(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// What a gateway's address is called in the file.
    pub(super) const fn gateway_key(self) -> &'static str {
        match self {
            Self::V4 => "gateway",
            Self::V6 => "gateway6",
        }
    }

    /// A subnet as it may stand in the file.
    pub(super) const fn subnet_example(self) -> &'static str {
        match self {
            Self::V4 => "subnet = \"10.1.0.0/24\"",
            Self::V6 => "subnet6 = \"fd00:1::/64\"",
        }
    }
}

/// One of something for each family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PerFamily<T> {
    pub v4: T,
    pub v6: T,
}

impl<T> PerFamily<T> {
    pub const fn get(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    pub const fn get_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

impl Network {
    /// Its subnet of a family.
    pub fn subnet_of(&self, family: Family) -> Option<IpNet> {
        match family {
            Family::V4 => self.subnet.map(IpNet::V4),
            Family::V6 => self.subnet6.map(IpNet::V6),
        }
    }

    /// Its subnets, that of IPv4 first.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> + '_ {
        Family::BOTH.into_iter().filter_map(|family| self.subnet_of(family))
    }

    /// The gateway's address of a family, when the file names one.
    pub(super) fn named_gateway(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.gateway.map(IpAddr::V4),
            Family::V6 => self.gateway6.map(IpAddr::V6),
        }
    }

    /// The one that the file names for the family of its first subnet. Where ours has that family, it stands in for
    /// clients of the other.
    pub(super) fn first_gateway(&self) -> Option<IpAddr> {
        self.subnets().next().and_then(|subnet| self.named_gateway(Family::of(subnet.addr())))
    }

    /// [`Network::reserved_address`] or [`Network::reserved_address6`].
    pub fn reserved_of(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.reserved_address().map(IpAddr::V4),
            Family::V6 => self.reserved_address6().map(IpAddr::V6),
        }
    }
}

impl Interface {
    /// Its address of a family, with the prefix length.
    pub fn ip_of(&self, family: Family) -> Option<IpNet> {
        match family {
            Family::V4 => self.ip.map(IpNet::V4),
            Family::V6 => self.ip6.map(IpNet::V6),
        }
    }

    /// Its addresses with prefix lengths, that of IPv4 first.
    pub fn ips(&self) -> impl Iterator<Item = IpNet> + '_ {
        Family::BOTH.into_iter().filter_map(|family| self.ip_of(family))
    }

    /// Where its default routes point, that of IPv4 first.
    pub fn default_routes(&self) -> impl Iterator<Item = IpAddr> {
        let v6 = self.default_via6.map(IpAddr::V6);
        self.default_via.map(IpAddr::V4).into_iter().chain(v6)
    }
}
