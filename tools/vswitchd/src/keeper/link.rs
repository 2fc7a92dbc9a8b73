//! Making a TAP in the scratch namespace, moving it, and dressing it in its new home: TUN ioctls and route netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use rustix::io::Errno;
use switch::mac::MacAddr;
use switch::sys::netns;
use switch::sys::tun::{self, TunError};

use crate::wire::{AttachSpec, NetnsRef, Refusal};

/// Index of `lo`, the first interface of every namespace.
const LOOPBACK: u32 = 1;
/// Bytes of the longest super-frame, where nobody says otherwise (`GSO_LEGACY_MAX_SIZE`).
const GSO_MAX_SIZE: u32 = 65_536;
/// Added to an interface's index to get the metric of a default route beside one that was there before us.
const SECOND_METRIC: u32 = 1024;

/// The step that failed, with the kernel's answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Tun(#[from] TunError),
    #[error("{step}: {errno}")]
    Kernel { step: &'static str, errno: Errno },
    #[error("{0:?} is no MAC address")]
    Mac(String),
}

impl LinkError {
    /// In the words of a refusal.
    pub(super) fn refuse(&self, asked: String) -> Refusal {
        match self {
            Self::Tun(error) => Refusal::of_tun(asked, error),
            Self::Kernel { errno, .. } => {
                Refusal { answer: self.to_string(), ..Refusal::of_entering(asked, *errno) }
            }
            Self::Mac(_) => Refusal::new(crate::wire::RefusalKind::Failed, asked, self),
        }
    }
}

trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, LinkError>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, step: &'static str) -> Result<T, LinkError> {
        self.map_err(|errno| LinkError::Kernel { step, errno })
    }
}

impl<T> Step<T> for std::io::Result<T> {
    fn step(self, step: &'static str) -> Result<T, LinkError> {
        self.map_err(|error| LinkError::Kernel {
            step,
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })
    }
}

impl<T> Step<T> for Result<T, rtnetlink::Error> {
    fn step(self, step: &'static str) -> Result<T, LinkError> {
        self.map_err(|error| LinkError::Kernel { step, errno: errno_of(&error) })
    }
}

fn errno_of(error: &rtnetlink::Error) -> Errno {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            message.code.map_or(Errno::IO, |code| Errno::from_raw_os_error(code.get().saturating_neg()))
        }
        _ => Errno::IO,
    }
}

/// What is gone already is gone too.
fn unless(answer: Result<(), rtnetlink::Error>, gone: Errno) -> Result<(), rtnetlink::Error> {
    answer.or_else(|error| if errno_of(&error) == gone { Ok(()) } else { Err(error) })
}

/// A TAP in its new home.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) fd: OwnedFd,
    pub(super) ifindex: u32,
    pub(super) offloads: u32,
}

/// Makes the interface of `spec` in `home`, configured, up, with carrier. On any failure nothing is left, because
/// closing the descriptor removes the TAP.
///
/// With a `scratch` it is made there and moved: its descriptor does not keep `home` alive, and tells its death. The
/// kernel waits for a grace period in every move, one at a time (17 ms measured). Without, it is made in place, for a
/// namespace that is kept alive anyway.
pub(super) fn place(
    scratch: Option<BorrowedFd<'_>>,
    home: BorrowedFd<'_>,
    spec: &AttachSpec,
) -> Result<Placed, LinkError> {
    let mac = parse_mac(&spec.mac)?;
    in_runtime(scratch.unwrap_or(home), async {
        let (fd, made_as) = tun::create(if scratch.is_some() { "vs%d" } else { &spec.ifname })?;
        let offloads = tun::set_offloads(&fd)?;
        let mut handle = connect()?;
        let dressed =
            LinkUnspec::new_with_index(index_of(&made_as)?).address(mac.0.to_vec()).mtu(spec.mtu).up();
        if scratch.is_some() {
            // One message: who sees the interface in its new home sees it under its name and address. The namespace
            // is changed first, so a name that is taken there gives EEXIST and nothing has happened.
            let moved = dressed.setns_by_fd(home.as_raw_fd()).name(&spec.ifname);
            change(&handle, moved, "moving the TAP").await?;
            netns::enter_network(home).step("setns")?;
            handle = connect()?;
        } else if spec.netns == NetnsRef::Host {
            disable_ipv6(&spec.ifname)?;
            change(&handle, dressed, "MAC and MTU").await?;
        } else {
            change(&handle, dressed, "MAC and MTU").await?;
        }
        let ifindex = index_of(&spec.ifname)?;
        limit(&handle, ifindex, spec.gso_max_size).await;
        if spec.netns != NetnsRef::Host {
            loopback_up(&handle).await?;
        }
        if has_ipv6(spec) {
            set_ipv6(&spec.ifname, true);
        }
        for &(address, prefix) in &spec.addresses {
            add_address(&handle, ifindex, address, prefix).await?;
        }
        for &via in &spec.default_via {
            add_default_route(&handle, ifindex, via).await?;
        }
        // Until its cable was pulled and plugged once, a TAP reads "state UNKNOWN".
        tun::set_carrier(&fd, false)?;
        tun::set_carrier(&fd, true)?;
        Ok(Placed { fd, ifindex, offloads })
    })
}

/// Removes the interface behind `tap`, wherever it is. Its descriptors then say what they say when a namespace dies.
pub(super) fn remove(tap: BorrowedFd<'_>) -> Result<(), LinkError> {
    let home = tun::home(tap)?;
    let name = tun::name(tap)?;
    in_runtime(home.as_fd(), async {
        connect()?.link().del(index_of(&name)?).execute().await.step("removing")
    })
}

/// Brings what is there (`old`) to `new`: MAC, MTU, addresses, default route. What others added stays.
pub(super) fn adjust(
    tap: BorrowedFd<'_>,
    home: BorrowedFd<'_>,
    old: &AttachSpec,
    new: &AttachSpec,
) -> Result<(), LinkError> {
    let mac = parse_mac(&new.mac)?;
    // The container may have renamed it; the descriptor knows.
    let name = tun::name(tap)?;
    in_runtime(home, async {
        let handle = connect()?;
        let index = index_of(&name)?;
        let link = LinkUnspec::new_with_index(index).address(mac.0.to_vec()).mtu(new.mtu).up();
        change(&handle, link, "MAC and MTU").await?;
        limit(&handle, index, new.gso_max_size.or(old.gso_max_size.map(|_| GSO_MAX_SIZE))).await;
        let gone: Vec<_> = old.addresses.iter().filter(|address| !new.addresses.contains(address)).collect();
        // The last address of a family takes all routes along; where none goes a route that the container changed stays.
        let routed_anew = |via: IpAddr| gone.iter().any(|(address, _)| address.is_ipv6() == via.is_ipv6());
        for &via in &old.default_via {
            if routed_anew(via) || !new.default_via.contains(&via) {
                // Whichever metric it got.
                let gone = handle.route().del(default_route(index, via, None)).execute().await;
                unless(gone, Errno::SRCH).step("old default route")?;
            }
        }
        for &&(address, prefix) in &gone {
            let gone = handle.address().del(address_message(index, address, prefix)).execute().await;
            unless(gone, Errno::ADDRNOTAVAIL).step("old address")?;
        }
        if has_ipv6(new) != has_ipv6(old) {
            set_ipv6(&name, has_ipv6(new));
        }
        // All of them: an address that went takes the others of its subnet along (unless `promote_secondaries`).
        for &(address, prefix) in &new.addresses {
            add_address(&handle, index, address, prefix).await?;
        }
        for &via in &new.default_via {
            if routed_anew(via) || !old.default_via.contains(&via) {
                add_default_route(&handle, index, via).await?;
            }
        }
        Ok(())
    })
}

/// Brings the loopback of `home` up.
pub(super) fn loopback(home: BorrowedFd<'_>) -> Result<(), LinkError> {
    in_runtime(home, async { loopback_up(&connect()?).await })
}

/// Brings the interface `name` of `home` up (for probes; it gets no address).
pub(super) fn up(home: BorrowedFd<'_>, name: &str) -> Result<(), LinkError> {
    in_runtime(home, async {
        change(&connect()?, LinkUnspec::new_with_index(index_of(name)?).up(), "up").await
    })
}

/// Runs `work` on a throwaway thread that starts in `home`, with a runtime of its own.
fn in_runtime<T: Send>(
    home: BorrowedFd<'_>,
    work: impl Future<Output = Result<T, LinkError>> + Send,
) -> Result<T, LinkError> {
    netns::in_netns(home, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().step("epoll")?;
        runtime.block_on(work)
    })
    .step("setns")?
}

/// A netlink connection of the namespace in which the thread is now; it stays with it whatever the thread does later.
fn connect() -> Result<Handle, LinkError> {
    let (connection, handle, _) = rtnetlink::new_connection().step("netlink socket")?;
    tokio::spawn(connection);
    Ok(handle)
}

fn index_of(name: &str) -> Result<u32, LinkError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).step("socket")?;
    netdevice::name_to_index(&socket, name).step("interface index")
}

fn parse_mac(text: &str) -> Result<MacAddr, LinkError> {
    text.parse().map_err(|_| LinkError::Mac(text.to_owned()))
}

async fn change(
    handle: &Handle,
    link: LinkMessageBuilder<LinkUnspec>,
    step: &'static str,
) -> Result<(), LinkError> {
    let message: LinkMessage = link.build();
    handle.link().change(message).execute().await.step(step)
}

/// How long super-frames may get. Best effort: a kernel that does not know it has more system calls to make, no more.
async fn limit(handle: &Handle, index: u32, gso_max_size: Option<u32>) {
    let Some(size) = gso_max_size else { return };
    let mut message: LinkMessage = LinkUnspec::new_with_index(index).build();
    message.attributes.push(LinkAttribute::GsoMaxSize(size));
    let _best_effort = handle.link().change(message).execute().await;
}

async fn loopback_up(handle: &Handle) -> Result<(), LinkError> {
    change(handle, LinkUnspec::new_with_index(LOOPBACK).up(), "loopback").await
}

fn has_ipv6(spec: &AttachSpec) -> bool {
    spec.addresses.iter().any(|(address, _)| address.is_ipv6())
}

/// What the kernel does by itself on an interface that is given IPv6 addresses, or not any more.
///
/// Docker switches IPv6 off in containers whose own networks have none; who gives ours an address wants it. Router
/// advertisements are not listened to: addresses and default route are set here, and a second route beside ours would
/// run out, or be a neighbour's. Without addresses of ours the interface is as the namespace has them by default: what
/// speaks IPv6 in a network without `subnet6` is the containers' own affair.
///
/// An address stays when the link goes down and up again, as those of IPv4 do. `/proc/sys` shows the thread's namespace. Best effort: without IPv6 in the kernel, adding the address says so.
fn set_ipv6(name: &str, ours: bool) {
    let knob = |of: &str, which: &str| format!("/proc/sys/net/ipv6/conf/{of}/{which}");
    for (which, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("keep_addr_on_down", "1")] {
        let wanted = if ours { Ok(value.into()) } else { std::fs::read(knob("default", which)) };
        let _best_effort = wanted.and_then(|value| std::fs::write(knob(name, which), value));
    }
}

/// The host's leg has IPv4 only. With IPv6 the host would listen to router advertisements, and make a container's router
/// its own.
fn disable_ipv6(name: &str) -> Result<(), LinkError> {
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()), // a kernel without IPv6
        written => written.step("switching IPv6 off"),
    }
}

fn address_message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = match address {
        IpAddr::V4(v4) => {
            rtnetlink::AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(v4, prefix).build()
        }
        IpAddr::V6(v6) => {
            rtnetlink::AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(v6, prefix).build()
        }
    };
    if address.is_ipv6() {
        // The switch hands out addresses and knows they are free; detection would keep them unusable for a second
        // (RFC 4862 section 5.4).
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

async fn add_address(handle: &Handle, index: u32, address: IpAddr, prefix: u8) -> Result<(), LinkError> {
    let mut request = handle.address().add(index, address, prefix).replace();
    *request.message_mut() = address_message(index, address, prefix);
    request.execute().await.step("address")
}

fn default_route(index: u32, via: IpAddr, metric: Option<u32>) -> RouteMessage {
    let mut message = match via {
        IpAddr::V4(via) => {
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(via).output_interface(index).build()
        }
        IpAddr::V6(via) => {
            RouteMessageBuilder::<Ipv6Addr>::new().gateway(via).output_interface(index).build()
        }
    };
    if let Some(metric) = metric {
        message.attributes.push(netlink_packet_route::route::RouteAttribute::Priority(metric));
    }
    message
}

/// A default route that was there before us (a container of Docker's own network) is not pushed aside: ours goes
/// beside it with a higher metric.
async fn add_default_route(handle: &Handle, index: u32, via: IpAddr) -> Result<(), LinkError> {
    match handle.route().add(default_route(index, via, None)).execute().await {
        Err(error) if errno_of(&error) == Errno::EXIST => {
            let metric = SECOND_METRIC.saturating_add(index);
            match handle.route().add(default_route(index, via, Some(metric))).execute().await {
                Err(error) if errno_of(&error) == Errno::EXIST => Ok(()),
                answer => answer.step("default route"),
            }
        }
        answer => answer.step("default route"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_comes_out_of_netlink_as_it_went_in() {
        let mut message = rtnetlink::packet_core::ErrorMessage::default();
        message.code = std::num::NonZeroI32::new(-17);
        assert_eq!(errno_of(&rtnetlink::Error::NetlinkError(message)), Errno::EXIST);
        assert_eq!(errno_of(&rtnetlink::Error::RequestFailed), Errno::IO);
    }
}
