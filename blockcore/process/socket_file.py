# SPDX-License-Identifier: MIT
"""Files of Unix sockets: what a killed server has left is removed, and who may connect is set."""

from __future__ import annotations

import errno
import os
import socket
import stat

from blockcore.qapi.errnos import failure


def make_room(path: str) -> None:
    """Remove a socket to which nobody listens; a symbolic link counts as what it leads to.

    OSError is EEXIST where something else is, EADDRINUSE where somebody
    listens, and another where that cannot be known.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            raise failure(errno.EEXIST) from None
        return
    if not stat.S_ISSOCK(mode):
        raise failure(errno.EEXIST)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A live server whose backlog is full answers EAGAIN instead of blocking us.
        probe.setblocking(False)
        result = probe.connect_ex(path)
    if result in (0, errno.EAGAIN, errno.EINPROGRESS):
        raise failure(errno.EADDRINUSE)
    if result != errno.ECONNREFUSED:
        raise failure(result)
    os.unlink(path)


def admit(path: str, mode: int, group: int | None) -> None:
    """Let those connect who may: the group first, for it is its members that `mode` lets in."""
    if group is not None:
        os.chown(path, -1, group)
    os.chmod(path, mode)
