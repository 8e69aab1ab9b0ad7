#!/usr/bin/env python3
"""Stops one thread of a process until standard input ends: freeze-thread.py TID

A signal would stop the whole process; ptrace(2) stops a thread alone, and lets it
go on when the tracer is gone. When the process is killed this ends, too: without
its tracer taking notice of a dead thread, the process could not go.
"""

import ctypes
import os
import select
import sys

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
__WALL = 0x40000000

tid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
for request in PTRACE_SEIZE, PTRACE_INTERRUPT:
    if libc.ptrace(request, tid, None, None) != 0:
        sys.exit(f"thread {tid}: {os.strerror(ctypes.get_errno())}")
os.waitpid(tid, __WALL)
print("stopped", flush=True)
while not select.select([sys.stdin], [], [], 0.1)[0]:
    if os.waitpid(tid, __WALL | os.WNOHANG)[0] == tid:
        break
