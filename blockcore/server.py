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
import shutil
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog

from blockcore import log
from blockcore.assemble import Assembly
from blockcore.bql import BigLock
from blockcore.clock import SystemClock
from blockcore.config import ConfigParser
from blockcore.connection import Connection
from blockcore.control import bind_control_socket
from blockcore.effects import Call
from blockcore.loop import MainLoop
from blockcore.machine import CANCEL_NS, Machine
from blockcore.nbd_address import NbdAddress
from blockcore.qapi import QmpError, ShutdownCause
from blockcore.routine import perform
from blockcore.stderr import Stderr

GRACE_S = 1.0
"""For requests that are at a disk when the process is told to end."""

REPLY_S = 0.1
"""For the replies to the last requests to leave before connections are cut."""

FORCE_S = 0.5
"""For everything else, before the process ends by force."""

POLL_S = 0.005

_log = structlog.get_logger()


class Server:
    """One per process; see the module's docstring for the order of calls."""

    def __init__(self, environ: Mapping[str, str], directory: str) -> None:
        self._environ = environ
        self._nbd = NbdAddress(environ)
        self._directory = directory
        self._serving = "FAULTLINE_SERVE" in environ
        # nbdkit points stdout at /dev/null before it serves.
        self._stdout = os.dup(1) if self._serving else -1
        self._parser = ConfigParser()
        self._given: dict[str, list[str]] = {}
        self._control: str | None = None
        self._listener: socket.socket | None = None
        self.lock = BigLock(SystemClock())
        self._answered = threading.Event()
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
        self._nbd.withhold()

    def _add(
        self, key: str, things: Iterable[Any], add: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> None:
        for thing, text in zip(things, self._given.get(key, ()), strict=True):
            with self._reported(f"{key}={text}"):
                _run_alone(add(thing))

    def after_fork(
        self, shutdown: Callable[[], None], wait_for_shutdown: Callable[[], None]
    ) -> None:
        """Start the threads; the NBD socket listens by now.

        `shutdown` tells nbdkit to end; `wait_for_shutdown` returns when it has
        been told, by whomever.
        """
        try:
            self._nbd.open()
        except OSError as exc:
            with self._reported("the NBD socket"):
                raise QmpError(str(exc.strerror)) from None
        self._stderr = Stderr(log.line_about_lost)
        self._loop = MainLoop(self.machine, self.lock, self._listener, shutdown)
        self._loop.start()
        self._watcher = threading.Thread(
            target=self._watch, args=(wait_for_shutdown,), name="shutdown watcher"
        )
        self._watcher.start()
        if not self.machine.backends:
            _log.warning("there is no drive to serve: nodes get one by device=")
        _log.info("serving", drives=[blk.export for blk in self.machine.backends], seed=self.seed)
        if self._serving:
            os.write(self._stdout, json.dumps(self._ready_line()).encode() + b"\n")
            os.close(self._stdout)

    def cleanup(self) -> None:
        """nbdkit has answered its last request."""
        self._answered.set()
        self._watcher.join()
        self._loop.stop()
        _run_alone(self.machine.close())
        self._remove_files()
        self._stderr.close()

    def worker_lost(self) -> None:
        """One of nbdkit's workers has failed and will be parked; see `plugin/survive.py`."""
        if self.lock.closing:
            self._exit()
        _log.error("nbdkit has lost a connection's threads to a client that hung up on it")

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

    def _bug(self, where: str, error: Exception) -> None:
        self.lock.defer(lambda: _log.error("a bug of ours", where=where, exc_info=error))

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
            if self._serving:
                print(f"faultline: {line}", file=sys.stderr)
            self._remove_files()
            raise QmpError(line) from None
        except Exception:
            if self._serving:
                traceback.print_exc()
            self._remove_files()
            raise

    def _watch(self, wait_for_shutdown: Callable[[], None]) -> None:
        """Let go of everything that would keep nbdkit from ending."""
        wait_for_shutdown()
        threading.Thread(target=self._end_by_force, name="last resort", daemon=True).start()
        with self.lock.region():
            self.machine.quit(ShutdownCause.HOST_SIGNAL)
        deadline = time.monotonic() + CANCEL_NS / 1e9
        while self.machine.jobs and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self.lock.close()
        with self.lock.region():
            self.machine.graph.abort()
        deadline = time.monotonic() + GRACE_S
        while not (quiet := self._quiet()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self._answered.wait(REPLY_S):
            return
        self._loop.stop()
        if quiet:
            _run_alone(self.machine.close())
        self._exit()

    def _quiet(self) -> bool:
        with self.lock.region():
            return all(blk.quiet() for blk in self.machine.backends)

    def _end_by_force(self) -> None:
        """If the main loop is stuck, go without it."""
        time.sleep(GRACE_S + FORCE_S)
        _log.error("the main loop is stuck, ended by force")
        self._exit()

    def _exit(self) -> None:
        """End now, whatever nbdkit's threads are at; what was flushed is safe.

        nbdkit waits for its clients to hang up, and 1.42 still does.  Hanging
        up on them instead kills the process when it is sending: a reply that
        cannot be sent makes nbdkit 1.32 forget the socket, and the next worker
        with one in hand fails its assertion that there is a socket.  With
        nbdkit's own `disconnect`, which newer ones have, a request can hang up
        on its own client only, and takes the reply along.
        """
        self._loop.unlink()
        self._remove_files()
        self._stderr.close()
        os._exit(0)

    def _remove_files(self) -> None:
        """The sockets and files that `faultline serve` made for this process."""
        self._nbd.remove()
        if directory := self._environ.get("FAULTLINE_RUNTIME_DIR"):
            shutil.rmtree(directory, ignore_errors=True)


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


def _run_alone(coro: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine of the core where there is nobody else who could end a wait of it.

    What would have to wait fails with ESHUTDOWN.
    """
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = coro.send(value) if error is None else coro.throw(error)
        except StopIteration as stop:
            return stop.value
        value, error = True, None
        if isinstance(effect, Call):
            value, error = perform(effect)
        elif not effect.condition():
            error = OSError(errno.ESHUTDOWN, os.strerror(errno.ESHUTDOWN))
