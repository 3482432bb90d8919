# SPDX-License-Identifier: MIT
"""What a process has made for itself in the file system, and takes away at its end."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress


class Leftovers:
    """The sockets, each while the file is still ours, and the private directory.

    The environment is what `faultline serve` has left; see there.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._nbd_socket = environ.get("FAULTLINE_NBD_SOCKET")
        self._directory = environ.get("FAULTLINE_RUNTIME_DIR")
        self._sockets: dict[str, int] = {}

    def add_socket(self, path: str) -> None:
        """Remember a socket that this process has just bound there."""
        with suppress(OSError):
            self._sockets[path] = os.stat(path).st_ino

    def add_nbd_socket(self) -> None:
        """nbdkit has bound its socket; it does not remove it at its end."""
        if self._nbd_socket is not None:
            self.add_socket(self._nbd_socket)

    def remove(self) -> None:
        """Remove everything; never fails, and may be called again."""
        if self._nbd_socket not in self._sockets and _is_bound_here(self._nbd_socket):
            self.add_nbd_socket()
        for path, inode in self._sockets.items():
            with suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def _is_bound_here(path: str | None) -> bool:
    """Whether a descriptor of this process is the socket that is bound to `path`."""
    if path is None:
        return False
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as bound:
                if bound.getsockname() == path:
                    return True
    return False
