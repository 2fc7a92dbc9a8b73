//! Why a frame was not delivered. Every drop has a name, and every name has a counter.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame was dropped. The name is what `vswitchctl show drops` prints; the doc line is its explanation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in tables, JSON and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One line that says what the frame did.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

drop_reasons! {
    /// shorter than an Ethernet header, or than its tags and LLC header say
    TruncatedFrame = "truncated_frame",
    /// filled the whole buffer: the kernel cut it off
    OversizedRead = "oversized_read",
    /// longer than the network's MTU allows (a GSO frame is judged by its segments)
    ExceedsMtu = "exceeds_mtu",
    /// an 802.3 length that is longer than the frame
    BadLength = "bad_length",
    /// more than two VLAN tags, or the reserved VLAN 4095
    BadVlan = "bad_vlan",
    /// a VLAN that the port it came by, or the one it would leave by, does not carry; or no tag where one is needed
    VlanNotAllowed = "vlan_not_allowed",
    /// offload fields of the virtio header that contradict the frame
    BadOffload = "bad_offload",
    /// ARP that is not Ethernet and IPv4, or is cut off, or has an unknown operation
    MalformedArp = "malformed_arp",
    /// IPv4 header that contradicts itself or the frame
    MalformedIpv4 = "malformed_ipv4",
    /// IPv6 header or extension header that contradicts itself or the frame
    MalformedIpv6 = "malformed_ipv6",
    /// IPv6 packet, or neighbour discovery, with an IPv4-mapped address (RFC 6890: never on a wire)
    MappedAddress = "mapped_address",
    /// IPv4 source route option or IPv6 routing header type 0: the real destination hides from every filter
    SourceRoute = "source_route",
    /// TCP, UDP or ICMP header that is cut off or contradicts its length
    MalformedL4 = "malformed_l4",
    /// neighbour discovery that RFC 4861 tells receivers to discard
    MalformedNd = "malformed_nd",
    /// IGMP or MLD with a wrong checksum or length, or not from and for its own link, where snooping reads it (RFC 4541)
    MalformedGroup = "malformed_group",
    /// source address is a group, all zero, or a reserved group address
    BadSourceMac = "bad_source_mac",
    /// destination in 01:80:c2:00:00:00 to :0f, or a MAC control frame: relayed by no bridge (the former by a `transparent` network)
    ReservedGroup = "reserved_group",
    /// source MAC belongs to another port or a gateway
    SpoofedMac = "spoofed_mac",
    /// source IP address belongs to another port or a gateway
    SpoofedIp = "spoofed_ip",
    /// ARP that claims an address of another port or a gateway
    SpoofedArp = "spoofed_arp",
    /// neighbour discovery that claims an address of another port or a gateway
    SpoofedNd = "spoofed_nd",
    /// asks as a multicast router who listens to what, where `spoof = "strict"` and the gateway asks
    SpoofedQuery = "spoofed_query",
    /// broadcast, multicast or unknown destination beyond the port's `storm` limit
    Storm = "storm",
    /// the destination is behind the port it came from
    SamePort = "same_port",
    /// `icc = false`: containers of this network may not talk to each other
    IccDenied = "icc_denied",
    /// between two ports that are `isolated` and may talk to others only
    Isolated = "isolated",
    /// from one host of the overlay and for another, which has it from there already (split horizon)
    SplitHorizon = "split_horizon",
    /// a source or destination address that is never routed (RFC 6890)
    Martian = "martian",
    /// a source address that does not lead back to where the packet came from (RFC 3704): of another network, or behind another container
    ReversePath = "reverse_path",
    /// TTL or hop limit used up on the way to another network
    TtlExceeded = "ttl_exceeded",
    /// to be routed or for a gateway, with a wrong header or ICMP checksum
    BadChecksum = "bad_checksum",
    /// no route to the destination
    NoRoute = "no_route",
    /// not allowed: a network that `routes_to` does not name, or an address of the host itself
    Prohibited = "prohibited",
    /// an `egress` rule of the container denies it
    EgressDenied = "egress_denied",
    /// larger than the next network's MTU, and not to be fragmented
    TooBig = "too_big",
    /// for a gateway, which does not offer that
    NoService = "no_service",
    /// for a service of the gateway (names, addresses), which is busy: all its queue, or the container's share of it, is in use
    ServiceQueue = "service_queue",
    /// for a service of the gateway, and longer than any request is
    OversizedRequest = "oversized_request",
    /// nobody answered for the destination's address
    NeighborUnresolved = "neighbor_unresolved",
    /// too many packets wait for an answer for the destination's address
    NeighborQueue = "neighbor_queue",
    /// the FDB names a port that has just left the network
    StaleEntry = "stale_entry",
    /// for the host's leg in the network, but neither ARP nor for the host's address there
    NotForHost = "not_for_host",
    /// flooded, but the network has no other port (in this VLAN)
    NoOtherPort = "no_other_port",
    /// for a multicast group that no other port listens to (`snooping`)
    NoListener = "no_listener",
    /// arrived on a port that has just been removed
    PortGone = "port_gone",
    /// the receiving container's queue or the kernel's memory was full
    TxFull = "tx_full",
    /// the receiving interface is down
    TxDown = "tx_down",
    /// the kernel refused the frame for another reason
    TxError = "tx_error",
    /// the uplink has no more connections to give: the container's share or all of them are in use
    UplinkQuota = "uplink_quota",
    /// the uplink's sockets do not speak this: another protocol, l4 port 0, an ICMP message that is no echo request
    UplinkProtocol = "uplink_protocol",
    /// fragment for the uplink that overlaps or contradicts another one of its packet
    UplinkFragment = "uplink_fragment",
    /// the uplink's socket was full
    UplinkFull = "uplink_full",
    /// the kernel refused what the uplink's socket was asked for
    UplinkError = "uplink_error",
    /// from outside, for an end point that a container has there, by somebody whom it did not speak to (RFC 4787 section 5)
    NatFiltered = "nat_filtered",
    /// from outside, for an l4 port of the uplink's address that is neither published nor in use
    NatUnpublished = "nat_unpublished",
    /// a TCP reset outside the window of its connection
    NatReset = "nat_reset",
    /// to be translated, but of no connection, and such as opens none
    NatNoConnection = "nat_no_connection",
    /// an ICMP error that quotes no packet of a connection
    NatError = "nat_error",
    /// the container's share of connections or mappings is in use
    NatQuota = "nat_quota",
    /// no l4 port of the uplink's address is free; for a protocol without, another container speaks it with the same host
    NatPorts = "nat_ports",
    /// a later fragment whose first one did not come, came too late, or was let nowhere
    NatFragment = "nat_fragment",
    /// fragment for a gateway that overlaps or contradicts another one of its packet, or of a packet that asks nothing
    GatewayFragment = "gateway_fragment",
    /// VXLAN datagram that is none: too short, no I flag; or with reserved bits where `strict` refuses them
    VxlanMalformed = "vxlan_malformed",
    /// VXLAN datagram for a VNI that no network here has
    VxlanUnknownVni = "vxlan_unknown_vni",
    /// VXLAN datagram from a host that is not known to be on that network
    VxlanUnknownVtep = "vxlan_unknown_vtep",
    /// frame in VXLAN with a VLAN tag (RFC 7348 section 6.1)
    VxlanTagged = "vxlan_tagged",
    /// met congestion on the underlay, and its transport would not understand that (RFC 6040 section 4.2)
    VxlanCongested = "vxlan_congested",
    /// more came by VXLAN at once than a batch holds
    VxlanFull = "vxlan_full",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_counters_are_in_order() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}
