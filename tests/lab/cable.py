"""A cable between two interfaces of a namespace: what arrives at one leaves by
the other. A bridge would keep what is for the MAC address of one of its ports.

cable.py INTERFACE INTERFACE
"""

import select
import socket
import sys

ETH_P_ALL = 3
PACKET_OUTGOING = 4


def open_end(interface):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    end.setblocking(False)
    end.bind((interface, ETH_P_ALL))
    return end


def main():
    one, other = (open_end(interface) for interface in sys.argv[1:3])
    print("ready", flush=True)
    far = {one: other, other: one}
    while True:
        for end in select.select([one, other], [], [])[0]:
            # An end that is down says so once, and takes nothing.
            try:
                frame, (_, _, kind, *_) = end.recvfrom(65535)
                if kind != PACKET_OUTGOING:
                    far[end].send(frame)
            except OSError:
                pass


main()
