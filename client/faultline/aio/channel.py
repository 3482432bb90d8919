# SPDX-License-Identifier: MIT
"""The connection to a control socket, on an event loop: what `sync.channel` is without one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from faultline.conversation import Conversation, NotQmp, Reply
from faultline.endings import cause_of, closed_by_server
from faultline.errors import ConnectFailed, MachineEnded, TimedOut
from faultline.events import Journal

T = TypeVar("T")

PIECE = 1 << 16
"""Bytes that are read at a time."""


class Channel:
    """A connection that has been negotiated; made by `open`.

    A task reads all that comes, so the server never waits for this client, and
    `conversation` has every event as soon as it is there.
    """

    def __init__(self, path: str, journal: Journal | None) -> None:
        self.path = path
        self._owner = os.getpid()
        self.conversation = Conversation(journal)
        self.ended: str | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    async def open(
        cls, path: str | os.PathLike[str], timeout: float, journal: Journal | None = None
    ) -> Channel:
        """Connect to the socket at `path` and negotiate, in `timeout` seconds at most.

        Events go to `journal`, which may be one that keeps few, or tells somebody.
        Raises ConnectFailed if there is no QMP server, or one that does not greet.
        """
        channel = cls(os.fspath(path), journal)
        try:
            async with asyncio.timeout(timeout):
                await channel._connect()
        except TimeoutError:
            await channel.close()
            raise ConnectFailed(cause_of(channel.path, None, timeout)) from None
        except MachineEnded:
            ended = channel.ended
            await channel.close()
            raise ConnectFailed(ended) from None
        except (OSError, ValueError) as exc:
            await channel.close()
            raise ConnectFailed(cause_of(channel.path, exc, timeout)) from None
        except BaseException:
            await channel.close()
            raise
        return channel

    async def _connect(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(self.path)
        self._reader = asyncio.create_task(self._read(reader))
        await self.wait(lambda: self.conversation.greeting, None, lambda: "")
        await self.execute("qmp_capabilities", {}, None)

    @property
    def journal(self) -> Journal:
        """The events so far."""
        return self.conversation.journal

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Take all that the server sends (the body of a task)."""
        try:
            while data := await reader.read(PIECE):
                self.conversation.feed(data)
                self._wake()
            self.ended = closed_by_server(self.path, self.conversation.greeting is not None)
        except OSError:
            self.ended = closed_by_server(self.path)
        except NotQmp:
            self.ended = f"{self.path}: does not speak QMP"
        finally:
            self._wake()

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def execute(
        self, command: str, arguments: Mapping[str, Any], timeout: float | None
    ) -> Any:
        """Run a command and return its value; the deadline is `timeout` seconds away.

        Raises CommandError, TimedOut, MachineEnded.
        """
        if self.ended is not None or self._writer is None:
            raise MachineEnded(self.ended or closed_by_server(self.path))
        key, data = self.conversation.command(command, arguments)
        in_vain = f"no reply to {command} within {timeout or 0:g} s"
        try:
            async with asyncio.timeout(timeout):
                with contextlib.suppress(ConnectionError):
                    self._writer.write(data)
                    await self._writer.drain()
                reply = await self.wait(
                    lambda: self.conversation.reply(key), None, lambda: in_vain
                )
        except TimeoutError:
            raise TimedOut(in_vain) from None
        finally:
            self.conversation.forget(key)
        return reply.result(command)

    async def send(self, command: str, arguments: Mapping[str, Any]) -> str:
        """Send a command, and return the id for `answer`; raises MachineEnded."""
        if self.ended is not None or self._writer is None:
            raise MachineEnded(self.ended or closed_by_server(self.path))
        key, data = self.conversation.command(command, arguments)
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()
        return key

    async def answer(self, key: str, command: str, timeout: float) -> Reply:
        """Return the reply to a command that was sent; raises TimedOut and MachineEnded."""
        return await self.wait(
            lambda: self.conversation.reply(key),
            timeout,
            lambda: f"no reply to {command} within {timeout:g} s",
        )

    async def wait(
        self,
        look: Callable[[], T | None],
        timeout: float | None,
        in_vain: Callable[[], str],
    ) -> T:
        """Return what `look` returns once that is not None; it is asked when something has come.

        Raises TimedOut with the text of `in_vain` after `timeout` seconds, and
        MachineEnded if the server hangs up first.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while (found := look()) is None:
            if self.ended is not None:
                raise MachineEnded(self.ended)
            future = loop.create_future()
            self._waiting.add(future)
            try:
                async with asyncio.timeout_at(deadline):
                    await future
            except TimeoutError:
                if (found := look()) is not None:
                    return found
                raise TimedOut(in_vain()) from None
            finally:
                self._waiting.discard(future)
        return found

    async def close(self) -> None:
        """Hang up; no error if that was done, or if the server has gone.

        In a child after a fork it leaves the connection, and the loop, to the parent.
        """
        if os.getpid() != self._owner:
            return
        self.ended = self.ended or f"{self.path}: this client has hung up"
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
            self._reader = None
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
            self._writer = None
