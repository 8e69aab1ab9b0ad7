"""Pings an address through a tunnel: what the lab tests decap.py with.

    tunnel-ping.py KIND SERVER SOURCE TARGET

sends an echo request from SOURCE to TARGET inside a packet to SERVER, and says
whether the answer came within a second. KIND is ip, gre, gre-csum, gre-wrong (its
checksum is), gue or gue-nocsum; the families are those of the addresses.
"""

import os
import socket
import struct
import sys

SO_NO_CHECK = 11
UDP_NO_CHECK6_TX = 101
GUE_PORT = 6080


def checksum(data):
    """RFC 1071, by the arithmetic modulo 65535."""
    rest = int.from_bytes(data + bytes(len(data) & 1), "big") % 0xFFFF
    return 0xFFFF - rest


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def echo_request(source, target, ident):
    packed = [socket.inet_pton(family(a), a) for a in (source, target)]
    data = bytes(range(255))
    if family(target) == socket.AF_INET:
        icmp = struct.pack("!BBHHH", 8, 0, 0, ident, 1) + data
        icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), 1, 0, 64, 1, 0) + b"".join(packed)
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + icmp
    icmp = struct.pack("!BBHHH", 128, 0, 0, ident, 1) + data
    pseudo = b"".join(packed) + struct.pack("!II", len(icmp), 58)
    icmp = icmp[:2] + struct.pack("!H", checksum(pseudo + icmp)) + icmp[4:]
    return struct.pack("!IHBB", 6 << 28, len(icmp), 58, 64) + b"".join(packed) + icmp


def send(kind, server, inner):
    version = inner[0] >> 4
    if kind == "ip":
        sock = socket.socket(family(server), socket.SOCK_RAW, 4 if version == 4 else 41)
        sock.sendto(inner, (server, 0))
    elif kind.startswith("gre"):
        protocol = 0x0800 if version == 4 else 0x86DD
        packet = struct.pack("!HH", 0, protocol) + inner
        if kind != "gre":
            packet = struct.pack("!HHHH", 0x8000, protocol, 0, 0) + inner
            right = checksum(packet) ^ (1 if kind == "gre-wrong" else 0)
            packet = packet[:4] + struct.pack("!H", right) + packet[6:]
        sock = socket.socket(family(server), socket.SOCK_RAW, 47)
        sock.sendto(packet, (server, 0))
    else:
        sock = socket.socket(family(server), socket.SOCK_DGRAM)
        if kind == "gue-nocsum":
            sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
            if family(server) == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)
        header = struct.pack("!BBH", 0, 4 if version == 4 else 41, 0)
        sock.sendto(header + inner, (server, GUE_PORT))


def main():
    kind, server, source, target = sys.argv[1:]
    ident = os.getpid() & 0xFFFF
    inner = echo_request(source, target, ident)
    v4 = family(target) == socket.AF_INET
    answers = socket.socket(family(target), socket.SOCK_RAW, 1 if v4 else 58)
    answers.settimeout(1)
    send(kind, server, inner)
    reply = struct.pack("!B", 0 if v4 else 129)
    try:
        while True:
            packet, sender = answers.recvfrom(65535)
            icmp = packet[20:] if v4 else packet
            if sender[0] == target and icmp[:1] == reply and icmp[4:6] == struct.pack("!H", ident):
                print("answer")
                return
    except TimeoutError:
        print("no answer")


main()
