"""Raw frames in a container: `listen NEEDLE` tells which came in, `send` writes them, `garbage` mutates them."""
import random, select, socket, sys

SOL_PACKET, PACKET_VNET_HDR, PACKET_OUTGOING = 263, 15, 4


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
