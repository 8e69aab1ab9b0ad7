#!/usr/bin/env python3
"""Stops one thread of a process until standard input ends: freeze-thread.py TID

A signal would stop the whole process; ptrace(2) stops a thread alone, and lets it
go on when the tracer is gone.
"""

import ctypes
import os
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
sys.stdin.read()
