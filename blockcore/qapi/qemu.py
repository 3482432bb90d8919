# SPDX-License-Identifier: MIT
"""Which QEMU answers: everything in which the releases differ, as data.

The machine key `qemu` chooses a `Release`.  The core behaves in one way; where
QEMU's behaviour has changed, the module concerned asks a member of the
release that says what is done, and no module compares versions.  What only one
of the releases has of commands, members and types is in `absent`, which the
QMP layer applies to arguments, answers, events and the schema alike.

Evidence is named with each member: a recording of both releases
(`tests/golden`), or the function of QEMU that has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blockcore.qapi.names import QmpError


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One release of QEMU.  `version`: major, minor, micro.

    `absent` has names of QAPI that this release does not know: of a command, a
    type, or (``OWNER.member``) of a member of a command, an event or a type.
    """

    name: str
    version: tuple[int, int, int]
    absent: frozenset[str]

    job_filters_keep_bitmaps: bool
    """The bitmaps of mirrors and backups belong to the job's filter, and a mirror's is not
    recording: the filter marks it.  Before, both were the source's
    (drive-mirror-full-complete, backup-cbw-error-guest-report)."""

    commits_write_zeroes: bool
    """A commit of an idle image makes zero below what is zero in it, rather than writing zeroes
    (commit-data)."""

    failed_commits_restore_base: bool
    """The base of an active commit that fails or is cancelled becomes read-only again if it was
    so (commit-active-enospc-report)."""

    jobs_sleep_out: bool
    """A job that sleeps for its speed limit's sake sleeps on when a drained section or a pause has
    ended the sleep early; before, it then worked on at once (block_job_ratelimit_sleep)."""

    backups_read_below: bool
    """A backup's filter relies on its source even if nobody writes to it (cbw_child_perm)."""

    streams_restore_read_only: bool
    """An image that was made writable for a stream is read-only again after it
    (stream-within-chain)."""

    transactions_start_newest_first: bool
    """The jobs of a transaction start in reverse order of its actions
    (transaction-grouped-failure)."""

    resize_names_blocker: bool
    """block_resize of a node in use says by what; before, it said "Device '...' is in use", of a
    node without a drive with "(null)" for a name (job-verb-errors, chain-conflicts)."""

    no_medium_names_drive: bool
    """A snapshot of a node without a medium says so by the name of its drive, if there is one;
    before, by the name that was typed (external_snapshot_action)."""

    files_write_through: bool
    """A file's driver takes care of FUA itself: of the nodes above none is flushed after such a
    write, and none of their rules strikes (guest-writethrough-flush-eio-stop)."""

    stop_drains_devices: bool
    """The device of a guest that has used it is drained before STOP, so that a job that sleeps
    there pauses and goes on once more (backup-cbw-error-guest-stop)."""

    grouped_actions_are_checked_first: bool
    """An action that cannot be part of a grouped transaction is refused before anything is
    drained or prepared (qmp_transaction)."""

    groupable_actions: frozenset[str]
    """The actions that can; releases that check late let `abort` have its say."""

    failed_flush: str
    """What a snapshot says of an image that cannot be flushed ({node}, {reason};
    external_snapshot_prepare)."""

    not_created: str
    """Of an image that its protocol's driver cannot create, and that is not there either
    ({driver}, {reason}; chain-snapshot-targets)."""

    block_size_range: str
    """Of a block size beyond the limits ({name}, {size}, {minimum}, {maximum};
    check_block_size)."""

    block_size_power: str
    """Of one that is no power of two (likewise)."""

    transaction_property: str
    """How a message calls a property of a transaction (transaction-grouped-failure)."""


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
"""By the value of the key `qemu`."""

LATEST: Final = RELEASES["10.0"]
"""What is given unless the user chooses."""


def release_of(text: str) -> Release:
    """The release that a user names; QmpError if it is none of `RELEASES`."""
    try:
        return RELEASES[text]
    except KeyError:
        raise QmpError(
            f"Parameter 'qemu' does not accept value '{text}' (it may be {' or '.join(RELEASES)})"
        ) from None
