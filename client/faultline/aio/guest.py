# SPDX-License-Identifier: MIT
"""A guest of a replayed machine: one NBD connection, by libnbd."""

from __future__ import annotations

import contextlib
import errno
import time
import zlib
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from faultline.aio.waiting import readable
from faultline.errors import FaultlineError, MachineEnded
from faultline.recording import contents, invented
from faultline.replay_report import Outcome
from faultline.replay_steps import OPENING, Request

STEP_S = 0.01
"""How long at most until the connection is looked at, in seconds, whatever its socket says."""


def libnbd() -> Any:
    """Return libnbd's module; raises FaultlineError if it is not installed."""
    try:
        return import_module("nbd")
    except ImportError as exc:
        raise FaultlineError(
            f"a replay needs libnbd's module for this Python, python3-libnbd in Debian: {exc}"
        ) from None


@dataclass(slots=True)
class _Open:
    cookie: int
    buffer: bytearray | None = None


class Guest:
    """A connection to the export with the NBD URI `uri`.

    `is_lost` is for the player: whether it knows that the server has hung up.
    """

    is_lost = False

    def __init__(self, uri: str) -> None:
        self._nbd = libnbd()
        self._uri = uri
        self._handle = self._nbd.NBD()
        self._open: dict[int, _Open] = {}
        self._has_asked = False
        self._outcomes: dict[int, Outcome] = {}

    def connect(self) -> None:
        """Begin to connect, which is the request `OPENING`; raises MachineEnded.

        Nothing here waits inside libnbd, where no signal would end it.
        """
        self._handle.add_meta_context(self._nbd.CONTEXT_BASE_ALLOCATION)
        # To tell a refusal from a server that hangs up.
        self._handle.set_opt_mode(True)
        try:
            self._handle.aio_connect_uri(self._uri)
        except self._nbd.Error as exc:
            raise MachineEnded(f"no connection to {self._uri}: {exc.string}") from None
        self._open[OPENING] = _Open(OPENING)

    def submit(self, request: Request) -> None:
        """Send a request."""
        nbd, members = self._nbd, request.members
        length = request.end - request.start
        flags = nbd.CMD_FLAG_FUA if members.get("fua") else 0
        buffer: bytearray | None = None
        try:
            match request.iotype:
                case "read":
                    buffer = bytearray(length)  # libnbd 1.14 never frees an nbd.Buffer
                    cookie = self._handle.aio_pread(buffer, request.start)
                case "write":
                    data = _data(request, length)
                    cookie = self._handle.aio_pwrite(data, request.start, flags=flags)
                case "write-zeroes":
                    flags |= 0 if members.get("may-unmap") else nbd.CMD_FLAG_NO_HOLE
                    flags |= nbd.CMD_FLAG_FAST_ZERO if members.get("fast") else 0
                    cookie = self._handle.aio_zero(length, request.start, flags=flags)
                case "discard":
                    cookie = self._handle.aio_trim(length, request.start, flags=flags)
                case "flush":
                    cookie = self._handle.aio_flush()
                case _:
                    cookie = self._handle.aio_block_status(
                        length, request.start, lambda *_: 0
                    )
        except nbd.Error as exc:
            raise MachineEnded(f"{request} cannot be sent: {exc.string}") from None
        self._open[request.number] = _Open(cookie, buffer)

    def open_requests(self) -> list[int]:
        """Return the numbers of the requests that have no answer."""
        return list(self._open)

    async def wait(self, number: int, timeout: float) -> bool:
        """Return whether a request has an answer, waiting up to `timeout` seconds for it."""
        deadline = time.monotonic() + timeout
        while True:
            self.turn()
            left = deadline - time.monotonic()
            if number in self._outcomes or left <= 0:
                return number in self._outcomes
            await readable(self._handle.aio_get_fd(), min(left, STEP_S))

    def take(self, number: int) -> Outcome:
        """Return how a request has ended, once."""
        return self._outcomes.pop(number)

    def outcomes(self) -> dict[int, Outcome]:
        """Return how requests have ended, by their numbers, as far as none has taken it."""
        self.turn()
        return dict(self._outcomes)

    def turn(self) -> None:
        """Send and receive what can be, and find the requests that have an answer."""
        if not self._is_lost():
            with contextlib.suppress(self._nbd.Error):  # which each request finds out
                while self._handle.poll(0):
                    pass
        for number, one in list(self._open.items()):
            outcome = self._outcome(number, one)
            if outcome is not None:
                del self._open[number]
                self._outcomes[number] = outcome

    def _opened(self) -> Outcome | None:
        """Return how the attempt to connect has ended; take its next step."""
        handle = self._handle
        if self._is_lost():
            return Outcome(lost=True)
        if handle.aio_is_negotiating():
            if self._has_asked:
                return Outcome(errno.ECONNREFUSED)
            self._has_asked = True
            with contextlib.suppress(self._nbd.Error):  # which the next turn finds out
                handle.aio_opt_go()
            return self._opened()
        if handle.aio_is_ready() or handle.aio_is_processing():
            handle.set_strict_mode(0)
            return Outcome()
        return None

    def _outcome(self, number: int, one: _Open) -> Outcome | None:
        if number == OPENING:
            return self._opened()
        lost = self._is_lost()
        try:
            if not self._handle.aio_command_completed(one.cookie):
                return Outcome(lost=True) if lost else None
        except self._nbd.Error as exc:
            return Outcome(lost=True) if lost else Outcome(exc.errnum)
        return Outcome(digest=None if one.buffer is None else zlib.crc32(one.buffer))

    def _is_lost(self) -> bool:
        return bool(self._handle.aio_is_dead() or self._handle.aio_is_closed())

    async def leave(self, timeout: float) -> None:
        """Disconnect in order; hang up if the server has not closed it in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(self._nbd.Error):
            self._handle.aio_disconnect()
            self.turn()
            while not self._is_lost() and (left := deadline - time.monotonic()) > 0:
                await readable(self._handle.aio_get_fd(), min(left, STEP_S))
                self.turn()
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection without a word; its requests are lost, if it has any."""
        # The socket closes when the handle is gone.
        self._handle = self._nbd.NBD()
        self._open.clear()


def _data(request: Request, length: int) -> bytes:
    """Return the contents of a write: what was recorded, or what stands for it."""
    if "data" in request.members:
        return contents(request.members["data"])
    return invented(request.number, length)
