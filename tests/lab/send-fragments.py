"""Sends a UDP datagram in fragments of its own making, and says what is answered.

    send-fragments.py SOURCE PORT TARGET PORT BYTES FRAGMENT ORDER

The datagram of BYTES letters is cut into fragments of at most FRAGMENT bytes of
payload, which are sent in the ORDER forward, backward or shuffled. Prints the
length of the answer, its first word, and whether the rest came back unchanged.
"""

import random
import socket
import struct
import sys

UDP, FRAGMENT_HEADER, IPV6_HDRINCL = 17, 44, 36


def checksum(data):
    """RFC 1071, by the arithmetic modulo 65535."""
    return 0xFFFF - int.from_bytes(data + bytes(len(data) & 1), "big") % 0xFFFF


def cut(payload, size):
    """(offset, piece, whether more follow); sizes are multiples of 8."""
    for offset in range(0, len(payload), size):
        yield offset, payload[offset : offset + size], offset + size < len(payload)


def main():
    source, source_port, target, port, length, size, order = sys.argv[1:]
    source_port, port, length, size = int(source_port), int(port), int(length), int(size)
    v6 = ":" in target
    family = socket.AF_INET6 if v6 else socket.AF_INET
    addresses = b"".join(socket.inet_pton(family, a) for a in (source, target))
    data = bytes(97 + i * 7 % 26 for i in range(length))

    udp = struct.pack("!HHHH", source_port, port, 8 + length, 0) + data
    total = checksum(addresses + struct.pack("!II", UDP, len(udp)) + udp)
    udp = udp[:6] + struct.pack("!H", total or 0xFFFF) + udp[8:]
    ident = random.randrange(1, 65536)
    packets = []
    for offset, piece, more in cut(udp, size):
        if v6:
            header = struct.pack("!BBHI", UDP, 0, offset | more, ident)
            ip = struct.pack("!IHBB", 6 << 28, len(header) + len(piece), FRAGMENT_HEADER, 64)
            packets.append(ip + addresses + header + piece)
        else:
            flags = offset // 8 | more << 13
            # The kernel fills in the length and the checksum.
            packets.append(struct.pack("!BBHHHBBH", 0x45, 0, 0, ident, flags, 64, UDP, 0) + addresses + piece)
    if order == "backward":
        packets.reverse()
    elif order == "shuffled":
        random.Random(1).shuffle(packets)

    answers = socket.socket(family, socket.SOCK_DGRAM)
    answers.bind((source, source_port))
    answers.settimeout(2)
    wire = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    if v6:
        wire.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
    for packet in packets:
        wire.sendto(packet, (target, 0))
    try:
        answer = answers.recv(65535)
    except TimeoutError:
        print("no answer")
        return
    name, _, rest = answer.partition(b": ")
    print(len(answer), name.decode(), "intact" if rest == data else "damaged")


main()
