# SPDX-License-Identifier: MIT
"""The structs and enumerations of QAPI's that members of node definitions are."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from blockcore.qapi.errnos import ERRNO
from blockcore.qapi.names import BlkdebugEvent, BlkdebugIOType
from blockcore.qapi.schema import FlatUnion


class OnOffAuto(StrEnum):
    AUTO = "auto"
    ON = "on"
    OFF = "off"


class BlockdevAioOptions(StrEnum):
    """How `file` does its I/O; all are accepted, since clients name them, and mean the same."""

    THREADS = "threads"
    NATIVE = "native"
    IO_URING = "io_uring"


class SocketAddressType(StrEnum):
    INET = "inet"
    UNIX = "unix"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevCacheOptions:
    """`direct`: no host page cache; `no_flush`: flushes stay in memory."""

    direct: bool | None = None
    no_flush: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketAddress:
    type: SocketAddressType


@dataclass(frozen=True, slots=True, kw_only=True)
class InetSocketAddress(SocketAddress):
    host: str
    port: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixSocketAddress(SocketAddress):
    path: str


SOCKET_ADDRESS = FlatUnion(
    "SocketAddress",
    tag="type",
    base=SocketAddress,
    variants={"inet": InetSocketAddress, "unix": UnixSocketAddress},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectError:
    """One fault; `state` 0 is any state, `sector` -1 any place, in units of 512 bytes."""

    event: BlkdebugEvent
    state: int = 0
    iotype: BlkdebugIOType | None = None
    errno: Annotated[int, ERRNO] = errno.EIO
    sector: int = -1
    once: bool = False
    immediately: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SetState:
    """On `event` in `state` (0: any), go to `new_state`, which QAPI spells so."""

    wire_names: ClassVar[dict[str, str]] = {"new_state": "new_state"}
    event: BlkdebugEvent
    state: int = 0
    new_state: int
