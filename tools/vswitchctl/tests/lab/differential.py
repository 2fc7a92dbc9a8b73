"""The same valid frames through the kernel's NAT and through ours: what comes out must be the same.

`differential.py COUNT SEED LANE LANE`, where a lane is `NETNS/INTERFACE/NETNS/INTERFACE`: the container's side, and the
one outside. They go in small groups, each waited for on both lanes, so that no queue overflows. Says
how many packets were compared; or the first that differs, and ends badly."""
import collections, ctypes, os, random, select, socket, struct, sys, time

CLONE_NEWNET, PACKET_OUTGOING, SO_RCVBUFFORCE = 0x40000000, 4, 33
OWN, OURS = socket.inet_aton("10.1.0.2"), socket.inet_aton("198.18.0.10")
# The two ends of each link: whoever sends, and the router.
IN, OUT = bytes.fromhex("02420a010001" "02420a010002"), bytes.fromhex("0242c612000a" "0242c6120001")
ROUTER, PUBLISHED, BEHIND = socket.inet_aton("198.18.0.1"), 20080, 80
GROUP, PATIENCE = 200, 10
ICMP, TCP, UDP, EXPERIMENTAL = 1, 6, 17, 253
FLOWS, MTU, DF = 2000, 1500, 0x4000


def packet_socket(netns, interface):
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/run/netns/" + netns) as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), netns)
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    raw.bind((interface, 0x0800))
    raw.setblocking(False)
    return raw


class Lane:
    def __init__(self, words):
        inside_netns, inside, outside_netns, outside = words.split("/")
        self.name = inside_netns
        self.sockets = {IN: packet_socket(inside_netns, inside), OUT: packet_socket(outside_netns, outside)}

    def send(self, side, frame):
        while True:
            try:
                return self.sockets[side].send(frame)
            except OSError as error:
                if error.errno not in (11, 105):  # EAGAIN, ENOBUFS: its queue is full
                    raise
                select.select([], [self.sockets[side]], [], 0.001)

    def take(self, side, count):
        """Up to so many packets that came out on a side; fewer after a while in which none came."""
        out, deadline = [], time.monotonic() + PATIENCE
        while len(out) < count and time.monotonic() < deadline:
            try:
                frame, address = self.sockets[side].recvfrom(70000)
            except BlockingIOError:
                select.select([self.sockets[side]], [], [], 0.1)
                continue
            if address[2] != PACKET_OUTGOING and frame[12:14] == b"\x08\0" and self.is_translated(side, frame):
                out.append(normal(frame))
        return out

    def is_translated(self, side, frame):
        """Nothing that is of the link itself."""
        return frame[30:33] != OURS[:3] if side == OUT else frame[30:34] == OWN and frame[26:29] != OWN[:3]


def normal(frame):
    """The IP packet: MACs are each lane's own, and what is behind its length is padding."""
    packet = frame[14:14 + int.from_bytes(frame[16:18], "big")]
    if not int.from_bytes(packet[6:8], "big") & 0x3FFF or checksum(packet[:(packet[0] & 15) * 4]):
        return packet
    # What leaves in fragments has an identification of ours, and its sound checksum.
    return packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:]


def checksum(data):
    """RFC 1071: the sum of 16-bit words is the number modulo 65535, but that it is 0 for zeros alone."""
    number = int.from_bytes(data + b"\0" * (len(data) % 2), "big")
    return 0xFFFF - ((number % 0xFFFF or 0xFFFF) if number else 0)


def ipv4(dice, proto, ends, payload, options=b"", ident=0, fragment=0, tos=None, ttl=None):
    tos = dice.randrange(256) if tos is None else tos
    ttl = dice.randrange(2, 256) if ttl is None else ttl
    head = struct.pack(">BBHHHBBH", 0x45 + len(options) // 4, tos, 20 + len(options) + len(payload), ident,
                       fragment, ttl, proto, 0) + ends[0] + ends[1] + options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def with_pseudo(proto, ends, segment, at):
    sum = checksum(ends[0] + ends[1] + struct.pack(">BBH", 0, proto, len(segment)) + segment)
    if proto == UDP and not sum:
        sum = 0xFFFF  # RFC 768
    return segment[:at] + sum.to_bytes(2, "big") + segment[at + 2:]


class Flow:
    """What a container and a host outside say to each other; `side` is where it comes from, as its sender writes it."""

    def __init__(self, dice, number, proto=None):
        self.proto = proto or dice.choice([UDP, UDP, UDP, TCP, TCP, TCP, ICMP, ICMP, EXPERIMENTAL])
        self.dst = bytes(dice.choice([(203, 0, 113), (198, 51, 100)])) + bytes([dice.randrange(1, 255)])
        # Of one's own, so that it is kept by both.
        self.own, self.port = 1024 + number * 7, dice.randrange(1, 65536)
        self.shown = self.own
        # Opening, until that is answered, or under way.
        self.opening, self.seq, self.back = dice.random() < 0.3, dice.randrange(1 << 32), dice.randrange(1 << 32)

    def ends(self, side):
        return ((OWN, self.dst), (self.own, self.port)) if side == IN else \
            ((self.dst, OURS), (self.port, self.shown))

    def udp(self, dice, side, payload):
        addresses, ports = self.ends(side)
        datagram = struct.pack(">HHHH", *ports, 8 + len(payload), 0) + payload
        return datagram if dice.random() < 0.1 else with_pseudo(UDP, addresses, datagram, 6)

    def tcp(self, dice, side, payload):
        addresses, ports = self.ends(side)
        seq, ack = (self.seq, self.back) if side == IN else (self.back, self.seq)
        options = dice.choice([b"", struct.pack(">BBBBII", 1, 1, 8, 10, dice.randrange(1 << 32), 1)])
        flags, used = dice.choice([0x10, 0x18, 0x50, 0x98]), len(payload)
        if self.opening:
            options, payload, used = struct.pack(">BBHBBBB", 2, 4, 1460, 1, 3, 3, 7), b"", 0
            (flags, ack) = (dice.choice([2, 0xC2]), 0) if side == IN else (0x12, (self.seq + 1) % (1 << 32))
            if side == OUT:
                self.opening, self.seq, used = False, ack, 1
        segment = struct.pack(">HHIIBBHHH", *ports, seq, ack, (5 + len(options) // 4) << 4, flags, 0x4000, 0, 0)
        if side == IN:
            self.seq = (self.seq + used) % (1 << 32)
        else:
            self.back = (self.back + used) % (1 << 32)
        return with_pseudo(TCP, addresses, segment + options + payload, 16)

    def icmp(self, dice, side, payload):
        return icmp(8 if side == IN else 0, 0, struct.pack(">HH", self.own, dice.randrange(1 << 16)) + payload)

    def packets(self, dice, side, ident):
        """One, or the fragments of one, in order."""
        cut = self.proto == UDP and dice.random() < 0.05
        # No operation, the end, one that nobody knows: those that a router has to write in are no part of this.
        options = dice.choice([b""] * 9 + [b"\x01\x01\x01\x00", b"\xde\x08" + b"\xaa" * 6])
        room = MTU - 20 - len(options) - 32
        size = dice.randrange(1, 4000) if cut else dice.choice([0, 1, 2, 18, 512, room, dice.randrange(room)])
        payload = dice.randbytes(size)
        make = {UDP: self.udp, TCP: self.tcp, ICMP: self.icmp, EXPERIMENTAL: lambda *words: words[-1]}
        body, ends = make[self.proto](dice, side, payload), self.ends(side)[0]
        if not cut:
            flags = DF if dice.random() < 0.5 else 0
            return [ipv4(dice, self.proto, ends, body, options, ident, flags)]
        step, tos, ttl = dice.choice([1480, 1200, 576]), dice.randrange(256) & 0xFC, dice.randrange(2, 256)
        cuts = range(0, len(body), step)
        return [ipv4(dice, UDP, ends, body[at:at + step], b"", ident,
                     at // 8 | (0x2000 if at + step < len(body) else 0), tos, ttl) for at in cuts]


def icmp(kind, code, rest):
    message = bytes([kind, code, 0, 0]) + rest
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def error(dice, sent, ident):
    """Somebody on the way, or at the end of it, about a packet as it left."""
    kind, code, rest = dice.choice([(11, 0, 0), (3, 1, 0), (3, 3, 0), (3, 4, 1400)])
    head = (sent[0] & 15) * 4
    quoted = sent[:dice.choice([head + 8, head + 8, 128, 548])]
    message = icmp(kind, code, struct.pack(">I", rest) + quoted)
    return ipv4(dice, ICMP, (dice.choice([ROUTER, sent[16:20]]), OURS), message, ident=ident)


def differs(sent, lanes, kernel, ours):
    missing, more = collections.Counter(kernel) - collections.Counter(ours), \
        collections.Counter(ours) - collections.Counter(kernel)
    print(f"of {sent} packets {len(kernel)} by {lanes[0].name}, {len(ours)} by {lanes[1].name}")
    for name, some in (("kernel", missing), ("ours", more)):
        for packet in list(some)[:2]:
            print(f"{name} alone: {packet.hex()}")
    sys.exit(1)


def through(lanes, side, other, packets):
    """What these become, which is the same by both."""
    for lane in lanes:
        for packet in packets:
            # As short as it is, or as long as a wire wants it.
            lane.send(side, side + b"\x08\0" + packet + (bytes(max(0, 46 - len(packet))) if len(packet) % 2 else b""))
    kernel, ours = (lane.take(other, len(packets)) for lane in lanes)
    sources = {OURS} if other == OUT else {packet[12:16] for packet in packets}
    if sorted(kernel) != sorted(ours) or len(ours) != len(packets) or any(it[12:16] not in sources for it in ours):
        differs(len(packets), lanes, kernel, ours)
    return ours


def main(count, seed, *lanes):
    count, dice, lanes = int(count), random.Random(int(seed)), [Lane(words) for words in lanes]
    flows, done, ident, kinds = [Flow(dice, number) for number in range(FLOWS)], 0, 0, collections.Counter()
    guests = [Flow(dice, FLOWS + number, UDP) for number in range(100)]
    for guest in guests:
        guest.own, guest.shown = BEHIND, PUBLISHED

    def say(group, flow, side):
        nonlocal ident
        ident = (ident + 1) % 65536
        packets = flow.packets(dice, side, ident)
        kind = {ICMP: "icmp", TCP: "tcp", UDP: "udp"}.get(flow.proto, "other") if len(packets) == 1 else "fragment"
        kinds[kind + ("-out" if side == IN else "-in")] += len(packets)
        group += packets

    asked = []
    while done < count:
        outward, inward, spoken = [], [], [dice.choice(flows) for _ in range(GROUP // 2)]
        for flow in spoken + asked:
            say(outward, flow, IN)
        left = through(lanes, IN, OUT, outward)
        asked = dice.sample(guests, 10)
        for flow in spoken[::2] + asked:
            say(inward, flow, OUT)
        kinds["guest-in"] += len(asked)
        whole = [packet for packet in left if not int.from_bytes(packet[6:8], "big") & 0x3FFF]
        errors = [error(dice, packet, ident) for packet in sorted(whole)[::8]]
        kinds["error-in"] += len(errors)
        through(lanes, OUT, IN, inward + errors)
        done += len(outward) + len(inward) + len(errors)
    print("same", done, *(f"{kind}={number}" for kind, number in sorted(kinds.items())))


main(*sys.argv[1:])
