# SPDX-License-Identifier: MIT
"""Starting mirrors: blockdev-mirror and drive-mirror."""

from __future__ import annotations

from dataclasses import replace

from blockcore.commands.bitmaps import default_granularity
from blockcore.job.options import JobOptions
from blockcore.jobs.mirror.job import check_to_replace, start_mirror
from blockcore.jobs.mirror.options import DEFAULT_BUF_SIZE, BackingMode, MirrorOptions
from blockcore.jobs.rules import check_on_error
from blockcore.machine.graph_changes import changing_graph
from blockcore.machine.machine import Machine
from blockcore.machine.new_image import NewImageMode, opened_like
from blockcore.nodes.driver import BackingFile
from blockcore.nodes.graph.abilities import has_zero_init
from blockcore.nodes.graph.chain import backing_chain_next, skip_implicit_filters
from blockcore.nodes.graph.create import create_image_file
from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.qapi.names import BlockdevOnError, MirrorCopyMode, MirrorSyncMode, QmpError, UInt32
from blockcore.qapi.schema import CommandTable
from blockcore.rules.bitmap import MIN_GRANULARITY

table = CommandTable()

MAX_GRANULARITY = 64 << 20
"""The largest granularity of a mirror, in bytes (blockdev_mirror_common)."""


@table.command("blockdev-mirror")
async def blockdev_mirror(
    machine: Machine,
    *,
    job_id: str | None = None,
    device: str,
    target: str,
    replaces: str | None = None,
    sync: MirrorSyncMode,
    speed: int = 0,
    granularity: UInt32 = UInt32(0),
    buf_size: int = 0,
    on_source_error: BlockdevOnError = BlockdevOnError.REPORT,
    on_target_error: BlockdevOnError = BlockdevOnError.REPORT,
    filter_node_name: str | None = None,
    copy_mode: MirrorCopyMode = MirrorCopyMode.BACKGROUND,
    auto_finalize: bool = True,
    auto_dismiss: bool = True,
) -> None:
    """Copy a drive to a node, and follow what its guest writes; `job-complete` changes over."""
    options = JobOptions(
        job_id=job_id,
        speed=speed,
        auto_finalize=auto_finalize,
        auto_dismiss=auto_dismiss,
        filter_node_name=filter_node_name,
    )
    mirror = MirrorOptions(
        granularity=granularity,
        buf_size=buf_size,
        on_source_error=on_source_error,
        on_target_error=on_target_error,
        zero_target=sync is MirrorSyncMode.FULL,
        copy_mode=copy_mode,
        replaces=replaces,
    )
    async with changing_graph(machine, device, target, replaces):
        source = machine.find.root_node(device)
        node = machine.find.node_or_device(target, target)
        await _start(machine, source, node, sync, options, mirror)


@table.command("drive-mirror")
async def drive_mirror(
    machine: Machine,
    *,
    job_id: str | None = None,
    device: str,
    target: str,
    format: str | None = None,
    node_name: str | None = None,
    replaces: str | None = None,
    sync: MirrorSyncMode,
    mode: NewImageMode = NewImageMode.ABSOLUTE_PATHS,
    speed: int = 0,
    granularity: UInt32 = UInt32(0),
    buf_size: int = 0,
    on_source_error: BlockdevOnError = BlockdevOnError.REPORT,
    on_target_error: BlockdevOnError = BlockdevOnError.REPORT,
    unmap: bool = True,
    copy_mode: MirrorCopyMode = MirrorCopyMode.BACKGROUND,
    auto_finalize: bool = True,
    auto_dismiss: bool = True,
) -> None:
    """Copy a drive to an image that is made for it, and follow what its guest writes.

    With mode=existing `target` is an image that exists.
    """
    options = JobOptions(
        job_id=job_id, speed=speed, auto_finalize=auto_finalize, auto_dismiss=auto_dismiss
    )
    async with changing_graph(machine, device, replaces) as turn:
        source = machine.find.root_node(device)
        source.check_op(BlockOpType.MIRROR_SOURCE)
        if replaces is not None and node_name is None:
            raise QmpError("a node-name must be provided when replacing a named node of the graph")
        if not (existing := mode is NewImageMode.EXISTING):
            await _create(machine, source, target, format := format or source.driver, sync)
        image = opened_like(source, target, format, node_name)
        # The node did not exist when the turn began: from now on it is part of it.
        turn.also(node := await machine.graph.open(image))
        mirror = MirrorOptions(
            granularity=granularity,
            buf_size=buf_size,
            on_source_error=on_source_error,
            on_target_error=on_target_error,
            zero_target=sync is MirrorSyncMode.FULL and (existing or not has_zero_init(node)),
            unmap=unmap,
            backing_mode=BackingMode.OPEN_CHAIN if existing else BackingMode.SOURCE_CHAIN,
            copy_mode=copy_mode,
            replaces=replaces,
        )
        try:
            await _start(machine, source, node, sync, options, mirror)
        except QmpError:
            await machine.graph.release(node)
            raise


async def _create(
    machine: Machine, source: BlockNode, target: str, image_format: str, sync: MirrorSyncMode
) -> None:
    """Make the image, with the backing file that the target will have in the end."""
    below = source if sync is MirrorSyncMode.NONE else backing_chain_next(source)
    backing = None
    if below is not None and sync is not MirrorSyncMode.FULL:
        shown = skip_implicit_filters(below)
        backing = BackingFile(shown.filename, shown.driver)
    await create_image_file(machine.graph, machine, target, image_format, source.size, backing)


async def _start(
    machine: Machine,
    source: BlockNode,
    target: BlockNode,
    sync: MirrorSyncMode,
    options: JobOptions,
    mirror: MirrorOptions,
) -> None:
    """Check what both commands have in common, and start (blockdev_mirror_common, mirror_start).

    Raise QmpError; the order of the checks decides which error is given.
    """
    _check_granularity(mirror.granularity)
    source.check_op(BlockOpType.MIRROR_SOURCE)
    target.check_op(BlockOpType.MIRROR_TARGET)
    check_on_error(machine, source, mirror.on_source_error, "on-source-error")
    replaces = _replaced(machine, source, mirror.replaces)
    if sync in (MirrorSyncMode.INCREMENTAL, MirrorSyncMode.BITMAP):
        raise QmpError(f"Sync mode '{sync}' not supported")
    if mirror.buf_size < 0:
        raise QmpError("Invalid parameter 'buf-size'")
    await start_mirror(
        machine,
        source,
        target,
        options,
        replace(
            mirror,
            granularity=mirror.granularity or default_granularity(target),
            buf_size=mirror.buf_size or DEFAULT_BUF_SIZE,
            base=backing_chain_next(source) if sync is MirrorSyncMode.TOP else None,
            is_none_mode=sync is MirrorSyncMode.NONE,
            replaces=replaces,
        ),
    )


def _replaced(machine: Machine, source: BlockNode, name: str | None) -> str | None:
    """Return the name of the node that the target replaces, None for the source itself.

    Raise QmpError if the node cannot be replaced.
    """
    if name is None:
        # The user knows the node below implicit filters as the drive's (blockdev_mirror_common).
        shown = skip_implicit_filters(source)
        return None if shown is source else shown.node_name
    node = check_to_replace(machine, source, name)
    if node.size != source.size:
        raise QmpError("cannot replace image with a mirror image of different size")
    return name


def _check_granularity(granularity: int) -> None:
    """Raise QmpError unless the granularity is 0 (none given) or a power of two within limits."""
    if not granularity:
        return
    if not MIN_GRANULARITY <= granularity <= MAX_GRANULARITY:
        raise QmpError("Parameter 'granularity' expects a value in range [512B, 64MB]")
    if granularity & (granularity - 1):
        raise QmpError("Parameter 'granularity' expects a power of 2")
