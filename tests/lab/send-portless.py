#!/usr/bin/env python3
"""Sends one UDP datagram from a source port that no socket has.

send-portless.py ADDRESS PORT SOURCE_PORT: a raw socket writes the UDP header, so that the
kernel, when the answer comes, finds nobody and sends an ICMP port unreachable.
"""

import socket
import struct
import sys

PAYLOAD = b"portless"


def checksum(data):
    """RFC 1071 over an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def main():
    address, port, source_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
    # Port 0: the kernel refuses others in a raw IPv6 destination.
    sock.connect((address, 0))
    length = 8 + len(PAYLOAD)
    header = struct.pack("!HHH", source_port, port, length)
    ends = b"".join(
        socket.inet_pton(family, end) for end in (sock.getsockname()[0], address)
    )
    pseudo = ends + struct.pack("!HH", socket.IPPROTO_UDP, length)
    check = checksum(pseudo + header + b"\0\0" + PAYLOAD)
    sock.send(header + struct.pack("!H", check) + PAYLOAD)


main()
