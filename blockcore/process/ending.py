# SPDX-License-Identifier: MIT
"""The end of the process: from whoever asks for it to the exit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from blockcore.bql.big_lock import BigLock
from blockcore.bql.routine import run_alone
from blockcore.machine.machine import CANCEL_NS, Machine
from blockcore.process.loop import MainLoop
from blockcore.qapi.names import ShutdownCause

GRACE_S = 1.0
"""For requests that are at a disk when the process is told to end."""

REPLY_S = 0.1
"""For the replies to the last requests to leave before connections are cut."""

FORCE_S = 0.5
"""For everything else, before the process ends by force."""

POLL_S = 0.005

_log = structlog.get_logger()


class Ending:
    """Lets go of everything that would keep nbdkit from ending, once it has begun.

    `shutdown` tells nbdkit to end; `leave` takes away what must not stay behind.
    """

    def __init__(
        self,
        machine: Machine,
        lock: BigLock,
        shutdown: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._lock = lock
        self._shutdown = shutdown
        self._leave = leave
        self._loop: MainLoop | None = None
        self._mutex = threading.Lock()
        self._begun = threading.Event()
        self._reason: dict[str, Any] = {}
        self._answered = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="shutdown watcher")
        self._last_resort = threading.Thread(
            target=self._end_by_force, name="last resort", daemon=True
        )

    def start(self, loop: MainLoop) -> None:
        """Start the threads that wait for the end, so that it takes no more of anything."""
        self._loop = loop
        self._last_resort.start()
        self._watcher.start()

    def begin(self, **reason: Any) -> None:
        """End; who comes first is told in the log.  From any thread, never waits."""
        with self._mutex:
            if not self._begun.is_set():
                self._reason = reason
                self._begun.set()

    def has_begun(self) -> bool:
        return self._begun.is_set()

    def finish(self) -> None:
        """nbdkit has answered its last request."""
        self._answered.set()
        self.begin(reason="nbdkit has ended")
        self._watcher.join()
        assert self._loop is not None
        self._loop.stop()
        run_alone(self._machine.close())
        self._leave()

    def exit(self) -> None:
        """End now, whatever nbdkit's threads are at; what was flushed is safe.

        nbdkit waits for its clients to hang up, and 1.42 still does.  Hanging
        up on them instead kills the process when it is sending: a reply that
        cannot be sent makes nbdkit 1.32 forget the socket, and the next worker
        with one in hand fails its assertion that there is a socket.  With
        nbdkit's own `disconnect`, which newer ones have, a request can hang up
        on its own client only, and takes the reply along.
        """
        self._leave()
        os._exit(0)

    def _watch(self) -> None:
        self._begun.wait()
        with self._lock.region():
            self._machine.quit(ShutdownCause.HOST_SIGNAL)
        _log.info("shutting down", **self._reason)
        deadline = time.monotonic() + CANCEL_NS / 1e9
        while self._machine.jobs and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self._lock.close()
        # Not before: what waits would ask nbdkit whether it may, and that one complains then.
        self._shutdown()
        with self._lock.region():
            self._machine.graph.abort()
        deadline = time.monotonic() + GRACE_S
        while not (quiet := self._quiet()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self._answered.wait(REPLY_S):
            return
        assert self._loop is not None
        self._loop.stop()
        if quiet:
            run_alone(self._machine.close())
        self.exit()

    def _quiet(self) -> bool:
        with self._lock.region():
            return all(blk.quiet() for blk in self._machine.backends)

    def _end_by_force(self) -> None:
        """If anything is stuck, go without it."""
        self._begun.wait()
        time.sleep(GRACE_S + FORCE_S)
        try:
            _log.error("the main loop is stuck, ended by force")
        finally:
            self.exit()
