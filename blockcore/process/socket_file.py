# SPDX-License-Identifier: MIT
"""Files of Unix sockets: removal of those that killed servers have left, and permissions."""

from __future__ import annotations

import errno
import os
import socket
import stat

from blockcore.qapi.errnos import failure


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
