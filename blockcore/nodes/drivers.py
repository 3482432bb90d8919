"""From a definition to a node of the right driver.

A new driver has a line in `make_node`, its options in `options.py`, and a
module of its own.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from blockcore.effects import Call
from blockcore.faults import FaultOptions, StateChange
from blockcore.nodes.blkdebug import BlkdebugLimits, BlkdebugNode
from blockcore.nodes.blkdebug_config import parse_blkdebug_config
from blockcore.nodes.driver import NodeOptions, Surroundings
from blockcore.nodes.file import FileNode
from blockcore.nodes.nbd import NbdNode, NbdServer
from blockcore.nodes.node import BlockNode
from blockcore.nodes.null import DEFAULT_SIZE, NullNode
from blockcore.nodes.options import (
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
from blockcore.nodes.qcow2.mapping import DEFAULT_L2_CACHE_SIZE, MAX_CACHE_SIZE
from blockcore.nodes.qcow2.node import Qcow2Node
from blockcore.nodes.qcow2.settings import Qcow2Settings
from blockcore.nodes.raw import RawNode
from blockcore.qapi import QmpError
from blockcore.volume import make_volume

ChildOpener = Callable[[BlockdevRef], Awaitable[BlockNode]]


async def make_node(
    options: BlockdevOptions,
    effective: NodeOptions,
    around: Surroundings,
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
            return FileNode(effective, around, options.filename, path(options.filename), volume)
        case BlockdevOptionsNull():
            return NullNode(
                effective,
                around,
                size=DEFAULT_SIZE if options.size is None else options.size,
                latency_ns=options.latency_ns or 0,
                read_zeroes=bool(options.read_zeroes),
            )
        case BlockdevOptionsNbd():
            return NbdNode(
                effective,
                around,
                _nbd_server(options, path),
                reconnect_delay=options.reconnect_delay or 0,
                open_timeout=options.open_timeout or 0,
            )
        case BlockdevOptionsRaw():
            file = await child(options.file)
            return RawNode(effective, around, file, options.offset or 0, options.size)
        case BlockdevOptionsQcow2():
            return Qcow2Node(effective, around, await child(options.file), _qcow2(options))
        case BlockdevOptionsBlkdebug():
            return await _make_blkdebug(options, effective, around, path, child)
    raise AssertionError(f"no driver for {options}")


def _qcow2(options: BlockdevOptionsQcow2) -> Qcow2Settings:
    """QAPI's caches: of a common size, what the refcounts do not take is the L2 tables'."""
    total, l2_size, rest = options.cache_size, options.l2_cache_size, options.refcount_cache_size
    if total is not None:
        if l2_size is not None and rest is not None:
            raise QmpError(
                "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
            )
        if l2_size is not None and l2_size > total:
            raise QmpError("l2-cache-size may not exceed cache-size")
        if rest is not None and rest > total:
            raise QmpError("refcount-cache-size may not exceed cache-size")
        l2_size = total - (rest or 0) if l2_size is None else l2_size
    return Qcow2Settings(
        l2_cache_size=min(DEFAULT_L2_CACHE_SIZE if l2_size is None else l2_size, MAX_CACHE_SIZE),
        lazy_refcounts=bool(options.lazy_refcounts),
        discard_request=options.pass_discard_request,
        discard_other=bool(options.pass_discard_other),
    )


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
    around: Surroundings,
    path: Callable[[str], str],
    child: ChildOpener,
) -> BlockNode:
    """Rules of the file come before those given in place, as QEMU's read_config has it."""
    errors = list(options.inject_error or ())
    changes = list(options.set_state or ())
    if options.config:
        more_errors, more_changes = parse_blkdebug_config(
            await Call(_read_config, path(options.config))
        )
        errors, changes = more_errors + errors, more_changes + changes
    return BlkdebugNode(
        effective,
        around,
        await child(options.image),
        config=options.config or "",
        rules=[_fault(rule, f"{effective.node_name}.{n}") for n, rule in enumerate(errors)],
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
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as exc:
        reason = os.strerror(exc.errno or 0)
        raise QmpError(f"Could not read blkdebug config file: {reason}") from None


def _fault(options: InjectError, rule_id: str) -> FaultOptions:
    """`immediately` is about when QEMU's coroutine yields, which no client can see."""
    return FaultOptions(
        id=rule_id,
        event=options.event,
        state=options.state,
        iotype=options.iotype,
        errno=options.errno,
        sector=None if options.sector == -1 else options.sector,
        count=1 if options.once else None,
    )


def _state_change(options: SetState) -> StateChange:
    return StateChange(event=options.event, state=options.state, new_state=options.new_state)
