//! UDP, ICMP echo and published TCP of a container, played by smoltcp, through the sockets uplink.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;

use nat::sockets::{End, Limits, Outcome, Published, Settings, Target, Unreachable};
use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress, IpEndpoint};
use switch::drop::DropReason;
use switch::parse::PROTO_TCP;

use world::{ADDRESS, GATEWAY, LINK, Line, World};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn udp_socket(world: &mut World, port: u16) -> SocketHandle {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 100_000]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(port).unwrap();
    world.set.add(socket)
}

fn udp_peer(ip: IpAddr) -> (UdpSocket, u16) {
    let peer = UdpSocket::bind((ip, 0)).unwrap();
    peer.set_nonblocking(true).unwrap();
    let port = peer.local_addr().unwrap().port();
    (peer, port)
}

/// Sends from the container and waits for it at the peer, which learns who we are.
fn udp_out(
    world: &mut World,
    handle: SocketHandle,
    to: IpEndpoint,
    peer: &UdpSocket,
    bytes: &[u8],
) -> std::net::SocketAddr {
    world.set.get_mut::<udp::Socket>(handle).send_slice(bytes, to).unwrap();
    let (mut got, mut from) = ([0; 2000], None);
    world.until(|_| {
        from = peer.recv_from(&mut got).ok();
        from.is_some()
    });
    let (len, from) = from.unwrap();
    assert_eq!(&got[..len], bytes);
    from
}

#[test]
fn datagrams_go_and_come_back() {
    for v4 in [true, false] {
        let mut world = World::clean();
        let ip = if v4 { LOCALHOST.into() } else { IpAddr::V6(std::net::Ipv6Addr::LOCALHOST) };
        let name = if v4 { IpAddress::from(ip) } else { world::LOCALHOST6.into() };
        let (peer, port) = udp_peer(ip);
        let handle = udp_socket(&mut world, 5000);
        let to = IpEndpoint::new(name, port);
        let from = udp_out(&mut world, handle, to, &peer, b"question");
        assert_eq!(udp_out(&mut world, handle, to, &peer, b""), from, "the same flow");
        assert_eq!(world.sockets.len(), 1);
        peer.send_to(b"answer", from).unwrap();
        world.until(|world| world.set.get_mut::<udp::Socket>(handle).can_recv());
        let (bytes, who) = world.set.get_mut::<udp::Socket>(handle).recv().unwrap();
        assert_eq!((bytes, who.endpoint), (&b"answer"[..], to));
        let state = world.sockets.connections(world.tick()).next().unwrap().state;
        assert_eq!(state, "answered");
        // Nobody speaks for long enough.
        let end = world.now + 181_000;
        world.until(|world| world.now > end);
        assert!(world.sockets.is_empty());
        assert_eq!(world.sockets.next_timer(), None);
    }
}

#[test]
fn a_datagram_that_nobody_takes_is_reported() {
    let mut world = World::clean();
    let (peer, port) = udp_peer(LOCALHOST.into());
    drop(peer);
    let handle = udp_socket(&mut world, 5000);
    let to = IpEndpoint::new(LOCALHOST.into(), port);
    world.set.get_mut::<udp::Socket>(handle).send_slice(b"anybody?", to).unwrap();
    world.until(|world| !world.wire.out.unreachable.is_empty());
    let (why, quoted) = &world.wire.out.unreachable[0];
    assert_eq!(*why, Unreachable::Port);
    let mut expected = ADDRESS.octets().to_vec();
    expected.extend(LOCALHOST.octets());
    expected.extend(5000u16.to_be_bytes());
    expected.extend(port.to_be_bytes());
    assert_eq!(quoted[12..24], expected);
    assert_eq!(world.sockets.counters().unreachable, 1);
}

#[test]
fn groups_and_the_host_get_no_datagram() {
    let mut world = World::new(Line::default(), Limits::default());
    let handle = udp_socket(&mut world, 5000);
    for address in [LOCALHOST, Ipv4Addr::new(127, 9, 9, 9)] {
        let to = IpEndpoint::new(address.into(), 53);
        world.set.get_mut::<udp::Socket>(handle).send_slice(b"hello", to).unwrap();
    }
    world.until(|world| world.outcomes.len() == 2);
    assert_eq!(world.outcomes, [Outcome::Unreachable(Unreachable::Prohibited); 2]);
    assert!(world.sockets.is_empty());
}

#[test]
fn echo_comes_back_with_the_containers_identifier() {
    let mut world = World::clean();
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4000]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(0x1234)).unwrap();
    let request = Icmpv4Repr::EchoRequest { ident: 0x1234, seq_no: 7, data: b"are you there?" };
    let bytes = socket.send(request.buffer_len(), LOCALHOST.into()).unwrap();
    request.emit(&mut Icmpv4Packet::new_unchecked(bytes), &ChecksumCapabilities::default());
    let handle = world.set.add(socket);
    world.until(|world| !world.outcomes.is_empty() || world.set.get_mut::<icmp::Socket>(handle).can_recv());
    let ping = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        Some(rustix::net::ipproto::ICMP),
    );
    if ping.is_err() {
        // `net.ipv4.ping_group_range` leaves us out.
        assert_eq!(world.outcomes, [Outcome::Dropped(DropReason::UplinkProtocol)]);
        return;
    }
    let (bytes, from) = world.set.get_mut::<icmp::Socket>(handle).recv().unwrap();
    assert_eq!(from, LOCALHOST.into());
    let packet = Icmpv4Packet::new_checked(bytes).unwrap();
    assert!(packet.verify_checksum());
    let reply = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).unwrap();
    assert_eq!(reply, Icmpv4Repr::EchoReply { ident: 0x1234, seq_no: 7, data: b"are you there?" });
}

/// A listening socket of the host whose clients are the container's, at its l4 port 80.
fn publish(world: &mut World) -> u16 {
    let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let published =
        Published { id: 1, proto: PROTO_TCP, socket: Arc::new(listener.into()), target: target() };
    world.sockets.configure(&Settings { generation: 1, published: Box::new([published]) });
    port
}

fn target() -> Target {
    let end = End { address: ADDRESS.to_ipv6_mapped(), gateway: GATEWAY.to_ipv6_mapped() };
    Target { zone: 0, link: LINK, port: 80, ends: Box::new([end]), hidden: Arc::new([]) }
}

fn server(world: &mut World) -> SocketHandle {
    let buffer = || tcp::SocketBuffer::new(vec![0; 100_000]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.listen(80).unwrap();
    world.set.add(socket)
}

#[test]
fn a_client_of_a_published_port_reaches_the_container() {
    let mut world = World::clean();
    let port = publish(&mut world);
    let handle = server(&mut world);
    let mut client = TcpStream::connect((LOCALHOST, port)).unwrap();
    client.set_nonblocking(true).unwrap();
    client.write_all(b"GET").unwrap();
    world.until(|world| world.tcp(handle).recv_queue() == 3);
    // The loopback cannot be answered, so the gateway stands in.
    assert_eq!(world.tcp(handle).remote_endpoint().unwrap().addr, GATEWAY.into());
    assert_eq!(world.sockets.counters().masked, 1);
    world.tcp(handle).send_slice(b"200").unwrap();
    world.tcp(handle).close();
    let mut got = Vec::new();
    world.until(|_| client.read_to_end(&mut got).is_ok());
    assert_eq!(got, b"200");
    drop(client);
    world.until(|world| world.sockets.is_empty());
}

#[test]
fn a_container_that_does_not_listen_resets_the_client() {
    let mut world = World::clean();
    let port = publish(&mut world);
    let mut client = TcpStream::connect((LOCALHOST, port)).unwrap();
    client.set_nonblocking(true).unwrap();
    let mut error = None;
    world.until(|_| {
        error = client.read(&mut [0; 1]).err().map(|error| error.kind());
        error != Some(ErrorKind::WouldBlock)
    });
    assert_eq!(error, Some(ErrorKind::ConnectionReset));
    assert!(world.sockets.is_empty());
}
