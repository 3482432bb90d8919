# SPDX-License-Identifier: MIT
"""The files that a process makes for itself, and removes at its end."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress


class Leftovers:
    """The sockets of a process, and its private directory if it has one.

    A socket's file is removed only while it is the file that this process has
    bound: another process may have replaced it.  `environ` has the variables
    that `faultline serve` sets (`cli/nbdkit_command.py`).
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._nbd_socket = environ.get("FAULTLINE_NBD_SOCKET")
        self._directory = environ.get("FAULTLINE_RUNTIME_DIR")
        self._sockets: dict[str, int] = {}

    def add_socket(self, path: str) -> None:
        """Remember a socket that this process has just bound at `path`."""
        with suppress(OSError):
            self._sockets[path] = os.stat(path).st_ino

    def add_nbd_socket(self) -> None:
        """Remember the socket that nbdkit has bound; nbdkit does not remove it at its end."""
        if self._nbd_socket is not None:
            self.add_socket(self._nbd_socket)

    def remove(self) -> None:
        """Remove everything; on any thread, never raises, and may be called again."""
        # A start that fails may end between nbdkit's bind and `add_nbd_socket`.
        if self._nbd_socket not in self._sockets and _is_bound_here(self._nbd_socket):
            self.add_nbd_socket()
        for path, inode in self._sockets.items():
            with suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def _is_bound_here(path: str | None) -> bool:
    """Return whether this process has a socket that is bound to `path`."""
    if path is None:
        return False
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as bound:
                if bound.getsockname() == path:
                    return True
    return False
