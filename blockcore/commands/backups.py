# SPDX-License-Identifier: MIT
"""Starting backups: blockdev-backup and drive-backup, alone or several at one moment.

Each command is a transaction of one action, as in QEMU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from blockcore.commands import transaction
from blockcore.commands.actions import ActionTable, TransactionAction
from blockcore.job.job_txn import JobTxn
from blockcore.job.options import JobOptions
from blockcore.jobs.backup.copy_call import MAX_WORKERS
from blockcore.jobs.backup.job import BackupOptions, BitmapSyncMode, create_backup
from blockcore.jobs.rules import check_on_error
from blockcore.machine.machine import Machine
from blockcore.machine.new_image import NewImageMode, opened_like
from blockcore.machine.transaction import Transaction
from blockcore.nodes.driver import BackingFile
from blockcore.nodes.graph.chain import skip_filters, skip_implicit_filters
from blockcore.nodes.graph.create import create_image_file
from blockcore.nodes.graph.relink import Relink
from blockcore.nodes.node import BlockNode
from blockcore.nodes.op_blockers import BlockOpType
from blockcore.qapi.names import (
    BlockdevDetectZeroesOptions,
    BlockdevDiscardOptions,
    BlockdevOnError,
    MirrorSyncMode,
    QmpError,
    Size,
)
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable
from blockcore.rules.bitmap import DirtyBitmap

table = CommandTable()
actions = ActionTable()

INT_MAX = (1 << 31) - 1
"""The largest number of workers (C's INT_MAX, as in backup_job_create)."""

_BY_BITMAP = (MirrorSyncMode.BITMAP, MirrorSyncMode.INCREMENTAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPerf:
    """QAPI's BackupPerf, sizes in bytes.

    `use_copy_range` is accepted and has no effect: this machine never copies within
    the host's kernel.
    """

    use_copy_range: bool | None = None
    max_workers: int | None = None
    max_chunk: int | None = None
    min_cluster_size: Size | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupCommon:
    """QAPI's BackupCommon; `speed` in bytes per second."""

    wire_names: ClassVar[dict[str, str]] = {"x_perf": "x-perf"}
    job_id: str | None = None
    device: str
    sync: MirrorSyncMode
    speed: int | None = None
    bitmap: str | None = None
    bitmap_mode: BitmapSyncMode | None = None
    compress: bool | None = None
    on_source_error: BlockdevOnError | None = None
    on_target_error: BlockdevOnError | None = None
    auto_finalize: bool | None = None
    auto_dismiss: bool | None = None
    filter_node_name: str | None = None
    discard_source: bool | None = None
    x_perf: BackupPerf | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevBackup(BackupCommon):
    """QAPI's BlockdevBackup; `target` is the name of a node."""

    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveBackup(BackupCommon):
    """QAPI's DriveBackup; `target` is a file name."""

    target: str
    format: str | None = None
    mode: NewImageMode | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockdevBackupAction(TransactionAction):
    data: BlockdevBackup


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveBackupAction(TransactionAction):
    data: DriveBackup


@actions.action("blockdev-backup", BlockdevBackupAction)
async def _blockdev_backup(
    machine: Machine, action: BlockdevBackupAction, under_way: Transaction
) -> None:
    data = action.data
    source = machine.find.node_or_device(data.device, data.device)
    await under_way.drain(machine, source)
    target = machine.find.node_or_device(data.target, data.target)
    await _prepare(machine, under_way, source, target, data)


@actions.action("drive-backup", DriveBackupAction)
async def _drive_backup(
    machine: Machine, action: DriveBackupAction, under_way: Transaction
) -> None:
    """Open or make the target, then prepare the backup (drive_backup_action)."""
    data = action.data
    source = machine.find.node_or_device(data.device, data.device)
    machine.find.check_medium(source)
    await under_way.drain(machine, source)
    source.check_op(BlockOpType.BACKUP_SOURCE)
    sync = data.sync
    below = skip_filters(source).cow if sync is MirrorSyncMode.TOP else None
    # `below` becomes the target's backing file, where the target is made.
    if sync is MirrorSyncMode.TOP and below is None:
        sync = MirrorSyncMode.FULL
    if sync is MirrorSyncMode.NONE:
        below = source
    target = await _open_target(machine, source, below, data)
    try:
        # What is not copied yet shows through from the source; the target was opened without a
        # backing file for this (BDRV_O_NO_BACKING).
        if sync is MirrorSyncMode.NONE and target.supports_backing:
            async with Relink(machine.graph) as change:
                change.attach(target, "backing", source)
        await _prepare(machine, under_way, source, target, replace(data, sync=sync))
    except QmpError:
        await machine.graph.release(target)
        raise


async def _open_target(
    machine: Machine, source: BlockNode, below: BlockNode | None, data: DriveBackup
) -> BlockNode:
    """Make the image unless it exists, and open it; for sync=none without its backing file."""
    existing = data.mode is NewImageMode.EXISTING
    image_format = data.format or (None if existing else source.driver)
    if not existing:
        assert image_format is not None
        shown = None if below is None else skip_implicit_filters(below)
        backing = None if shown is None else BackingFile(shown.filename, shown.driver)
        await create_image_file(
            machine.graph, machine, data.target, image_format, source.size, backing
        )
    with_backing = data.sync is not MirrorSyncMode.NONE
    definition = replace(
        opened_like(source, data.target, image_format, None, with_backing=with_backing),
        discard=BlockdevDiscardOptions.UNMAP,
        detect_zeroes=BlockdevDetectZeroesOptions.UNMAP,
    )
    return await machine.graph.open(definition)


async def _prepare(
    machine: Machine,
    under_way: Transaction,
    source: BlockNode,
    target: BlockNode,
    data: BackupCommon,
) -> None:
    """Create the job, which starts at the commit of the transaction (do_backup_common)."""
    backup = _backup_options(source, data)
    # The order of the checks decides which error is given (backup_job_create).
    if source is target:
        raise QmpError("Source and target cannot be the same")
    for node in (source, target):
        if not machine.find.is_inserted(node):
            raise QmpError(f"Device is not inserted: {machine.device_of(node)}")
    if data.compress:
        name = machine.device_of(target)
        raise QmpError(f"Compression is not supported for this drive {name}")
    source.check_op(BlockOpType.BACKUP_SOURCE)
    target.check_op(BlockOpType.BACKUP_TARGET)
    _check_perf(backup)
    check_on_error(machine, source, backup.on_source_error, "on-source-error")
    if backup.bitmap is not None:
        backup.bitmap.check_usable()
    if source.size != target.size:
        raise QmpError("Source and target image have different sizes")
    job_id = machine.device_of(source) if data.job_id is None else data.job_id
    options = JobOptions(
        job_id=job_id,
        speed=data.speed or 0,
        auto_finalize=data.auto_finalize is not False,
        auto_dismiss=data.auto_dismiss is not False,
        filter_node_name=data.filter_node_name,
    )
    txn = under_way.job_txn or JobTxn(machine)
    job = await create_backup(machine, source, target, txn, options, backup)
    under_way.on_abort(txn.roll_back)
    under_way.on_commit(job.start)


def _backup_options(source: BlockNode, data: BackupCommon) -> BackupOptions:
    """Return the options of the job; raise QmpError if arguments contradict each other."""
    # What is not given has QEMU's default (do_backup_common).
    perf = data.x_perf or BackupPerf()
    mode = _bitmap_mode(data)
    bitmap = None if data.bitmap is None else _bitmap(source, data, mode)
    # The modes that work by a bitmap have refused its absence already (`_bitmap_mode`).
    if bitmap is None and mode is not None and data.sync not in _BY_BITMAP:
        raise QmpError("Cannot specify bitmap sync mode without a bitmap")
    return BackupOptions(
        sync=MirrorSyncMode.BITMAP if data.sync in _BY_BITMAP else data.sync,
        bitmap=bitmap,
        bitmap_mode=mode or BitmapSyncMode.ON_SUCCESS,
        on_source_error=data.on_source_error or BlockdevOnError.REPORT,
        on_target_error=data.on_target_error or BlockdevOnError.REPORT,
        max_workers=MAX_WORKERS if perf.max_workers is None else perf.max_workers,
        max_chunk=perf.max_chunk or 0,
        min_cluster_size=perf.min_cluster_size or 0,
        discard_source=data.discard_source is True,
    )


def _check_perf(backup: BackupOptions) -> None:
    """Raise QmpError if a number of `x-perf` is out of range."""
    if not 1 <= backup.max_workers <= INT_MAX:
        raise QmpError(f"max-workers must be between 1 and {INT_MAX}")
    if backup.max_chunk < 0:
        raise QmpError("max-chunk must be zero (which means no limit) or positive")


def _bitmap_mode(data: BackupCommon) -> BitmapSyncMode | None:
    """Return the bitmap mode, None if there is none; raise QmpError if it does not fit `sync`.

    `sync=incremental` is `sync=bitmap` with the mode `on-success`.
    """
    if data.sync in _BY_BITMAP and data.bitmap is None:
        raise QmpError(f"must provide a valid bitmap name for '{data.sync}' sync mode")
    if data.sync is not MirrorSyncMode.INCREMENTAL:
        return data.bitmap_mode
    if data.bitmap_mode not in (None, BitmapSyncMode.ON_SUCCESS):
        raise QmpError(
            f"Bitmap sync mode must be '{BitmapSyncMode.ON_SUCCESS}'"
            f" when using sync mode '{data.sync}'"
        )
    return BitmapSyncMode.ON_SUCCESS


def _bitmap(source: BlockNode, data: BackupCommon, mode: BitmapSyncMode | None) -> DirtyBitmap:
    """Return the bitmap that is named; raise QmpError if the backup cannot use it."""
    assert data.bitmap is not None
    found = next((bitmap for bitmap in source.bitmaps if bitmap.name == data.bitmap), None)
    if found is None:
        raise QmpError(f"Bitmap '{data.bitmap}' could not be found")
    if mode is None:
        raise QmpError("Bitmap sync mode must be given when providing a bitmap")
    found.check_usable()
    if data.sync is MirrorSyncMode.NONE:
        raise QmpError(
            f"sync mode '{data.sync}' does not produce meaningful bitmap outputs"
        )
    if mode is BitmapSyncMode.NEVER and data.sync not in _BY_BITMAP:
        raise QmpError(
            f"Bitmap sync mode '{mode}' has no meaningful effect"
            f" when combined with sync mode '{data.sync}'"
        )
    return found


@table.command("blockdev-backup", boxed=True)
async def blockdev_backup(machine: Machine, *, options: BlockdevBackup) -> None:
    """Copy what a drive shows at this moment to a node, whatever its guest writes meanwhile.

    What the guest is about to overwrite is copied first.
    """
    action = BlockdevBackupAction(type="blockdev-backup", data=options)
    await transaction.transaction(machine, wanted=[action])


@table.command("drive-backup", boxed=True, features=("deprecated",))
async def drive_backup(machine: Machine, *, options: DriveBackup) -> None:
    """Copy what a drive shows at this moment to an image, which is made for it.

    With mode=existing `target` is an image that exists.
    """
    action = DriveBackupAction(type="drive-backup", data=options)
    await transaction.transaction(machine, wanted=[action])
