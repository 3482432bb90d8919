# SPDX-License-Identifier: MIT
"""Crash clones: exports that come and go, each with one crash state of a drive."""

from __future__ import annotations

from blockcore.bql.effects import Until
from blockcore.drive.block_backend import BlockBackend
from blockcore.drive.guest_request import Device
from blockcore.machine.machine import Machine
from blockcore.machine.vm_stop import SETTLE_NS
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.drivers.crash_clone import CrashCloneNode
from blockcore.nodes.drivers.volatile_cache import VolatileCacheNode
from blockcore.nodes.graph.relink import add_user
from blockcore.nodes.permissions import NodeUser, Perm
from blockcore.qapi.names import DeviceOnError, QmpError
from blockcore.rules.crash_states import CrashState

NAME_MAX = 255
"""Longest name of a clone's export, in bytes; NBD allows 4096."""


class CrashClone(BlockBackend):
    """The drive of a clone: no device of the machine, so requests go on while that is stopped."""

    def __init__(self, machine: Machine, export: str, node: CrashCloneNode) -> None:
        super().__init__(
            machine,
            name="",
            export=export,
            root=node,
            device=Device(path=f"/machine/x-crash-clone/{export}"),
            rerror=DeviceOnError.REPORT,
            werror=DeviceOnError.REPORT,
        )
        self.node = node
        self.user = NodeUser(Perm.CONSISTENT_READ, who=f"crash clone '{export}'")

    def may_run(self) -> bool:
        return self.accepts()


def make_clone(
    machine: Machine, cache: VolatileCacheNode, export: str, state: CrashState
) -> CrashClone:
    """Export a state of a cache under a name; raise QmpError if the name is taken or impossible.

    The cache cannot be removed as long as the clone is there.
    """
    if not 0 < len(export.encode(errors="replace")) <= NAME_MAX or not export.isprintable():
        raise QmpError(f"Parameter 'export' expects a name of 1 to {NAME_MAX} printable bytes")
    if export in (blk.export for blk in (*machine.backends, *machine.clones)):
        raise QmpError(f"There is an export '{export}' already")
    if not cache.powered:
        raise QmpError(f"Node '{cache.node_name}' has no power at the moment")
    options = NodeOptions(node_name=machine.graph.new_name(None))
    clone = CrashClone(machine, export, CrashCloneNode(options, machine, cache, state))
    try:
        add_user(cache, clone.user, [cache])
    except QmpError:
        cache.platter.watchers.remove(clone.node)
        raise
    machine.clones.append(clone)
    return clone


async def drop_clone(machine: Machine, export: str) -> None:
    """End a clone: hang up on its clients, and forget what it has; raise QmpError if none is there.

    Requests that hang at the medium are not waited for without end; they fail later.
    """
    clone = next((one for one in machine.clones if one.export == export), None)
    if not isinstance(clone, CrashClone):
        raise QmpError(f"There is no crash clone '{export}'")
    machine.clones.remove(clone)
    clone.node.closed = True
    machine.hang_up(clone.connections)
    await Until(clone.quiet, machine.clock.monotonic_ns() + SETTLE_NS)
    await clone.node.do_close()
    cache = clone.node.cache
    cache.parents.remove(clone.user)
    # A job may have put another node in its place meanwhile.
    await machine.graph.release(cache)
