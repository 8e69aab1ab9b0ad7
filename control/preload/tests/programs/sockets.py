"""Generic netlink by hand, under the preload library; prints what has passed."""

import os
import select
import socket
import struct
import sys
import threading

GENERIC, NLCTRL, ACK, DUMP = 16, 0x10, 4, 0x300


def connect():
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, GENERIC)
    s.bind((0, 0))
    return s


def message(kind, flags, sequence, port, command, body=b""):
    payload = struct.pack("BBH", command, 1, 0) + body
    return struct.pack("IHHII", 16 + len(payload), kind, flags | 1, sequence, port) + payload


def resolve(s, name=b"IPVS", sequence=1):
    """Asks for a family; the message and the acknowledgement."""
    text = name + b"\0"
    body = struct.pack("HH", 4 + len(text), 2) + text + b"\0" * (-len(text) % 4)
    s.sendto(message(NLCTRL, ACK, sequence, s.getsockname()[0], 3, body), (0, 0))


def family(s):
    resolve(s)
    answer = s.recv(16384)
    assert struct.unpack_from("H", answer, 4)[0] == NLCTRL, answer
    ack = s.recv(16384)
    assert struct.unpack_from("i", ack, 16)[0] == 0, ack
    at = 20
    while at < len(answer):
        length, kind = struct.unpack_from("HH", answer, at)
        if kind == 1:
            return struct.unpack_from("H", answer, at + 4)[0]
        at += (length + 3) & ~3
    raise AssertionError("no number")


def services(s, number, sequence=2):
    """Lists the services; how many there are."""
    s.send(message(number, DUMP, sequence, s.getsockname()[0], 4))
    count = 0
    while True:
        data = s.recv(16384)
        at = 0
        while at < len(data):
            length, kind, _, seq, port = struct.unpack_from("IHHII", data, at)
            assert (seq, port) == (sequence, s.getsockname()[0]), (seq, port)
            if kind == 3:
                return count
            assert kind == number, kind
            count += 1
            at += length


def readable(s):
    """What select and epoll say of it."""
    epoll = select.epoll()
    epoll.register(s, select.EPOLLIN)
    by_epoll = bool(epoll.poll(0))
    epoll.close()
    assert by_epoll == bool(select.select([s], [], [], 0)[0])
    return by_epoll


def poll():
    s = connect()
    port = s.getsockname()
    resolve(s)
    assert readable(s)
    assert s.getsockname() == port
    s.recv(16384)
    assert readable(s), "the acknowledgement is still there"
    _, _, _, sender = s.recvmsg(16384)
    assert sender == (0, 0), sender
    assert not readable(s)


def peek():
    s = connect()
    resolve(s)
    whole = s.recv(16384, socket.MSG_PEEK)
    assert len(s.recv(10, socket.MSG_PEEK)) == 10
    data, _, flags, _ = s.recvmsg(10, 0, socket.MSG_PEEK)
    assert (len(data), flags & socket.MSG_TRUNC) == (10, socket.MSG_TRUNC)
    assert s.recv(16384) == whole
    assert s.recv(16384) != whole


def kernel():
    s = connect()
    number = family(s)
    resolve(s, b"nlctrl", 5)
    answer = s.recv(16384)
    assert struct.unpack_from("HHII", answer, 4)[::2] == (NLCTRL, 5), answer
    assert b"nlctrl\0" in answer
    s.recv(16384)
    resolve(s, b"NO_SUCH", 6)
    assert struct.unpack_from("i", s.recv(16384), 16)[0] == -2
    assert services(s, number) == 1
    other = connect()
    resolve(other, b"nlctrl")
    assert b"nlctrl\0" in other.recv(16384), "a socket of the kernel's own"


def fork():
    s = connect()
    number = family(s)
    resolve(s)  # two messages are unread when it forks
    child = os.fork()
    if child == 0:
        try:
            assert readable(s)
            s.recv(16384), s.recv(16384)
            assert not readable(s)
            assert services(s, number, 7) == 1
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(0 if services(s, number, 8) == 1 else 1)
            os._exit(os.waitpid(grandchild, 0)[1])
        except BaseException as error:
            print("child:", repr(error), file=sys.stderr)
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert readable(s), "the child has taken nothing away"
    s.recv(16384), s.recv(16384)
    assert not readable(s)
    assert services(s, number, 9) == 1


def exec_():
    s = connect()
    family(s)
    assert not os.get_inheritable(s.fileno())
    assert os.system("cat /proc/net/ip_vs | grep -q 'TCP  C0A80164:0050 rr'") == 0


def threads():
    failures = []

    def work():
        try:
            for n in range(20):
                s = connect()
                assert services(s, family(s), n) == 1
                if n % 5 == 0:
                    child = os.fork()
                    if child == 0:
                        os._exit(0 if services(s, family(s), n) == 1 else 1)
                    assert os.waitpid(child, 0)[1] == 0
                s.close()
        except BaseException as error:
            failures.append(repr(error))

    workers = [threading.Thread(target=work) for _ in range(4)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert not failures, failures


def reuse():
    s = connect()
    family(s)
    number = s.fileno()
    os.close(s.detach())
    a, b = socket.socketpair()
    moved = os.dup2(a.fileno(), number)
    assert os.write(moved, b"x") == 1 and b.recv(10) == b"x"
    b.send(b"y")
    assert socket.socket(fileno=moved).recv(10) == b"y", "the number is another socket's now"


def nonblocking():
    s = connect()
    s.setblocking(False)
    number = family(s)
    for blocking in (False, True):
        s.setblocking(blocking)
        try:
            s.recv(10)
            raise AssertionError("there is nothing")
        except BlockingIOError:
            pass
    assert services(s, number) == 1


def many():
    """More sockets than the library keeps at a time, of which few are open."""
    for n in range(200):
        s = connect()
        family(s)
        s.close()
    sockets = [connect() for _ in range(64)]
    [family(s) for s in sockets]
    try:
        family(connect())
        raise AssertionError("one too many")
    except OSError as error:
        assert error.errno == 105, error


def older():
    """The socket options that IPVS had before netlink: refused, and only they."""
    s = connect()
    number = family(s)
    raw = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for name in (1152, 1153, 1154, 1163, 1215):  # IP_VS_BASE_CTL and on
        for option in (
            lambda: raw.getsockopt(socket.IPPROTO_IP, name, 64),
            lambda: raw.setsockopt(socket.IPPROTO_IP, name, b"x" * 64),
        ):
            try:
                option()
                raise AssertionError("%d was taken" % name)
            except OSError as error:
                assert error.errno == 92, error  # ENOPROTOOPT
    raw.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 7)
    assert raw.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 7
    assert services(s, number) == 1


for test in (poll, peek, kernel, fork, exec_, threads, reuse, nonblocking, many, older):
    test()
    print(test.__name__.rstrip("_"), flush=True)
