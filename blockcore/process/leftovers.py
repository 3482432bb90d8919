# SPDX-License-Identifier: MIT
"""The files that a process makes for itself, and removes at its end."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress

ATTEMPTS = 10
"""How often the private directory is removed until it is gone: more often than files are made there
while a machine starts."""


class Leftovers:
    """The sockets of a process, its pidfile, and its private directory if it has one.

    A file is removed only while it is the one that this process has made: another
    process may have replaced it.  `environ` has the variables
    that `faultline serve` sets (`cli/nbdkit_command.py`).
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        # A socket without a mode is not ours: another program has opened it, and cares for it.
        is_ours = "FAULTLINE_NBD_MODE" in environ
        self._nbd_socket = environ.get("FAULTLINE_NBD_SOCKET") if is_ours else None
        self._directory = environ.get("FAULTLINE_RUNTIME_DIR")
        self._files: dict[str, int] = {}

    def add(self, path: str) -> None:
        """Remember a file that this process has just made, such as a socket that it has bound."""
        with suppress(OSError):
            self._files[path] = os.stat(path).st_ino

    def add_nbd_socket(self) -> None:
        """Remember the socket that nbdkit has bound; nbdkit does not remove it at its end."""
        if self._nbd_socket is not None:
            self.add(self._nbd_socket)

    def remove(self) -> None:
        """Remove everything; on any thread, never raises, and may be called again."""
        # A start that fails may end between nbdkit's bind and `add_nbd_socket`.
        if self._nbd_socket not in self._files and _is_bound_here(self._nbd_socket):
            self.add_nbd_socket()
        for path, inode in self._files.items():
            with suppress(OSError):
                if os.stat(path).st_ino == inode:
                    os.unlink(path)
        if self._directory is not None:
            # Another thread may be making a file there, which the first attempt does not see.
            for _ in range(ATTEMPTS):
                shutil.rmtree(self._directory, ignore_errors=True)
                if not os.path.lexists(self._directory):
                    break


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
