# SPDX-License-Identifier: MIT
"""The life of the process: configuration, opening, serving, end.

nbdkit's plugin hands its callbacks to one `Server`, in this order, all on
nbdkit's main thread: `config` for each pair, `config_complete`, `get_ready`,
`after_fork`, and at the end `cleanup`.  `get_ready` opens files and binds the
control socket, because nbdkit may fork after it: then it has another working
directory and no stderr.  Threads start in `after_fork`, because threads do not
survive a fork.  `connect` and the like come on any thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from blockcore.bql.big_lock import BigLock
from blockcore.bql.clock import SystemClock
from blockcore.bql.later import later
from blockcore.bql.routine import run_alone
from blockcore.config.assemble import Assembly
from blockcore.config.config import ConfigParser
from blockcore.machine.machine import Machine
from blockcore.process import log
from blockcore.process.announcement import Announcement
from blockcore.process.connection import Connection
from blockcore.process.control import bind_control_socket
from blockcore.process.ending import Ending
from blockcore.process.exports import Exports
from blockcore.process.gathering import Gathering
from blockcore.process.loop import MainLoop
from blockcore.process.nbd_address import NbdAddress
from blockcore.process.nbd_socket import OpenSockets
from blockcore.process.start import Start, reason_of, require_address_space, require_descriptors
from blockcore.process.stderr import Stderr
from blockcore.qapi.names import QmpError

_add_fault = later("blockcore.commands.faults:x_fault_add")
_load_faults = later("blockcore.process.fault_file:load")
_hint = later("blockcore.process.hints:hint")
_load_all = later("blockcore.process.warm:load_all")
_wait_for_line = later("blockcore.process.standby:wait_for_line")
_parse_order = later("blockcore.process.standby:parse_order")
_completed = later("blockcore.process.standby:completed")
_recorded = later("blockcore.process.recorded:Recorded")


class Server:
    """The machine and everything around it; one per process.

    `environ` has the variables that `faultline serve` sets (`cli/nbdkit_command.py`);
    `directory` is the one that relative file names refer to.
    """

    def __init__(
        self, environ: Mapping[str, str], directory: str, start: Start | None = None
    ) -> None:
        self._environ = environ
        self._nbd = NbdAddress(environ)
        self._start = start or Start(environ)
        self._directory = directory
        self._serving = "FAULTLINE_SERVE" in environ
        self._announcement = Announcement(environ) if self._serving else None
        self._parser = ConfigParser()
        self._given: dict[str, list[str]] = {}
        self._recorded: Any = None
        self._loaded: list[tuple[str, str]] = []
        # Where in a file the first pairs of each key are from, and so for each pair.
        self._origins: dict[str, list[str]] = json.loads(environ.get("FAULTLINE_PLACES", "{}"))
        self._places: dict[str, str] = {}
        self._control: str | None = None
        self._listener: socket.socket | None = None
        self.lock = BigLock(SystemClock())
        self._gathering = Gathering(self.lock.clock)
        self._stderr: Stderr | None = None
        self._log = int(environ["FAULTLINE_LOG_FD"]) if "FAULTLINE_LOG_FD" in environ else None
        self._configure_log()

    def _configure_log(self) -> None:
        """Let the log go to stderr, or to the descriptor that `faultline serve` has opened."""
        style, level = map(self._environ.get, ("FAULTLINE_LOG", "FAULTLINE_LOG_LEVEL"))
        if self._log is None:
            log.configure(style, level)
            return
        # Until there is a `Stderr`, which writes to the descriptor as well.
        early = open(self._log, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
        early.reconfigure(line_buffering=True)
        log.configure(
            style, level, lambda: early if self._stderr is None else sys.stderr, self._log
        )

    def config(self, key: str, value: str) -> None:
        """Take one KEY=VALUE pair; `config_complete` checks most of it.

        Raises QmpError, one line that names the pair, if the value cannot be a file
        name in this locale, or names no release of QEMU.
        """
        if "FAULTLINE_QUOTED" in self._environ:
            value = os.fsdecode(unquote_to_bytes(value))
        self._take(key, value)

    def _take(self, key: str, value: str) -> None:
        given = self._given.setdefault(key, [])
        for place in self._origins.get(key, [])[len(given) : len(given) + 1]:
            self._places.setdefault(f"{key}={value}", place)
        with self._reported(f"{key}={value}"):
            _refuse_what_cannot_be_named(value)
            self._parser.add(key, value)
        given.append(value)

    def config_complete(self) -> None:
        """Check all pairs, and that they fit together; raises QmpError, one line, if not.

        Under `faultline serve --standby` the pairs come now, as a line on stdin.
        """
        if "FAULTLINE_STANDBY" in self._environ:
            self._wait_for_order()
        with self._reported():
            self._config = self._parser.finish()

    def _wait_for_order(self) -> None:
        """Take the pairs that come on stdin; end the process if none come (`standby`)."""
        _load_all()()
        line = _wait_for_line()(0, self._start.parent)
        if line is None:
            self._start.leftovers.remove()
            os._exit(0)  # nbdkit takes every other way out for a failure
        with self._reported("standard input"):
            order = _parse_order()(line)
        # Relative names, also that of the control socket, begin there.
        self._directory = order.directory or self._directory
        with self._reported(f"standard input: directory {self._directory}"):
            os.chdir(self._directory)
        with self._reported("standard input"):
            private = self._environ["FAULTLINE_RUNTIME_DIR"]
            control = self._given.get("control", [None])[0]
            nbd = self._environ.get("FAULTLINE_NBD_SOCKET")
            order = _completed()(order, private, control, nbd)
        for key, value in order.pairs:
            self._take(key, value)

    def get_ready(self) -> None:
        """Make the machine with its nodes and drives, and bind the control socket.

        Raises QmpError, one line that names the pair that cannot be had.
        """
        config = self._config
        seed = random.randrange(1 << 32) if config.seed is None else config.seed
        self.seed = seed
        sockets = OpenSockets()
        self.machine = Machine(
            self.lock.clock,
            seed,
            region=self.lock.region,
            asker=lambda: self.lock.asker,
            hang_up=sockets.hang_up,
            directory=self._directory,
            name=config.name,
            prelaunch=config.prelaunch,
            job_error_check_modern=config.job_error_check_modern,
            sticky_io_status=config.sticky_io_status,
            qemu=config.qemu,
            warn=log.logger.warning,
            allow_backing=config.allow_backing,
        )
        self.machine.on_bug = self._bug
        if config.record is not None:
            with self._reported(f"record={config.record}"):
                follow = self._gathering.follow
                self._recorded = _recorded()(self.machine, self.lock, config, follow)
        assembly = Assembly(self.machine, config.devices)
        self._add("blockdev", config.blockdevs, assembly.add_node)
        self._add("drive", config.drives, assembly.add_drive)
        self._add("device", config.devices, assembly.add_device)
        self._add("fault", config.faults, self._arm)
        self._add("faults", config.fault_files, self._arm_all)
        if self._recorded is not None:
            with self._reported(f"record={config.record}"):
                self._recorded.look()
        if config.control is not None:
            self._control = os.path.join(self._directory, config.control)
            with self._reported(f"control={config.control}"):
                if "FAULTLINE_CONTROL_FD" in self._environ:
                    number = int(self._environ["FAULTLINE_CONTROL_FD"])
                    self._listener = socket.socket(fileno=number)
                else:
                    self._listener = bind_control_socket(self._control)
                    self._start.leftovers.add(self._control)
        self.exports = Exports(self.machine, self.lock, sockets, self._listener, self._gathering)
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

    async def _arm(self, options: Any) -> None:
        for warning in _add_fault()(self.machine, options=options).warnings or ():
            log.logger.warning(f"fault={options.id or options.node_name}: {warning}")

    async def _arm_all(self, file: str) -> None:
        rules = _load_faults()(self.machine, self._directory, file)
        # A recording needs no other file to be replayed.
        self._loaded += (("fault", rule) for rule in rules)

    def after_fork(self, shutdown: Callable[[], None], trim: Callable[[], None]) -> None:
        """Start the threads, and print the ready line under `faultline serve`.

        nbdkit has bound its socket before it calls this.  `shutdown` tells nbdkit
        to end; `trim` gives free memory back to the system.  An error ends the
        process.
        """
        self._start.forked()
        try:
            with self._start.failures_on_stderr() if self._log else contextlib.nullcontext():
                self._serve(shutdown, trim)
        except BaseException:
            if self._stderr is not None:
                self._stderr.close()
            if self._serving:
                os._exit(1)  # nbdkit would call exit(), not knowing of the threads started by now
            raise

    def _serve(self, shutdown: Callable[[], None], trim: Callable[[], None]) -> None:
        with self._reported("the NBD socket"):
            self._nbd.open()
        with self._reported("cannot serve"):
            self._stderr = Stderr(log.line_about_lost, self._log)
            self._ending = Ending(self.machine, self.lock, shutdown, self._leave)
            self._loop = MainLoop(self.machine, self.lock, self._listener, self._quit, trim)
        if self._recorded is not None:
            with self._reported(f"record={self._config.record}"):
                self._recorded.begin(self._pairs())
        with self._reported("cannot serve"):
            self._loop.start()
            self._ending.start(self._loop)
            self._start.serves(self._ending.begin)
            if not self.machine.backends:
                log.logger.warning("there is no drive to serve: nodes get one by device=")
            log.logger.info(
                "serving", drives=[blk.export for blk in self.machine.backends], seed=self.seed
            )
        if self._announcement is not None:
            with self._reported("pidfile"):
                self._announcement.write_pidfile(self._start.leftovers)
            with self._reported("the ready line, on stdout"):
                self._announcement.write_line(self._ready_line())

    def _quit(self) -> None:
        self._ending.begin(reason="quit")

    def is_ending(self) -> bool:
        """Return whether the end has begun; it lets go of all requests that wait."""
        return self._ending.has_begun()

    def cleanup(self) -> None:
        """Release everything; nbdkit has answered its last request (nbdkit's `cleanup`).

        Under `faultline serve` the process ends here: to take the interpreter down, as
        nbdkit would now, takes 50 ms, and all else 3.  Filters may have something to
        do after this, such as writing statistics.
        """
        self._ending.finish()
        if self._serving and "FAULTLINE_OPTIONS" not in self._environ:
            self._ending.exit()

    def _pairs(self) -> list[tuple[str, str]]:
        given = ((key, value) for key, values in self._given.items() for value in values)
        return [*(pair for pair in given if pair[0] != "faults"), *self._loaded]

    def _leave(self) -> None:
        if self._recorded is not None:
            self._recorded.end()
        self._start.leftovers.remove()
        if self._stderr is not None:
            self._stderr.close()

    def worker_lost(self) -> None:
        """Log that one of nbdkit's workers has failed an assertion (`plugin/survive.py`).

        On that worker, before it ends.  Exits at once if the process is ending.
        """
        if self.lock.closing:
            self._ending.exit()
        log.logger.warning("nbdkit has lost a connection's threads to a client that hung up on it")

    def disconnected(self, connection: Connection) -> None:
        """Forget a closed connection, and give back, before long, the memory that it had."""
        self.exports.disconnected(connection)
        self._loop.trim_soon()

    def _bug(self, where: str, error: Exception) -> None:
        trace = log.trace_of(error)
        self.lock.defer(lambda: log.logger.error("a bug of ours", where=where, trace=trace))

    def _ready_line(self) -> dict[str, Any]:
        return {
            "drives": {blk.export: self._nbd.uri(blk.export) for blk in self.machine.backends},
            "control": self._control,
            "seed": self.seed,
        }

    @contextlib.contextmanager
    def _reported(self, what: str | None = None) -> Iterator[None]:
        """Report errors of the body: one line that names `what`, or the pair being parsed.

        Turns QmpError, and failures of the system (`reason_of`) if `what` is
        given, into a QmpError with that line.  Everything else is a bug of ours,
        and raised as it is.  Under `faultline serve` nbdkit prints nothing, so
        either is printed here (`Start.failed`).  Behind QEMU's words may be a hint.
        """
        try:
            yield
        except QmpError as exc:
            pair = what or self._parser.pair
            hint = _hint()(exc.desc, pair, exc.where)
            line = f"{self._places.get(pair, pair)}: {exc.desc}{hint}"
            self._start.failed(line)
            raise QmpError(line) from None
        except BaseException as exc:
            what = None if what is None else self._places.get(what, what)
            self._start.failed(exc, what)
            reason = reason_of(exc)
            if what is None or reason is None:
                raise
            raise QmpError(f"{what}: {reason}") from None


def _refuse_what_cannot_be_named(value: str) -> None:
    """Raise QmpError if the interpreter cannot encode `value` as a file name.

    The encoding is the locale's; nbdkit without `faultline serve` may run with LC_ALL=C.
    """
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        raise QmpError(
            f"Python takes file names as {encoding} in this locale: set LC_ALL=C.UTF-8"
        ) from None
