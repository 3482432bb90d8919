# SPDX-License-Identifier: MIT
"""Files of Unix sockets: paths, removal of those that killed servers have left, permissions."""

from __future__ import annotations

import errno
import os
import socket
import stat

from blockcore.config.sockets import check_socket_path
from blockcore.qapi.errnos import failure
from blockcore.qapi.errors import QmpError


def socket_path(name: str, value: str, directory: str) -> str:
    """Return the absolute path of a socket that users name relative to `directory`.

    Raises QmpError, which begins with `name`, if `value` is no path.
    """
    if not value:
        raise QmpError(f"{name}: the path is empty")
    try:
        check_socket_path(value)
    except QmpError as exc:
        raise QmpError(f"{name}: {exc.desc}") from exc
    return os.path.abspath(os.path.join(directory, value))


def make_room(path: str) -> None:
    """Make sure that a socket can be bound at `path`; remove one that no server listens to.

    A symbolic link is followed.  Raises OSError: EEXIST if there is a file that
    is no socket, or a dangling link; EADDRINUSE if a server listens there;
    another errno if that cannot be found out.
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
        # With a full backlog of a live server connect() would block; so it fails with EAGAIN.
        probe.setblocking(False)
        result = probe.connect_ex(path)
    if result in (0, errno.EAGAIN, errno.EINPROGRESS):
        raise failure(errno.EADDRINUSE)
    if result != errno.ECONNREFUSED:
        raise failure(result)
    os.unlink(path)


def admit(path: str, mode: int, group: int | None) -> None:
    """Set the group (unless None) and the mode of a socket's file; raises OSError."""
    # The group first: the mode would let in members of the group that the file has now.
    if group is not None:
        os.chown(path, -1, group)
    os.chmod(path, mode)
