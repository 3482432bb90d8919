# SPDX-License-Identifier: MIT
"""Real machines for end-to-end tests: nbdkit with the plugin, and small clients."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import nbd

from blockcore.cli.embedding import Nbdkit, find_nbdkit
from blockcore.cli.listen import UnixSocket
from blockcore.cli.nbdkit_command import find_plugin, serve_command
from blockcore.cli.plugin_packages import plugin_packages
from faultline import Event, Machine, MachineEnded
from tree import TREE
from wire import TIMEOUT_S as TIMEOUT_S
from wire import Wire

FAULTLINE = [sys.executable, "-c", "from blockcore.cli import main; raise SystemExit(main())"]


class Qmp(Machine):
    """A control client, with what only these tests need; made by `connect`."""

    _told = 0
    """The number of events when `take_events` was called last."""

    def __init__(self, *, timeout: float = TIMEOUT_S) -> None:
        super().__init__(timeout=timeout)

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Run a command (`_` in argument names stands for `-`)."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self.execute(command, named)

    def take_events(self) -> list[Event]:
        """Return the events that no wait has taken, and take them."""
        journal = self.journal
        untaken = journal.untaken(self._told)
        self._told = journal.count
        journal.take([number for number, _ in untaken])
        return [event for _, event in untaken]

    def next_event(self) -> Event:
        """Return the first event that has not been taken, of whatever kind, and take it."""

        def look() -> Event | None:
            for number, event in self.journal.untaken(self._told):
                self.journal.take([number])
                return event
            return None

        return self.wait_until(look, None, lambda _: "no event", lambda: "an event")

    def until_the_end(self) -> Iterator[Event]:
        """Yield the events that have not been taken until the machine hangs up."""
        with contextlib.suppress(MachineEnded):
            while True:
                yield self.next_event()

    def wait_for(self, condition: Callable[[], Any], query: str = "query-status") -> Any:
        """Ask `condition` again and again, with a round trip between, until it says yes."""
        deadline = _Deadline()
        while not (answer := condition()):
            deadline.check(query)
            self(query)
        return answer


class _Deadline:
    def __init__(self) -> None:
        self._left = 200_000

    def check(self, what: str) -> None:
        self._left -= 1
        assert self._left, f"waited in vain with {what}"


@functools.cache
def embedding() -> tuple[Nbdkit, list[Path]]:
    """The nbdkit that `serve` finds, and where the packages are that the plugin imports."""
    nbdkit = find_nbdkit(os.environ)
    return nbdkit, plugin_packages(nbdkit, os.environ)


class Live:
    """A machine served by `faultline serve`, with its sockets in `directory`."""

    def __init__(
        self,
        directory: Path,
        *keys: str,
        options: tuple[str, ...] = (),
        stderr: int | None = None,
    ) -> None:
        """Start it; what it writes goes to the file `log`, or to the descriptor `stderr`."""
        self.directory = directory
        self.nbd_socket = str(directory / "nbd.sock")
        self.control = str(directory / "qmp.sock")
        self.log = directory / "log"
        argv, env = self._command(keys, options)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                cwd=directory,
                env=env,
                stdout=subprocess.PIPE,
                stderr=log if stderr is None else stderr,
            )
        self.ready = self._wait_until_ready()

    def _wait_until_ready(self) -> dict[str, Any]:
        """The ready line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(TIMEOUT_S)
            self.process.stdout.close()
            raise AssertionError(f"did not start: {self.log.read_text()}")
        ready: dict[str, Any] = json.loads(line)
        return ready

    def _command(
        self, keys: tuple[str, ...], options: tuple[str, ...]
    ) -> tuple[list[str], dict[str, str]]:
        """What `faultline serve` becomes, without the half of its time that it takes to find out.

        What `serve` itself does about a drive or another option is left to it.
        """
        environ = {**os.environ, "PYTHONPATH": str(TREE)}
        threads = int(options[1]) if options[:1] == ("--threads",) and len(options) == 2 else None
        plain = any(key.startswith(("drive=", "blockdev=")) for key in keys)
        if not plain or (options and threads is None):
            command = [*FAULTLINE, "serve", "--nbd", self.nbd_socket, "--control", self.control]
            return [*command, *options, *keys], environ
        nbdkit, packages = embedding()
        listen = UnixSocket(Path(self.nbd_socket))
        listen.claim()
        return serve_command(
            keys,
            nbdkit=nbdkit,
            plugin=find_plugin(),
            packages=packages,
            listen=listen,
            control=Path(self.control),
            threads=threads,
            log_format="json",
            runtime_dir=None,
            environ=environ,
        )

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        if self.process.stdout is not None:
            self.process.stdout.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def uri(self, export: str = "") -> str:
        return f"nbd+unix:///{export}?socket={self.nbd_socket}"

    def qmp(self) -> Qmp:
        return Qmp.connect(self.control)

    def wire(self) -> Wire:
        return Wire.negotiated(self.control)

    @contextlib.contextmanager
    def guest(self, export: str = "") -> Iterator[nbd.NBD]:
        """A connected libnbd handle."""
        handle = nbd.NBD()
        handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        handle.connect_uri(self.uri(export))
        yield handle
        # Not after a failure, which would be hidden while requests have no answer.
        with contextlib.suppress(nbd.Error):
            handle.shutdown()

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Tell it to end; its exit status."""
        self.process.send_signal(how)
        return self.process.wait(TIMEOUT_S)


class Bare(Live):
    """A machine that nbdkit serves by itself, as anybody may start it, with options of nbdkit's."""

    def _command(
        self, keys: tuple[str, ...], options: tuple[str, ...]
    ) -> tuple[list[str], dict[str, str]]:
        nbdkit = ["nbdkit", "-f", "-U", self.nbd_socket, "-P", str(self._pid_file), *options]
        plugin = ["python", str(find_plugin()), *keys, f"control={self.control}"]
        return nbdkit + plugin, dict(os.environ)

    @property
    def _pid_file(self) -> Path:
        return self.directory / "pid"

    def _wait_until_ready(self) -> dict[str, Any]:
        """Both sockets listen by the time at which nbdkit writes its number."""
        while not (self._pid_file.exists() and self._pid_file.read_text()):
            assert self.process.poll() is None, f"did not start: {self.log.read_text()}"
        return {}


Looks = tuple[str, int, int]
"""What a request is for the server: type, offset and length."""


class Request:
    """A request that a guest has sent; `outcome` is "OK" or the name of an errno, once there."""

    def __init__(
        self, guest: nbd.NBD, cookie: int, buffer: bytearray | None, looks: Looks
    ) -> None:
        self.guest = guest
        self.cookie = cookie
        self.buffer = buffer
        self.looks = looks
        self.outcome: str | None = None

    @property
    def data(self) -> bytes:
        """What a read has read."""
        assert self.buffer is not None and self.outcome == "OK", self.outcome
        return bytes(self.buffer)

    def check(self) -> None:
        """Take the reply if it has come."""
        try:
            if self.guest.aio_command_completed(self.cookie):
                self.outcome = "OK"
        except nbd.Error as exc:
            self.outcome = exc.errno or "EIO"


class Flight:
    """Requests in flight, on any number of handles, and their fate in the order of sending."""

    def __init__(self) -> None:
        self.pending: list[Request] = []

    def send(self, guest: nbd.NBD, what: str, *args: Any, read: int = 0) -> Request:
        """`what` is "pwrite", "flush", ...; `read` is the length of a "pread"."""
        buffer = bytearray(read) if read else None  # an nbd.Buffer is never freed by libnbd 1.14
        call = getattr(guest, f"aio_{what}")
        cookie = call(*((buffer,) if buffer else ()), *args)
        request = Request(guest, cookie, buffer, _looks(what, args, read))
        self.pending.append(request)
        return request

    def write(self, guest: nbd.NBD, offset: int, data: bytes, flags: int = 0) -> Request:
        cookie = guest.aio_pwrite(data, offset, flags=flags)
        request = Request(guest, cookie, None, ("write", offset, len(data)))
        self.pending.append(request)
        return request

    def read(self, guest: nbd.NBD, offset: int, length: int) -> Request:
        return self.send(guest, "pread", offset, read=length)

    def poll(self, timeout_s: float) -> list[Request]:
        """Move bytes, waiting that long for any; the requests that are finished now."""
        poller = select.poll()
        guests = {}
        for request in self.pending:
            guest = request.guest
            if guest.aio_is_ready() or guest.aio_is_processing():
                guests[guest.aio_get_fd()] = guest
        for fd, guest in guests.items():
            writes = guest.aio_get_direction() & nbd.AIO_DIRECTION_WRITE
            poller.register(fd, select.POLLIN | (select.POLLOUT if writes else 0))
        for fd, ready in poller.poll(timeout_s * 1000) if guests else ():
            # When the connection is lost here, its requests end with ENOTCONN below.
            with contextlib.suppress(nbd.Error):
                if ready & select.POLLOUT:
                    guests[fd].aio_notify_write()
                elif ready & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    guests[fd].aio_notify_read()
        for request in self.pending:
            request.check()
        finished = [request for request in self.pending if request.outcome is not None]
        self.pending = [request for request in self.pending if request.outcome is None]
        return finished

    def land(self, *requests: Request) -> list[str | None]:
        """Wait for these, or for all, and tell how they ended."""
        wanted = requests or tuple(self.pending)
        deadline = time.monotonic() + TIMEOUT_S
        while any(request.outcome is None for request in wanted):
            assert time.monotonic() < deadline, "no reply"
            self.poll(1.0)
        return [request.outcome for request in wanted]

    def arrived(self, qmp: Qmp) -> None:
        """Return when the machine has all that was sent and is not answered.

        An answer to something that was sent later does not tell: the server's
        threads read in order, but go on in any.
        """

        def have_arrived() -> bool:
            self.poll(0)
            return has_all(qmp, (request.looks for request in self.pending))

        qmp.wait_for(have_arrived)


def has_all(qmp: Qmp, requests: Iterable[Looks]) -> bool:
    """Whether the machine has these requests, and has not answered them."""
    there = Counter(
        (request["iotype"], request["offset"], request["length"])
        for request in qmp("x-query-requests")
    )
    return Counter(requests) <= there


def _looks(what: str, args: tuple[Any, ...], read: int) -> Looks:
    if what == "flush":
        return "flush", 0, 0
    if what == "pread":
        return "read", args[0], read
    length, offset = args[:2]
    return {"trim": "discard", "zero": "write-zeroes"}[what], offset, length


def freeze(process: subprocess.Popen[Any]) -> None:
    """Stop a child, until SIGCONT; returns when none of its threads runs any more."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


@contextlib.contextmanager
def directory_of_all() -> Iterator[Path]:
    """Make a directory that all users reach, which those of pytest are not.

    Not below them either: each run of pytest that begins takes their rights away again.
    """
    with tempfile.TemporaryDirectory(prefix="test-faultline-") as name:
        directory = Path(name)
        directory.chmod(0o777)
        yield directory


def make_image(path: Path, size: int, pattern: int = 0) -> Path:
    """A raw image of `size` bytes, each of them `pattern`."""
    with path.open("wb") as file:
        if pattern:
            file.write(bytes([pattern]) * size)
        else:
            file.truncate(size)
    return path
