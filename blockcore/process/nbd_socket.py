# SPDX-License-Identifier: MIT
"""The sockets of NBD clients, which nbdkit has accepted and does not show to its plugins.

They are found among the process's descriptors: a client's socket has the address
of the socket that it was accepted from.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple


class NbdSocket(NamedTuple):
    """A client's socket: its descriptor, and its inode, which tells whether it still is that.

    nbdkit closes it whenever it likes, and another file may get the number.
    """

    number: int
    inode: int

    def hang_up(self) -> None:
        """Shut the socket down, if nbdkit has not closed it: the client sees the end at once.

        Never blocks, never raises; on any thread.  nbdkit ends the connection
        when it reads the end, too.
        """
        with contextlib.suppress(OSError):
            # A copy stays what it is, while the number may come to mean another file.
            copy = os.dup(self.number)
            try:
                if _socket(copy) == NbdSocket(copy, self.inode):
                    view = socket.socket(fileno=copy)
                    try:
                        view.shutdown(socket.SHUT_RDWR)
                    finally:
                        view.detach()
            finally:
                os.close(copy)


class OpenSockets(dict[int, NbdSocket | None]):
    """The sockets of the connections that are open, by their numbers; None where not found."""

    def others(self, control: socket.socket | None) -> list[NbdSocket]:
        """Return the sockets of clients that none of them has; those of `control` are none."""
        return clients({one for one in list(self.values()) if one is not None}, control)

    def hang_up(self, numbers: Iterable[int]) -> None:
        """Hang up connections; one that is not open is left out.  Nothing here waits."""
        for number in numbers:
            if (found := self.get(number)) is not None:
                found.hang_up()


def clients(taken: Collection[NbdSocket], control: socket.socket | None) -> list[NbdSocket]:
    """Return the sockets of clients that are not `taken`; those of `control` are none."""
    found: list[NbdSocket] = []
    listening: set[object] = set()
    addresses: dict[NbdSocket, object] = {}
    with contextlib.suppress(OSError):
        found = [sock for name in os.listdir("/proc/self/fd") if (sock := _socket(int(name)))]
    for sock in found:
        if sock in taken or (control is not None and sock.number == control.fileno()):
            continue
        with contextlib.suppress(OSError):
            view = socket.socket(fileno=sock.number)
            try:
                listens = view.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                address = _address(view)
            finally:
                view.detach()  # it is nbdkit's to close
            if listens:
                listening.add(address)
            else:
                addresses[sock] = address
    return [sock for sock, address in addresses.items() if address in listening]


def _socket(number: int) -> NbdSocket | None:
    """Return a descriptor as a socket, None if it is none."""
    # fstat(2) would wait for a file system that hangs: there may be files of a drive among them.
    try:
        kind, _, inode = os.readlink(f"/proc/self/fd/{number}").partition(":")
    except OSError:  # closed meanwhile
        return None
    return NbdSocket(number, int(inode.strip("[]"))) if kind == "socket" else None


def _address(view: socket.socket) -> object:
    """Return what a listening socket and those accepted from it have in common.

    A socket that listens at all addresses of a port has another one than those of its clients.
    """
    name: Any = view.getsockname()
    if view.family == socket.AF_UNIX:
        return name or None
    return "port", name[1]
