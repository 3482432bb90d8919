# SPDX-License-Identifier: MIT
"""The main loop: the thread that runs asyncio, and the pools of threads beside it.

The loop's thread serves the control socket, keeps deadlines, and logs events.
The pools perform the blocking calls of all routines that are not a guest's
(`routine.Pool`): those of QMP commands, jobs and the machine's own loops.
Nothing on the loop's thread may block.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from blockcore.bql.big_lock import BigLock
from blockcore.bql.effects import COPYING, GENERAL, Lane
from blockcore.bql.routine import Routine, Timer
from blockcore.machine.machine import Machine
from blockcore.process.control import Client
from blockcore.process.log import level_of, logger, trace_of
from blockcore.process.pool import Lanes, ThreadPool
from blockcore.qapi.events import Event
from blockcore.qapi.json.writer import Shared
from blockcore.qapi.schema import wire_without

COPY_THREADS = min(max(2, len(os.sched_getaffinity(0))), COPYING.threads)
"""Threads that copy: one per processor, at least 2, at most `COPYING.threads`.

With more than there are processors, jobs get slower and guests get a smaller
share.  Two, so that one hung target does not stop all other copies.
"""

TRIM_S = 1.0
"""How long after an activity free memory is given back, in seconds; bounds the cost of that."""



class MainLoop:
    """The loop's thread and the pools: started after nbdkit has forked, stopped at the end.

    `listener` is the control socket, if there is one.  `on_quit` is called on
    the loop's thread after a client's `quit` was answered.  `trim` gives free
    memory back to the system; it runs on a thread of the general pool.
    """

    def __init__(
        self,
        machine: Machine,
        lock: BigLock,
        listener: socket.socket | None,
        on_quit: Callable[[], None],
        trim: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._to_wire = wire_without(machine.qemu.absent)
        self._lock = lock
        self._listener = listener
        self._on_quit = on_quit
        self._trim = trim
        self._trim_scheduled = False
        self._clients: set[Client] = set()
        self._connections: set[Client] = set()
        self._unlogged: deque[dict[str, Any]] = deque()
        self._flush_scheduled = False
        self._failure: BaseException | None = None
        self._last: Callable[[], None] | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="main loop")

    def start(self) -> None:
        """Start all threads, and the machine's own loops; return when clients are accepted.

        Raises the exception that keeps the loop from starting, if there is one.
        """
        self._pools = {
            GENERAL: ThreadPool(GENERAL.name, GENERAL.threads),
            COPYING: ThreadPool(COPYING.name, COPY_THREADS),
        }
        self._lanes = Lanes(busy_threads=COPY_THREADS)
        self._lock.pool = self
        self._machine.spawn = self._spawn
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure
        with self._lock.region():
            self._machine.listeners.append(self._event)
            stopping = self._machine.stopping
            for coro in (stopping.stop_on_error(), stopping.flush_after_stop()):
                self._spawn(coro)

    def stop(self, last: Callable[[], None] | None = None) -> None:
        """Do what comes last, disconnect all clients, and end the threads.

        No command is run any more when `last` is called, on the loop's thread.
        Clients are disconnected after it: what it closes is closed for one that
        has waited for the end of its connection, as in QEMU (qemu_cleanup has
        bdrv_close_all before monitor_cleanup).

        Waits for the loop's thread only: a thread of a pool may hang in its call.
        Not on the loop's thread, and not under the big lock.  Raises what `last` raises.
        """
        self._last = last
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._asyncio.call_soon_threadsafe(self._finish)
        self._thread.join()
        self._do_last()
        if self._failure is not None:
            raise self._failure

    def submit(self, work: Callable[[], None], lane: Lane) -> None:
        """Run `work` soon on a thread of its lane (`routine.Pool`); on any thread.

        The general pool does it if the process can have no thread for the lane.
        """
        pool = self._pools.get(lane)
        if pool is not None:
            pool.submit(work)
        elif not self._lanes.submit(work, lane):
            self._pools[GENERAL].submit(work)

    def is_wanted(self, lane: Lane) -> bool:
        """Return whether other work waits for a thread of that lane (`ThreadPool.is_wanted`)."""
        pool = self._pools.get(lane)
        return self._lanes.is_wanted(lane) if pool is None else pool.is_wanted()

    def call_at(self, deadline_ns: int, timer: Timer) -> None:
        """Let `timer` fire on the loop's thread when the clock is at `deadline_ns` (monotonic).

        On any thread.  A timer that is cancelled in time does nothing when it fires.
        """

        def arm() -> None:
            delay_s = (deadline_ns - self._machine.clock.monotonic_ns()) / 1e9
            self._asyncio.call_later(max(delay_s, 0.0), timer.fire)

        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._asyncio.call_soon_threadsafe(arm)

    def trim_soon(self) -> None:
        """Schedule giving free memory back, unless that is scheduled already; on any thread."""
        # No lock: two threads that both find False schedule it twice, which does no harm.
        if self._trim_scheduled:
            return
        self._trim_scheduled = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._asyncio.call_soon_threadsafe(self._asyncio.call_later, TRIM_S, self._trim_now)

    def _trim_now(self) -> None:
        self._trim_scheduled = False
        self.submit(self._trim, GENERAL)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as exc:
            if self._started.is_set():
                raise
            self._failure = exc
            self._started.set()

    async def _main(self) -> None:
        self._asyncio = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        server = None
        if self._listener is not None:
            self._listener.setblocking(False)
            # Python 3.13 would remove the socket's file at the end, even one of systemd's; the
            # machine's own file is removed with all others (`leftovers`).
            is_new = sys.version_info[:2] >= (3, 13)
            kept: dict[str, Any] = {"cleanup_socket": False} if is_new else {}
            server = await self._asyncio.create_unix_server(
                self._client, sock=self._listener, **kept
            )
        self._started.set()
        await self._ended.wait()
        if server is not None:
            await self._take_no_more(server)
        self._do_last()
        if server is not None:
            await self._hang_up()

    async def _take_no_more(self, server: asyncio.Server) -> None:
        """Accept no connection any more, and run no command of those that there are.

        Connections that were just accepted are tasks of asyncio until they have a
        `Client`.  asyncio fails with a traceback if its server is closed before.
        """
        for listener in server.sockets:
            self._asyncio.remove_reader(listener.fileno())
        accepted = asyncio.all_tasks() - {asyncio.current_task()}
        if accepted:
            await asyncio.wait(accepted)
        server.close()
        for client in self._connections:
            client.stop()

    def _do_last(self) -> None:
        """Close the pools and call what `stop` was given, once.

        On the loop's thread, unless the loop had ended.  Calls that wait in a pool are
        dropped: what they would read or write is about to be closed.
        """
        for pool in self._pools.values():
            pool.close()
        self._lanes.close()
        last, self._last = self._last, None
        try:
            if last is not None:
                last()
        except BaseException as exc:
            self._failure = exc

    async def _hang_up(self) -> None:
        """Disconnect all clients, and wait until asyncio has closed every connection.

        Output that does not fit into a socket at once is lost.  If the loop ended
        before a connection, the garbage collector would find the connection, and
        asyncio's server (Python 3.13) would then fail with a traceback.
        """
        for client in self._connections:
            client.close()
        for client in self._connections:
            client.abort()
        while self._connections:
            await asyncio.sleep(0)

    def _finish(self) -> None:
        self._flush()
        self._ended.set()

    def _client(self) -> Client:
        return Client(
            self._machine,
            self._lock,
            self._clients,
            on_made=self._connections.add,
            on_lost=self._connections.discard,
            after_reply=self._after_reply,
        )

    def _after_reply(self) -> None:
        self.trim_soon()
        if self._machine.quit_requested:
            self._on_quit()

    def _event(self, event: Event, now_ns: int) -> None:
        """Queue an event for every client and for the log; on any thread, the big lock is held.

        `now_ns` is the time of the event, in nanoseconds since the epoch.
        """
        seconds, rest_ns = divmod(now_ns, 10**9)
        message: dict[str, Any] = {
            "timestamp": {"seconds": seconds, "microseconds": rest_ns // 1000},
            "event": event.NAME,
        }
        if data := self._to_wire(event):
            message["data"] = data
        if self._machine.recording is not None:
            self._machine.recording.event(event.NAME, data)
        shared = Shared(message)
        for client in self._clients:
            client.event(shared)
        self._unlogged.append(message)
        self._lock.defer(self._schedule_flush)

    def _schedule_flush(self) -> None:
        # No lock.  True means that `_flush` has not begun, so that it will find what was queued
        # before this call.  Two threads that both find False schedule two, which does no harm.
        if self._flush_scheduled:
            return
        self._flush_scheduled = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._asyncio.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        """Send and log the events that are queued; on the loop's thread."""
        # Cleared first: an event that comes from here on schedules another flush.
        self._flush_scheduled = False
        self.trim_soon()
        for client in list(self._clients):
            client.flush()
        while self._unlogged:
            message = self._unlogged.popleft()
            name, data = message["event"], message.get("data", {})
            logger.write(level_of(name, data), name, data)

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        """Start a routine of the machine or of a job; the big lock is held."""
        self._lock.spawn(coro, self._service_ended)

    def _service_ended(self, routine: Routine) -> None:
        """Log an exception that has ended a routine of `_spawn`; the big lock is held."""
        # Once the lock is closed, the end of the process abandons routines by an exception.
        if routine.error is not None and not self._lock.closing:
            error = routine.error
            self._lock.defer(lambda: logger.critical("main loop failed", trace=trace_of(error)))
