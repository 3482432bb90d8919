# SPDX-License-Identifier: MIT
"""The policies rerror and werror: from an errno to an action and an io-status.

The rules are those of QEMU's `block-backend.c` (blk_get_error_action,
blk_iostatus_is_enabled, blk_iostatus_set_err) and `blockdev.c`.
"""

from __future__ import annotations

import errno

from blockcore.qapi.names import BlockDeviceIoStatus, BlockdevOnError, BlockErrorAction, QmpError


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


def iostatus_enabled(rerror: BlockdevOnError, werror: BlockdevOnError) -> bool:
    """Return whether a drive keeps an io-status: if one of its policies can stop the machine."""
    # QEMU's blk_iostatus_is_enabled leaves out rerror=enospc, which only a `-device` can have.
    # With werror=report such a drive has no io-status, and QEMU aborts in blk_iostatus_set_err
    # when a read fails with ENOSPC.  Here rerror=enospc counts, since it can stop the machine.
    return werror in (BlockdevOnError.ENOSPC, BlockdevOnError.STOP) or rerror in (
        BlockdevOnError.ENOSPC,
        BlockdevOnError.STOP,
    )


def iostatus_after(status: BlockDeviceIoStatus, error: int) -> BlockDeviceIoStatus:
    """Return the io-status after errno `error` has stopped a drive or a job.

    The first error wins, until the io-status is reset (blk_iostatus_set_err).
    """
    if status is not BlockDeviceIoStatus.OK:
        return status
    return BlockDeviceIoStatus.NOSPACE if error == errno.ENOSPC else BlockDeviceIoStatus.FAILED


def parse_rerror(text: str) -> BlockdevOnError:
    """Return the policy of `rerror=text`, or raise QmpError (parse_block_error_action)."""
    if text not in ("ignore", "report", "stop"):
        raise QmpError(f"'{text}' invalid read error action")
    return BlockdevOnError(text)


def parse_werror(text: str) -> BlockdevOnError:
    """Return the policy of `werror=text`, or raise QmpError (parse_block_error_action)."""
    if text not in ("ignore", "report", "stop", "enospc"):
        raise QmpError(f"'{text}' invalid write error action")
    return BlockdevOnError(text)
