# SPDX-License-Identifier: MIT
"""The nbd client driver, on libnbd: a node whose data another server has."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import queue
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from blockcore.bql.effects import Lane, LaneCall
from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevOptionsNbd
from blockcore.nodes.driver import OPENING, Extent, NewChildren, NodeHost, NodeOptions
from blockcore.nodes.drivers.nbd_server import NbdServer
from blockcore.nodes.making import Making
from blockcore.nodes.node import BlockNode
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import QmpError

try:
    import nbd
except ImportError:
    nbd = None

CONNECTIONS = 4
"""Handles to a server that allows multi-conn; a handle does one request at a time."""

CONNECT_POLL_MS = 50
"""How often a connection that is not there yet is given up if the process ends."""

CONNECT_S = 10
"""How long a server may take to greet, and to agree on everything, when a node is opened.

QEMU waits for ever, and with it the whole machine.  Requests wait, as they do for an answer.
"""

RETRY_S = 0.1
"""Pause between two attempts to reconnect within reconnect-delay."""


class NbdNode(BlockNode):
    """Requests go to the server as they come, each on a handle of its own.

    A lost connection fails the requests on it with EIO; the next request
    connects again.  With `reconnect_delay` (seconds) requests wait that long
    for the server to come back and are then sent again.  `open_timeout` is how
    long to try to open, 0 for once.
    """

    driver = "nbd"
    creates_images = True
    connected = True

    def __init__(
        self,
        options: NodeOptions,
        host: NodeHost,
        server: NbdServer,
        reconnect_delay: int = 0,
        open_timeout: int = 0,
    ) -> None:
        super().__init__(options, host)
        self.server = server
        self.reconnect_delay = reconnect_delay
        self.open_timeout = open_timeout
        self._handles: list[nbd.NBD] = []
        self._sockets: dict[nbd.NBD, socket.socket] = {}
        """Of our own: a handle does not tell its descriptor while a request is on it."""
        self._lane = Lane(f"nbd {options.node_name}", CONNECTIONS)
        self._free: queue.SimpleQueue[nbd.NBD] = queue.SimpleQueue()
        self._given_up = False
        self._cancels = 0
        self._can: dict[str, bool] = {}
        self._server_read_only = False

    @classmethod
    async def make(cls, definition: BlockdevOptionsNbd, making: Making) -> NbdNode:
        return cls(
            making.options,
            making.host,
            NbdServer.at(definition.server, definition.export or "", making.path),
            reconnect_delay=definition.reconnect_delay or 0,
            open_timeout=definition.open_timeout or 0,
        )

    async def do_open(self) -> None:
        """Raises QmpError in QEMU's words (nbd_client_connect)."""
        if nbd is None:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise QmpError(f"The driver 'nbd' needs libnbd's module for Python {version}")
        await LaneCall(OPENING, self._open)

    async def do_reopen(
        self, options: NodeOptions, definition: BlockdevOptions, children: NewChildren
    ) -> None:
        if self._server_read_only and not options.read_only:
            raise QmpError("Can't reopen read-only NBD mount as read/write")

    async def do_close(self) -> None:
        await LaneCall(self._lane, self._close)

    def abort(self) -> None:
        self.yank()

    def yank(self) -> None:
        """As in QEMU (nbd_yank), it does not connect again: every request fails from now on."""
        self._given_up = True
        self.hang_up()

    def hang_up(self) -> None:
        self._cancels += 1
        for connection in list(self._sockets.values()):
            with contextlib.suppress(OSError):  # not connected (any more)
                connection.shutdown(socket.SHUT_RDWR)

    def _open(self) -> None:
        begin = time.monotonic()
        while True:
            first = nbd.NBD()
            try:
                self._connect(first, begin + (self.open_timeout or CONNECT_S))
                break
            except nbd.Error as exc:
                if self._given_up or time.monotonic() >= begin + self.open_timeout:
                    raise QmpError(self.server.why_not(exc)) from None
            time.sleep(RETRY_S)
        self.size = first.get_size()
        self._can = {
            "zero": first.can_zero(),
            "trim": first.can_trim(),
            "flush": first.can_flush(),
            "fua": first.can_fua(),
            "extents": first.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION),
        }
        self._server_read_only = first.is_read_only()
        if self._server_read_only and not self.read_only:
            if not self.options.auto_read_only:
                self._part_with(first)
                raise QmpError("Could not open image: Permission denied")
            self.options = replace(self.options, read_only=True)
        self._handles = [first]
        if first.can_multi_conn():
            self._handles += [nbd.NBD() for _ in range(CONNECTIONS - 1)]
        for handle in self._handles:
            self._free.put(handle)

    def _connect(self, handle: nbd.NBD, deadline: float) -> None:
        """Raises nbd.Error, also if somebody hangs up, or it is late, before the server answers."""
        cancels = self._cancels
        self.server.begin_to_connect(handle)
        while handle.aio_is_connecting():
            if self._given_up or cancels != self._cancels:
                raise nbd.Error(os.strerror(errno.ECANCELED), errno.ECANCELED)
            if time.monotonic() >= deadline:
                raise nbd.Error(os.strerror(errno.ETIMEDOUT), errno.ETIMEDOUT)
            handle.poll(CONNECT_POLL_MS)
        self._sockets[handle] = socket.socket(fileno=os.dup(handle.aio_get_fd()))
        if self._given_up or cancels != self._cancels:
            self._forget(handle)
            raise nbd.Error(os.strerror(errno.ECANCELED), errno.ECANCELED)

    def _forget(self, handle: nbd.NBD) -> None:
        connection = self._sockets.pop(handle, None)
        if connection is not None:
            connection.close()

    def _part_with(self, handle: nbd.NBD) -> None:
        """Say good-bye, without waiting for an answer."""
        with contextlib.suppress(nbd.Error):
            if handle.aio_is_ready():
                handle.aio_disconnect(0)
        self._forget(handle)

    def _close(self) -> None:
        for handle in self._handles:
            self._part_with(handle)
        self._handles = []
        self._free = queue.SimpleQueue()

    async def _send(self, send: Callable[[nbd.NBD], Any]) -> None:
        await LaneCall(self._lane, self._request, send)

    def _request(self, send: Callable[[nbd.NBD], Any]) -> Any:
        """Send one request on a free handle; raises OSError with the server's errno."""
        begin, cancels = time.monotonic(), self._cancels
        handle = self._free.get()
        try:
            while True:
                handle = self._usable(handle)
                if self._given_up or (self.closed and handle.aio_is_created()):
                    raise failure(errno.EIO)
                try:
                    if handle.aio_is_created():
                        self._connect(handle, begin + (self.reconnect_delay or math.inf))
                    return send(handle)
                except nbd.Error as exc:
                    if handle.aio_is_ready():
                        error = getattr(errno, exc.errno or "EIO", errno.EIO)
                        raise failure(error) from None
                    late = time.monotonic() >= begin + self.reconnect_delay
                    if late or cancels != self._cancels:
                        raise failure(errno.EIO) from None
                time.sleep(RETRY_S)
        finally:
            self._free.put(handle)

    def _usable(self, handle: nbd.NBD) -> nbd.NBD:
        """The handle, or a new one in its place if its connection is over."""
        if handle.aio_is_created() or (handle.aio_is_ready() and not _hung_up(handle)):
            return handle
        fresh = nbd.NBD()
        self._forget(handle)
        self._handles[self._handles.index(handle)] = fresh
        return fresh

    def cancel_in_flight(self) -> None:
        self._cancels += 1

    @property
    def zeroes_unmap(self) -> bool:
        return self._can["zero"]

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        def send(handle: nbd.NBD) -> None:
            buf[:] = handle.pread(len(buf), offset)

        await self._send(send)

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        await self._send(lambda handle: handle.pwrite(buf, offset))

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        if not self._can["zero"]:
            raise failure(errno.ENOTSUP)
        flags = 0 if may_unmap else nbd.CMD_FLAG_NO_HOLE
        await self._send(lambda handle: handle.zero(length, offset, flags))

    async def do_discard(self, offset: int, length: int) -> None:
        if self._can["trim"]:
            await self._send(lambda handle: handle.trim(length, offset))

    def writes_through(self) -> bool:
        return self._can["fua"] and self._can["flush"]

    async def do_flush(self) -> None:
        if self._can["flush"]:
            await self._send(lambda handle: handle.flush())

    async def do_truncate(self, size: int) -> None:
        """The server decides about the size (nbd_co_truncate)."""
        if size > self.size:
            raise QmpError("Cannot grow NBD nodes")
        if size < self.size:
            raise QmpError("Cannot resize NBD nodes")

    async def do_block_status(self, offset: int, length: int) -> Extent:
        if not self._can["extents"]:
            return Extent(length, data=True, zero=False)
        entries: list[int] = []

        def collect(_context: str, _offset: int, found: list[int], _error: Any) -> None:
            entries.extend(found)

        await self._send(lambda handle: handle.block_status(length, offset, collect))
        flags = entries[1]
        hole, zero = flags & nbd.STATE_HOLE, flags & nbd.STATE_ZERO
        return Extent(entries[0], data=not hole, zero=bool(zero))


def _hung_up(handle: nbd.NBD) -> bool:
    """Whether the server has closed an idle connection; it has nothing to say on one."""
    poll = select.poll()
    poll.register(handle.aio_get_fd(), select.POLLIN)
    return bool(poll.poll(0))
