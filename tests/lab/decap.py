"""The end of the tunnels on a real server of the lab, whose kernel has none.

    decap.py DEVICE COUNTS

Takes IP in IP (all four combinations), GRE with or without checksum, and GUE on
UDP port 6080, and gives the inner packets to the kernel by the tun device DEVICE.
Once it runs, and when it has nothing to do, it writes to the file COUNTS how many
packets came in each kind of tunnel, as JSON: ipip (4in4), 6in4, 4in6, 6in6, gre,
gre-csum, gue, and bad for those that it dropped. GUE's UDP checksum is verified by
the kernel, which also puts fragments together.
"""

import collections
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
IPIP, IPV6, GRE = 4, 41, 47
SO_RCVBUFFORCE = 33  # Linux, not named by Python
UDP_NO_CHECK6_RX = 102  # takes IPv6 UDP packets without a checksum (RFC 6936)
GUE_PORT = 6080
VERSION_OF = {IPIP: 4, IPV6: 6, 0x0800: 4, 0x86DD: 6}


def of_ip(outer, protocol):
    def unpack(payload):
        return f"{VERSION_OF[protocol]}in{outer}", payload, VERSION_OF[protocol]

    return unpack


def of_gre(payload):
    """RFC 2784: flags, protocol, and with the C bit a checksum over all of it."""
    flags, protocol = struct.unpack_from("!HH", payload)
    if flags == 0:
        return "gre", payload[4:], VERSION_OF[protocol]
    # Sums of 16-bit words in ones' complement arithmetic are sums modulo 65535.
    if flags != 0x8000 or int.from_bytes(payload + bytes(len(payload) & 1), "big") % 0xFFFF:
        raise ValueError
    return "gre-csum", payload[8:], VERSION_OF[protocol]


def of_gue(payload):
    """GUE version 0, no flags: 0, protocol, 0, 0 (draft-ietf-intarea-gue)."""
    zero, protocol, flags = struct.unpack_from("!BBH", payload)
    if zero or flags:
        raise ValueError
    return "gue", payload[4:], VERSION_OF[protocol]


def open_tun(name):
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    return tun


def open_sockets():
    """Descriptor -> socket, bytes of the outer header that it shows, unpacker."""
    sockets = {}

    def add(sock, skip, unpack):
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        sock.setblocking(False)
        sockets[sock.fileno()] = (sock, skip, unpack)

    for protocol in (IPIP, IPV6):
        add(socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol), True, of_ip(4, protocol))
        add(socket.socket(socket.AF_INET6, socket.SOCK_RAW, protocol), False, of_ip(6, protocol))
    add(socket.socket(socket.AF_INET, socket.SOCK_RAW, GRE), True, of_gre)
    add(socket.socket(socket.AF_INET6, socket.SOCK_RAW, GRE), False, of_gre)
    gue = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    gue.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    gue.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)
    gue.bind(("::", GUE_PORT))
    add(gue, False, of_gue)
    return sockets


def take(packet, skip, unpack):
    """The kind of tunnel and the inner packet."""
    if skip:
        packet = packet[(packet[0] & 15) * 4 :]
    try:
        kind, inner, version = unpack(packet)
    except (ValueError, KeyError, struct.error):
        return "bad", None
    if not inner or inner[0] >> 4 != version:
        return "bad", None
    return ("ipip" if kind == "4in4" else kind), inner


def write_counts(path, counts):
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(counts, file)
    os.rename(path + ".new", path)


def main():
    device, path = sys.argv[1:]
    tun = open_tun(device)
    sockets = open_sockets()
    counts, written = collections.Counter(), None
    ready = select.epoll()
    for descriptor in sockets:
        ready.register(descriptor, select.EPOLLIN)
    ready.register(tun, select.EPOLLIN)
    while True:
        if counts != written and not ready.poll(0):
            write_counts(path, counts)
            written = counts.copy()
        for descriptor, _ in ready.poll():
            if descriptor == tun:
                os.read(tun, 65535)  # nothing of the server is to leave this way
                continue
            sock, skip, unpack = sockets[descriptor]
            for _ in range(64):
                try:
                    packet = sock.recv(65535)
                except BlockingIOError:
                    break
                kind, inner = take(packet, skip, unpack)
                counts[kind] += 1
                if inner is not None:
                    os.write(tun, inner)


main()
