# SPDX-License-Identifier: MIT
"""The connection to a control socket, without a loop: what `aio.channel` is on one.

Whoever waits for something reads all that comes.  A thread reads when nobody
waits, so the server never waits for this client.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from faultline.conversation import Conversation, NotQmp, Reply
from faultline.endings import cause_of, closed_by_server
from faultline.errors import ConnectFailed, MachineEnded, TimedOut
from faultline.events import Journal

T = TypeVar("T")

PIECE = 1 << 16
"""Bytes that are read at a time."""

ASIDE_S = 0.05
"""The thread stays aside for so long, in seconds, after others have read.

Woken by each reply that another waits for, it made a round trip longer by a quarter.
"""


class Channel:
    """A connection that has been negotiated; made by `open`.

    All methods may be called on any thread.
    """

    def __init__(self, path: str, journal: Journal | None) -> None:
        self.path = path
        self.conversation = Conversation(journal)
        self.ended: str | None = None
        self._owner = os.getpid()
        self._socket = socket.socket(socket.AF_UNIX)
        self._changed = threading.Condition()
        # Of the threads that wait one is in poll; it alone may read meanwhile.
        self._polling = False
        self._waits = 0
        self._closed = threading.Event()
        self._poller = self._new_poller()
        self._sending = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="faultline", daemon=True)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], timeout: float, journal: Journal | None = None
    ) -> Channel:
        """Connect to the socket at `path` and negotiate, in `timeout` seconds at most.

        Events go to `journal`, which may be one that keeps few, or tells somebody.
        Raises ConnectFailed if there is no QMP server, or one that does not greet.
        """
        channel = cls(os.fspath(path), journal)
        try:
            channel._connect(timeout)
        except (TimeoutError, BlockingIOError, TimedOut):
            channel.close()
            raise ConnectFailed(cause_of(channel.path, None, timeout)) from None
        except MachineEnded:
            ended = channel.ended
            channel.close()
            raise ConnectFailed(ended) from None
        except (OSError, ValueError) as exc:
            channel.close()
            raise ConnectFailed(cause_of(channel.path, exc, timeout)) from None
        except BaseException:
            channel.close()
            raise
        return channel

    def _connect(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._socket.settimeout(timeout)
        self._socket.connect(self.path)
        # A command is a few bytes; a server that takes none for a minute is gone.
        self._socket.settimeout(None)
        self._reader.start()
        left = deadline - time.monotonic()
        self.wait(lambda: self.conversation.greeting, left, lambda: "")
        self.execute("qmp_capabilities", {}, deadline - time.monotonic())

    @property
    def journal(self) -> Journal:
        """The events so far, with all that have arrived."""
        if os.getpid() != self._owner:
            return self.conversation.journal
        with self._changed:
            while not self._polling and self._take():
                pass
        return self.conversation.journal

    def _read(self) -> None:
        """Take what comes while nobody waits (the body of a thread)."""
        poller = self._new_poller()
        waits = 0
        while not self._closed.is_set() and self.ended is None:
            poller.poll()
            with self._changed:
                if waits == self._waits and not self._polling:
                    self._take()
                    continue
                waits = self._waits
            self._closed.wait(ASIDE_S)

    def _new_poller(self) -> select.poll:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return poller

    def _take(self) -> bool:
        """Take a piece of what has arrived, with `_changed` held; return whether there is more."""
        data, ended = b"", closed_by_server(self.path)
        try:
            data = self._socket.recv(PIECE, socket.MSG_DONTWAIT)
            self.conversation.feed(data)
            if not data:
                ended = closed_by_server(self.path, self.conversation.greeting is not None)
        except BlockingIOError:
            return False
        except OSError:
            pass
        except NotQmp:
            data, ended = b"", f"{self.path}: does not speak QMP"
        if not data:
            self.ended = self.ended or ended
        self._changed.notify_all()
        return len(data) == PIECE

    def execute(self, command: str, arguments: Mapping[str, Any], timeout: float | None) -> Any:
        """Run a command and return its value; the deadline is `timeout` seconds away.

        Raises CommandError, TimedOut, MachineEnded.
        """
        with self._changed:
            if self.ended is not None:
                raise MachineEnded(self.ended)
            key, data = self.conversation.command(command, arguments)
        deadline = None if timeout is None else time.monotonic() + timeout
        in_vain = f"no reply to {command} within {timeout or 0:g} s"
        try:
            self._send(data, deadline, in_vain)
            left = None if deadline is None else deadline - time.monotonic()
            reply = self.wait(lambda: self.conversation.reply(key), left, lambda: in_vain)
        finally:
            with self._changed:
                self.conversation.forget(key)
        return reply.result(command)

    def send(self, command: str, arguments: Mapping[str, Any]) -> str:
        """Send a command, and return the id for `answer`; raises MachineEnded."""
        with self._changed:
            if self.ended is not None:
                raise MachineEnded(self.ended)
            key, data = self.conversation.command(command, arguments)
        self._send(data, None, "")
        return key

    def answer(self, key: str, command: str, timeout: float) -> Reply:
        """Return the reply to a command that was sent; raises TimedOut and MachineEnded."""
        return self.wait(
            lambda: self.conversation.reply(key),
            timeout,
            lambda: f"no reply to {command} within {timeout:g} s",
        )

    def _send(self, data: bytes, deadline: float | None, in_vain: str) -> None:
        """Send a command; raises TimedOut with `in_vain` if the server does not take it in time.

        If it has taken a part of it, nothing can be sent any more, and this hangs up.
        """
        rest = memoryview(data)
        if not self._sending.acquire(timeout=-1 if deadline is None else _left(deadline)):
            raise TimedOut(in_vain)
        try:
            while rest:
                try:
                    rest = rest[self._socket.send(rest, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    left = None if deadline is None else _left(deadline)
                    if left == 0:
                        raise TimedOut(in_vain) from None
                    poller = select.poll()
                    poller.register(self._socket, select.POLLOUT)
                    poller.poll(None if left is None else left * 1000)
        except ConnectionError:
            return  # The reader finds out, and tells all that wait.
        finally:
            self._sending.release()
            if 0 < len(rest) < len(data):
                self.ended = self.ended or f"{self.path}: the machine takes no more commands"

    def wait(
        self,
        look: Callable[[], T | None],
        timeout: float | None,
        in_vain: Callable[[], str],
    ) -> T:
        """Return what `look` returns once that is not None; it is asked when something has come.

        Raises TimedOut with the text of `in_vain` after `timeout` seconds, and
        MachineEnded if the server hangs up first.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        expired = False
        with self._changed:
            self._waits += 1
            while (found := look()) is None:
                if self.ended is not None:
                    raise MachineEnded(self.ended)
                if expired:
                    raise TimedOut(in_vain())
                left = None if deadline is None else max(deadline - time.monotonic(), 0)
                expired = left == 0
                if self._polling:
                    self._changed.wait(left)
                else:
                    self._poll(left)
            return found

    def _poll(self, left: float | None) -> None:
        """Wait up to `left` seconds, and take what has come then; `_changed` is held."""
        self._polling = True
        self._changed.release()
        try:
            self._poller.poll(None if left is None else left * 1000)
        finally:
            self._changed.acquire()
            self._polling = False
            self._take()
            # If this one returns, another that waits polls from now on, without the thread's delay.
            self._changed.notify_all()

    def close(self) -> None:
        """Hang up; no error if that was done, or if the server has gone.

        In a child after a fork it leaves the connection to the parent.
        """
        if os.getpid() != self._owner:
            self._socket.close()
            return
        with self._changed:
            self.ended = self.ended or f"{self.path}: this client has hung up"
            self._changed.notify_all()
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._changed:
            # Its number may be another file's at once, for which nobody should wait.
            self._changed.wait_for(lambda: not self._polling, ASIDE_S)
        if self._reader.is_alive():
            self._reader.join()
        self._socket.close()


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0)
