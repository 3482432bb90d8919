# SPDX-License-Identifier: MIT
"""Servers of other people that nbd nodes connect to: plain ones, and one that is mute."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from live import TIMEOUT_S


def nbdkit(directory: Path, *plugin: str) -> subprocess.Popen[bytes]:
    """A plain server at directory/kit.sock, when it accepts."""
    pid = directory / "kit.pid"
    pid.unlink(missing_ok=True)
    (directory / "kit.sock").unlink(missing_ok=True)
    server = subprocess.Popen(
        ["nbdkit", "-f", "-U", str(directory / "kit.sock"), "-P", str(pid), *plugin],
        stderr=subprocess.DEVNULL,
    )
    while not (pid.exists() and pid.read_text()):
        assert server.poll() is None
    return server


@contextlib.contextmanager
def killed(server: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        server.kill()
        server.wait(TIMEOUT_S)


@contextlib.contextmanager
def silent(path: Path) -> Iterator[socket.socket]:
    """A server that accepts, and never says anything."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        yield listener
