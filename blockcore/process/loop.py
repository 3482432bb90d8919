# SPDX-License-Identifier: MIT
"""The main loop: the one thread with asyncio on it, and the pools beside it.

It serves the control socket, performs the blocking calls of the routines that
are not a guest's (`routine.Pool`), keeps their deadlines, and logs events.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from blockcore.bql.big_lock import BigLock
from blockcore.bql.effects import COPYING, GENERAL, Lane
from blockcore.bql.routine import Routine, Timer
from blockcore.machine.machine import Machine
from blockcore.process.control import Client
from blockcore.process.log import level_of, trace_of
from blockcore.process.pool import Lanes, ThreadPool
from blockcore.qapi.events import Event
from blockcore.qapi.json.writer import Shared
from blockcore.qapi.schema import wire_without

COPY_THREADS = min(max(2, len(os.sched_getaffinity(0))), COPYING.threads)
"""More of them than processors make jobs slower, and leave guests less; but one may hang."""

TRIM_S = 1.0
"""From when something has happened until the memory that it took and left goes back."""

_log = structlog.get_logger()


class MainLoop:
    """Started after nbdkit has forked, stopped when it cleans up.

    `on_quit` is called, on the loop's thread, once a client has said `quit`
    and has had its answer.  `trim` gives free memory back to the system.
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
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="main loop")

    def start(self) -> None:
        """Start the thread; returns when clients are accepted, or raises what prevents that."""
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

    def stop(self) -> None:
        """Say good-bye to all clients, end the thread."""
        with contextlib.suppress(RuntimeError):
            self._asyncio.call_soon_threadsafe(self._finish)
        self._thread.join()
        for pool in self._pools.values():
            pool.close()
        self._lanes.close()

    def submit(self, work: Callable[[], None], lane: Lane) -> None:
        pool = self._pools.get(lane)
        if pool is not None:
            pool.submit(work)
        elif not self._lanes.submit(work, lane):
            self._pools[GENERAL].submit(work)

    def is_wanted(self, lane: Lane) -> bool:
        pool = self._pools.get(lane)
        return self._lanes.is_wanted(lane) if pool is None else pool.is_wanted()

    def call_at(self, deadline_ns: int, timer: Timer) -> None:
        def arm() -> None:
            delay_s = (deadline_ns - self._machine.clock.monotonic_ns()) / 1e9
            self._asyncio.call_later(max(delay_s, 0.0), timer.fire)

        with contextlib.suppress(RuntimeError):
            self._asyncio.call_soon_threadsafe(arm)

    def trim_soon(self) -> None:
        """Give free memory back before long; any number of calls are one."""
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
            server = await self._asyncio.create_unix_server(self._client, sock=self._listener)
        self._started.set()
        await self._ended.wait()
        if server is not None:
            server.close()
            await self._hang_up()

    async def _hang_up(self) -> None:
        """Part with all clients; what they leave unread is lost.

        A loop that ends before a connection has ended leaves it to the garbage
        collector, where asyncio's server of Python 3.13 fails with a trace.
        """
        accepted = asyncio.all_tasks() - {asyncio.current_task()}
        if accepted:
            await asyncio.wait(accepted)
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
        client = Client(
            self._machine, self._lock, self._clients, self._connections.discard, self._after_reply
        )
        self._connections.add(client)
        return client

    def _after_reply(self) -> None:
        self.trim_soon()
        if self._machine.quit_requested:
            self._on_quit()

    def _event(self, event: Event, now_ns: int) -> None:
        """Queue an event for every client; the big lock is held."""
        seconds, rest_ns = divmod(now_ns, 10**9)
        message: dict[str, Any] = {
            "timestamp": {"seconds": seconds, "microseconds": rest_ns // 1000},
            "event": event.NAME,
        }
        if data := self._to_wire(event):
            message["data"] = data
        shared = Shared(message)
        for client in self._clients:
            client.event(shared)
        self._unlogged.append(message)
        self._lock.defer(self._schedule_flush)

    def _schedule_flush(self) -> None:
        if self._flush_scheduled:
            return
        self._flush_scheduled = True
        with contextlib.suppress(RuntimeError):
            self._asyncio.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        self.trim_soon()
        for client in list(self._clients):
            client.flush()
        while self._unlogged:
            message = self._unlogged.popleft()
            name, data = message["event"], message.get("data", {})
            getattr(_log, level_of(name, data))(name, **data)

    def _spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        """Start one of the machine's own loops; the big lock is held."""
        self._lock.spawn(coro, self._service_ended)

    def _service_ended(self, routine: Routine) -> None:
        """A loop may end; only the end of the process may end it by an exception."""
        if routine.error is not None and not self._lock.closing:
            error = routine.error
            self._lock.defer(lambda: _log.critical("main loop failed", trace=trace_of(error)))
