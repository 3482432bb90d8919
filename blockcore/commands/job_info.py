# SPDX-License-Identifier: MIT
"""Jobs as seen from outside: query-jobs and query-block-jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from blockcore.bql.effects import Until
from blockcore.job.block_job import BlockJob
from blockcore.machine.machine import Machine
from blockcore.qapi.names import BlockDeviceIoStatus, JobStatus, JobType
from blockcore.qapi.schema import CommandTable, FlatUnion

table = CommandTable()

_AT_WORK = frozenset(
    {
        *(JobStatus.CREATED, JobStatus.RUNNING, JobStatus.PAUSED),
        *(JobStatus.READY, JobStatus.STANDBY),
    }
)

LAST_STEPS_NS = 1_000_000_000
"""What the last steps of a job may take before they are seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobInfo:
    """QAPI's BlockJobInfo: `len` and `offset` in bytes, `speed` in bytes per second.

    `device` is the job's id.  `paused`: somebody wants it to pause, whatever
    `status` says.  `busy`: it is at work right now.
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
    """What query-block-jobs says of a mirror besides."""

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
    """All block jobs, the newest first."""
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
    """All jobs, the newest first."""
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
    """Wait until no job takes its last steps, which nobody sees from outside in QEMU.

    Not without end: there is a server under one of them, perhaps, that hangs.
    """
    deadline_ns = machine.clock.monotonic_ns() + LAST_STEPS_NS
    await Until(lambda: not any(job.txn.finalizing for job in machine.jobs), deadline_ns)
