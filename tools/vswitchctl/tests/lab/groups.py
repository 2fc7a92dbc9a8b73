"""Groups in a container: `join GROUP...` listens until its input ends, `send COUNT HEX GROUP...` writes datagrams."""
import socket, struct, sys

PORT = 5000


def family(group):
    return socket.AF_INET6 if ":" in group else socket.AF_INET


def join(groups):
    held = []
    for group in groups:
        s = socket.socket(family(group), socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family(group) == socket.AF_INET:
            ask = socket.inet_aton(group) + struct.pack("=4sI", bytes(4), socket.if_nametoindex("eth0"))
            s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, ask)
        else:
            ask = socket.inet_pton(socket.AF_INET6, group) + struct.pack("=I", socket.if_nametoindex("eth0"))
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, ask)
        held.append(s)
    print("joined", flush=True)
    sys.stdin.read()


def send(count, payload, groups):
    index = socket.if_nametoindex("eth0")
    for group in groups:
        s = socket.socket(family(group), socket.SOCK_DGRAM)
        if family(group) == socket.AF_INET:
            s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4sI", bytes(4), bytes(4), index))
            to = (group, PORT)
        else:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            to = (group, PORT, 0, index)
        for _ in range(int(count)):
            s.sendto(bytes.fromhex(payload), to)


if sys.argv[1] == "join":
    join(sys.argv[2:])
else:
    send(sys.argv[2], sys.argv[3], sys.argv[4:])
