# SPDX-License-Identifier: MIT
"""The work of a job that goes through an image once, from the beginning to the end.

(stream_run, commit_run.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from blockcore.job.block_job import RETRY_NS, BlockJob
from blockcore.jobs.sides import side_of
from blockcore.qapi.names import BlockErrorAction, IoOperationType

CHUNK = 512 << 10
"""The most bytes that one step looks at and copies (STREAM_CHUNK, COMMIT_BUFFER_SIZE)."""

Find = Callable[[int, int], Awaitable[tuple[bool, int]]]
"""Returns whether the beginning of a range is to be copied, and its length; raises OSError."""

Copy = Callable[[int, int], Awaitable[None]]
"""Copies what was found; raises SourceError, or OSError if the target failed."""


async def copy_by_chunks(
    job: BlockJob, length: int, find: Find, copy: Copy, *, skips_ignored: bool = False
) -> None:
    """Copy what `find` finds in `length` bytes; return early if the job is cancelled.

    An error that the policy ignores is met again after `RETRY_NS`.  With
    `skips_ignored` the job goes on behind it instead, and the first such error is
    the job's in the end.  Raise the OSError that the policy reports.
    """
    # Each round looks at one chunk and copies what is to be copied of it.  After an error the
    # policy decides: STOP has paused the job, which tries again after that; IGNORE tries again
    # or skips; REPORT ends the loop.
    first_error: OSError | None = None
    offset = delay_ns = 0
    while offset < length:
        await job.sleep_for_limit(delay_ns)
        if job.is_cancelled:
            break
        size = min(CHUNK, length - offset)
        delay_ns, wanted, done = 0, False, 0
        try:
            wanted, done = await find(offset, size)
            if wanted:
                await copy(offset, done)
        except OSError as exc:
            action = job.failed(side_of(exc) if wanted else IoOperationType.READ, exc)
            if action is BlockErrorAction.STOP:
                continue
            if action is BlockErrorAction.IGNORE and not skips_ignored:
                delay_ns = RETRY_NS
                continue
            first_error = first_error or exc
            if action is BlockErrorAction.REPORT:
                break
            # The look itself failed: nothing is known of this chunk.
            done = done or size
        job.progress.update(done)
        offset += done
        delay_ns = job.delay_ns(done) if wanted else 0
    if first_error is not None:
        raise first_error
