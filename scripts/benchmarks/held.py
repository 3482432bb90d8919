# SPDX-License-Identifier: MIT
"""Guests whose writes are held by a machine that an error has stopped, or hang at a rule."""

from __future__ import annotations

import contextlib
import fcntl
import select
import struct
import termios
import time
from collections.abc import Mapping
from typing import Any

import nbd

from benchmarks.servers import Server
from faultline import Machine

BLOCK = 512
"""Bytes of each held write."""

HANGING = "hanging"
"""The id of the rule at which writes hang."""

SETTLE_S = 0.05
"""How long a request takes, at most, from nbdkit's socket to where it is held, in seconds.

Nothing shows when the last one is there.  If this were too short, the rule would
be gone before the request comes, and it would not be held.
"""


class Guests:
    """Connections to the drive vda, over which held writes are spread evenly."""

    def __init__(self, server: Server, connections: int) -> None:
        self._handles = [nbd.NBD() for _ in range(connections)]
        self._poll = select.poll()
        self._of_fd: dict[int, nbd.NBD] = {}
        self._pending: list[tuple[nbd.NBD, int]] = []
        for handle in self._handles:
            handle.connect_uri(server.uri())
            self._of_fd[handle.aio_get_fd()] = handle
            self._poll.register(handle.aio_get_fd(), select.POLLIN)

    def __enter__(self) -> Guests:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            with contextlib.suppress(nbd.Error):
                handle.shutdown()

    def hold(self, qmp: Machine, count: int) -> None:
        """Send `count` writes that meet a full disk; return once the machine holds them all."""
        rule = {"node-name": "vda", "iotype": "write", "errno": "ENOSPC"}
        fault = qmp.execute("x-fault-add", rule)
        self._send(count)
        qmp.wait_event("STOP")
        while any(_unread(fd) for fd in self._of_fd):
            time.sleep(0.001)
        time.sleep(SETTLE_S)
        qmp.execute("x-fault-remove", fault)

    def hang(self, qmp: Machine, count: int) -> None:
        """Send `count` writes that hang at a rule; return once all of them do."""
        rule = {"node-name": "vda", "iotype": "write", "action": "hang", "id": HANGING}
        qmp.execute("x-fault-add", rule)
        self._send(count)
        qmp.execute("x-fault-wait", {"id": HANGING, "hits": count})

    def cont(self, qmp: Machine) -> float:
        """Return the seconds from `cont` until all held writes are done.

        Raises RuntimeError if a write failed.
        """
        return self._time(qmp, "cont")

    def release(self, qmp: Machine) -> float:
        """Return the seconds from x-fault-release until all writes are done that hang.

        Raises RuntimeError if a write failed.
        """
        elapsed = self._time(qmp, "x-fault-release", {"id": HANGING})
        qmp.execute("x-fault-remove", {"id": HANGING})
        return elapsed

    def _send(self, count: int) -> None:
        buffer = bytearray(BLOCK)
        for index in range(count):
            handle = self._handles[index % len(self._handles)]
            self._pending.append((handle, handle.aio_pwrite(buffer, index * BLOCK)))
        for handle in self._handles:
            while handle.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
                handle.poll(-1)

    def _time(
        self, qmp: Machine, command: str, arguments: Mapping[str, Any] | None = None
    ) -> float:
        in_flight = len(self._pending)
        started = time.perf_counter()
        qmp.execute(command, arguments)
        while in_flight:
            for fd, _ in self._poll.poll():
                handle = self._of_fd[fd]
                in_flight -= handle.aio_in_flight()
                handle.aio_notify_read()
                in_flight += handle.aio_in_flight()
        elapsed = time.perf_counter() - started
        if not all(handle.aio_command_completed(cookie) for handle, cookie in self._pending):
            raise RuntimeError("a held request is not done")
        self._pending.clear()
        return elapsed


def _unread(fd: int) -> int:
    """Return how many bytes the server has not yet read from its end of the connection."""
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))
    return int(count)
