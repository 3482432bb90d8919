# SPDX-License-Identifier: MIT
"""rerror/werror: from a policy and an errno to an action and an io-status.

The rules are those of QEMU's `block-backend.c` (blk_get_error_action,
blk_iostatus_is_enabled, blk_iostatus_set_err) and `blockdev.c`.
"""

from __future__ import annotations

import errno

from blockcore.qapi.names import BlockDeviceIoStatus, BlockdevOnError, BlockErrorAction, QmpError


def error_action(policy: BlockdevOnError, error: int) -> BlockErrorAction:
    """What `policy` makes of the errno `error` (blk_get_error_action).

    AUTO is resolved when a device is created and never gets here.
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
    """Whether a drive keeps an io-status: iff a policy of it can stop.

    QEMU forgets rerror=enospc here (only a `-device` can have it), and aborts
    in blk_iostatus_set_err when such a read fails with werror=report; this
    project counts it as the stopping policy that it is.
    """
    return werror in (BlockdevOnError.ENOSPC, BlockdevOnError.STOP) or rerror in (
        BlockdevOnError.ENOSPC,
        BlockdevOnError.STOP,
    )


def iostatus_after(status: BlockDeviceIoStatus, error: int) -> BlockDeviceIoStatus:
    """The io-status once errno `error` has stopped something: the first one wins."""
    if status is not BlockDeviceIoStatus.OK:
        return status
    return BlockDeviceIoStatus.NOSPACE if error == errno.ENOSPC else BlockDeviceIoStatus.FAILED


def parse_rerror(text: str) -> BlockdevOnError:
    """A drive's rerror; QmpError in QEMU's words (parse_block_error_action)."""
    if text not in ("ignore", "report", "stop"):
        raise QmpError(f"'{text}' invalid read error action")
    return BlockdevOnError(text)


def parse_werror(text: str) -> BlockdevOnError:
    """A drive's werror; QmpError as for `parse_rerror`."""
    if text not in ("ignore", "report", "stop", "enospc"):
        raise QmpError(f"'{text}' invalid write error action")
    return BlockdevOnError(text)
