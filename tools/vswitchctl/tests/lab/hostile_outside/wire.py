"""Somebody on a wire who does as told, line by line: INTERFACE NEEDLE. What comes in with the needle is kept.

    send N, vnet N      puts the N frames of the next N lines, in hex, on the wire (`vnet`: each with its virtio header)
    heard               tells what came in since, in hex, with its virtio header
    flood NAME WORD...  one of the functions below makes frames, so many a second
"""
import ipaddress, json, random, select, socket, struct, sys, threading, time

SOL_PACKET, PACKET_VNET_HDR, PACKET_OUTGOING, ENOBUFS = 263, 15, 4, 105
RATE = 20000


def packet(interface, vnet=False):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3 if vnet else 0))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    if vnet:
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    raw.bind((interface, 3 if vnet else 0))
    return raw


def put(raw, frame):
    """Whether the kernel took it; where its queue is full it is asked again."""
    for _ in range(1000):
        try:
            raw.send(frame)
            return True
        except OSError as error:
            if error.errno != ENOBUFS:
                return False
            select.select([], [], [], 0.001)
    return False


def paced(raw, frames, rate=RATE):
    begin, taken = time.monotonic(), 0
    for n, frame in enumerate(frames):
        taken += put(raw, frame)
        if n % 64 == 63:
            ahead = begin + n / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
    return taken


def add(data):
    data += b"\0" * (len(data) % 2)
    return sum(struct.unpack(f"!{len(data) // 2}H", data))


def check(total):
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(src, dst, proto, body, number=1, field=0):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), number, field, 64, proto, 0, src, dst)
    return head[:10] + struct.pack("!H", check(add(head))) + head[12:] + body


def ipv6(src, dst, proto, body, hops=64):
    return struct.pack("!IHBB", 6 << 28, len(body), proto, hops) + src + dst + body


def link(words):
    """Both MACs of a frame and the address of its sender."""
    dst, src, address = words
    return bytes.fromhex(dst + src), ipaddress.ip_address(address).packed


def hosts(to, first, count, *words):
    """One datagram to each of `count` addresses behind `to`."""
    macs, src = link(words)
    base, first = int(ipaddress.ip_address(to)), int(first)
    for n in range(first, first + int(count)):
        datagram = struct.pack("!HHHH", 1000, 9, 9, 0) + b"?"
        if len(src) == 4:
            yield macs + b"\x08\x00" + ipv4(src, (base + n).to_bytes(4, "big"), 17, datagram)
        else:
            # Scattered over the /64.
            dst = (base + n * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(16, "big")
            total = check(add(src + dst + struct.pack("!IHH", len(datagram), 0, 17) + datagram)) or 0xFFFF
            datagram = datagram[:6] + struct.pack("!H", total) + datagram[8:]
            yield macs + b"\x86\xdd" + ipv6(src, dst, 17, datagram)


def asks(to, count, *words):
    """ARP requests, or neighbour solicitations, for each of `count` addresses."""
    macs, src = link(words)
    mac, base = macs[6:], int(ipaddress.ip_address(to))
    for n in range(int(count)):
        if len(src) == 4:
            body = struct.pack("!HHBBH6s4s6s", 1, 0x800, 6, 4, 1, mac, src, bytes(6))
            yield b"\xff" * 6 + mac + b"\x08\x06" + body + (base + n).to_bytes(4, "big")
        else:
            target = (base + n * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(16, "big")
            group = ipaddress.ip_address("ff02::1:ff00:0").packed[:13] + target[13:]
            body = struct.pack("!BBHI", 135, 0, 0, 0) + target + b"\x01\x01" + mac
            total = check(add(src + group + struct.pack("!IHH", len(body), 0, 58) + body))
            body = body[:2] + struct.pack("!H", total) + body[4:]
            yield b"\x33\x33" + group[12:] + mac + b"\x86\xdd" + ipv6(src, group, 58, body, 255)


def groups(count, *words):
    """Reports of as many groups: IGMP (RFC 2236), or MLD (RFC 2710) from a link-local address."""
    macs, src = link(words)
    for n in range(int(count)):
        if len(src) == 4:
            group = (0xE1000000 + n).to_bytes(4, "big")
            body = struct.pack("!BBH4s", 0x16, 0, 0, group)
            body = body[:2] + struct.pack("!H", check(add(body))) + body[4:]
            head = struct.pack("!BBHHHBBH4s4s", 0x46, 0, 32, 1, 0, 1, 2, 0, src, group) + b"\x94\x04\0\0"
            head = head[:10] + struct.pack("!H", check(add(head))) + head[12:]
            yield b"\x01\x00\x5e" + group[1:] + macs[6:] + b"\x08\x00" + head + body
        else:
            group = (0xFF05 << 112 | 0x10000 + n).to_bytes(16, "big")
            body = struct.pack("!BBHHH", 131, 0, 0, 0, 0) + group
            total = check(add(src + group + struct.pack("!IHH", len(body), 0, 58) + body))
            body = body[:2] + struct.pack("!H", total) + body[4:]
            option = b"\x3a\x00\x05\x02\0\0\x01\0"
            yield b"\x33\x33" + group[12:] + macs[6:] + b"\x86\xdd" + ipv6(src, group, 0, option + body, 1)


def syns(to, port, count, *words):
    """A SYN from each of `count` end points: of one's own l4 ports, to several of the other's."""
    macs, src = link(words)
    base, port = int(ipaddress.ip_address(to)), int(port)
    for n in range(int(count)):
        dst, sport = (base + n // 60000).to_bytes(4, "big"), 1024 + n % 60000
        body = struct.pack("!HHIIBBHHH", sport, port, n * 77777 & 0xFFFFFFFF, 0, 0x50, 2, 1000, 0, 0)
        total = check(add(src + dst + struct.pack("!HH", 6, len(body)) + body))
        yield macs + b"\x08\x00" + ipv4(src, dst, 6, body[:16] + struct.pack("!H", total) + body[18:])


def strangers(to, port, count, *words):
    """A SYN to one end point from each of `count` hosts and l4 ports behind one's own address."""
    macs, src = link(words)
    dst, base = ipaddress.ip_address(to).packed, int.from_bytes(src, "big")
    for n in range(int(count)):
        src = (base + n % 200).to_bytes(4, "big")
        body = struct.pack("!HHIIBBHHH", 1024 + n // 200, int(port), n, 0, 0x50, 2, 1000, 0, 0)
        total = check(add(src + dst + struct.pack("!HH", 6, len(body)) + body))
        yield macs + b"\x08\x00" + ipv4(src, dst, 6, body[:16] + struct.pack("!H", total) + body[18:])


def sources(to, count, *words):
    """A datagram from each of `count` of one's l4 ports, which come round."""
    macs, src = link(words)
    base = int(ipaddress.ip_address(to))
    for n in range(int(count)):
        datagram = struct.pack("!HHHH", 1 + n % 65535, 9, 9, 0) + b"?"
        yield macs + b"\x08\x00" + ipv4(src, (base + n // 65535).to_bytes(4, "big"), 17, datagram)


def scan(to, proto, *words):
    """All l4 ports of one address."""
    macs, src = link(words)
    dst = ipaddress.ip_address(to).packed
    for port in range(1, 65536):
        if proto == "udp":
            yield macs + b"\x08\x00" + ipv4(src, dst, 17, struct.pack("!HHHH", 40000, port, 12, 0) + b"scan")
            continue
        body = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 0x50, 2, 1000, 0, 0)
        total = check(add(src + dst + struct.pack("!HH", 6, len(body)) + body))
        yield macs + b"\x08\x00" + ipv4(src, dst, 6, body[:16] + struct.pack("!H", total) + body[18:])


def chain(to, pieces, *words):
    """One packet of UDP in fragments of 8 bytes, and what would come behind its end."""
    macs, src = link(words)
    dst = ipaddress.ip_address(to).packed
    for n in range(int(pieces)):
        body = struct.pack("!HHHH", 1000, 9053, int(pieces) * 8 & 0xFFFF, 0) if n == 0 else b"fragment"
        yield macs + b"\x08\x00" + ipv4(src, dst, 17, body, 7, 0x2000 | n)


def open_packets(to, count, which, *words):
    """The first, or a later, fragment of `count` packets that are never whole."""
    macs, src = link(words)
    dst = ipaddress.ip_address(to).packed
    for n in range(int(count)):
        body = struct.pack("!HHHH", 1000, 9053, 2000, 0) + b"fragment"
        field = 0x2000 if which == "first" else 0x2000 | 4
        yield macs + b"\x08\x00" + ipv4(src, dst, 17, body, n & 0xFFFF, field)


def amplify(to, count, *words):
    """Packets at their last hop from sources that are not one's own."""
    macs, src = link(words)
    dst, base = ipaddress.ip_address(to).packed, int.from_bytes(src, "big")
    for n in range(int(count)):
        datagram = struct.pack("!HHHH", 1000, 9, 408, 0) + bytes(400)
        src = (base + n % 250).to_bytes(4, "big")
        frame = bytearray(ipv4(src, dst, 17, datagram))
        frame[8], frame[10:12] = 1, b"\0\0"
        frame[10:12] = struct.pack("!H", check(add(bytes(frame[:20]))))
        yield macs + b"\x08\x00" + bytes(frame)


def main(interface, needle):
    needle, heard = bytes.fromhex(needle), []
    plain, vnet = packet(interface), packet(interface, True)

    def listen():
        while True:
            frame, address = vnet.recvfrom(70000)
            if address[2] != PACKET_OUTGOING and needle in frame and len(heard) < 20000:
                heard.append(frame.hex())

    threading.Thread(target=listen, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        if command == "heard":
            said = json.dumps(heard[:])
            heard.clear()
        elif command == "flood":
            said = paced(plain, globals()[words[0]](*words[1:]))
        else:
            frames = [bytes.fromhex(sys.stdin.readline()) for _ in range(int(words[0]))]
            said = sum(put(vnet if command == "vnet" else plain, frame) for frame in frames)
        print(said, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
