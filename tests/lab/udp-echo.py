"""A UDP server of the lab: udp-echo.py NAME PORT answers "NAME: <what came>".

A server behind DR is addressed by the VIP and must answer from it, so the
address that a packet came to is taken from its control data (IP_PKTINFO,
IPV6_PKTINFO) and given back with the answer.
"""

import selectors
import socket
import struct
import sys

IP_PKTINFO = 8  # Linux, not named by Python 3.11

name, port = sys.argv[1].encode(), int(sys.argv[2])
ready = selectors.DefaultSelector()


def listen(family, level, receive, kind):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setsockopt(level, receive, 1)
    sock.bind(("", port))
    ready.register(sock, selectors.EVENT_READ, (level, kind))


def answer(sock, level, kind):
    data, control, _, sender = sock.recvmsg(65535, 256)
    for got_level, got_kind, info in control:
        if (got_level, got_kind) != (level, kind):
            continue
        if level == socket.IPPROTO_IP:
            # struct in_pktinfo: interface, local address, header destination.
            # Any interface may carry the answer, from the header's destination.
            info = struct.pack("=i4s4s", 0, info[8:12], b"\0" * 4)
        else:
            # struct in6_pktinfo: address, interface.
            info = info[:16] + struct.pack("=i", 0)
        sock.sendmsg([name, b": ", data], [(level, kind, info)], 0, sender)


listen(socket.AF_INET, socket.IPPROTO_IP, IP_PKTINFO, IP_PKTINFO)
listen(socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, socket.IPV6_PKTINFO)
while True:
    for key, _ in ready.select():
        answer(key.fileobj, *key.data)
