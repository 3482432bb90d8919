# SPDX-License-Identifier: MIT
"""The checks of all commands that start a job, and what images say of each other after it."""

from __future__ import annotations

from blockcore.machine.graph_changes import set_read_only
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.flat_options import FORMATS
from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.qapi.names import BlockdevOnError, DeviceOnError, QmpError
from blockcore.qapi.record import dataclass

_STOPPING = (BlockdevOnError.STOP, BlockdevOnError.ENOSPC)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBacking:
    """What a job writes into the header of an image that gets another backing file.

    `name` None: the file name of the backing node; an empty name is no backing file.
    `mask_protocol`: write the format `raw` if the backing node has no format.
    """

    name: str | None = None
    mask_protocol: bool = False

    def of(self, node: BlockNode) -> tuple[str, str]:
        """Return the file name and the format to write for the backing node `node`."""
        masked = self.mask_protocol and node.driver not in FORMATS
        return node.filename if self.name is None else self.name, "raw" if masked else node.driver


def check_on_error(machine: Machine, node: BlockNode, policy: BlockdevOnError, name: str) -> None:
    """Raise QmpError if a job on the node may not stop for errors.

    The rule of the design that this machine follows ("block: introduce block
    job error"): only if the device has rerror=stop and werror=stop or enospc.
    QEMU has given it up; job-error-check=modern does as well.
    """
    if machine.job_error_check_modern or policy not in _STOPPING:
        return
    for blk in machine.find.drives_above(node):
        if blk.rerror is DeviceOnError.STOP and blk.werror in (
            DeviceOnError.STOP,
            DeviceOnError.ENOSPC,
        ):
            return
    raise QmpError(f"Invalid parameter '{name}'")


def check_ops(nodes: list[BlockNode], op: BlockOpType) -> None:
    """Raise QmpError if a job or an overlay forbids the operation on one of the nodes."""
    for node in nodes:
        node.check_op(op)


async def quietly_read_only(machine: Machine, node: BlockNode) -> None:
    """Make a node read-only again; drop an error, which no client could be told of."""
    try:
        await set_read_only(machine, node, True)
    except QmpError:
        return
