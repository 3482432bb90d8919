# SPDX-License-Identifier: MIT
"""What jobs do: query-jobs and query-block-jobs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from blockcore.bql.effects import Until
from blockcore.job.block_job import BlockJob
from blockcore.machine.machine import Machine
from blockcore.qapi.names import BlockDeviceIoStatus, JobStatus, JobType
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable, FlatUnion

table = CommandTable()

_AT_WORK = frozenset(
    {
        *(JobStatus.CREATED, JobStatus.RUNNING, JobStatus.PAUSED),
        *(JobStatus.READY, JobStatus.STANDBY),
    }
)
"""The states in which a cancelled job has not come to its end."""

LAST_STEPS_NS = 1_000_000_000
"""How long a query waits for the last steps of a job before it shows them, in ns.

They may wait for a server that hangs.  A longer wait keeps the client without
an answer, a shorter one shows states that QEMU never shows.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobInfo:
    """QAPI's BlockJobInfo: `len` and `offset` in bytes, `speed` in bytes per second.

    `device` is the job's id.  `paused`: a user, an error or a drained section wants
    the job to pause, whatever `status` says.  `busy`: the job is at work right now.
    """

    answer: ClassVar[bool] = True
    type: JobType
    device: str
    len: int
    offset: int
    busy: bool
    paused: bool
    speed: int
    io_status: BlockDeviceIoStatus
    ready: bool
    status: JobStatus
    auto_finalize: bool
    auto_dismiss: bool
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobInfoMirror(BlockJobInfo):
    """QAPI's BlockJobInfoMirror: what query-block-jobs says of a mirror besides."""

    actively_synced: bool


BLOCK_JOB_INFO = FlatUnion(
    "BlockJobInfo", tag="type", base=BlockJobInfo, variants={"mirror": BlockJobInfoMirror}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """QAPI's JobInfo; progress in bytes, as far as it is known.

    `x-cancelled` is there, and true, while a cancelled job has not come to its
    end: it may wait for ever for a server that does not answer.
    """

    answer: ClassVar[bool] = True
    id: str
    type: JobType
    status: JobStatus
    current_progress: int
    total_progress: int
    error: str | None = None
    x_cancelled: bool | None = None


@table.command("query-block-jobs")
async def query_block_jobs(
    machine: Machine,
) -> list[Annotated[BlockJobInfo, BLOCK_JOB_INFO]]:
    """Return all block jobs, the newest first."""
    await undisturbed(machine)
    return [_block_job_info(job) for job in machine.jobs]


def _block_job_info(job: BlockJob) -> BlockJobInfo:
    shared: dict[str, Any] = {
        "type": job.type,
        "device": job.id,
        "len": job.progress.total,
        "offset": job.progress.current,
        "busy": job.busy,
        "paused": job.should_pause,
        "speed": job.limit.speed,
        "io_status": job.iostatus,
        "ready": job.is_ready,
        "status": job.status,
        "auto_finalize": job.auto_finalize,
        "auto_dismiss": job.auto_dismiss,
        "error": job.error_text,
    }
    synced = job.driver.actively_synced
    if synced is None:
        return BlockJobInfo(**shared)
    return BlockJobInfoMirror(**shared, actively_synced=synced)


@table.command("query-jobs")
async def query_jobs(machine: Machine) -> list[JobInfo]:
    """Return all jobs, the newest first."""
    await undisturbed(machine)
    return [
        JobInfo(
            id=job.id,
            type=job.type,
            status=job.status,
            current_progress=job.progress.current,
            total_progress=job.progress.total,
            error=job.error_text,
            x_cancelled=(job.is_cancelled and job.status in _AT_WORK) or None,
        )
        for job in machine.jobs
    ]


async def undisturbed(machine: Machine) -> None:
    """Wait until no job takes its last steps, but not longer than `LAST_STEPS_NS`.

    In QEMU the last steps are one piece of the main loop's work, which no command
    comes between.  Here they may wait for a server.
    """
    deadline_ns = machine.clock.monotonic_ns() + LAST_STEPS_NS
    await Until(lambda: not any(job.txn.finalizing for job in machine.jobs), deadline_ns)
