# SPDX-License-Identifier: MIT
"""The connection to a control socket, with a thread that reads: what `aio.channel` is on a loop."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from faultline.conversation import Conversation, NotQmp
from faultline.endings import cause_of, closed_by_server
from faultline.errors import ConnectFailed, MachineEnded, TimedOut
from faultline.events import Journal

T = TypeVar("T")

PIECE = 1 << 16
"""Bytes that are read at a time."""


class Channel:
    """A connection that has been negotiated; made by `open`.

    A thread reads all that comes, so the server never waits for this client, and
    `conversation` has every event as soon as it is there.  All methods may be
    called on any thread.
    """

    def __init__(self, path: str, journal: Journal | None) -> None:
        self.path = path
        self.conversation = Conversation(journal)
        self.ended: str | None = None
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
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

    def _read(self) -> None:
        """Take all that the server sends (the body of a thread)."""
        ended = closed_by_server(self.path)
        try:
            while data := self._socket.recv(PIECE):
                with self._changed:
                    self.conversation.feed(data)
                    self._changed.notify_all()
            ended = closed_by_server(self.path, self.conversation.greeting is not None)
        except OSError:
            pass
        except NotQmp:
            ended = f"{self.path}: does not speak QMP"
        with self._changed:
            self.ended = self.ended or ended
            self._changed.notify_all()

    def execute(self, command: str, arguments: Mapping[str, Any], timeout: float | None) -> Any:
        """Run a command and return its value; the deadline is `timeout` seconds away.

        Raises CommandError, TimedOut, MachineEnded.
        """
        with self._changed:
            if self.ended is not None:
                raise MachineEnded(self.ended)
            key, data = self.conversation.command(command, arguments)
        try:
            with self._sending, contextlib.suppress(ConnectionError):
                self._socket.sendall(data)
            reply = self.wait(
                lambda: self.conversation.reply(key),
                timeout,
                lambda: f"no reply to {command} within {timeout or 0:g} s",
            )
        finally:
            with self._changed:
                self.conversation.forget(key)
        return reply.result(command)

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
        with self._changed:
            while (found := look()) is None:
                if self.ended is not None:
                    raise MachineEnded(self.ended)
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimedOut(in_vain())
                self._changed.wait(left)
            return found

    def close(self) -> None:
        """Hang up; no error if that was done, or if the server has gone."""
        with self._changed:
            self.ended = self.ended or f"{self.path}: this client has hung up"
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._reader.is_alive():
            self._reader.join()
        self._socket.close()
