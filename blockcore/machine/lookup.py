# SPDX-License-Identifier: MIT
"""Looking up nodes and drives by the names that users give.

| by                       | `Lookup`         | what is found; the error            |
|--------------------------|------------------|-------------------------------------|
| a drive's name           | `drive`          | the drive; None                     |
| `device` or `id`         | `drive_or_qdev`  | the drive, or the one of a device;  |
|                          |                  | Device '...' not found              |
| a drive's or node's name | `drive_on`       | the drive, or the one on the node;  |
|                          |                  | Node '...' is not attached          |
| `node-name` alone        | `node`           | the node; Failed to find node       |
| `device`, `node-name`    | `node_or_device` | the root of the drive `device` if   |
|                          |                  | there is one, else the node; Cannot |
|                          |                  | find device='...'                   |
| both, for jobs           | `root_node`      | the drive's root, or the node, if   |
|                          |                  | no node or job is above it; Need a  |
|                          |                  | root block node                     |
| a drive's or node's      | `data_node`      | what a drive shows below filters of |
| name, for rules          |                  | jobs, or the node                   |
| several of either        | `existing`       | the nodes that are there; no error  |
| a node                   | `drives_above`   | drives whose requests can reach it  |

A child that a definition names is found by `BlockGraph`, which knows nodes
only; the name of a node's drive is `Machine.device_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from blockcore.drive.block_backend import BlockBackend
from blockcore.faults.rule import FaultRule
from blockcore.job.block_job import JobUser
from blockcore.nodes.graph.graph import BlockGraph
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QapiErrorClass, QmpError

PERIPHERAL = "/machine/peripheral"
"""The QOM path of the devices that users have given an id."""


class Lookup:
    """Finds drives and nodes of one machine.

    Every method is called under the big lock; errors are QmpError in QEMU's words.
    """

    def __init__(self, backends: Sequence[BlockBackend], graph: BlockGraph) -> None:
        self._backends = backends
        self._graph = graph

    def drive(self, name: str) -> BlockBackend | None:
        """Return the drive of that name (blk_by_name), or None; anonymous drives have no name."""
        return next((blk for blk in self._backends if name and blk.name == name), None)

    def drive_on(self, name: str) -> BlockBackend:
        """Return the drive of that name, or the drive on the node of that name; raise QmpError."""
        root = self.node_or_device(name, name)
        blk = self.drive(name) or next((one for one in self._backends if one.root is root), None)
        if blk is None:
            raise QmpError(f"Node '{name}' is not attached to a drive")
        return blk

    def drive_or_qdev(self, device: str | None, qdev: str | None) -> BlockBackend:
        """Return the drive by its name or by its device's path; raise QmpError unless one is given.

        A path that does not begin at the root of QOM begins at the devices that users
        have named, so that an id is a path (find_device_state).  The id of a
        virtio-blk-pci names the PCI device around the device that has the drive: QEMU
        says then that there is no drive.
        """
        if (device is None) == (qdev is None):
            raise QmpError("Need exactly one of 'device' and 'id'")
        if device is not None:
            blk = self.drive(device)
            if blk is None:
                raise QmpError(f"Device '{device}' not found", QapiErrorClass.DEVICE_NOT_FOUND)
            return blk
        path = _absolute(qdev or "")
        for blk in self._backends:
            own = _absolute(blk.device.qdev)
            if path == own:
                return blk
            if f"{path}/virtio-backend" == own:
                raise QmpError("Device does not have a block device backend")
        raise QmpError(f"Device '{qdev}' not found", QapiErrorClass.DEVICE_NOT_FOUND)

    def drives_above(self, node: BlockNode) -> Iterator[BlockBackend]:
        """Yield the drives whose requests can reach the node."""
        return (blk for blk in self._backends if node in self._graph.subtree(blk.root))

    def node(self, name: str) -> BlockNode:
        """Return the node of that name; raise QmpError if there is none."""
        node = self._graph.nodes.get(name)
        if node is None:
            raise QmpError(f"Failed to find node with node-name='{name}'")
        return node

    def node_or_device(self, device: str | None, node_name: str | None) -> BlockNode:
        """Return the root of the drive `device`, else the node `node_name` (bdrv_lookup_bs).

        Raise QmpError if there is neither.
        """
        blk = self.drive(device) if device is not None else None
        node = blk.root if blk else self._graph.nodes.get(node_name or "")
        if node is None:
            raise QmpError(f"Cannot find device='{device or ''}' nor node-name='{node_name or ''}'")
        return node

    def root_node(self, name: str) -> BlockNode:
        """Return a drive's root, or a node without a node or job above it (qmp_get_root_bs).

        Raise QmpError if there is none, or if it has no medium.
        """
        node = self.node_or_device(name, name)
        if node.node_parents or any(isinstance(parent, JobUser) for parent in node.parents):
            raise QmpError("Need a root block node")
        self.check_medium(node)
        return node

    def data_node(self, name: str) -> BlockNode:
        """Return a node by its name, or what the drive of that name shows; raise QmpError.

        For a drive the filters of jobs are skipped: they go when the job goes, and a
        rule on them would go too.
        """
        node = self.node_or_device(name, name)
        return node if node.node_name == name else _below_jobs(node)

    def shown_by(self, blk: BlockBackend) -> BlockNode:
        """Return what a drive shows, without the filters of jobs."""
        return _below_jobs(blk.root)

    def existing(self, names: Iterable[str | None]) -> Iterator[BlockNode]:
        """Yield the nodes of these names, and the roots of drives so named; skip other names."""
        for name in names:
            blk = None if name is None else self.drive(name)
            node = self._graph.nodes.get(name or "") if blk is None else blk.root
            if node is not None:
                yield node

    def fault_rules(self) -> Iterator[tuple[BlockNode, FaultRule]]:
        """Yield all fault rules, each with its node."""
        for node in self.nodes_with_faults():
            yield from ((node, rule) for rule in list(node.injector().rules))

    def nodes_with_faults(self) -> list[BlockNode]:
        """Return the nodes that have, or had, fault rules or blkdebug's states."""
        return [node for node in self._graph.nodes.values() if node.faults is not None]

    def is_shown(self, node: BlockNode) -> bool:
        """Return whether a drive is exactly as long as the node, because it shows the node's data.

        Other nodes may grow: files of images, backing files, targets.
        """
        if any(isinstance(parent, BlockBackend) for parent in node.parents):
            return True
        return any(parent.shows_child and self.is_shown(parent) for parent in node.node_parents)

    def is_inserted(self, node: BlockNode) -> bool:
        """Return whether the node and all nodes below it have a medium (bdrv_is_inserted)."""
        return all(below.inserted for below in self._graph.subtree(node))

    def check_medium(self, node: BlockNode) -> None:
        """Raise QmpError if the node, or a node below it, has no medium."""
        if not self.is_inserted(node):
            raise QmpError("Device has no medium")


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"{PERIPHERAL}/{path}"


def _below_jobs(node: BlockNode) -> BlockNode:
    while node.of_job and node.filtered is not None:
        node = node.filtered
    return node
