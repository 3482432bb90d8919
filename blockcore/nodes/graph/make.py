# SPDX-License-Identifier: MIT
"""From a definition to a node of the right driver.

A new driver has a line in `make_node`, its options in `definitions/options.py`, and a
module of its own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import fields

from blockcore.bql.effects import LaneCall
from blockcore.faults.fail import Fail
from blockcore.faults.injector import StateChange
from blockcore.faults.options import FaultOptions
from blockcore.nodes.definitions.blkdebug_config import parse_blkdebug_config
from blockcore.nodes.definitions.options import (
    BlockdevOptions,
    BlockdevOptionsBlkdebug,
    BlockdevOptionsFile,
    BlockdevOptionsNbd,
    BlockdevOptionsNull,
    BlockdevOptionsQcow2,
    BlockdevOptionsRaw,
    BlockdevRef,
    InetSocketAddress,
    InjectError,
    SetState,
    UnixSocketAddress,
)
from blockcore.nodes.driver import OPENING, NodeHost, NodeOptions
from blockcore.nodes.drivers.blkdebug import BlkdebugLimits, BlkdebugNode
from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.drivers.nbd import NbdNode
from blockcore.nodes.drivers.nbd_server import NbdServer
from blockcore.nodes.drivers.null import DEFAULT_SIZE, NullNode
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.drivers.qcow2.settings import Qcow2Settings
from blockcore.nodes.drivers.raw import RawNode
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QmpError
from blockcore.rules.volume import make_volume

CONFIG_BYTES_MAX = 1 << 20
"""Of a file of rules; so many could not be obeyed."""

ChildOpener = Callable[[BlockdevRef], Awaitable[BlockNode]]


async def make_node(
    options: BlockdevOptions,
    effective: NodeOptions,
    host: NodeHost,
    path: Callable[[str], str],
    child: ChildOpener,
) -> BlockNode:
    """A node that is not open yet, its children opened by `child`; raises QmpError.

    `path` makes a file name absolute.
    """
    match options:
        case BlockdevOptionsFile():
            volume = make_volume(
                options.x_physical_size, options.x_extent_size, options.x_short_write
            )
            return FileNode(effective, host, options.filename, path(options.filename), volume)
        case BlockdevOptionsNull():
            if options.size is not None and options.size < 0:
                raise QmpError("Parameter 'size' expects a >0 size")
            return NullNode(
                effective,
                host,
                size=DEFAULT_SIZE if options.size is None else options.size,
                latency_ns=options.latency_ns or 0,
                read_zeroes=bool(options.read_zeroes),
            )
        case BlockdevOptionsNbd():
            return NbdNode(
                effective,
                host,
                _nbd_server(options, path),
                reconnect_delay=options.reconnect_delay or 0,
                open_timeout=options.open_timeout or 0,
            )
        case BlockdevOptionsRaw():
            file = await child(options.file)
            return RawNode(effective, host, file, options.offset or 0, options.size)
        case BlockdevOptionsQcow2():
            settings = Qcow2Settings.of(options)
            return Qcow2Node(effective, host, await child(options.file), settings)
        case BlockdevOptionsBlkdebug():
            return await _make_blkdebug(options, effective, host, path, child)
    raise AssertionError(f"no driver for {options}")


def _nbd_server(options: BlockdevOptionsNbd, path: Callable[[str], str]) -> NbdServer:
    export = options.export or ""
    match options.server:
        case UnixSocketAddress():
            shown = options.server.path
            return NbdServer(path=path(shown), shown=shown, export=export)
        case InetSocketAddress():
            return NbdServer(host=options.server.host, port=options.server.port, export=export)
    raise AssertionError(f"no address in {options.server}")


async def _make_blkdebug(
    options: BlockdevOptionsBlkdebug,
    effective: NodeOptions,
    host: NodeHost,
    path: Callable[[str], str],
    child: ChildOpener,
) -> BlockNode:
    """Rules of the file come before those given in place, as QEMU's read_config has it."""
    errors = list(options.inject_error or ())
    changes = list(options.set_state or ())
    if options.config:
        more_errors, more_changes = parse_blkdebug_config(
            await LaneCall(OPENING, _read_config, path(options.config))
        )
        errors, changes = more_errors + errors, more_changes + changes
    return BlkdebugNode(
        effective,
        host,
        await child(options.image),
        config=options.config or "",
        rules=_faults(effective.node_name, errors),
        changes=[_state_change(change) for change in changes],
        limits=BlkdebugLimits(
            max_transfer=options.max_transfer or 0,
            opt_write_zero=options.opt_write_zero or 0,
            max_write_zero=options.max_write_zero or 0,
            opt_discard=options.opt_discard or 0,
            max_discard=options.max_discard or 0,
        ),
    )


def _read_config(path: str) -> str:
    """A pipe is not waited for, and what has no end is not read to it."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1) or b""
    except OSError as exc:
        reason = os.strerror(exc.errno or 0)
        raise QmpError(f"Could not read blkdebug config file: {reason}") from None
    if len(data) > CONFIG_BYTES_MAX:
        raise QmpError(f"Could not read blkdebug config file: {os.strerror(errno.EFBIG)}")
    return data.decode(errors="surrogateescape")


def _faults(node_name: str, rules: Iterable[InjectError]) -> list[FaultOptions]:
    return [
        Fail(
            node_name=node_name,
            id=f"{node_name}.{number}",
            **{field.name: getattr(rule, field.name) for field in fields(rule)},
        )
        for number, rule in enumerate(rules)
    ]


def _state_change(options: SetState) -> StateChange:
    return StateChange(event=options.event, state=options.state, new_state=options.new_state)
