# SPDX-License-Identifier: MIT
"""The end of the process: from the first reason to end (a signal, `quit`, nbdkit) to the exit.

In this order: SHUTDOWN; jobs are cancelled (`CANCEL_NS`); the lock closes, so that
requests that wait end with ESHUTDOWN; nbdkit is told; servers are hung up on; requests
in system calls end (GRACE_S); nbdkit sends the last replies (REPLY_S); images are
closed; control clients are disconnected; files are removed.  If a request hangs in a
system call, images are not closed, and the process exits with 0 all the same: what was
flushed is there.

Two threads wait for it from the start, because at the end there may be no
memory or descriptor for a thread.  The watcher ends everything in that order.
The last resort ends the process by force if the watcher, the main loop or nbdkit
is stuck.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from blockcore.bql.big_lock import BigLock
from blockcore.bql.routine import run_alone
from blockcore.machine.machine import CANCEL_NS, Machine
from blockcore.process.log import logger
from blockcore.process.loop import MainLoop
from blockcore.qapi.names import ShutdownCause

GRACE_S = 0.9
"""How long requests in system calls may take to end, in seconds.

Longer keeps the user waiting for a disk that hangs; shorter loses replies of a
slow disk.
"""

REPLY_S = 0.1
"""How long nbdkit may take to send the last replies and call `cleanup`, in seconds."""

FORCE_S = 0.2
"""How long everything else may take, in seconds; then the process ends by force.

That is 1.7 seconds after the end has begun: an end that uses each of its
allowances is not cut off, and the two seconds that are promised are kept.
"""

POLL_S = 0.005
"""How often the watcher looks whether jobs and requests have ended, in seconds."""



class Ending:
    """The orderly end of one process, with a bound on how long it takes.

    `shutdown` tells nbdkit to end.  `leave` removes the files of the process and
    closes the log; it may be called more than once.
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
        """Start the two threads that wait for the end."""
        self._loop = loop
        self._last_resort.start()
        self._watcher.start()

    def begin(self, **reason: Any) -> None:
        """Begin the end; `reason` goes to the log, the first call's only.

        On any thread.  Returns at once.
        """
        with self._mutex:
            if not self._begun.is_set():
                self._reason = reason
                self._begun.set()

    def has_begun(self) -> bool:
        """Return whether the end has begun; on any thread."""
        return self._begun.is_set()

    def finish(self) -> None:
        """Stop the main loop, close all images, and remove files; nbdkit has no requests left.

        On nbdkit's main thread, from its `cleanup`.
        """
        self._answered.set()
        self.begin(reason="nbdkit has ended")
        self._watcher.join()
        assert self._loop is not None
        self._loop.stop(self._close)
        self._leave()

    def exit(self) -> None:
        """End the process with status 0, whatever nbdkit's threads are doing; never returns.

        Data that was flushed is safe.

        nbdkit would wait for its clients to hang up (1.32 as well as 1.42).
        Closing their connections instead can abort the process: nbdkit 1.32
        forgets the socket of a connection when a reply cannot be sent, and the
        next worker that has a reply then fails the assertion that there is a
        socket.  `nbdkit.disconnect`, which newer versions have, closes only the
        connection of the request that calls it, and loses that request's reply.
        """
        self._leave()
        os._exit(0)

    def _watch(self) -> None:
        """Wait for the end to begin, then end everything in order (the watcher's thread).

        Jobs get `CANCEL_NS`, requests in system calls GRACE_S, the last replies
        REPLY_S.  If nbdkit calls `cleanup` in time, `finish` does the rest on
        nbdkit's thread; otherwise it is done here, and the process exits.
        """
        self._begun.wait()
        with self._lock.region():
            self._machine.quit(ShutdownCause.HOST_SIGNAL)
        logger.info("shutting down", **self._reason)
        deadline = time.monotonic() + CANCEL_NS / 1e9
        while self._machine.jobs and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self._lock.close()
        # After the lock is closed: waiting requests would ask nbdkit whether their client is
        # there, and nbdkit logs an error for that once it is ending (nbdkit_nanosleep).
        self._shutdown()
        with self._lock.region():
            self._machine.graph.abort()
        deadline = time.monotonic() + GRACE_S
        while not (quiet := self._quiet()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self._answered.wait(REPLY_S):
            return
        assert self._loop is not None
        self._loop.stop(self._close if quiet else None)
        self.exit()

    def _close(self) -> None:
        run_alone(self._machine.close())

    def _quiet(self) -> bool:
        machine = self._machine
        with self._lock.region():
            return all(blk.quiet() for blk in (*machine.backends, *machine.clones))

    def _end_by_force(self) -> None:
        """End the process if the orderly end takes too long (the last resort's thread)."""
        self._begun.wait()
        time.sleep(CANCEL_NS / 1e9 + GRACE_S + REPLY_S + FORCE_S)
        try:
            logger.error("something is stuck at the end, ended by force")
        finally:
            # Whatever becomes of that line: if logging fails, the process must end all the same.
            self.exit()
