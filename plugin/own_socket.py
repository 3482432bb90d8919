# SPDX-License-Identifier: MIT
"""Which of several sockets is that of this thread's connection, which nbdkit does not tell.

nbdkit sleeps for its plugins in ppoll(2), and looks at the connection's socket
meanwhile, to notice that the client has gone (nbdkit_nanosleep).  /proc tells the
system call that a thread is in, and its arguments: among them is the address of
the descriptors that are polled.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import threading
from collections.abc import Sequence

from blockcore.process.nbd_socket import NbdSocket

SYS_PPOLL = {"x86_64": "271", "aarch64": "73"}.get(os.uname().machine)
"""The number of ppoll(2), as in /proc/PID/task/TID/syscall; None for other machines."""

POLLED = struct.Struct("ihh" * 3)
"""Three of `struct pollfd`: the end of the process, that of the connection, its socket."""

EVENTS = (select.POLLIN, select.POLLIN, select.POLLRDHUP)
"""What nbdkit waits for at each."""

SLEEP_NS = 1_000_000
"""How long nbdkit sleeps, so that another thread can look; as often as necessary."""

TRIES = 200

_libc = ctypes.CDLL(None)


def own_socket(sockets: Sequence[NbdSocket]) -> NbdSocket | None:
    """Return the socket of the connection that this thread serves, which is one of `sockets`.

    None if it cannot be told: /proc does not have it, or the client has gone.
    """
    if len(sockets) < 2 or SYS_PPOLL is None:
        return sockets[0] if len(sockets) == 1 else None
    known = {sock.number: sock for sock in sockets}
    watcher = _Watcher(threading.get_native_id(), known)
    watcher.start()
    for _ in range(TRIES):
        if not watcher.is_alive() or _libc.nbdkit_nanosleep(0, SLEEP_NS):
            break
    watcher.over = True
    watcher.join()
    return watcher.found


class _Watcher(threading.Thread):
    """Looks at a thread until that is in ppoll(2) with one of the known sockets."""

    def __init__(self, tid: int, known: dict[int, NbdSocket]) -> None:
        super().__init__(daemon=True)
        self.found: NbdSocket | None = None
        self.over = False
        self._tid = tid
        self._known = known

    def run(self) -> None:
        with contextlib.suppress(OSError), open("/proc/self/mem", "rb", buffering=0) as memory:
            while self.found is None and not self.over:
                self._look(memory.fileno())

    def _look(self, memory: int) -> None:
        with open(f"/proc/self/task/{self._tid}/syscall") as file:
            words = file.read().split()
        if len(words) != 9 or words[0] != SYS_PPOLL or int(words[2], 16) != len(EVENTS):
            return
        # The thread may have left ppoll meanwhile, so what is read has to look right.
        polled = POLLED.unpack(os.pread(memory, POLLED.size, int(words[1], 16)))
        if polled[1::3] == EVENTS:
            self.found = self._known.get(polled[6])
