# SPDX-License-Identifier: MIT
"""What all commands that start a job have to check."""

from __future__ import annotations

from dataclasses import dataclass

from blockcore.machine.graph_changes import set_read_only
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.flat_options import FORMATS
from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.qapi.names import BlockdevOnError, QmpError

_STOPPING = (BlockdevOnError.STOP, BlockdevOnError.ENOSPC)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBacking:
    """What a job writes into the header of an image that comes to be on another one.

    `name` None: the file name of that one; an empty one is no backing file.
    `mask_protocol`: call it `raw` if it has no format of its own.
    """

    name: str | None = None
    mask_protocol: bool = False

    def of(self, node: BlockNode) -> tuple[str, str]:
        """The name and the format for `node`."""
        masked = self.mask_protocol and node.driver not in FORMATS
        return node.filename if self.name is None else self.name, "raw" if masked else node.driver


def check_on_error(machine: Machine, node: BlockNode, policy: BlockdevOnError, name: str) -> None:
    """QmpError if a job on the node may not stop for errors.

    The rule of the design that this machine follows ("block: introduce block
    job error"): only if the device has rerror=stop and werror=stop or enospc.
    QEMU has given it up; job-error-check=modern does as well.
    """
    if machine.job_error_check_modern or policy not in _STOPPING:
        return
    for blk in machine.find.drives_above(node):
        if blk.rerror is BlockdevOnError.STOP and blk.werror in _STOPPING:
            return
    raise QmpError(f"Invalid parameter '{name}'")


def check_ops(nodes: list[BlockNode], op: BlockOpType) -> None:
    """QmpError if a job or an overlay forbids the operation on one of the nodes."""
    for node in nodes:
        node.check_op(op)


async def quietly_read_only(machine: Machine, node: BlockNode) -> None:
    """Make a node read-only again; nobody is there to hear that it cannot be."""
    try:
        await set_read_only(machine, node, True)
    except QmpError:
        return
