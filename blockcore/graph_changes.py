"""Sections in which a command changes the graph of a running machine, and what it does there."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

from blockcore.effects import Until
from blockcore.machine import Machine
from blockcore.nodes import reopen
from blockcore.nodes.links import check
from blockcore.nodes.node import BlockNode
from blockcore.nodes.permissions import NodeUser, Perm
from blockcore.qapi import QmpError


def root_node(machine: Machine, name: str) -> BlockNode:
    """A drive's root by its name, or a node that no other is above of; or QmpError."""
    node = machine.node_or_device(name, name)
    if any(isinstance(parent, BlockNode) for parent in node.parents):
        raise QmpError("Need a root block node")
    return node


@asynccontextmanager
async def changing_graph(machine: Machine) -> AsyncIterator[None]:
    """Nobody else changes the graph meanwhile: commands take turns, as in QEMU."""
    await machine.graph.changing.free()
    with machine.graph.changing.held():
        yield


@asynccontextmanager
async def drained(machine: Machine, nodes: Iterable[BlockNode]) -> AsyncIterator[None]:
    """No drive has a request at any of the nodes meanwhile (bdrv_drained_begin)."""
    concerned = set(nodes)
    above = [
        blk
        for blk in machine.backends
        if not concerned.isdisjoint(machine.graph.subtree(blk.root))
    ]
    with machine.quiesced(above):
        for blk in above:
            await Until(blk.quiet)
        yield


@contextmanager
def using(node: BlockNode, perm: Perm) -> Iterator[None]:
    """A command needs permissions on a node meanwhile; QmpError if it cannot have them."""
    user = NodeUser(perm)
    node.parents.append(user)
    try:
        check([node])
        yield
    finally:
        node.parents.remove(user)


async def reopen_nodes(machine: Machine, changes: list[reopen.Change]) -> None:
    """Give nodes other options or children, all or none; QmpError."""
    async with drained(machine, [change.node for change in changes]):
        try:
            await reopen.reopen(machine.graph, changes)
        except OSError as exc:
            raise QmpError(os.strerror(exc.errno or errno.EIO)) from None
    machine.concerns_changed()


async def set_read_only(machine: Machine, node: BlockNode, read_only: bool) -> None:
    """Reopen a node and what was opened with it (bdrv_reopen_set_read_only); QmpError."""
    await reopen_nodes(machine, reopen.read_only_changes(machine.graph, node, read_only))
