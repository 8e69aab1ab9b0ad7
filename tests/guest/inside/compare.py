#!/usr/bin/env python3
"""Gives a director crafted packets and notes what leaves it; compares two notes.

  compare.py run NOTES.json             in the namespace with both far ends
  compare.py rules             the services, for ipvsadm -R or rvsadm -R
  compare.py diff KERNEL.json RVS.json differences.md

A case is one or more frames; what the director sends until both ends have
answers to pings that were sent after the case belongs to it.
"""

import json
import re
import select
import socket
import struct
import sys
import time

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import GRE, Ether
from scapy.packet import NoPayload, Padding, Raw

CLIENT_MAC, ROUTER_MAC = "52:54:00:00:0b:01", "52:54:00:00:0b:02"
DIRECTOR_MACS = ["52:54:00:00:0a:01", "52:54:00:00:0a:02"]
# By family: client, VIP, server, router on the servers' side, director there.
CLIENT = {4: "192.168.1.12", 6: "fd00:1::12"}
VIP = {4: "192.168.1.100", 6: "fd00:1::100"}
SERVER = {4: "10.0.0.31", 6: "fd00:2::31"}
ROUTER = {4: "10.0.0.254", 6: "fd00:2::254"}
WAN = {4: "192.168.1.21", 6: "fd00:1::21"}
LAN = {4: "10.0.0.1", 6: "fd00:2::1"}
OTHER = {4: 6, 6: 4}

# Port, what the server's line has beside its address, the tunnel's family.
SERVICES = {
    "dr": (80, "-g", "same"),
    "nat": (8080, "-m", "same"),
    "ipip": (83, "-i", "same"),
    "gre": (84, "-i --tun-type gre --tun-nocsum", "same"),
    "gre-csum": (85, "-i --tun-type gre --tun-csum", "same"),
    "gue": (86, "-i --tun-type gue --tun-port 6080 --tun-nocsum", "same"),
    "gue-csum": (87, "-i --tun-type gue --tun-port 6080 --tun-csum", "same"),
    "ipip-cross": (88, "-i", "other"),
}
TUNNELS = [name for name, row in SERVICES.items() if row[1].startswith("-i")]
EMPTY, NONE = 90, 91


def bracket(address):
    return f"[{address}]" if ":" in address else address


def rules(family):
    for protocol in ("-t", "-u"):
        for name, (port, options, to) in SERVICES.items():
            virtual = f"{protocol} {bracket(VIP[family])}:{port}"
            server = bracket(SERVER[family if to == "same" else OTHER[family]])
            yield f"-A {virtual} -s rr"
            yield f"-a {virtual} -r {server}:{80 if name == 'nat' else port} {options}"
        yield f"-A {protocol} {bracket(VIP[family])}:{EMPTY} -s rr"
    # Two servers in turn.
    yield f"-A -t {bracket(VIP[family])}:99 -s rr"
    for server in (SERVER[family], SERVER[family][:-1] + "2"):
        yield f"-a -t {bracket(VIP[family])}:99 -r {bracket(server)}:99 -g"


# ------------------------------------------------------------------- the cases


def ip(family, source, destination, hops=64, **more):
    if family == 4:
        return IP(src=source, dst=destination, ttl=hops, id=more.pop("id", 0x1234), flags=more.pop("flags", "DF"), **more)
    more.pop("flags", None)
    more.pop("id", None)
    if "tos" in more:
        more["tc"] = more.pop("tos")
    return IPv6(src=source, dst=destination, hlim=hops, fl=0xABCDE, **more)


def from_client(packet):
    return ("client", Ether(src=CLIENT_MAC, dst=DIRECTOR_MACS[0]) / packet)


def from_servers(packet):
    return ("servers", Ether(src=ROUTER_MAC, dst=DIRECTOR_MACS[1]) / packet)


MSS = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1000, 0)), ("NOP", None), ("WScale", 7)]
PORT = [20000]


def next_port():
    PORT[0] += 1
    return PORT[0]


def quote(family, packet):
    """An ICMP error's payload: as much as fits 576 bytes, in IPv6 1,280."""
    return bytes(packet)[: 548 if family == 4 else 1232]


def icmp_error(family, source, destination, kind, packet, mtu=1400):
    if family == 4:
        kinds = {"too-big": dict(type=3, code=4, nexthopmtu=mtu), "port": dict(type=3, code=3), "host": dict(type=3, code=1), "ttl": dict(type=11, code=0)}
        return ip(4, source, destination, flags="", tos=0xC0) / ICMP(**kinds[kind]) / Raw(quote(4, packet))
    kinds = {
        "too-big": ICMPv6PacketTooBig(mtu=mtu),
        "port": ICMPv6DestUnreach(code=4),
        "host": ICMPv6DestUnreach(code=3),
        "ttl": ICMPv6TimeExceeded(code=0),
    }
    return ip(6, source, destination) / kinds[kind] / Raw(quote(6, packet))


def cases(f):
    """Pairs of a name and frames, for family f."""
    for name, (port, _, _) in SERVICES.items():
        client_port = next_port()

        def tcp(flags, hops=64, data=b"", sport=client_port, dport=port, more={}, **fields):
            packet = ip(f, CLIENT[f], VIP[f], hops, **fields) / TCP(sport=sport, dport=dport, flags=flags, seq=1000, ack=0 if flags == "S" else 5000, **more)
            return packet / Raw(data) if data else packet

        def udp(data, hops=64, sport=client_port, dport=port, **fields):
            return ip(f, CLIENT[f], VIP[f], hops, **fields) / UDP(sport=sport, dport=dport) / Raw(data)

        yield f"{name} SYN", [from_client(tcp("S", more={"options": MSS}))]
        yield f"{name} data", [from_client(tcp("PA", data=b"GET / HTTP/1.0\r\n\r\n"))]
        yield f"{name} full frame", [from_client(tcp("A", data=b"y" * (1460 if f == 4 else 1440)))]
        yield f"{name} TTL 2", [from_client(tcp("A", hops=2))]
        yield f"{name} TTL 1", [from_client(tcp("A", hops=1))]
        if name == "dr":
            yield "dr TTL 1, TOS", [from_client(tcp("A", hops=1, tos=0xBA))]
        yield f"{name} TOS", [from_client(tcp("PA", data=b"tos", tos=0xBA))]
        yield f"{name} congestion experienced", [from_client(tcp("PA", data=b"ce", tos=0x03))]
        yield f"{name} wrong checksum", [from_client(tcp("PA", data=b"wrong", more={"chksum": 0x1111}))]
        yield f"{name} padded", [("client", from_client(tcp("A"))[1] / Padding(b"\xee" * 17))]
        yield f"{name} UDP", [from_client(udp(b"a datagram"))]
        yield f"{name} UDP, odd length", [from_client(udp(b"odd"))]
        yield f"{name} UDP, empty", [from_client(udp(b""))]
        if f == 4:
            no_sum = udp(b"no checksum")
            no_sum[UDP].chksum = 0
            yield f"{name} UDP without checksum", [from_client(no_sum)]
            yield f"{name} no DF", [from_client(udp(b"z" * 50, flags="", id=0x4321))]
            yield f"{name} full frame, no DF", [from_client(udp(b"z" * 1472, flags="", id=0x4322))]
            yield f"{name} record route", [from_client(udp(b"route", options=[IPOption_RR(length=11, pointer=4, routers=["0.0.0.0", "0.0.0.0"])]))]
        # What routers beyond say of packets of this connection.
        said = ip(f, VIP[f], CLIENT[f], 60) / TCP(sport=port, dport=client_port, flags="A", seq=5000, ack=1001) / Raw(b"q" * 600)
        for kind in ("too-big", "host", "ttl"):
            yield f"{name} ICMP of the client's side, {kind}", [from_client(icmp_error(f, "192.168.1.1" if f == 4 else "fd00:1::1", VIP[f], kind, said))]
        if name == "nat":
            reply = lambda flags, hops=64, data=b"", **more: ip(f, SERVER[f], CLIENT[f], hops, **more) / TCP(sport=80, dport=client_port, flags=flags, seq=5000, ack=1001) / Raw(data)
            yield "nat reply", [from_servers(reply("SA"))]
            yield "nat reply data", [from_servers(reply("PA", data=b"HTTP/1.0 200 OK\r\n\r\n"))]
            yield "nat reply full frame", [from_servers(reply("A", data=b"r" * (1460 if f == 4 else 1440)))]
            yield "nat reply TTL 2", [from_servers(reply("A", hops=2))]
            yield "nat reply TTL 1", [from_servers(reply("A", hops=1))]
            yield "nat reply TOS", [from_servers(reply("A", tos=0x28))]
            yield "nat reply UDP", [from_servers(ip(f, SERVER[f], CLIENT[f]) / UDP(sport=80, dport=client_port) / Raw(b"answer"))]
            went = ip(f, CLIENT[f], SERVER[f], 60) / TCP(sport=client_port, dport=80, flags="A", seq=1000, ack=5000) / Raw(b"q" * 600)
            for kind in ("too-big", "host", "port", "ttl"):
                yield f"nat ICMP of the servers' side, {kind}", [from_servers(icmp_error(f, ROUTER[f], CLIENT[f], kind, went))]
            yield "nat RST", [from_servers(reply("RA"))]
        else:
            yield f"{name} FIN", [from_client(tcp("FA"))]
            yield f"{name} RST", [from_client(tcp("R"))]
    # Fragments in order, by DR and NAT.
    if f == 4:
        for name in ("dr", "nat"):
            whole = ip(4, CLIENT[4], VIP[4], flags="", id=0x7777) / UDP(sport=next_port(), dport=SERVICES[name][0]) / Raw(bytes(range(256)) * 12)
            yield f"{name} fragments", [from_client(part) for part in fragment(whole, 1480)]
    turn = [next_port() for _ in range(4)]
    for n, sport in enumerate(turn):
        yield f"turn {n}", [from_client(ip(f, CLIENT[f], VIP[f]) / TCP(sport=sport, dport=99, flags="S", seq=1))]
    yield "no connection, ACK", [from_client(ip(f, CLIENT[f], VIP[f]) / TCP(sport=next_port(), dport=80, flags="A", seq=7, ack=9))]
    yield "no connection, RST", [from_client(ip(f, CLIENT[f], VIP[f]) / TCP(sport=next_port(), dport=80, flags="R", seq=7))]
    yield "no server, TCP", [from_client(ip(f, CLIENT[f], VIP[f]) / TCP(sport=next_port(), dport=EMPTY, flags="S", seq=7))]
    yield "no server, UDP", [from_client(ip(f, CLIENT[f], VIP[f]) / UDP(sport=next_port(), dport=EMPTY) / Raw(b"who"))]
    yield "no service, TCP", [from_client(ip(f, CLIENT[f], VIP[f]) / TCP(sport=next_port(), dport=NONE, flags="S", seq=7))]
    yield "no service, UDP", [from_client(ip(f, CLIENT[f], VIP[f]) / UDP(sport=next_port(), dport=NONE) / Raw(b"who"))]
    ping = ICMP(id=77, seq=1) if f == 4 else ICMPv6EchoRequest(id=77, seq=1)
    yield "ping of the VIP", [from_client(ip(f, CLIENT[f], VIP[f]) / ping / Raw(b"12345678"))]


# --------------------------------------------------------------- giving, noting


class End:
    """A far end: sends frames, and hears what the director sends."""

    def __init__(self, interface):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind((interface, 3))


def neighbourly(frame):
    """What the director says to keep house: ARP, neighbour discovery, MLD, IGMP."""
    kind = struct.unpack("!H", frame[12:14])[0]
    if kind == 0x0800:
        return frame[23] == 2
    if kind != 0x86DD:
        return True
    if frame[20] == 0:  # hop-by-hop, as MLD has
        return True
    return frame[20] == 58 and frame[54] in (130, 131, 132, 133, 134, 135, 136, 143)


def mark(sequence):
    """A datagram by DR that says its number."""
    datagram = UDP(sport=65000, dport=SERVICES["dr"][0]) / Raw(b"mark" * 4 + struct.pack("!H", sequence))
    return from_client(ip(4, CLIENT[4], VIP[4]) / datagram)[1]


def ping(end, sequence):
    """A ping that the director's kernel answers, and how to know the answer."""
    build, address, source = (
        (from_client, WAN[4], CLIENT[4]) if end == "client" else (from_servers, LAN[4], ROUTER[4])
    )
    return bytes(build(ip(4, source, address) / ICMP(id=0x5A5A, seq=sequence))[1])


def is_pong(frame):
    return frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34] == 0 and frame[38:40] == b"\x5a\x5a"


def run(path):
    ends = {"client": End("far1"), "servers": End("far2")}
    ours = [bytes.fromhex(mac.replace(":", "")) for mac in DIRECTOR_MACS]
    notes, sequence = {}, 0

    def take(heard, wanted):
        """Hears until all that is wanted has come."""
        deadline = time.monotonic() + 30
        while wanted:
            ready, _, _ = select.select([e.socket for e in ends.values()], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise SystemExit(f"the director does not pass on {wanted}")
            for end, it in ends.items():
                if it.socket not in ready:
                    continue
                frame, address = it.socket.recvfrom(65535)
                if address[2] == socket.PACKET_OUTGOING or frame[6:12] not in ours or neighbourly(frame):
                    continue
                if is_pong(frame):
                    wanted.discard((end, struct.unpack("!H", frame[40:42])[0]))
                elif frame.endswith(b"mark", 0, len(frame) - 2):
                    wanted.discard(("mark", struct.unpack("!H", frame[-2:])[0]))
                else:
                    heard.append((end, frame.hex()))

    def settle(heard, kernel_path):
        """Until what was sent before has come out: a marked datagram to a service,
        twice, the second one sent when the first is out; where the director's
        kernel has a say, pings of both ends as well."""
        nonlocal sequence
        for pings in [False, False] + [True, True] * kernel_path:
            sequence += 1
            if pings:
                for end in ends:
                    ends[end].socket.send(ping(end, sequence))
                take(heard, {(end, sequence) for end in ends})
            else:
                ends["client"].socket.send(bytes(mark(sequence)))
                take(heard, {("mark", sequence)})

    settle([], True)
    for family in (4, 6):
        for name, frames in cases(family):
            heard = []
            for end, frame in frames:
                ends[end].socket.send(bytes(frame))
            settle(heard, name.startswith(("no ", "ping")))
            notes[f"IPv{family} {name}"] = sorted(heard, key=lambda row: row[0])
    with open(path, "w") as file:
        json.dump(notes, file, indent=1)
    print(f"{len(notes)} cases, {sum(len(n) for n in notes.values())} frames")


# -------------------------------------------------------------------- comparing

TUNNEL = r"(ipip|gre|gre-csum|gue|gue-csum|ipip-cross)"
# What the director says itself by ICMP.
ERROR = r"(.* TTL 1|.* TTL 1, TOS|.* full frame|no server, .*|no service, UDP|ping of the VIP)"
# What says nothing: patterns of a case and of a field, why.
FREE = [
    (rf"IPv[46] {ERROR}", r"IP\.(id|chksum)", "each counts the ids of its own packets"),
    (rf"IPv[46] {TUNNEL} .*", r"IP\.(id|chksum)", "each counts the ids of its own packets"),
    (rf"IPv[46] {TUNNEL} .*", r"IPv6ExtHdrFragment\.id", "each chooses its own"),
    (r"IPv[46] gue-csum .*", r"UDP\.chksum", "follows the source port; that it is right is checked"),
    (r"IPv4 .*record route", r"(IP|IP#2)\.chksum", "follows the option"),
    (r"IPv4 dr TTL 1, TOS", r"IP\.chksum", "follows the TOS"),
]
# The intended differences: patterns of a case and of a field (or "frames" for
# their number), and the beginning of the line of docs/differences.md that says so.
INTENDED = [
    (rf"IPv6 {ERROR}", r"IPv6\.fl", "| flow label of IPv6 errors |"),
    (r"IPv[46] gue.*", r"UDP\.sport", "| TUN: source ports of GUE |"),
    (r"IPv4 dr TTL 1, TOS", r"IP\.tos", "| TOS of IPv4 errors |"),
    (r"IPv4 .*record route", r"IP(#2)?\.options|Raw\.load", "| record route and timestamps in clients' packets |"),
]


def wrong_sums(frame):
    """The outermost UDP checksum, where the whole datagram is there to sum."""
    packet = Ether(bytes.fromhex(frame))
    outer = packet.payload
    if not isinstance(outer.payload, UDP) or outer.payload.chksum == 0 or isinstance(outer, IP) and (outer.frag or outer.flags.MF):
        return None
    was = outer.payload.chksum
    del outer.payload.chksum
    right = Ether(bytes(packet)).payload.payload.chksum
    return None if right == was else f"{was:#x}, {right:#x} is right"


def dissected(end, frame):
    """Pairs of a field's name and its value, layer by layer, outermost first."""
    rows, packet, seen = [("end", end)], Ether(bytes.fromhex(frame)), {}
    while not isinstance(packet, NoPayload):
        name = packet.__class__.__name__
        # What a NIC fills a short frame up with.
        if name == "Padding" and len(frame) <= 2 * 60:
            break
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            name += f"#{seen[name]}"
        for field in packet.fields_desc:
            value = packet.getfieldval(field.name)
            rows.append((f"{name}.{field.name}", value.hex() if isinstance(value, bytes) else str(value)))
        packet = packet.payload
    return rows


def diff(kernel, rvs, document):
    """Prints what differs and is not meant to. True when nothing does."""
    text = open(document).read()
    unknown = [line for _, _, line in INTENDED if line not in text]
    for line in unknown:
        print(f"not in {document}: {line}")
    kernel, rvs = json.load(open(kernel)), json.load(open(rvs))
    met, wrong, equal = {}, 0, 0
    for case in kernel:
        problems = []

        def differs(field, ours, theirs):
            for pattern, fields, _ in FREE:
                if re.fullmatch(pattern, case) and re.fullmatch(fields, field):
                    return
            for pattern, fields, line in INTENDED:
                if re.fullmatch(pattern, case) and re.fullmatch(fields, field):
                    met[line] = met.get(line, 0) + 1
                    return
            problems.append(f"    {field}: kernel {theirs}, RVS {ours}")

        theirs, ours = kernel[case], rvs[case]
        if len(theirs) != len(ours):
            differs("frames", [summary(row) for row in ours], [summary(row) for row in theirs])
        else:
            for n, (one, other) in enumerate(zip(ours, theirs)):
                if "gue" in case and wrong_sums(one[1]):
                    problems.append(f"    UDP checksum of RVS: {wrong_sums(one[1])}")
                one, other = dissected(*one), dissected(*other)
                names = [name for name, _ in other] + [name for name, _ in one if name not in dict(other)]
                for name in names:
                    a, b = dict(one).get(name, "none"), dict(other).get(name, "none")
                    if a != b:
                        differs(name, a, b)
        if problems:
            wrong += 1
            print(case)
            print("\n".join(problems))
        else:
            equal += 1
    for line, count in met.items():
        print(f"intended, {count} fields: {line}")
    unmet = [line for _, _, line in INTENDED if line not in met]
    for line in unmet:
        print(f"named as intended, and not met: {line}")
    print(f"{equal} cases alike, {wrong} not")
    return wrong == 0 and not unknown and not unmet


def summary(row):
    return f"{row[0]}: {Ether(bytes.fromhex(row[1])).summary()}"


def main(arguments):
    if arguments[:1] == ["rules"]:
        for family in (4, 6):
            print("\n".join(rules(family)))
    elif arguments[:1] == ["run"] and len(arguments) == 2:
        run(arguments[1])
    elif arguments[:1] == ["diff"] and len(arguments) == 4:
        sys.exit(0 if diff(*arguments[1:]) else 1)
    else:
        sys.exit(__doc__)


main(sys.argv[1:])
