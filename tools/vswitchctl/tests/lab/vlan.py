"""A station that speaks VLANs by hand, where the kernel has no VLAN devices.

    ping VID MAC IP TO SIZE     ARP and one echo; says `MAC of TO, bytes`, or `silence`
    serve VID MAC IP            answers ARP and echo for IP; says `ready` first
    hear NEEDLE LAST            says `ready`; then the tag and length of each frame with NEEDLE, until one has LAST as well
    super VID MAC TO_MAC IP TO  one super-frame of 40 datagrams of 1000 bytes to l4 port 9
"""
import select, socket, struct, sys, time

SOL_PACKET, PACKET_AUXDATA, PACKET_VNET_HDR, PACKET_OUTGOING = 263, 8, 15, 4
BROADCAST = b"\xff" * 6


def raw():
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    s.bind(("eth0", 3))
    return s


def receive(s, deadline):
    """The tag (None: none), and the frame without it: the kernel hands the outer tag over beside the frame."""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([s], [], [], left)[0]:
            return None
        data, aux, _, address = s.recvmsg(70000, 512)
        if address[2] == PACKET_OUTGOING:
            continue
        status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", aux[0][2])
        return (tpid, tci) if status & 16 else None, data


def total(data):
    data += b"\0" * (len(data) % 2)
    value = sum(struct.unpack(f">{len(data) // 2}H", data))
    while value > 0xFFFF:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def link(vid, to, mac, ethertype):
    tag = struct.pack(">HH", 0x8100, vid) if vid else b""
    return to + mac + tag + struct.pack(">H", ethertype)


def ip(proto, src, dst, length):
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + length, 1, 0x4000, 64, proto, 0, src, dst)
    return head[:10] + struct.pack(">H", 0xFFFF - total(head)) + head[12:]


def echo(kind, src, dst, rest):
    body = struct.pack(">BBH", kind, 0, 0) + rest
    body = body[:2] + struct.pack(">H", 0xFFFF - total(body)) + body[4:]
    return ip(1, src, dst, len(body)) + body


def arp(operation, mac, src, to, dst):
    return struct.pack(">HHBBH", 1, 0x800, 6, 4, operation) + mac + src + to + dst


def bytes_of(mac):
    return bytes.fromhex(mac.replace(":", ""))


def is_in(tag, vid):
    return (tag[1] & 0xFFF if tag else 0) == vid


def ping(vid, mac, src, to, size):
    vid, mac, src, dst = int(vid), bytes_of(mac), socket.inet_aton(src), socket.inet_aton(to)
    s = raw()
    s.send(link(vid, BROADCAST, mac, 0x806) + arp(1, mac, src, bytes(6), dst) + bytes(18))
    deadline, there = time.monotonic() + 2, None
    rest = b"\x00\x07\x00\x01" + bytes(range(256)) * (int(size) // 256 + 1)
    rest = rest[: 4 + int(size)]
    while got := receive(s, deadline):
        tag, data = got
        if not is_in(tag, vid) or data[:6] != mac:
            continue
        if data[12:14] == b"\x08\x06" and data[20:22] == b"\0\x02" and data[28:32] == dst and not there:
            there = data[22:28]
            s.send(link(vid, there, mac, 0x800) + echo(8, src, dst, rest))
        if data[12:14] == b"\x08\x00" and data[23] == 1 and data[34] == 0 and data[26:30] == dst:
            assert data[38 : 42 + int(size)] == rest, "what came back is not what was sent"
            print(there.hex(":"), len(rest) - 4)
            return
    print("asked only" if there else "silence")


def serve(vid, mac, own):
    vid, mac, own = int(vid), bytes_of(mac), socket.inet_aton(own)
    s = raw()
    print("ready", flush=True)
    while got := receive(s, time.monotonic() + 60):
        tag, data = got
        if not is_in(tag, vid):
            continue
        if data[12:14] == b"\x08\x06" and data[20:22] == b"\0\x01" and data[38:42] == own:
            s.send(link(vid, data[6:12], mac, 0x806) + arp(2, mac, own, data[22:28], data[28:32]) + bytes(18))
        if data[:6] == mac and data[12:14] == b"\x08\x00" and data[23] == 1 and data[34] == 8:
            length = struct.unpack(">H", data[16:18])[0]
            s.send(link(vid, data[6:12], mac, 0x800) + echo(0, own, data[26:30], data[38 : 14 + length]))


def hear(needle, last):
    needle, last = bytes.fromhex(needle), bytes.fromhex(last)
    s = raw()
    print("ready", flush=True)
    while got := receive(s, time.monotonic() + 20):
        tag, data = got
        if needle in data:
            if not tag and data[12:14] == b"\x91\x00":  # which the kernel leaves in the frame
                tag, data = struct.unpack(">HH", data[12:16]), data[:12] + data[16:]
            print("%04x:%04x" % tag if tag else "none", data[12:14].hex(), len(data), data[-8:].hex(), flush=True)
            if last in data:
                return
    print("no more")


def super_frame(vid, mac, to_mac, src, to):
    src, dst, data = socket.inet_aton(src), socket.inet_aton(to), b"super-frame " * 3334
    length = 8 + 40_000
    pseudo = total(src + dst + struct.pack(">HH", 17, length))
    udp = struct.pack(">HHHH", 9, 9, length, pseudo)
    l3 = 18 if int(vid) else 14
    head = link(int(vid), bytes_of(to_mac), bytes_of(mac), 0x800) + ip(17, src, dst, length) + udp
    # flags, type, hdr_len, gso_size, csum_start, csum_offset
    vnet = struct.pack("<BBHHHH", 1, 5, l3 + 28, 1000, l3 + 20, 6)
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    s.bind(("eth0", 0))
    s.send(vnet + head + data[:40_000])


{"ping": ping, "serve": serve, "hear": hear, "super": super_frame}[sys.argv[1]](*sys.argv[2:])
