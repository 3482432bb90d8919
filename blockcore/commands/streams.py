# SPDX-License-Identifier: MIT
"""Starting to fill an image from the images below it: block-stream."""

from __future__ import annotations

from blockcore.job.options import JobOptions
from blockcore.jobs.rules import NewBacking, check_on_error, check_ops
from blockcore.jobs.stream.job import start_stream
from blockcore.machine.graph_changes import changing_graph
from blockcore.machine.machine import Machine
from blockcore.nodes.graph.chain import chain, find_backing_image
from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.qapi.names import BlockdevOnError, QmpError
from blockcore.qapi.schema import CommandTable

table = CommandTable()


@table.command("block-stream")
async def block_stream(
    machine: Machine,
    *,
    job_id: str | None = None,
    device: str,
    base: str | None = None,
    base_node: str | None = None,
    backing_file: str | None = None,
    backing_mask_protocol: bool = False,
    bottom: str | None = None,
    speed: int = 0,
    on_error: BlockdevOnError = BlockdevOnError.REPORT,
    filter_node_name: str | None = None,
    auto_finalize: bool = True,
    auto_dismiss: bool = True,
) -> None:
    """Copy into an image what it lacks from the images above `base`, or from its whole chain.

    Afterwards `base` is the image's backing file; without `base` it has none.
    `bottom` names the lowest image to copy instead.  `backing_mask_protocol` writes
    the format `raw` into the header where the new backing file has no format.
    """
    _exclude(base=base, base_node=base_node, bottom=bottom)
    async with changing_graph(machine, device):
        target = machine.find.node_or_device(device, device)
        below = await _stream_base(machine, target, device, base, base_node)
        lowest = None if bottom is None else _stream_bottom(machine, target, device, bottom)
        check_ops(_streamed(target, below, lowest), BlockOpType.STREAM)
        if below is None and lowest is None and backing_file is not None:
            raise QmpError("backing file specified, but streaming the entire chain")
        check_on_error(machine, target, on_error, "on-error")
        _require_open(target, lowest)
        await start_stream(
            machine,
            target,
            below,
            lowest,
            JobOptions(
                job_id=job_id,
                speed=speed,
                auto_finalize=auto_finalize,
                auto_dismiss=auto_dismiss,
                filter_node_name=filter_node_name,
            ),
            on_error=on_error,
            backing=NewBacking(name=backing_file, mask_protocol=backing_mask_protocol),
        )


def _exclude(**given: str | None) -> None:
    """Raise QmpError if two arguments are given that name the end of the copied part."""
    pairs = (("base", "base_node"), ("base", "bottom"), ("bottom", "base_node"))
    for one, other in pairs:
        if given[one] is not None and given[other] is not None:
            names = one.replace("_", "-"), other.replace("_", "-")
            raise QmpError(f"'{names[0]}' and '{names[1]}' cannot be specified at the same time")


async def _stream_base(
    machine: Machine, target: BlockNode, device: str, base: str | None, base_node: str | None
) -> BlockNode | None:
    """Return the image that stays below, by its file or node name, or None; raise QmpError."""
    if base is not None:
        image = await find_backing_image(target, base, machine.graph.path)
        if image is None or image not in _reachable(target):
            raise QmpError(f"Can't find '{base}' in the backing chain")
        return image
    if base_node is None:
        return None
    node = machine.find.node_or_device(None, base_node)
    if node is target or node not in _reachable(target):
        raise QmpError(f"Node '{base_node}' is not a backing image of '{device}'")
    return node


def _stream_bottom(
    machine: Machine, target: BlockNode, device: str, bottom: str
) -> BlockNode:
    """Return the lowest image to copy; raise QmpError."""
    node = machine.find.node_or_device(None, bottom)
    if node.filters is not None:
        raise QmpError(f"Node '{bottom}' is a filter, use a non-filter node as 'bottom'")
    if not node.inserted:
        raise QmpError(f"Node '{bottom}' is not open")
    if node not in _reachable(target):
        raise QmpError(f"Node '{bottom}' is not in a chain starting from '{device}'")
    return node


def _reachable(target: BlockNode) -> list[BlockNode]:
    """Return the chain down to its end, or to an image without a medium, below which nothing is."""
    found = []
    for node in chain(target):
        found.append(node)
        if not node.inserted:
            break
    return found


def _require_open(target: BlockNode, bottom: BlockNode | None) -> None:
    """Raise QmpError if the lowest image to copy has no medium.

    QEMU opens the job's filter with that image as its `bottom`, which fails (cor_open).
    """
    last = _reachable(target)[-1]
    if bottom is None and not last.inserted:
        raise QmpError(f"Could not create node: Bottom node '{last.node_name}' not opened")


def _streamed(
    target: BlockNode, base: BlockNode | None, bottom: BlockNode | None
) -> list[BlockNode]:
    """Return the nodes that the job works on: the image, and those whose data is copied."""
    nodes = list(chain(target))
    if bottom is not None:
        return nodes[: nodes.index(bottom) + 1]
    return nodes if base is None else nodes[: nodes.index(base)]
