# SPDX-License-Identifier: MIT
"""QAPI's structs and enumerations that occur as members of node definitions."""

from __future__ import annotations

import errno
from enum import StrEnum
from typing import Annotated, ClassVar

from blockcore.qapi.errno_types import ERRNO
from blockcore.qapi.names import BlkdebugEvent, BlkdebugIOType
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import FlatUnion


class OnOffAuto(StrEnum):
    """A switch that can be left to the driver (`locking` of file)."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class BlockdevAioOptions(StrEnum):
    """I/O backends of `file`: accepted because clients name them, without any effect."""

    THREADS = "threads"
    NATIVE = "native"
    IO_URING = "io_uring"


class SocketAddressType(StrEnum):
    """The kinds of socket addresses that are supported."""

    INET = "inet"
    UNIX = "unix"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevCacheOptions:
    """Cache modes: `direct` bypasses the host's page cache, `no_flush` ignores flushes."""

    direct: bool | None = None
    no_flush: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketAddress:
    """The base of the union of socket addresses."""

    type: SocketAddressType


@dataclass(frozen=True, slots=True, kw_only=True)
class InetSocketAddress(SocketAddress):
    """A TCP address; `port` is text, as in QAPI."""

    host: str
    port: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixSocketAddress(SocketAddress):
    """The path of a Unix socket, as the user typed it."""

    path: str


SOCKET_ADDRESS = FlatUnion(
    "SocketAddress",
    tag="type",
    base=SocketAddress,
    variants={"inet": InetSocketAddress, "unix": UnixSocketAddress},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectError:
    """A fault of blkdebug; `state` 0 is any state, `sector` (512 bytes) -1 any sector."""

    event: BlkdebugEvent
    state: int = 0
    iotype: BlkdebugIOType | None = None
    errno: Annotated[int, ERRNO] = errno.EIO
    sector: int = -1
    once: bool = False
    immediately: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SetState:
    """A transition of blkdebug: on `event` in `state` (0: any), go to `new_state`."""

    # QAPI spells this one member with an underscore.
    wire_names: ClassVar[dict[str, str]] = {"new_state": "new_state"}
    event: BlkdebugEvent
    state: int = 0
    new_state: int
