//! Published l4 ports of the container.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use nat::sockets::{End, Published, Settings, Target};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;

use super::{ADDRESS, GATEWAY, LINK, World};

/// The host's socket, published: its clients are the container's at l4 port 80.
pub fn configure(world: &mut World, entries: &[(u64, u8, &Arc<OwnedFd>, Target)]) -> Arc<AtomicU64> {
    let clients = Arc::<AtomicU64>::default();
    let published = entries.iter().map(|(id, proto, socket, target)| Published {
        id: *id,
        proto: *proto,
        ours: true,
        socket: Arc::clone(socket),
        target: target.clone(),
        clients: Arc::clone(&clients),
    });
    world.sockets.configure(&Settings { generation: 1, published: published.collect() });
    clients
}

pub fn listening() -> (Arc<OwnedFd>, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (Arc::new(listener.into()), port)
}

pub fn target(port: u16) -> Target {
    let end = End { address: ADDRESS.to_ipv6_mapped(), gateway: GATEWAY.to_ipv6_mapped() };
    Target { zone: 0, link: LINK, port, ends: Box::new([end]), hidden: Arc::new([]) }
}

pub fn server(world: &mut World) -> SocketHandle {
    let buffer = || tcp::SocketBuffer::new(vec![0; 100_000]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.listen(80).unwrap();
    world.set.add(socket)
}
