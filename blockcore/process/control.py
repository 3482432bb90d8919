# SPDX-License-Identifier: MIT
"""The control socket: its file, its clients, and their bounded queues.

All of this runs on the main loop's thread, except `Client.event`, which the
thread that emits an event calls under the big lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from blockcore.bql.big_lock import BigLock
from blockcore.bql.later import later
from blockcore.bql.routine import Routine
from blockcore.commands.by_name import find_command
from blockcore.machine.machine import Machine
from blockcore.process.log import logger, trace_of
from blockcore.process.socket_file import make_room
from blockcore.qapi.json.writer import Shared, encode
from blockcore.qapi.names import QmpError
from blockcore.qapi.schema import to_wire
from blockcore.qmp.output import Broken, Output
from blockcore.qmp.session import Invocation, Session, error_reply

QUEUE_BYTES = 16 << 20
"""Bytes of unread events at which a client is disconnected.

Bounds the memory that one client can take.  Replies do not count: a client gets
no further replies while it leaves replies unread.
"""

QUEUE_MESSAGES = 100_000
"""Unsent messages at which a client is disconnected: a bound for events that come faster than
the main loop turns them into bytes."""

INPUT_BYTES = 16 << 10
"""The most bytes of a client's input that are read at once."""

TURN_S = 0.001
"""How long one client is served, in seconds, before the next client has its turn.

Longer turns keep other clients waiting; shorter ones lose more of the time to
the pause after each (`PAUSE_S`).
"""

PAUSE_S = 0.0001
"""How long the main loop sleeps between two turns, in seconds, so that workers get the
interpreter lock.  Waking up a worker takes half of that (`Client._take_scheduled_turn`)."""


_version_info = later("blockcore.commands.version:version_info")


def bind_control_socket(path: str) -> socket.socket:
    """Return a Unix socket that listens at `path`, with mode 0600.

    Replaces the file of a socket to which no server listens any more.  Raises
    QmpError if the socket cannot be bound.  Sets the process's umask for a
    moment, so no other thread may make files meanwhile.
    """
    try:
        make_room(path)
    except OSError as exc:
        reason = os.strerror(exc.errno or 0)
        raise QmpError(f"Failed to bind socket to {path}: {reason}") from None
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


class Client(asyncio.BufferedProtocol):
    """One connection to the control socket; on the main loop's thread, except `event`.

    Input and output are handled in turns, and other clients have their turns in
    between.  A turn ends after `TURN_S`; no single step takes longer than that.
    Input is read only when all earlier input and output is done with, and no
    command runs while asyncio's write buffer is full: a client that does not
    read its replies gets no more work done.

    `clients` are the clients to which events go.  `on_made` and `on_lost` are called
    when there is a connection, and when it has ended; `after_reply` at the end of
    each turn.
    """

    def __init__(
        self,
        machine: Machine,
        lock: BigLock,
        clients: set[Client],
        on_made: Callable[[Client], None],
        on_lost: Callable[[Client], None],
        after_reply: Callable[[], None],
    ) -> None:
        release = machine.qemu
        version = to_wire(_version_info()(release))
        self.session = Session(find_command, version, absent=release.absent, on_bug=_bug)
        self._machine = machine
        self._lock = lock
        self._clients = clients
        self._on_made = on_made
        self._on_lost = on_lost
        self._after_reply = after_reply
        self._overflow = False
        self._full = False
        self._scheduled = False
        self._spawning = False
        self._stopped = False
        self._number: int | None = None
        self._output = Output(self.session.take_message, _replacement)
        self._input = bytearray(INPUT_BYTES)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._on_made(self)
        transport.write(encode(self.session.greeting()))
        with self._lock.region():
            self._clients.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        with self._lock.region():
            self._clients.discard(self)
        self._on_lost(self)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Return the buffer for the next input.

        It is one buffer per client.  asyncio's own (of `asyncio.Protocol`) is new
        each time, and so large that the C library maps and unmaps it, which took
        a tenth of a command's time.
        """
        return self._input

    def buffer_updated(self, nbytes: int) -> None:
        self.session.receive_data(bytes(memoryview(self._input)[:nbytes]))
        self._turn()

    def pause_writing(self) -> None:
        """Stop running commands, because asyncio's write buffer is above its limit."""
        self._full = True

    def resume_writing(self) -> None:
        """Go on with commands, because the client has read enough."""
        self._full = False
        self._schedule()

    def event(self, message: Shared) -> None:
        """Queue an event, on any thread; the big lock is held."""
        if len(self.session.outbox) >= QUEUE_MESSAGES:
            # The main loop reads this flag without the lock.  It is never cleared, and each
            # event is followed by a `flush`, which sees it.
            self._overflow = True
        else:
            self.session.send_event(message)

    def flush(self) -> None:
        """Send as much of the queue as one turn allows; disconnect if the queue is too long."""
        self._send(self._loop.time() + TURN_S)
        self._go_on()

    def stop(self) -> None:
        """Run no command any more, and read nothing; replies and events are still sent."""
        self._stopped = True
        if self._transport is not None:
            self._transport.pause_reading()

    def close(self) -> None:
        """Send as much of the queue as one turn allows, then close the connection.

        asyncio sends what it has taken before it closes.
        """
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once; unsent output is lost."""
        if self._transport is not None:
            self._transport.abort()

    def _schedule(self) -> None:
        """Ask for another turn, after the turns that other clients have asked for."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._take_scheduled_turn)

    def _take_scheduled_turn(self) -> None:
        """Take the turn after a real pause, in which workers can get the interpreter lock.

        The loop releases the interpreter lock between two turns anyway, but takes
        it back before a worker has woken up.  The worker then begins to wait
        again.  Beside a client that sends 2 million tokens a worker waited 97 ms
        without the pause, and 4 ms with it.
        """
        self._scheduled = False
        time.sleep(PAUSE_S)
        self._turn()

    def _turn(self) -> None:
        """Run the commands that have come, one after the other, and send their replies."""
        now = self._loop.time
        end = now() + TURN_S
        if self._has_output():
            self._send(end)
        more = self._has_input()
        while self._transport is not None and more and not self._full and now() < end:
            self._step()
            if self._has_output():
                self._send(end)
            more = self._has_input()
        self._go_on()
        self._after_reply()

    def _go_on(self) -> None:
        """Schedule another turn if work is left; read more input only if none is left."""
        if self._transport is None:
            return
        sent = not self._has_output()
        if not sent or (not self._full and self._has_input()):
            self._schedule()
        if sent and not self._full and not self._stopped and self.session.wants_data():
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _has_input(self) -> bool:
        return not self._stopped and self.session.may_be_command()

    def _has_output(self) -> bool:
        return bool(self.session.outbox) or self._output.in_message

    def _send(self, end: float) -> None:
        """Hand the queue to asyncio until it is empty or the loop's time is `end` (seconds).

        Disconnects the client if the buffered events exceed `QUEUE_BYTES`.
        """
        transport, output = self._transport, self._output
        if transport is None:
            return
        # Of the replies at most as many bytes can be unsent as the whole buffer has.
        output.replies = min(output.replies, transport.get_write_buffer_size())
        try:
            while self._has_output():
                transport.write(output.take())
                if transport.get_write_buffer_size() > QUEUE_BYTES + output.replies:
                    self._overflow = True
                if self._loop.time() >= end:
                    break
        except Broken as exc:
            self._give_up()
            logger.error("a reply failed by a bug of ours", trace=trace_of(exc.__cause__))
        if self._overflow:
            self._give_up()
            logger.warning("control client does not read, disconnected")

    def _give_up(self) -> None:
        self.abort()
        self._transport = None

    def _step(self) -> None:
        """Parse the next piece of the input, and run the command in it, if it has one."""
        invocation = self.session.next_command()
        if invocation is not None:
            with self._lock.region():
                self._run(invocation)

    def _run(self, invocation: Invocation) -> None:
        command = invocation.command
        self._note(invocation)
        if command.is_coroutine:
            coro = command.function(self._machine, **invocation.kwargs)
            self._spawning = True
            self._lock.spawn(coro, lambda routine: self._done(invocation, routine))
            self._spawning = False
            return
        try:
            result = command.function(self._machine, **invocation.kwargs)
        except QmpError as exc:
            self._fail(invocation, exc)
        except Exception as exc:
            self._fail_by_bug(invocation, exc)
        else:
            self._reply(invocation, result)

    def _note(self, invocation: Invocation) -> None:
        """Write down that a command runs, if the machine is recorded; the big lock is held."""
        recording = self._machine.recording
        if recording is None:
            return
        if self._number is None:
            self._number = recording.new_client()
        self._machine.concerns_changed()  # `RecordedShortcut`: before the line
        invocation.recorded = recording.command(
            self._number, invocation.command.name, invocation.arguments, invocation.oob
        )

    def _note_reply(self, invocation: Invocation, error: QmpError | None) -> None:
        if self._machine.recording is not None and invocation.recorded is not None:
            self._machine.recording.replied(invocation.recorded, error)

    def _reply(self, invocation: Invocation, result: Any) -> None:
        self.session.reply(invocation, result)
        self._note_reply(invocation, None)

    def _fail(self, invocation: Invocation, error: QmpError) -> None:
        self.session.fail(invocation, error)
        self._note_reply(invocation, error)

    def _done(self, invocation: Invocation, routine: Routine) -> None:
        """Answer a coroutine command that has ended; on any thread, the big lock is held."""
        # Take the error out of the routine.  Its traceback has the frames of the thread that
        # performed the call, and these have the routine: a cycle that only the collector ends.
        error, routine.error = routine.error, None
        if isinstance(error, QmpError):
            self._fail(invocation, error)
        elif error is None:
            self._reply(invocation, routine.result)
        elif not isinstance(error, OSError) or not self._lock.closing:
            # An OSError once the lock is closed is no bug: the end of the process has abandoned
            # the routine (ESHUTDOWN).
            self._fail_by_bug(invocation, error)
        # A command that ends inside `spawn` is in a turn of its client, which sends the reply.
        if not self._spawning:
            self._lock.defer(self._wake)

    def _fail_by_bug(self, invocation: Invocation, error: BaseException) -> None:
        """Answer a command that raised anything but QmpError; the big lock is held."""
        what = f"The command {invocation.command.name}"
        self._fail(invocation, _description(what, error))
        self._lock.defer(lambda: _log_bug(error))

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._schedule)


def _bug(what: str, error: BaseException) -> QmpError:
    """Log a bug of ours, and return the error that the client gets."""
    _log_bug(error)
    return _description(what, error)


def _description(what: str, error: BaseException) -> QmpError:
    return QmpError(f"{what} failed by a bug of ours: {type(error).__name__}: {error}")


def _log_bug(error: BaseException) -> None:
    logger.error("a command failed by a bug of ours", trace=trace_of(error))


def _replacement(message: dict[str, Any], error: Exception) -> dict[str, Any]:
    """Return the error reply to send instead of a reply that could not be encoded."""
    reply = error_reply(_bug("The reply", error))
    return {**reply, "id": message["id"]} if "id" in message else reply
