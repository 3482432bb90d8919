# SPDX-License-Identifier: MIT
"""The server of an nbd node: connecting to it, and QEMU's words for failures."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable

from blockcore.nodes.definitions.structs import InetSocketAddress, SocketAddress, UnixSocketAddress
from blockcore.qapi.record import dataclass

try:
    import nbd
except ImportError:
    nbd = None

_NO_EXPORT = "server has no export"
_UNRESOLVED = "getaddrinfo"
"""Part of libnbd's message if a host name cannot be resolved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NbdServer:
    """A server's address: a Unix socket (absolute `path`, `shown` as typed) or host and port."""

    path: str | None = None
    shown: str = ""
    host: str = ""
    port: str = ""
    export: str = ""

    @classmethod
    def at(cls, address: SocketAddress, export: str, path: Callable[[str], str]) -> NbdServer:
        """Return the server at `address`; `path` makes the path of a socket absolute."""
        match address:
            case UnixSocketAddress():
                return cls(path=path(address.path), shown=address.path, export=export)
            case InetSocketAddress():
                return cls(host=address.host, port=address.port, export=export)
        raise AssertionError(f"no address in {address}")

    def begin_to_connect(self, handle: nbd.NBD) -> None:
        """Begin to connect; the negotiation goes on when the handle is polled.

        libnbd's check of bounds is off: the server answers a request beyond the end.
        Raises nbd.Error.
        """
        handle.set_strict_mode(handle.get_strict_mode() & ~nbd.STRICT_BOUNDS)
        try:
            handle.set_export_name(self.export)
        except ValueError:  # a NUL, or not UTF-8
            raise nbd.Error(_NO_EXPORT, "ENOENT") from None
        handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        if self.path is not None:
            handle.aio_connect_unix(self.path)
            return
        try:
            handle.aio_connect_tcp(self.host, self.port)
        except ValueError:
            raise nbd.Error(f"{_UNRESOLVED}: Name or service not known", "ENOENT") from None

    def why_not(self, exc: nbd.Error) -> str:
        """Return QEMU's message for a failed attempt to connect."""
        if _UNRESOLVED in exc.string:
            reason = exc.string.rpartition(": ")[2]
            return f"address resolution failed for {self}: {reason}"
        if "socket name too long" in exc.string:
            return f"UNIX socket path '{self}' is too long"
        if "export name too long" in exc.string:
            return "export name too long to send to server"
        refused = f"NBD_REP_ERR|server replied|{_NO_EXPORT}"
        if exc.errno is None or re.search(refused, exc.string):
            return "Requested export not available"
        reason = os.strerror(getattr(errno, exc.errno, errno.EIO))
        return f"Failed to connect to '{self}': {reason}"

    def __str__(self) -> str:
        return self.shown or self.path or f"{self.host}:{self.port}"
