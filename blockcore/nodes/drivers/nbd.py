# SPDX-License-Identifier: MIT
"""The nbd client driver: a node whose data an NBD server has, on libnbd.

Handles of libnbd are used on threads of the node's lane, without the big lock.
`hang_up`, `yank` and `cancel_in_flight` run under the big lock and wait for nothing:
they set a number or shut a socket down, and the threads notice.
"""

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
"""Number of connections to a server that allows multi-conn.

A handle performs one request at a time, so it is also the number of requests
under way; each has a thread.
"""

CONNECT_POLL_MS = 50
"""Interval, in ms, at which a thread that connects looks whether it is to stop.

The end of the process and `yank` wait for it at most so long.
"""

CONNECT_S = 10
"""How long a server may take to greet and to negotiate when a node is opened, in seconds.

QEMU waits without limit, and its whole machine waits.  Requests that connect again
have no limit here either, just as they wait for an answer without limit.
"""

RETRY_S = 0.1
"""Pause between two attempts to connect within reconnect-delay or open-timeout, in seconds."""


class NbdNode(BlockNode):
    """A node that sends each request to its server, on a free handle.

    If a connection is lost, the requests on it fail with EIO, and the next request
    connects again.  With `reconnect_delay` (seconds) requests wait so long for the
    server to come back, and are then sent again.  `open_timeout` (seconds) is how
    long opening is tried; 0 tries it once.
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
        """Duplicates of the handles' sockets, by which `hang_up` can shut them down.

        A handle locks itself during a request, and would not give its descriptor.
        """
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
        """Connect to the server (nbd_client_connect); raise QmpError in QEMU's words."""
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
        """Fail all requests, now and later, as the node never connects again (nbd_yank)."""
        self._given_up = True
        self.hang_up()

    def hang_up(self) -> None:
        self._cancels += 1
        for connection in list(self._sockets.values()):
            with contextlib.suppress(OSError):  # the peer has hung up already
                connection.shutdown(socket.SHUT_RDWR)

    def _open(self) -> None:
        """Connect, learn what the server supports, and make the handles; runs in a lane.

        Attempts go on until `open_timeout` is over.  Only the first handle connects:
        the others do when a request uses them, if the server allows several
        connections.  Raises QmpError.
        """
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
        """Connect a new handle and negotiate.

        Raises nbd.Error; ETIMEDOUT at `deadline` (monotonic, seconds), ECANCELED after
        `yank`, `hang_up` or `cancel_in_flight`.
        """
        cancels = self._cancels
        self.server.begin_to_connect(handle)
        while handle.aio_is_connecting():
            if self._given_up or cancels != self._cancels:
                raise nbd.Error(os.strerror(errno.ECANCELED), errno.ECANCELED)
            if time.monotonic() >= deadline:
                raise nbd.Error(os.strerror(errno.ETIMEDOUT), errno.ETIMEDOUT)
            handle.poll(CONNECT_POLL_MS)
        self._sockets[handle] = socket.socket(fileno=os.dup(handle.aio_get_fd()))
        # A `hang_up` before the socket was entered has not shut it down, but has raised the
        # number; one from here on finds the socket.
        if self._given_up or cancels != self._cancels:
            self._forget(handle)
            raise nbd.Error(os.strerror(errno.ECANCELED), errno.ECANCELED)

    def _forget(self, handle: nbd.NBD) -> None:
        connection = self._sockets.pop(handle, None)
        if connection is not None:
            connection.close()

    def _part_with(self, handle: nbd.NBD) -> None:
        """Disconnect politely, but without waiting for an answer."""
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
        """Perform one request on a free handle, and return its result; runs in the node's lane.

        A handle that is not connected connects first.  An error while the handle
        stays connected is the server's answer, and is raised as OSError.  Any other
        error means that the connection is lost: the request is sent again until
        `reconnect_delay` is over or requests are cancelled, and then fails with EIO.
        A closed node does not connect again.
        """
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
        """Return the handle, or a new one in its place if its connection is over.

        Raises OSError(EIO) if the node was closed meanwhile: its handles are gone.
        """
        if handle.aio_is_created() or (handle.aio_is_ready() and not _hung_up(handle)):
            return handle
        handles = self._handles  # closing the node puts another list there
        try:
            at = handles.index(handle)
        except ValueError:
            raise failure(errno.EIO) from None
        handles[at] = fresh = nbd.NBD()
        self._forget(handle)
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
        """Raise QmpError unless the size stays: the server decides about it (nbd_co_truncate)."""
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
    """Tell whether the server has closed an idle connection.

    A server sends nothing while no request is under way, so anything readable is the end.
    """
    poll = select.poll()
    poll.register(handle.aio_get_fd(), select.POLLIN)
    return bool(poll.poll(0))
