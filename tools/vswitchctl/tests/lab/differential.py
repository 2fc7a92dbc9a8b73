"""The same valid frames through the kernel's NAT and through ours: what comes out must be the same.

`differential.py COUNT SEED ROUTER_MAC LANE LANE`, where a lane is `NETNS/INTERFACE/NETNS/INTERFACE`: where frames are
sent, where they come out. They go in small groups, each waited for on both lanes, so that no queue overflows. Says
how many packets were compared; or the first that differs, and ends badly."""
import collections, ctypes, os, random, select, socket, struct, sys, time

CLONE_NEWNET, PACKET_OUTGOING, SO_RCVBUFFORCE = 0x40000000, 4, 33
OWN, OURS = socket.inet_aton("10.1.0.2"), socket.inet_aton("198.18.0.10")
OWN_MAC = bytes.fromhex("02420a010002")
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
        tx_netns, tx, rx_netns, rx = words.split("/")
        self.name, self.tx, self.rx = tx_netns, packet_socket(tx_netns, tx), packet_socket(rx_netns, rx)

    def send(self, frame):
        while True:
            try:
                return self.tx.send(frame)
            except OSError as error:
                if error.errno not in (11, 105):  # EAGAIN, ENOBUFS: its queue is full
                    raise
                select.select([], [self.tx], [], 0.001)

    def take(self, count):
        """Up to so many packets that came out; fewer after a while in which none came."""
        out, deadline = [], time.monotonic() + PATIENCE
        while len(out) < count and time.monotonic() < deadline:
            try:
                frame, address = self.rx.recvfrom(70000)
            except BlockingIOError:
                select.select([self.rx], [], [], 0.1)
                continue
            # Not what the far side says itself, and nothing else of its link.
            if address[2] != PACKET_OUTGOING and frame[12:14] == b"\x08\0" and frame[30:33] != OURS[:3]:
                out.append(normal(frame))
        return out


def normal(frame):
    """The IP packet: MACs are each lane's own, and what is behind its length is padding."""
    return frame[14:14 + int.from_bytes(frame[16:18], "big")]


def checksum(data):
    """RFC 1071: the sum of 16-bit words is the number modulo 65535, but that it is 0 for zeros alone."""
    number = int.from_bytes(data + b"\0" * (len(data) % 2), "big")
    return 0xFFFF - ((number % 0xFFFF or 0xFFFF) if number else 0)


def ipv4(dice, proto, dst, payload, options=b"", ident=0, fragment=0, tos=None, ttl=None):
    tos = dice.randrange(256) if tos is None else tos
    ttl = dice.randrange(2, 256) if ttl is None else ttl
    head = struct.pack(">BBHHHBBH4s4s", 0x45 + len(options) // 4, tos, 20 + len(options) + len(payload), ident,
                       fragment, ttl, proto, 0, OWN, dst) + options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def with_pseudo(proto, dst, segment, at):
    sum = checksum(OWN + dst + struct.pack(">BBH", 0, proto, len(segment)) + segment)
    if proto == UDP and not sum:
        sum = 0xFFFF  # RFC 768
    return segment[:at] + sum.to_bytes(2, "big") + segment[at + 2:]


class Flow:
    def __init__(self, dice, number):
        self.proto = dice.choice([UDP, UDP, UDP, TCP, TCP, TCP, ICMP, ICMP, EXPERIMENTAL])
        self.dst = bytes(dice.choice([(203, 0, 113), (198, 51, 100)])) + bytes([dice.randrange(1, 255)])
        # Of one's own, so that it is kept by both.
        self.own, self.port = 1024 + number * 7, dice.randrange(1, 65536)
        # Opening, or under way: what has no answer is no connection that is ever established.
        self.opening, self.seq = dice.random() < 0.3, dice.randrange(1 << 32)

    def udp(self, dice, payload):
        datagram = struct.pack(">HHHH", self.own, self.port, 8 + len(payload), 0) + payload
        return datagram if dice.random() < 0.1 else with_pseudo(UDP, self.dst, datagram, 6)

    def tcp(self, dice, payload):
        if self.opening:
            options, flags, payload = struct.pack(">BBHBBBB", 2, 4, 1460, 1, 3, 3, 7), dice.choice([2, 0xC2]), b""
        else:
            options = dice.choice([b"", struct.pack(">BBBBII", 1, 1, 8, 10, dice.randrange(1 << 32), 1)])
            flags = dice.choice([0x10, 0x18, 0x50, 0x98])
        segment = struct.pack(">HHIIBBHHH", self.own, self.port, self.seq, 0 if self.opening else 1,
                              (5 + len(options) // 4) << 4, flags, 0x4000, 0, 0) + options + payload
        self.seq = (self.seq + len(payload)) % (1 << 32)
        return with_pseudo(TCP, self.dst, segment, 16)

    def icmp(self, dice, payload):
        message = struct.pack(">BBHHH", 8, 0, 0, self.own, dice.randrange(1 << 16)) + payload
        return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]

    def packets(self, dice, ident):
        """One, or the fragments of one, in order."""
        cut = self.proto == UDP and dice.random() < 0.05
        # No operation, the end, one that nobody knows: those that a router has to write in are no part of this.
        options = dice.choice([b""] * 9 + [b"\x01\x01\x01\x00", b"\xde\x08" + b"\xaa" * 6])
        room = MTU - 20 - len(options) - 32
        size = dice.randrange(1, 4000) if cut else dice.choice([0, 1, 2, 18, 512, room, dice.randrange(room)])
        payload = dice.randbytes(size)
        make = {UDP: self.udp, TCP: self.tcp, ICMP: self.icmp, EXPERIMENTAL: lambda _, payload: payload}
        body = make[self.proto](dice, payload)
        if not cut:
            flags = DF if dice.random() < 0.5 else 0
            return [ipv4(dice, self.proto, self.dst, body, options, ident, flags)]
        step, tos, ttl = dice.choice([1480, 1200, 576]), dice.randrange(256) & 0xFC, dice.randrange(2, 256)
        cuts = range(0, len(body), step)
        return [ipv4(dice, UDP, self.dst, body[at:at + step], b"", ident,
                     at // 8 | (0x2000 if at + step < len(body) else 0), tos, ttl) for at in cuts]


def differs(sent, lanes, kernel, ours):
    missing, more = collections.Counter(kernel) - collections.Counter(ours), \
        collections.Counter(ours) - collections.Counter(kernel)
    print(f"of {sent} packets {len(kernel)} by {lanes[0].name}, {len(ours)} by {lanes[1].name}")
    for name, some in (("kernel", missing), ("ours", more)):
        for packet in list(some)[:2]:
            print(f"{name} alone: {packet.hex()}")
    sys.exit(1)


def main(count, seed, router, *lanes):
    count, dice, lanes = int(count), random.Random(int(seed)), [Lane(words) for words in lanes]
    ethernet = bytes.fromhex(router.replace(":", "")) + OWN_MAC + b"\x08\0"
    flows, done, ident, kinds = [Flow(dice, number) for number in range(FLOWS)], 0, 0, collections.Counter()
    while done < count:
        group = []
        while len(group) < GROUP:
            flow, ident = dice.choice(flows), (ident + 1) % 65536
            packets = flow.packets(dice, ident)
            kinds[flow.proto if len(packets) == 1 else "fragment"] += len(packets)
            group += packets
        for lane in lanes:
            for packet in group:
                # As short as it is, or as long as a wire wants it.
                lane.send(ethernet + packet + (bytes(max(0, 46 - len(packet))) if len(packet) % 2 else b""))
        kernel, ours = (lane.take(len(group)) for lane in lanes)
        if sorted(kernel) != sorted(ours) or len(kernel) != len(group):
            differs(len(group), lanes, kernel, ours)
        if any(packet[12:16] != OURS for packet in ours):
            differs(len(group), lanes, kernel, ours)
        done += len(group)
    print("same", done, *(f"{kind}={number}" for kind, number in sorted(kinds.items(), key=str)))


main(*sys.argv[1:])
