#!/usr/bin/env python3
"""Sends a line by UDP and prints the answer.

udp-ask.py ADDRESS PORT SOURCE_PORT: "hello" from that port. Waits for the answer
for up to three seconds, and is done as soon as it is there.
"""

import socket
import sys

address, port, source = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", source))
sock.settimeout(3)
sock.sendto(b"hello\n", (address, port))
try:
    sys.stdout.write(sock.recv(2048).decode())
except OSError as error:
    sys.exit(f"udp-ask.py: {address} port {port}: {error}")
