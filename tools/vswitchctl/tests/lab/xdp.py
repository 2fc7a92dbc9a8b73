# Attaches a program to an interface that gives every frame the same verdict; says `on`, and takes it off when its input
# ends. bpf(2): BPF_PROG_LOAD of a BPF_PROG_TYPE_XDP of two instructions; rtnetlink(7): IFLA_XDP.
import ctypes, errno, os, socket, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
code = struct.pack("<BBhi", 0xB7, 0, 0, int(sys.argv[2])) + struct.pack("<BBhi", 0x95, 0, 0, 0)
code, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
load = struct.pack("<IIQQIIQII", 6, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0).ljust(120, b"\0")
load = ctypes.create_string_buffer(load, len(load))
program = libc.syscall({"x86_64": 321, "aarch64": 280}[os.uname().machine], 5, load, len(load))
if program < 0:
    print(errno.errorcode[ctypes.get_errno()])
    sys.exit()
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)


def attach(fd):
    xdp = struct.pack("<HHHHi", 12, 43 | 0x8000, 8, 1, fd)
    body = struct.pack("<BxHiII", 0, 0, socket.if_nametoindex(sys.argv[1]), 0, 0) + xdp
    netlink.send(struct.pack("<IHHII", 16 + len(body), 19, 5, 1, 0) + body)
    (refused,) = struct.unpack("<i", netlink.recv(4096)[16:20])
    if refused:
        sys.exit(errno.errorcode[-refused])


attach(program)
print("on", flush=True)
sys.stdin.read()
attach(-1)
