# SPDX-License-Identifier: MIT
"""What commands do when they change the graph of a running machine.

A command has its turn first (`changing_graph`), so that no other command changes
that part of the graph; then it opens, reopens or closes nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blockcore.drive.block_backend import BlockBackend
from blockcore.job.block_job import JobUser
from blockcore.machine.drain import Drain
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import BlockdevOptions
from blockcore.nodes.graph import reopen
from blockcore.nodes.graph.changing import Turn
from blockcore.nodes.graph.relink import add_user
from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.nodes.permissions import NodeUser, Perm
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.names import QmpError


def _is_backend(parent: object) -> bool:
    return isinstance(parent, BlockBackend) or isinstance(parent, JobUser) and parent.has_backend


def changing_graph(machine: Machine, *names: str | None) -> Turn:
    """Return a context in which no other command changes the part of the graph around some nodes.

    The part is everything that is connected with the nodes of these `names`.
    The name of a drive stands for its root.  A name of nothing, or None, is left
    out.  Commands on one part take turns, in the order in which they have come;
    in QEMU they do because the monitor runs one command at a time.
    """
    return machine.graph.changing.part(lambda: machine.find.existing(names))


@contextmanager
def using(node: BlockNode, perm: Perm) -> Iterator[None]:
    """Have a permission on a node inside the context, as a user of the node.

    Raise QmpError if other users of the node do not share the permission.
    """
    user = NodeUser(perm)
    add_user(node, user, [node])
    try:
        yield
    finally:
        node.parents.remove(user)


async def reopen_nodes(machine: Machine, changes: list[reopen.Change]) -> None:
    """Give nodes other options or children, all of them or none (bdrv_reopen_multiple).

    The nodes are drained meanwhile.  Raise QmpError if a change is impossible
    or its I/O fails.
    """
    async with Drain(machine, [change.node for change in changes]):
        try:
            await reopen.reopen(machine.graph, changes)
        except OSError as exc:
            raise QmpError(reason_of(exc)) from None


async def set_read_only(machine: Machine, node: BlockNode, read_only: bool) -> None:
    """Reopen a node, and what was opened with it, read-only or writable; raise QmpError.

    (bdrv_reopen_set_read_only.)
    """
    await reopen_nodes(machine, reopen.read_only_changes(machine.graph, node, read_only))


async def blockdev_add(machine: Machine, options: BlockdevOptions) -> None:
    """Open a node that belongs to the monitor (qmp_blockdev_add); raise QmpError if that fails."""
    if options.node_name is None:
        raise QmpError("'node-name' must be specified for the root node")
    node = await machine.graph.open(options)
    node.monitor_owned = True


async def blockdev_del(machine: Machine, node_name: str) -> None:
    """Close a node of the monitor's (qmp_blockdev_del); raise QmpError if there is none, or a user.

    The order of the checks is QEMU's: it decides which error is given.
    """
    node = machine.find.node(node_name)
    if any(_is_backend(parent) for parent in node.parents):
        raise QmpError(f"Node {node_name} is in use")
    node.check_op(BlockOpType.DRIVE_DEL)
    if not node.monitor_owned:
        raise QmpError(f"Node {node_name} is not owned by the monitor")
    if node.parents:
        raise QmpError(f"Block device {node_name} is in use")
    node.monitor_owned = False
    await machine.graph.release(node)
    # The end of one node may have closed others below it: forget the responders of all of them.
    machine.volume_responders = {
        name: responder
        for name, responder in machine.volume_responders.items()
        if name in machine.graph.nodes
    }
