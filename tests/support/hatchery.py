# SPDX-License-Identifier: MIT
"""Machines that are forks of one process, which has loaded all: a start takes milliseconds.

Most of what a machine costs a short test is the import of its modules.  Here that is
done once for all tests of a process (`hatching`).  How a machine comes to its keys is
not what these tests are about; from there on it is what `faultline serve --standby` is.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from blockcore.cli.listen import UnixSocket
from blockcore.cli.nbdkit_command import find_plugin, serve_command
from faultline.sync.waiting import readable
from live import TIMEOUT_S, Live, embedding
from tree import TREE

HATCHING = Path(__file__).with_name("hatching.py")

NAME = "nbd.sock"

BELOW = Path("/proc/self/cwd")
"""Where nbdkit makes its socket: each machine has its own working directory by then."""


class Hatchery:
    """The process that has loaded all, and waits."""

    def __init__(self) -> None:
        nbdkit, packages = embedding()
        argv, env = serve_command(
            (),
            nbdkit=nbdkit,
            plugin=HATCHING,
            packages=packages,
            listen=UnixSocket(BELOW / NAME),
            control=None,
            log_format="json",
            runtime_dir=None,
            standby=True,
            environ={**os.environ, "PYTHONPATH": str(TREE)},
        )
        self._nest, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                argv, env=env | {"HATCHED_PLUGIN": str(find_plugin())}, stdin=theirs.fileno()
            )

    def hatch(self, environ: dict[str, str], *descriptors: int) -> tuple[int, int]:
        """A machine with these variables and descriptors 0 to 2; its number, and a pidfd."""
        socket.send_fds(self._nest, [json.dumps(environ).encode()], descriptors)
        number, (pidfd,), _, _ = socket.recv_fds(self._nest, 64, 1)
        return int(number), pidfd

    def close(self) -> None:
        self._nest.close()
        self._process.wait(TIMEOUT_S)


@functools.cache
def hatchery() -> Hatchery:
    """The one of this process."""
    made = Hatchery()
    atexit.register(made.close)
    return made


class Hatched(Live):
    """A machine from the hatchery; its exit status is not known."""

    def __init__(self, directory: Path, *keys: str) -> None:
        self.directory = directory
        self.nbd_socket = str(directory / NAME)
        self.control = str(directory / "qmp.sock")
        self.log = directory / "log"
        private = Path(tempfile.mkdtemp(prefix="private-", dir=directory))
        environ = {"FAULTLINE_NBD_SOCKET": self.nbd_socket, "FAULTLINE_RUNTIME_DIR": str(private)}
        order = {"keys": [*keys, f"control={self.control}"], "directory": str(directory)}
        with tempfile.TemporaryFile() as line, self.log.open("ab") as log:
            line.write(json.dumps(order).encode() + b"\n")
            line.seek(0)
            reading, writing = os.pipe()
            try:
                descriptors = (line.fileno(), writing, log.fileno())
                self._pid, self._pidfd = hatchery().hatch(environ, *descriptors)
            finally:
                os.close(writing)
        with open(reading, "rb") as stdout:
            first = stdout.readline()
        if not first:
            self._ended(TIMEOUT_S)
            raise AssertionError(f"did not start: {self.log.read_text()}")
        self.ready = json.loads(first)

    def __exit__(self, *_: object) -> None:
        if not self._ended(0):
            self.stop()
        os.close(self._pidfd)

    @property
    def pid(self) -> int:
        return self._pid

    def stop(self, how: int = signal.SIGTERM) -> int:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            signal.pidfd_send_signal(self._pidfd, how)
        assert self._ended(TIMEOUT_S), "it does not end"
        return 0

    def _ended(self, timeout_s: float) -> bool:
        return readable(self._pidfd, timeout_s)
