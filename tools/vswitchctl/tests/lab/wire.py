"""Raw frames in a container: `listen NEEDLE` tells which came in, `watch` counts those, `send` writes them, `garbage`
and `hostile` mutate them."""
import random, select, socket, struct, sys, time

SOL_PACKET, PACKET_AUXDATA, PACKET_VNET_HDR, PACKET_OUTGOING = 263, 8, 15, 4
TP_STATUS_VLAN_VALID = 1 << 4


def packet(interface):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    raw.bind((interface, 0))
    return raw


def put(raw, frame, refused):
    while True:
        try:
            raw.send(frame)
            return
        except BlockingIOError:
            select.select([], [raw], [], 1)
        except OSError as error:
            if error.errno == 105:  # ENOBUFS: the queue of the interface is full
                select.select([], [], [], 0.001)
                continue
            refused.append(error.errno)
            return


def listen(interface, needle):
    """Says `ready`; at the end of its input, one line of hex for each frame that came in and has the needle."""
    raw, needle = packet(interface), bytes.fromhex(needle)
    raw.setblocking(False)
    print("ready", flush=True)
    seen = []

    def drain():
        while True:
            try:
                frame, address = raw.recvfrom(70000)
            except BlockingIOError:
                return
            if address[2] != PACKET_OUTGOING and needle in frame:
                seen.append(frame.hex())

    while True:
        ready, _, _ = select.select([raw, sys.stdin], [], [])
        drain()
        if sys.stdin in ready and not sys.stdin.buffer.read1(65536):
            drain()
            break
    print("\n".join(seen))


def send(interface, times, vnet):
    """One frame a line of input, in hex, all of them `times` times; says which errors the kernel had."""
    raw, refused = packet(interface), []
    if vnet == "vnet":
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    frames = [bytes.fromhex(line) for line in sys.stdin]
    for _ in range(int(times)):
        for frame in frames:
            put(raw, frame, refused)
    print(len(frames) * int(times) - len(refused), *sorted(set(refused)))


def watch(interface, needle, *others):
    """Says `ready`; at the end of its input, how many frames came in that have the needle, how many of these were for one
    of the MACs `others`, and the first such frame. (What has a tag is of another VLAN, where nobody knows anybody; the
    kernel takes the tag out and tells it beside the frame.)"""
    raw, needle = packet(interface), bytes.fromhex(needle)
    raw.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    raw.setblocking(False)
    others, tags = {bytes.fromhex(mac) for mac in others}, {b"\x81\x00", b"\x88\xa8", b"\x91\x00"}

    def vlan(beside):
        for level, kind, data in beside:
            if (level, kind) == (SOL_PACKET, PACKET_AUXDATA):
                status, tci = struct.unpack_from("=I12xH", data)
                return tci & 0xFFF if status & TP_STATUS_VLAN_VALID else 0
        return 0

    print("ready", flush=True)
    seen, strange, first, ended = 0, 0, b"", False
    while not ended:
        ready, _, _ = select.select([raw, sys.stdin], [], [])
        ended = sys.stdin in ready and not sys.stdin.buffer.read1(65536)
        while True:
            try:
                frame, beside, _, address = raw.recvmsg(70000, 128)
            except BlockingIOError:
                break
            if address[2] == PACKET_OUTGOING or needle not in frame:
                continue
            seen += 1
            if frame[:6] in others and frame[12:14] not in tags and not vlan(beside):
                strange, first = strange + 1, first or frame
    print(seen, strange, first.hex() or "-")


def hostile(interface, count, rate, seed, needle, own, own_ip, *others):
    """`count` frames that the kernel took, at most `rate` a second: those of the input, a virtio header and a frame a
    line in hex, mutated. Most are from MAC `own` and its address `own_ip`, to one of `others`, each MAC/address. Says how
    many it took, and how many not."""
    raw, dice, needle = packet(interface), random.Random(int(seed)), bytes.fromhex(needle)
    raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    count, rate, own, own_ip = int(count), int(rate), bytes.fromhex(own), socket.inet_aton(own_ip)
    others = [(bytes.fromhex(mac), socket.inet_aton(ip)) for mac, ip in (other.split("/") for other in others)]
    bases = [(line[:10], line[10:]) for line in (bytes.fromhex(line) for line in sys.stdin) if len(line) >= 24]
    values, below, some = [0, 1, 0x7F, 0x80, 0xFF], dice.random, dice.choice
    taken = refused = 0
    start = time.monotonic()
    while taken < count and refused < 4 * count:
        vnet, frame = some(bases)
        frame, (mac, ip) = bytearray(frame), some(others)
        if below() < 0.9:
            frame[:6], frame[6:12] = mac, own
        if below() < 0.7 and frame[12:14] == b"\x08\x00" and len(frame) >= 34:
            frame[26:34], frame[24:26] = own_ip + ip, b"\0\0"
            head = frame[14:34]
            total = sum(head[0::2]) * 256 + sum(head[1::2])
            total = (total & 0xFFFF) + (total >> 16)
            frame[24:26] = (0xFFFF - (total & 0xFFFF) - (total >> 16)).to_bytes(2, "big")
        for _ in range(int(below() * 5)):
            kind, at = below(), int(below() * len(frame))
            at = at if kind < 0.3 else at % 80 % len(frame)
            if kind < 0.8:
                frame[at] = some(values) if kind < 0.5 else int(below() * 256)
            elif kind < 0.9:
                del frame[max(at, 14):]
            else:
                frame += some(bases)[1][14:]
        if below() < 0.25:
            vnet = bytearray(vnet)
            vnet[int(below() * 10)] = some(values) if below() < 0.5 else int(below() * 256)
        if not vnet[1]:
            del frame[1498:]
        if len(frame) >= 80:
            frame[-len(needle):] = needle
        else:
            frame += needle
        try:
            raw.send(bytes(vnet + frame))
            taken += 1
        except OSError as error:
            refused += 1
            if error.errno == 105:  # ENOBUFS: the queue of the interface is full
                time.sleep(0.001)
        if taken % 64 == 0:
            ahead = start + taken / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
    print(taken, refused)


def addresses(interface, count, mac):
    """`count` frames to random destinations, then `count` from random sources."""
    raw, refused, dice = packet(interface), [], random.Random(7)
    own = bytes.fromhex(mac)
    other = lambda: bytes([dice.randrange(64) * 4 + 2]) + dice.randbytes(5)
    for n in range(2 * int(count)):
        pair = other() + own if n < int(count) else own + other()
        put(raw, pair + b"\x88\xb5" + bytes(46), refused)
        if n % 100 == 99:
            select.select([], [], [], 0.001)  # the queue of the interface holds a thousand
    print(2 * int(count) - len(refused), *sorted(set(refused)))


def garbage(interface, count, seed):
    """`count` frames made of the given ones by flipping, cutting, joining; what the kernel refuses is not counted."""
    raw, refused, dice = packet(interface), [], random.Random(int(seed))
    seeds = [bytes.fromhex(line) for line in sys.stdin]
    for n in range(int(count)):
        frame = bytearray(dice.choice(seeds))
        for _ in range(dice.randrange(1, 8)):
            kind = dice.randrange(5)
            if kind < 2 and frame:
                frame[dice.randrange(len(frame))] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
            elif kind == 2:
                del frame[dice.randrange(len(frame) + 1):]
            elif kind == 3:
                frame += dice.choice(seeds)[dice.randrange(14):]
            else:
                at = dice.randrange(len(frame) + 1)
                frame[at:at] = dice.randbytes(dice.randrange(1, 9))
        frame = bytes(frame[:1514])
        put(raw, frame + bytes(max(0, 14 - len(frame))), refused)
        if n % 100 == 99:
            select.select([], [], [], 0.001)
    print(int(count) - len(refused), *sorted(set(refused)))


globals()[sys.argv[1]](*sys.argv[2:])
