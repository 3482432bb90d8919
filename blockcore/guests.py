"""The connections of NBD clients, as nbdkit holds them.

nbdkit does not let a plugin close a connection, and waits for all of them
when it is told to end.  They are found among the process's descriptors: a
connection has the address of the socket that accepted it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator


def hang_up(how: int, control: str | None) -> None:
    """Shut down every NBD connection of this process: socket.SHUT_RD or SHUT_RDWR.

    `control` is the path of the control socket, whose clients are spared.
    With SHUT_RD nbdkit sees the end of the stream while replies still leave.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(s) for s in _sockets()]
        listeners = [s for s in sockets if s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)]
        addresses = {_address(s) for s in listeners} - {control, None}
        for s in sockets:
            if s not in listeners and _address(s) in addresses:
                with contextlib.suppress(OSError):  # already gone
                    s.shutdown(how)


def _sockets() -> Iterator[socket.socket]:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            fd = int(name)
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                yield socket.socket(fileno=os.dup(fd))


def _address(s: socket.socket) -> object:
    """A Unix path, or a TCP port: connections to a wildcard address have another host."""
    try:
        name = s.getsockname()
    except OSError:
        return None
    if s.family in (socket.AF_INET, socket.AF_INET6):
        return name[1]
    return name or None
