//! UDP and ICMP echo of a container, played by smoltcp, through the sockets uplink, and what is published of the host.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nat::sockets::{End, Fault, Limits, Outcome, Target, Unreachable};
use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, udp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress, IpEndpoint};
use switch::drop::DropReason;
use switch::parse::{PROTO_TCP, PROTO_UDP};
use switch::sys::datagram::say_destination;

use world::published::{configure, listening, server, target};
use world::{ADDRESS, GATEWAY, Line, World};

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
        let end = world.now + 301_000;
        world.until(|world| world.now > end);
        assert!(world.sockets.is_empty());
        assert_eq!(world.sockets.next_timer(), None);
    }
}

#[test]
fn a_batch_of_datagrams_arrives_as_it_was_sent() {
    let mut world = World::clean();
    let (one, one_port) = udp_peer(LOCALHOST.into());
    let (other, other_port) = udp_peer(LOCALHOST.into());
    let handle = udp_socket(&mut world, 5000);
    // Equal ones, shorter and longer ones, empty ones, large ones; of two flows in between.
    let lengths = [100, 100, 100, 40, 100, 0, 100, 200, 200, 1399, 1400, 1400, 7, 7, 7, 0, 0, 300];
    let datagram = |index: usize| vec![index as u8; lengths[index % lengths.len()]];
    let (mut got, mut expected) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for index in 0..54 {
        let second = usize::from(index > 36 && index % 3 == 0);
        let to = IpEndpoint::new(LOCALHOST.into(), [one_port, other_port][second]);
        world.set.get_mut::<udp::Socket>(handle).send_slice(&datagram(index), to).unwrap();
        expected[second].push(datagram(index));
    }
    let mut buffer = [0; 2000];
    world.until(|_| {
        for (peer, got) in [&one, &other].into_iter().zip(&mut got) {
            while let Ok(len) = peer.recv(&mut buffer) {
                got.push(buffer[..len].to_vec());
            }
        }
        got[0].len() + got[1].len() == 54
    });
    assert_eq!(got, expected);
    assert_eq!(world.sockets.counters().unsent, 0);
    assert_eq!(world.sockets.counters().bytes_out, (0..54).map(|index| datagram(index).len() as u64).sum());
}

#[test]
fn a_datagram_that_nobody_takes_is_reported() {
    let mut world = World::clean();
    let (peer, port) = udp_peer(LOCALHOST.into());
    drop(peer);
    let handle = udp_socket(&mut world, 5000);
    let to = IpEndpoint::new(LOCALHOST.into(), port);
    world.set.get_mut::<udp::Socket>(handle).send_slice(b"anybody?", to).unwrap();
    world.until(|world| !world.wire.out.failed.is_empty());
    let (fault, from, quoted) = &world.wire.out.failed[0];
    assert_eq!((*fault, *from), (Fault::Unreachable(Unreachable::Port), None), "nobody's address but ours");
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

/// A UDP socket on all addresses of the host, published, with the container's own at l4 port 53.
fn publish_udp(world: &mut World) -> (SocketHandle, Arc<OwnedFd>, u16, Arc<AtomicU64>) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    say_destination(&socket, true).unwrap();
    let port = socket.local_addr().unwrap().port();
    let socket = Arc::new(socket.into());
    let clients = configure(world, &[(7, PROTO_UDP, &socket, target(53))]);
    (udp_socket(world, 53), socket, port, clients)
}

/// What the container got, and from whom.
fn container_got(world: &mut World, handle: SocketHandle) -> (Vec<u8>, IpEndpoint) {
    world.until(|world| world.set.get_mut::<udp::Socket>(handle).can_recv());
    let (bytes, who) = world.set.get_mut::<udp::Socket>(handle).recv().unwrap();
    (bytes.to_vec(), who.endpoint)
}

#[test]
fn datagrams_of_clients_are_answered_from_where_was_asked() {
    let mut world = World::clean();
    let (handle, _socket, port, clients) = publish_udp(&mut world);
    let (client, local) = udp_peer(LOCALHOST.into());
    for asked in [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 7, 7, 7)] {
        for question in [&b"question"[..], b""] {
            client.send_to(question, (asked, port)).unwrap();
            let (bytes, who) = container_got(&mut world, handle);
            assert_eq!((&bytes[..], who.addr), (question, GATEWAY.into()), "the loopback cannot be answered");
            world.set.get_mut::<udp::Socket>(handle).send_slice(b"answer", who).unwrap();
            let (mut got, mut from) = ([0; 100], None);
            world.until(|_| {
                from = client.recv_from(&mut got).ok();
                from.is_some()
            });
            assert_eq!(from, Some((6, (asked, port).into())));
        }
    }
    // One flow for each address that was asked; the second one's l4 port was taken by the first.
    assert_eq!((world.sockets.len(), world.sockets.counters().masked), (2, 2));
    assert_eq!(clients.load(Ordering::Relaxed), 2);
    assert!(world.sockets.connections(world.tick()).any(|c| c.key.dport == local));
    let end = world.now + 301_000;
    world.until(|world| world.now > end);
    assert!(world.sockets.is_empty());
    client.send_to(b"again", (LOCALHOST, port)).unwrap();
    assert_eq!(container_got(&mut world, handle).0, b"again");
}

#[test]
fn answers_to_a_client_that_went_are_refused_and_others_go_on() {
    let mut world = World::clean();
    let (handle, _socket, port, _) = publish_udp(&mut world);
    let ask = |world: &mut World| {
        let (client, _) = udp_peer(LOCALHOST.into());
        client.send_to(b"question", (LOCALHOST, port)).unwrap();
        (client, container_got(world, handle).1)
    };
    let ((gone, went), (client, who)) = (ask(&mut world), ask(&mut world));
    drop(gone);
    for (to, answer) in [(went, &b"too late"[..]), (who, b"answer")] {
        world.set.get_mut::<udp::Socket>(handle).send_slice(answer, to).unwrap();
    }
    let mut got = [0; 100];
    world.until(|_| client.recv(&mut got).is_ok_and(|len| len == 6));
    world.until(|world| !world.wire.out.failed.is_empty());
    let (fault, from, quoted) = world.wire.out.failed.pop().unwrap();
    assert_eq!((fault, from), (Fault::Unreachable(Unreachable::Port), None), "the loopback is nobody's");
    assert!(quoted.ends_with(b"too late"));
    assert!(world.wire.out.failed.is_empty());
}

#[test]
fn what_is_not_published_any_more_is_let_go() {
    let mut world = World::clean();
    let (handle, udp, port, _) = publish_udp(&mut world);
    let (tcp, tcp_port) = listening();
    configure(&mut world, &[(7, PROTO_UDP, &udp, target(53)), (8, PROTO_TCP, &tcp, target(80))]);
    let (client, _) = udp_peer(LOCALHOST.into());
    client.send_to(b"question", (LOCALHOST, port)).unwrap();
    container_got(&mut world, handle);
    let server = server(&mut world);
    let mut stream = TcpStream::connect((LOCALHOST, tcp_port)).unwrap();
    stream.set_nonblocking(true).unwrap();
    world.until(|world| world.tcp(server).may_send());
    configure(&mut world, &[]);
    assert_eq!((Arc::strong_count(&udp), Arc::strong_count(&tcp)), (1, 1), "nobody else has them");
    assert_eq!(world.sockets.len(), 1, "the connection stays");
    world.tcp(server).send_slice(b"still here").unwrap();
    let mut got = [0; 20];
    world.until(|_| stream.read(&mut got).is_ok_and(|len| len == 10));
}

#[test]
fn clients_leave_room_for_what_the_container_opens() {
    let mut world =
        World::new(Line::default(), Limits { flows_per_port: 8, host: true, ..Limits::default() });
    let (container, socket, port, _) = publish_udp(&mut world);
    let clients: Vec<UdpSocket> = (0..20).map(|_| udp_peer(LOCALHOST.into()).0).collect();
    for (before, client) in (0..).zip(&clients) {
        client.send_to(b"x", (LOCALHOST, port)).unwrap();
        world.until(|world| world.sockets.counters().opened > before);
        world.now += 10;
    }
    // The oldest that nobody has answered go for the new ones.
    world.until(|world| world.sockets.counters().evicted == 14);
    assert_eq!((world.sockets.len(), world.sockets.counters().over_quota), (6, 0));
    // Answered ones stay: there is room for none more.
    let mut asked = Vec::new();
    world.until(|world| {
        while let Ok((_, who)) = world.set.get_mut::<udp::Socket>(container).recv() {
            asked.push(who.endpoint);
        }
        asked.len() == 20
    });
    for who in asked.split_off(14) {
        world.set.get_mut::<udp::Socket>(container).send_slice(b"y", who).unwrap();
    }
    world.until(|_| clients[19].recv(&mut [0; 2]).is_ok_and(|len| len == 1));
    clients[0].send_to(b"x", (LOCALHOST, port)).unwrap();
    world.until(|world| world.sockets.counters().over_quota == 1);
    // Half-open connections are bounded alike: nobody answers at l4 port 81, not even with a reset.
    let (tcp, tcp_port) = listening();
    let nobody = Target {
        ends: Box::new([End {
            address: Ipv4Addr::new(10, 9, 0, 77).to_ipv6_mapped(),
            gateway: GATEWAY.to_ipv6_mapped(),
        }]),
        ..target(81)
    };
    configure(&mut world, &[(7, PROTO_UDP, &socket, target(53)), (9, PROTO_TCP, &tcp, nobody)]);
    let mut refused = TcpStream::connect((LOCALHOST, tcp_port)).unwrap();
    refused.set_nonblocking(true).unwrap();
    world.until(|_| matches!(refused.read(&mut [0; 1]), Err(e) if e.kind() == ErrorKind::ConnectionReset));
    let handle = udp_socket(&mut world, 5000);
    let (peer, port) = udp_peer(LOCALHOST.into());
    udp_out(&mut world, handle, IpEndpoint::new(LOCALHOST.into(), port), &peer, b"out");
    assert_eq!(world.sockets.len(), 7);
}

#[test]
fn published_ports_are_all_of_the_host_that_containers_reach() {
    // An address of the host that is not its loopback.
    let probe = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let own = match probe.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).and_then(|()| probe.local_addr()) {
        Ok(own) if !own.ip().is_loopback() => own.ip(),
        _ => return, // there is none
    };
    let mut world = World::new(Line::default(), Limits::default());
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = Arc::new(listener.into());
    configure(&mut world, &[(1, PROTO_TCP, &socket, target(80))]);
    let other = TcpListener::bind((own, 0)).unwrap().local_addr().unwrap().port();
    world.connect(IpAddress::from(own), other, 40_000);
    world.until(|world| world.outcomes == [Outcome::Unreachable(Unreachable::Prohibited)]);
    let server = server(&mut world);
    let client = world.connect(IpAddress::from(own), port, 40_001);
    world.until(|world| world.tcp(client).may_send() && world.tcp(server).may_send());
    assert_eq!(world.tcp(server).remote_endpoint().unwrap().addr, IpAddress::from(own));
}
