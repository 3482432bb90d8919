# SPDX-License-Identifier: MIT
"""The policies rerror and werror: from an errno to an action and an io-status.

The rules are those of QEMU's `block-backend.c` (blk_get_error_action,
blk_iostatus_is_enabled, blk_iostatus_set_err) and `blockdev.c`.  The policy
`retry` is that of openEuler's QEMU ("block: Add retry for werror=/rerror=
mechanism"), but for one thing: there the timeout counts from the first failure
of a drive, of which any success of another request is the end, so that a request
which fails among others that succeed is tried for ever.
"""

from __future__ import annotations

import errno
from typing import Final

from blockcore.bql.clock import NS_OF_MS
from blockcore.qapi.names import (
    BlockDeviceIoStatus,
    BlockdevOnError,
    BlockErrorAction,
    DeviceErrorAction,
    DeviceOnError,
    QmpError,
    UInt32,
)
from blockcore.qapi.record import dataclass

_STOPPING: Final = (DeviceOnError.ENOSPC, DeviceOnError.STOP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When a policy of `retry` tries a request again; milliseconds, a timeout of 0 is none."""

    interval_ms: UInt32 = UInt32(1000)
    timeout_ms: UInt32 = UInt32(0)

    def next_try_ns(self, failing_since_ns: int, now_ns: int) -> int | None:
        """Return when a request is tried again that has failed now, or None if it is not.

        `failing_since_ns` is the time of its first failure.  The last try is at the
        timeout.
        """
        next_ns = now_ns + self.interval_ms * NS_OF_MS
        if not self.timeout_ms:
            return next_ns
        last_ns = failing_since_ns + self.timeout_ms * NS_OF_MS
        return min(next_ns, last_ns) if now_ns < last_ns else None

    def check(self) -> None:
        """Raise QmpError for an interval that leaves no time between two tries."""
        if not self.interval_ms:
            raise QmpError("Parameter 'retry-interval' expects at least 1 millisecond")


DEFAULT_RETRY: Final = Retry()


def error_action(policy: BlockdevOnError, error: int) -> BlockErrorAction:
    """Return what `policy` does about the errno `error` (blk_get_error_action).

    `policy` is never AUTO: the creation of a device replaces AUTO by another
    policy.
    """
    match policy:
        case BlockdevOnError.ENOSPC:
            return BlockErrorAction.STOP if error == errno.ENOSPC else BlockErrorAction.REPORT
        case BlockdevOnError.STOP:
            return BlockErrorAction.STOP
        case BlockdevOnError.REPORT:
            return BlockErrorAction.REPORT
        case BlockdevOnError.IGNORE:
            return BlockErrorAction.IGNORE
    raise AssertionError(f"unresolved policy {policy}")


def device_action(policy: DeviceOnError, error: int, may_retry: bool) -> DeviceErrorAction:
    """Return what a drive's `policy` does about the errno `error` of a request.

    `may_retry` tells whether `Retry` allows another try.  `policy` is never AUTO.
    """
    if policy is DeviceOnError.RETRY:
        return DeviceErrorAction.RETRY if may_retry else DeviceErrorAction.REPORT
    return DeviceErrorAction(error_action(BlockdevOnError(policy.value), error).value)


def iostatus_enabled(rerror: DeviceOnError, werror: DeviceOnError) -> bool:
    """Return whether a drive keeps an io-status: if one of its policies can stop the machine."""
    # QEMU's blk_iostatus_is_enabled leaves out rerror=enospc, which only a `-device` can have.
    # With werror=report such a drive has no io-status, and QEMU aborts in blk_iostatus_set_err
    # when a read fails with ENOSPC.  Here rerror=enospc counts, since it can stop the machine.
    return werror in _STOPPING or rerror in _STOPPING


def iostatus_after(status: BlockDeviceIoStatus, error: int) -> BlockDeviceIoStatus:
    """Return the io-status after errno `error` has stopped a drive or a job.

    The first error wins, until the io-status is reset (blk_iostatus_set_err).
    """
    if status is not BlockDeviceIoStatus.OK:
        return status
    return BlockDeviceIoStatus.NOSPACE if error == errno.ENOSPC else BlockDeviceIoStatus.FAILED


def parse_rerror(text: str) -> DeviceOnError:
    """Return the policy of `rerror=text`, or raise QmpError (parse_block_error_action)."""
    if text not in ("ignore", "report", "stop", "retry"):
        raise QmpError(f"'{text}' invalid read error action")
    return DeviceOnError(text)


def parse_werror(text: str) -> DeviceOnError:
    """Return the policy of `werror=text`, or raise QmpError (parse_block_error_action)."""
    if text not in ("ignore", "report", "stop", "enospc", "retry"):
        raise QmpError(f"'{text}' invalid write error action")
    return DeviceOnError(text)
