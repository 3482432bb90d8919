# SPDX-License-Identifier: MIT
"""The differences between the releases of QEMU, as data.

The machine key `qemu` chooses a `Release`.  Where QEMU's behaviour has changed,
the module concerned asks a member of the release, which says what the release
does; no module compares versions.  Commands, members and types that only one of
the releases has are listed in `absent`, which the QMP layer applies to
arguments, answers, events and the schema alike.

The docstring of each member names its evidence in parentheses: a recording of
both releases (`tests/golden`), or the function of QEMU that has changed.
"""

from __future__ import annotations

from typing import Final

from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One release of QEMU.

    `version` is major, minor and micro.  `absent` has the names of QAPI that
    this release does not know: commands, types, and, as ``OWNER.member``,
    members of commands, events and types.

    Each flag tells what this release does if it is True; where the docstring
    does not say what it does otherwise, it does not do that.
    """

    name: str
    version: tuple[int, int, int]
    absent: frozenset[str]

    job_filters_keep_bitmaps: bool
    """The bitmaps of mirrors and backups belong to the job's filter node, and a mirror's bitmap
    does not record by itself: the filter marks it.  If False, the bitmaps belong to the source
    node (drive-mirror-full-complete, backup-cbw-error-guest-report)."""

    commits_write_zeroes: bool
    """The commit of an idle image copies zero areas by write-zeroes.  If False, it writes zeroes
    as data (commit-data)."""

    failed_commits_restore_base: bool
    """When an active commit fails or is cancelled, a base that was read-only before becomes
    read-only again (commit-active-enospc-report)."""

    jobs_sleep_out: bool
    """A job that sleeps because of its speed limit continues the sleep after a drained section or
    a pause has interrupted it.  If False, the job works on at once
    (block_job_ratelimit_sleep)."""

    backups_read_below: bool
    """A backup's filter needs the permission to read its source even if the filter has no
    writers (cbw_child_perm)."""

    streams_restore_read_only: bool
    """An image that a stream has made writable becomes read-only again after the stream
    (stream-within-chain)."""

    transactions_start_newest_first: bool
    """The jobs of a transaction start in reverse order of its actions
    (transaction-grouped-failure)."""

    resize_names_blocker: bool
    """The error of block_resize for a node in use says what uses the node.  If False, it says
    "Device '...' is in use", with "(null)" as the name of a node without a drive
    (job-verb-errors, chain-conflicts)."""

    no_medium_names_drive: bool
    """The error of a snapshot of a node without a medium names the node's drive, if there is
    one.  If False, it has the name that the client gave (external_snapshot_action)."""

    files_write_through: bool
    """The driver of files takes care of FUA itself: after a write with FUA the nodes above are
    not flushed, so that their fault rules for flushes do not hit
    (guest-writethrough-flush-eio-stop)."""

    stop_drains_devices: bool
    """A device that a guest has used is drained before STOP, so that a job that sleeps there is
    paused and resumed once more (backup-cbw-error-guest-stop)."""

    grouped_actions_are_checked_first: bool
    """An action that is not allowed in a grouped transaction is refused before anything is
    drained or prepared.  If False, it is refused when its turn comes (qmp_transaction)."""

    groupable_actions: frozenset[str]
    """The actions that are allowed in a grouped transaction.

    A release that checks late lets `abort` fail with its own error first."""

    failed_flush: str
    """The error of a snapshot of an image that cannot be flushed ({node}, {reason};
    external_snapshot_prepare)."""

    not_created: str
    """The error for a new image that its protocol's driver cannot create, and that cannot be
    opened either ({driver}, {reason}; chain-snapshot-targets)."""

    block_size_range: str
    """The error for a block size outside the limits ({name}, {size}, {minimum}, {maximum};
    check_block_size)."""

    block_size_power: str
    """The error for a block size that is not a power of two (with the same fields)."""

    transaction_property: str
    """The words for a property of a transaction in messages (transaction-grouped-failure)."""


_ONLY_7_2: Final = frozenset({"StatusInfo.singlestep"})

_ONLY_10_0: Final = frozenset(
    {
        "BackupCommon.discard-source",
        "BackupPerf.min-cluster-size",
        "block-commit.backing-mask-protocol",
        "block-job-change",
        "block-stream.backing-mask-protocol",
        "BLOCK_IO_ERROR.qom-path",
        "BlockDeviceInfo.active",
        *(
            f"BlockDeviceStats.{name}"
            for name in (
                *("zone_append_bytes", "zone_append_operations", "zone_append_merged"),
                *("zone_append_total_time_ns", "failed_zone_append_operations"),
                "invalid_zone_append_operations",
            )
        ),
        "BlockJobInfoMirror",
        "BlockJobInfoMirror.actively-synced",
        "ImageInfoSpecificFileWrapper",
    }
)

_BLOCK_SIZE_10_0: Final = "parameter {name} must be a power of 2 between {minimum} and {maximum}"

_BACKUPS: Final = frozenset({"blockdev-backup", "drive-backup"})

RELEASES: Final = {
    "7.2": Release(
        name="7.2",
        version=(7, 2, 22),
        absent=_ONLY_10_0,
        job_filters_keep_bitmaps=False,
        commits_write_zeroes=False,
        failed_commits_restore_base=False,
        jobs_sleep_out=False,
        backups_read_below=False,
        streams_restore_read_only=True,
        transactions_start_newest_first=False,
        resize_names_blocker=False,
        no_medium_names_drive=False,
        files_write_through=False,
        stop_drains_devices=False,
        grouped_actions_are_checked_first=False,
        groupable_actions=_BACKUPS | {"abort"},
        failed_flush="An IO error has occurred",
        not_created=(
            "Protocol driver '{driver}' does not support image creation,"
            " and opening the image failed: {reason}"
        ),
        block_size_range=(
            "Property .{name} doesn't take value {size}"
            " (minimum: {minimum}, maximum: {maximum})"
        ),
        block_size_power="Property .{name} doesn't take value '{size}', it's not a power of 2",
        transaction_property="Transaction property",
    ),
    "10.0": Release(
        name="10.0",
        version=(10, 0, 13),
        absent=_ONLY_7_2,
        job_filters_keep_bitmaps=True,
        commits_write_zeroes=True,
        failed_commits_restore_base=True,
        jobs_sleep_out=True,
        backups_read_below=True,
        streams_restore_read_only=False,
        transactions_start_newest_first=True,
        resize_names_blocker=True,
        no_medium_names_drive=True,
        files_write_through=True,
        stop_drains_devices=True,
        grouped_actions_are_checked_first=True,
        groupable_actions=_BACKUPS,
        failed_flush="Write to node '{node}' failed: {reason}",
        not_created=(
            "Protocol driver '{driver}' does not support creating new images, so an existing"
            " image must be selected as the target; however, opening the given target as an"
            " existing image failed: {reason}"
        ),
        block_size_range=_BLOCK_SIZE_10_0,
        block_size_power=_BLOCK_SIZE_10_0,
        transaction_property="transaction property",
    ),
}
"""The releases, by the value of the key `qemu`."""

LATEST: Final = RELEASES["10.0"]
"""The release if the user does not choose one."""


def release_of(text: str) -> Release:
    """Return the release that the key `qemu` names, or raise QmpError."""
    try:
        return RELEASES[text]
    except KeyError:
        raise QmpError(
            f"Parameter 'qemu' does not accept value '{text}' (it may be {' or '.join(RELEASES)})"
        ) from None
