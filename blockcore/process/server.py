# SPDX-License-Identifier: MIT
"""The life of the process: configured, opened, served, shut down.

nbdkit's plugin hands its callbacks to one `Server`.  Files are opened and the
control socket is bound while errors still reach the user and relative names
still mean what they say; threads are started only after nbdkit has forked.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog

from blockcore.bql.big_lock import BigLock
from blockcore.bql.clock import SystemClock
from blockcore.bql.routine import run_alone
from blockcore.config.assemble import Assembly
from blockcore.config.config import ConfigParser
from blockcore.machine.machine import Machine
from blockcore.process import log
from blockcore.process.connection import Connection
from blockcore.process.control import bind_control_socket
from blockcore.process.ending import Ending
from blockcore.process.loop import MainLoop
from blockcore.process.nbd_address import NbdAddress
from blockcore.process.start import Start, reason_of, require_address_space, require_descriptors
from blockcore.process.stderr import Stderr
from blockcore.qapi.names import QmpError

READY_S = 1.0
"""For the ready line to be written, before whoever does not read it is left behind."""

_log = structlog.get_logger()


class Server:
    """One per process; see the module's docstring for the order of calls."""

    def __init__(
        self, environ: Mapping[str, str], directory: str, start: Start | None = None
    ) -> None:
        self._environ = environ
        self._nbd = NbdAddress(environ)
        self._start = start or Start(environ)
        self._directory = directory
        self._serving = "FAULTLINE_SERVE" in environ
        # nbdkit points stdout at /dev/null before it serves.
        self._stdout = os.dup(1) if self._serving else -1
        self._parser = ConfigParser()
        self._given: dict[str, list[str]] = {}
        self._control: str | None = None
        self._listener: socket.socket | None = None
        self.lock = BigLock(SystemClock())
        self._stderr: Stderr | None = None
        log.configure(environ.get("FAULTLINE_LOG"))

    def config(self, key: str, value: str) -> None:
        """Take one KEY=VALUE; QmpError with one line that names it if it is wrong."""
        if "FAULTLINE_QUOTED" in self._environ:
            value = os.fsdecode(unquote_to_bytes(value))
        with self._reported(f"{key}={value}"):
            _refuse_what_cannot_be_named(value)
            self._parser.add(key, value)
        self._given.setdefault(key, []).append(value)

    def config_complete(self) -> None:
        """Check that all of them fit together; QmpError with one line if not."""
        with self._reported():
            self._config = self._parser.finish()

    def get_ready(self) -> None:
        """Open everything and bind the control socket."""
        config = self._config
        seed = random.randrange(1 << 32) if config.seed is None else config.seed
        self.seed = seed
        self.machine = Machine(
            self.lock.clock,
            random.Random(seed).random,
            region=self.lock.region,
            directory=self._directory,
            name=config.name,
            prelaunch=config.prelaunch,
            job_error_check_modern=config.job_error_check_modern,
            qemu=config.qemu,
            warn=_log.warning,
            allow_backing=config.allow_backing,
        )
        self.machine.on_bug = self._bug
        assembly = Assembly(self.machine, config.devices)
        self._add("blockdev", config.blockdevs, assembly.add_node)
        self._add("drive", config.drives, assembly.add_drive)
        self._add("device", config.devices, assembly.add_device)
        if config.control is not None:
            self._control = os.path.join(self._directory, config.control)
            with self._reported(f"control={config.control}"):
                self._listener = bind_control_socket(self._control)
                self._start.leftovers.add_socket(self._control)
        with self._reported("cannot serve"):
            require_descriptors()
            require_address_space()
        self._nbd.withhold()

    def _add(
        self, key: str, things: Iterable[Any], add: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> None:
        for thing, text in zip(things, self._given.get(key, ()), strict=True):
            with self._reported(f"{key}={text}"):
                run_alone(add(thing))

    def after_fork(self, shutdown: Callable[[], None], trim: Callable[[], None]) -> None:
        """Start the threads; the NBD socket listens by now.

        `shutdown` tells nbdkit to end, `trim` gives free memory back to the system.
        """
        self._start.forked()
        try:
            self._serve(shutdown, trim)
        except BaseException:
            if self._stderr is not None:
                self._stderr.close()
            if self._serving:
                os._exit(1)  # there are threads that nbdkit's way out does not know
            raise

    def _serve(self, shutdown: Callable[[], None], trim: Callable[[], None]) -> None:
        with self._reported("the NBD socket"):
            self._nbd.open()
        with self._reported("cannot serve"):
            self._stderr = Stderr(log.line_about_lost)
            self._ending = Ending(self.machine, self.lock, shutdown, self._leave)
            self._loop = MainLoop(self.machine, self.lock, self._listener, self._quit, trim)
            self._loop.start()
            self._ending.start(self._loop)
            self._start.serves(self._ending.begin)
            if not self.machine.backends:
                _log.warning("there is no drive to serve: nodes get one by device=")
            _log.info(
                "serving", drives=[blk.export for blk in self.machine.backends], seed=self.seed
            )
        if self._serving:
            with self._reported("the ready line, on stdout"):
                self._say_ready()

    def _quit(self) -> None:
        self._ending.begin(reason="quit")

    def _say_ready(self) -> None:
        """Write the ready line; OSError if that cannot be.

        If nobody reads it, a thread is left with it.
        """
        line = json.dumps(self._ready_line()).encode() + b"\n"
        errors: list[OSError] = []

        def write() -> None:
            try:
                with open(self._stdout, "wb") as stdout:
                    stdout.write(line)
            except OSError as exc:
                errors.append(exc)

        writer = threading.Thread(target=write, name="ready line", daemon=True)
        writer.start()
        writer.join(READY_S)
        if errors:
            raise errors[0]

    def is_ending(self) -> bool:
        """Whether the end has begun, by which all that waits is let go."""
        return self._ending.has_begun()

    def cleanup(self) -> None:
        """nbdkit has answered its last request."""
        self._ending.finish()

    def _leave(self) -> None:
        self._start.leftovers.remove()
        if self._stderr is not None:
            self._stderr.close()

    def worker_lost(self) -> None:
        """One of nbdkit's workers has failed and will be parked; see `plugin/survive.py`."""
        if self.lock.closing:
            self._ending.exit()
        _log.warning("nbdkit has lost a connection's threads to a client that hung up on it")

    def exports(self) -> list[tuple[str, str]]:
        """Name and description of every export."""
        return [(blk.export, _as_utf8(blk.root.filename)) for blk in self.machine.backends]

    def default_export(self) -> str:
        """The first drive's."""
        return self.machine.backends[0].export if self.machine.backends else ""

    def connect(self, export: str, readonly: bool) -> Connection:
        """A new connection to an export ("" is the default); OSError(ENOENT) if there is none."""
        wanted = export or self.default_export()
        for blk in self.machine.backends:
            if blk.export == wanted:
                return Connection(self.lock, blk, readonly)
        raise OSError(errno.ENOENT, f"there is no drive '{export}'")

    def connection_closed(self) -> None:
        """What a connection had is free."""
        self._loop.trim_soon()

    def _bug(self, where: str, error: Exception) -> None:
        trace = log.trace_of(error)
        self.lock.defer(lambda: _log.error("a bug of ours", where=where, trace=trace))

    def _ready_line(self) -> dict[str, Any]:
        return {
            "drives": {blk.export: self._nbd.uri(blk.export) for blk in self.machine.backends},
            "control": self._control,
            "seed": self.seed,
        }

    @contextlib.contextmanager
    def _reported(self, what: str | None = None) -> Iterator[None]:
        """Name the pair that is wrong: `what`, or the one the parser is at.

        Under `faultline serve` nbdkit is silent, so the line is printed here,
        and so is anything else that goes wrong, which is a bug of ours.
        """
        try:
            yield
        except QmpError as exc:
            line = f"{what or self._parser.pair}: {exc.desc}"
            self._start.failed(line)
            raise QmpError(line) from None
        except BaseException as exc:
            self._start.failed(exc, what)
            reason = reason_of(exc)
            if what is None or reason is None:
                raise
            raise QmpError(f"{what}: {reason}") from None


def _refuse_what_cannot_be_named(value: str) -> None:
    """QmpError if this interpreter, whose encoding is the locale's, has no such file names."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        raise QmpError(
            f"Python takes file names as {encoding} in this locale: set LC_ALL=C.UTF-8"
        ) from None


def _as_utf8(name: str) -> str:
    """A file name as NBD can tell it, with something else for bytes that are not UTF-8."""
    return os.fsencode(name).decode(errors="replace")
