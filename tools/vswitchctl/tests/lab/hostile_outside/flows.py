"""Whoever goes on meanwhile. `serve ADDRESS...` echoes TCP and UDP at l4 port 7; `use ADDRESS...` has a connection to each
and does as told, line by line: `check` says a line both ways on these, and opens new ones; `open N` opens N and says how
many failed."""
import socket, sys, threading


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def echo(connection):
    try:
        while data := connection.recv(2000):
            connection.sendall(data)
    except OSError:
        pass
    connection.close()


def serve(*addresses):
    def datagrams(s):
        while True:
            try:
                data, peer = s.recvfrom(2000)
                s.sendto(data, peer)
            except OSError:
                pass

    def streams(listener):
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    threads = []
    for address in addresses:
        s = socket.socket(family(address), socket.SOCK_DGRAM)
        s.bind((address, 7))
        listener = socket.create_server((address, 7), family=family(address), backlog=512)
        threads += [threading.Thread(target=datagrams, args=(s,)), threading.Thread(target=streams, args=(listener,))]
    for thread in threads:
        thread.start()
    print("ready", flush=True)


def say(s, what):
    s.sendall(what)
    said = b""
    while len(said) < len(what):
        got = s.recv(2000)
        if not got:
            raise OSError("closed")
        said += got
    if said != what:
        raise OSError(f"{said!r}")


def stream(address):
    return socket.create_connection((address, 7), 5)


def datagram(address):
    s = socket.socket(family(address), socket.SOCK_DGRAM)
    s.settimeout(5)
    s.connect((address, 7))
    return s


def tries(addresses):
    for address in addresses:
        for way in (stream, datagram):
            try:
                with way(address) as s:
                    say(s, b"new")
            except OSError as error:
                yield f"{way.__name__} to {address}: {error!r}"


def use(*addresses):
    old = [(way.__name__, address, way(address)) for address in addresses for way in (stream, datagram)]
    for _, _, s in old:
        say(s, b"first")
    print("ready", flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        failed = []
        if command == "check":
            for name, address, s in old:
                try:
                    say(s, b"old")
                except OSError as error:
                    failed.append(f"old {name} to {address}: {error!r}")
            failed += tries(addresses)
        else:
            for _ in range(int(words[0])):
                failed += tries(addresses)
        print(len(failed), *failed[:5], flush=True)


globals()[sys.argv[1]](*sys.argv[2:])
