# SPDX-License-Identifier: MIT
"""What a machine that was killed could not remove: a private directory with sockets and disks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

PREFIX = "faultline-"
"""The beginning of the name of a private directory."""

LOCK = "lock"
"""The file in it that is locked while the machine lives."""


def remove_remains(ready: Mapping[str, Any]) -> None:
    """Remove the private directory of a machine that has ended; `ready` is its ready line.

    Does nothing if it is removed already, or if all sockets of the machine have
    names that the user has given.
    """
    for directory in sorted({os.path.dirname(path) for path in sockets(ready)}):
        if not os.path.basename(directory).startswith(PREFIX):
            continue
        with contextlib.suppress(OSError):
            # Whoever lives has the lock.
            with open(os.path.join(directory, LOCK), "rb+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)


def sockets(ready: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of the sockets that a ready line names.

    >>> uri = "nbd+unix:///vda?socket=/tmp/faultline-x/nbd"
    >>> list(sockets({"control": "/tmp/faultline-x/control", "drives": {"vda": uri}}))
    ['/tmp/faultline-x/control', '/tmp/faultline-x/nbd']
    """
    if ready.get("control"):
        yield ready["control"]
    for uri in ready.get("drives", {}).values():
        yield from parse_qs(urlsplit(uri).query).get("socket", [])
