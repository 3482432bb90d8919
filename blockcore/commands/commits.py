# SPDX-License-Identifier: MIT
"""Starting to write an image down into an image below it: block-commit."""

from __future__ import annotations

from dataclasses import replace

from blockcore.commands.bitmaps import default_granularity
from blockcore.job.options import JobOptions
from blockcore.jobs.commit.job import overlay_of, start_commit
from blockcore.jobs.mirror.job import start_active_commit
from blockcore.jobs.mirror.options import DEFAULT_BUF_SIZE, MirrorOptions
from blockcore.jobs.rules import NewBacking, check_on_error, check_ops
from blockcore.machine.graph_changes import changing_graph
from blockcore.machine.machine import Machine
from blockcore.nodes.graph.chain import chain, find_backing_image, find_base, skip_filters
from blockcore.nodes.graph.conflicts import needed
from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.nodes.permissions import Perm
from blockcore.qapi.names import BlockdevOnError, QapiErrorClass, QmpError
from blockcore.qapi.schema import CommandTable

table = CommandTable()


@table.command("block-commit")
async def block_commit(
    machine: Machine,
    *,
    job_id: str | None = None,
    device: str,
    base_node: str | None = None,
    base: str | None = None,
    top_node: str | None = None,
    top: str | None = None,
    backing_file: str | None = None,
    backing_mask_protocol: bool = False,
    speed: int = 0,
    on_error: BlockdevOnError = BlockdevOnError.REPORT,
    filter_node_name: str | None = None,
    auto_finalize: bool = True,
    auto_dismiss: bool = True,
) -> None:
    """Write the data of `top`, and of the images between, into `base`, and drop these images.

    `top` is the drive's own image if it is not given; then the job becomes
    ready, and the drive is on `base` once the job is completed.
    `backing_mask_protocol` is as for `block-stream`.
    """
    options = JobOptions(
        job_id=job_id,
        speed=speed,
        auto_finalize=auto_finalize,
        auto_dismiss=auto_dismiss,
        filter_node_name=filter_node_name,
    )
    async with changing_graph(machine, device):
        root = _commit_root(machine, device)
        root.check_op(BlockOpType.COMMIT_SOURCE)
        image = await _commit_top(machine, root, top, top_node)
        below = await _commit_base(machine, image, base, base_node)
        nodes = list(chain(image))
        check_ops(nodes[: nodes.index(below) + 1], BlockOpType.COMMIT_TARGET)
        if image is below:
            raise QmpError("cannot commit an image into itself")
        check_on_error(machine, root, on_error, "on-error")
        if not _is_active(root, image, backing_file):
            overlay_of(root, image).check_op(BlockOpType.COMMIT_TARGET)
            backing = NewBacking(name=backing_file, mask_protocol=backing_mask_protocol)
            await start_commit(
                machine, root, image, below, options, on_error=on_error, backing=backing
            )
            return
        options = replace(options, job_id=machine.device_of(root) if job_id is None else job_id)
        await start_active_commit(machine, image, below, options, _mirror_to(below, on_error))


def _mirror_to(base: BlockNode, on_error: BlockdevOnError) -> MirrorOptions:
    """Return the options of a mirror that commits everything above `base` into it."""
    return MirrorOptions(
        granularity=default_granularity(base),
        buf_size=DEFAULT_BUF_SIZE,
        on_source_error=on_error,
        on_target_error=on_error,
        base=base,
        is_commit=True,
    )


def _is_active(root: BlockNode, image: BlockNode, backing_file: str | None) -> bool:
    """Return whether the image has a writer, or may get one, so that the job has to keep up.

    Raise QmpError if a `backing-file` is given although it has to (qmp_block_commit).
    """
    is_root = skip_filters(image) is skip_filters(root)
    if not is_root and not needed(image)[0] & Perm.WRITE:
        return False
    if backing_file is not None:
        why = "is the active layer" if is_root else "has a writer on it"
        raise QmpError(f"'backing-file' specified, but 'top' {why}")
    return True


def _commit_root(machine: Machine, device: str) -> BlockNode:
    """Return the node of the drive `device`, or the root node of that name; raise QmpError."""
    # The error for an unknown name has a class of its own, for management programs
    # (qmp_block_commit); those of root_node are for nodes that exist.
    try:
        machine.find.node_or_device(device, device)
    except QmpError:
        raise QmpError(
            f"Device '{device}' not found", QapiErrorClass.DEVICE_NOT_FOUND
        ) from None
    return machine.find.root_node(device)


async def _commit_top(
    machine: Machine, root: BlockNode, top: str | None, top_node: str | None
) -> BlockNode:
    """Return the image that is committed, by its node or file name; raise QmpError."""
    if top_node is not None and top is not None:
        raise QmpError("'top-node' and 'top' are mutually exclusive")
    if top_node is not None:
        return _in_chain(machine, root, top_node)
    if top is None or top == root.filename:
        return root
    image = await find_backing_image(root, top, machine.graph.path)
    if image is None:
        raise QmpError(f"Top image file {top} not found")
    return image


async def _commit_base(
    machine: Machine, image: BlockNode, base: str | None, base_node: str | None
) -> BlockNode:
    """Return the image that is committed into, by its node or file name; raise QmpError."""
    if base_node is not None and base is not None:
        raise QmpError("'base-node' and 'base' are mutually exclusive")
    if base_node is not None:
        return _in_chain(machine, image, base_node)
    if base is None:
        return find_base(image)
    found = await find_backing_image(image, base, machine.graph.path)
    if found is None:
        raise QmpError(f"Can't find '{base}' in the backing chain")
    return found


def _in_chain(machine: Machine, above: BlockNode, node_name: str) -> BlockNode:
    """Return the node of that name, if it is in the chain of `above`; raise QmpError otherwise."""
    node = machine.find.node_or_device(None, node_name)
    if node not in chain(above):
        raise QmpError(f"'{node_name}' is not in this backing file chain")
    return node
