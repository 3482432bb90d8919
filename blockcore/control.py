"""The control socket: its file, its clients, and their bounded queues.

All of this runs on the main loop's thread, except `Client.event`, which the
thread that emits an event calls under the big lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from typing import Any

import structlog

from blockcore.bql import BigLock
from blockcore.commands.table import table, version_info
from blockcore.machine import Machine
from blockcore.qapi import QmpError
from blockcore.qmp.jsonstream import encode
from blockcore.qmp.schema import to_wire
from blockcore.qmp.session import Invocation, Session
from blockcore.routine import Routine

QUEUE_BYTES = 16 << 20
"""A client that leaves this much unread is disconnected."""

QUEUE_MESSAGES = 100_000
"""The same for messages that the main loop has not come round to sending."""

_log = structlog.get_logger()


def bind_control_socket(path: str) -> socket.socket:
    """A listening Unix socket at `path`, for its owner only; QmpError if that cannot be.

    A socket that nobody listens to any more is replaced.
    """
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(128)
    except OSError as exc:
        listener.close()
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        raise QmpError(f"Failed to bind socket to {path}: {reason}") from None
    finally:
        os.umask(umask)
    return listener


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise QmpError(f"Failed to bind socket to {path}: {os.strerror(errno.EEXIST)}")
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError as exc:
            reason = os.strerror(exc.errno or 0)
            raise QmpError(f"Failed to bind socket to {path}: {reason}") from None
        else:
            reason = os.strerror(errno.EADDRINUSE)
            raise QmpError(f"Failed to bind socket to {path}: {reason}")


class Client(asyncio.Protocol):
    """One connection to the control socket.

    `on_lost` is told when it has ended, `after_reply` when something was
    answered.
    """

    def __init__(
        self,
        machine: Machine,
        lock: BigLock,
        clients: set[Client],
        on_lost: Callable[[Client], None],
        after_reply: Callable[[], None],
    ) -> None:
        release = machine.qemu
        version = to_wire(version_info(release))
        self.session = Session(table, version, absent=release.absent)
        self._machine = machine
        self._lock = lock
        self._clients = clients
        self._on_lost = on_lost
        self._after_reply = after_reply
        self._overflow = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(encode(self.session.greeting()))
        with self._lock.region():
            self._clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        with self._lock.region():
            self._clients.discard(self)
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        self.session.receive_data(data)
        self._proceed()

    def event(self, message: dict[str, Any]) -> None:
        """Queue an event; the big lock is held."""
        if len(self.session.outbox) >= QUEUE_MESSAGES:
            self._overflow = True
        else:
            self.session.send_event(message)

    def flush(self) -> None:
        """Send what is queued, or give the client up."""
        if self._transport is None:
            return
        messages = self.session.drain()
        self._transport.write(b"".join(encode(message) for message in messages))
        if self._overflow or self._transport.get_write_buffer_size() > QUEUE_BYTES:
            _log.warning("control client does not read, disconnected")
            self._transport.abort()

    def close(self) -> None:
        """Close the connection once what is queued has been sent."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _proceed(self) -> None:
        """Run the commands that have come, one after the other, as far as they go at once."""
        if self._transport is None:
            return
        with self._lock.region():
            while (invocation := self.session.next_command()) is not None:
                self._run(invocation)
        self.flush()
        if self.session.wants_data():
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()
        self._after_reply()

    def _run(self, invocation: Invocation) -> None:
        command = invocation.command
        if command.is_coroutine:
            coro = command.function(self._machine, **invocation.kwargs)
            self._lock.spawn(coro, lambda routine: self._done(invocation, routine))
            return
        try:
            result = command.function(self._machine, **invocation.kwargs)
        except QmpError as exc:
            self.session.fail(invocation, exc)
        else:
            self.session.reply(invocation, result)

    def _done(self, invocation: Invocation, routine: Routine) -> None:
        """A coroutine command has ended, perhaps on another thread; the lock is held."""
        if isinstance(routine.error, QmpError):
            self.session.fail(invocation, routine.error)
        elif routine.error is None:
            self.session.reply(invocation, routine.result)
        elif not isinstance(routine.error, OSError) or not self._lock.closing:
            self._lock.defer(lambda: self._bug(routine.error))
        self._lock.defer(self._wake)

    def _bug(self, error: BaseException | None) -> None:
        _log.error("a command failed by a bug of ours", exc_info=error)
        self._loop.call_soon_threadsafe(self.close)

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._proceed)
