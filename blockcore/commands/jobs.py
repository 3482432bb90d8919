# SPDX-License-Identifier: MIT
"""Steering jobs: the commands job-* and block-job-*, which are alike but for names and errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from blockcore.bql.effects import Until
from blockcore.job.block_job import BlockJob
from blockcore.job.job_txn import JobTxn
from blockcore.machine.machine import Machine
from blockcore.qapi.events import (
    BlockJobCancelled,
    BlockJobCompleted,
    BlockJobError,
    BlockJobPending,
    BlockJobReady,
    JobStatusChange,
)
from blockcore.qapi.names import JobType, JobVerb, MirrorCopyMode, QapiErrorClass, QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable, FlatUnion

table = CommandTable()
for _event in (
    *(JobStatusChange, BlockJobError, BlockJobReady, BlockJobPending),
    *(BlockJobCompleted, BlockJobCancelled),
):
    table.event(_event)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobChangeOptions:
    id: str
    type: JobType


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockJobChangeOptionsMirror(BlockJobChangeOptions):
    copy_mode: MirrorCopyMode


BLOCK_JOB_CHANGE_OPTIONS = FlatUnion(
    "BlockJobChangeOptions",
    tag="type",
    base=BlockJobChangeOptions,
    variants={"mirror": BlockJobChangeOptionsMirror},
)


async def find_job(machine: Machine, job_id: str) -> BlockJob:
    """Return the job of that id; raise QmpError as job-* commands do.

    Wait first while the job takes its last steps.  In QEMU these are one piece of
    the main loop's work, so that no command finds the job between them.
    """
    await Until(lambda: not any(job.txn.finalizing for job in _of_id(machine, job_id)))
    for job in _of_id(machine, job_id):
        return job
    raise QmpError("Job not found")


def _of_id(machine: Machine, job_id: str) -> Iterator[BlockJob]:
    return (job for job in machine.jobs if job.id == job_id)


async def find_block_job(machine: Machine, job_id: str) -> BlockJob:
    """Return the job of that id; raise QmpError as block-job-* commands do."""
    try:
        return await find_job(machine, job_id)
    except QmpError:
        raise QmpError(
            f"Block job '{job_id}' not found", QapiErrorClass.DEVICE_NOT_ACTIVE
        ) from None


async def _answer_after(job: BlockJob) -> None:
    """Wait until the job has noticed the command.

    QEMU enters the job's coroutine before it answers, so that the events of what
    the job does at once come before the reply.
    """
    await Until(job.entry_taken)


@table.command("job-pause")
async def job_pause(machine: Machine, *, id: str) -> None:
    """Ask a job to pause as soon as it can; JOB_STATUS_CHANGE tells when it has."""
    await _pause(await find_job(machine, id))


@table.command("block-job-pause")
async def block_job_pause(machine: Machine, *, device: str) -> None:
    """Ask a job to pause, as `job-pause` does."""
    await _pause(await find_block_job(machine, device))


async def _pause(job: BlockJob) -> None:
    job.user_pause()
    await _answer_after(job)


@table.command("job-resume")
async def job_resume(machine: Machine, *, id: str) -> None:
    """Let a job go on that a user or an error has paused; its io-status becomes ok."""
    await _resume(await find_job(machine, id))


@table.command("block-job-resume")
async def block_job_resume(machine: Machine, *, device: str) -> None:
    """Let a job go on, as `job-resume` does."""
    await _resume(await find_block_job(machine, device))


async def _resume(job: BlockJob) -> None:
    job.user_resume()
    await _answer_after(job)


@table.command("job-cancel")
async def job_cancel(machine: Machine, *, id: str) -> None:
    """Cancel a job at once, in whatever state it is."""
    _hurry(machine, id)
    await _cancel(await find_job(machine, id), force=True)


@table.command("block-job-cancel")
async def block_job_cancel(machine: Machine, *, device: str, force: bool = False) -> None:
    """Cancel a job; without `force` a ready one completes its copy, and the drive stays put."""
    if force:
        _hurry(machine, device)
    job = await find_block_job(machine, device)
    if job.user_paused and not force:
        raise QmpError(f"The block job for device '{device}' is currently paused")
    await _cancel(job, force=force)


def _hurry(machine: Machine, job_id: str) -> None:
    """Keep a job that takes its last steps from waiting for a server that hangs."""
    for job in _of_id(machine, job_id):
        if job.txn.finalizing:
            job.driver.cancel(job, True)


async def _cancel(job: BlockJob, *, force: bool) -> None:
    job.check_verb(JobVerb.CANCEL)
    await job.cancel(force)
    await _answer_after(job)


@table.command("job-complete")
async def job_complete(machine: Machine, *, id: str) -> None:
    """Let a ready job come to its end; the drive then uses what the job has made."""
    await _complete(await find_job(machine, id))


@table.command("block-job-complete")
async def block_job_complete(machine: Machine, *, device: str) -> None:
    """Let a ready job come to its end, as `job-complete` does."""
    await _complete(await find_block_job(machine, device))


async def _complete(job: BlockJob) -> None:
    job.user_complete()
    await _answer_after(job)


@table.command("job-finalize")
async def job_finalize(machine: Machine, *, id: str) -> None:
    """Take the last steps of a pending job, and of all other jobs of its transaction."""
    await _finalize(await find_job(machine, id))


@table.command("block-job-finalize")
async def block_job_finalize(machine: Machine, *, id: str) -> None:
    """Take the last steps of a pending job, as `job-finalize` does."""
    await _finalize(await find_block_job(machine, id))


async def _finalize(job: BlockJob) -> None:
    job.check_verb(JobVerb.FINALIZE)
    assert isinstance(job.txn, JobTxn)
    await job.txn.finalize()


@table.command("job-dismiss")
async def job_dismiss(machine: Machine, *, id: str) -> None:
    """Forget a concluded job."""
    _dismiss(await find_job(machine, id))


@table.command("block-job-dismiss")
async def block_job_dismiss(machine: Machine, *, id: str) -> None:
    """Forget a concluded job, as `job-dismiss` does."""
    _dismiss(await find_block_job(machine, id))


def _dismiss(job: BlockJob) -> None:
    job.check_verb(JobVerb.DISMISS)
    job.dismiss()


@table.command("block-job-change", boxed=True)
async def block_job_change(
    machine: Machine,
    *,
    options: Annotated[BlockJobChangeOptions, BLOCK_JOB_CHANGE_OPTIONS],
) -> None:
    """Let a mirror copy guests' writes before they are answered, from now on.

    QEMU has no other change of a job (block_job_change).
    """
    job = await find_block_job(machine, options.id)
    job.check_verb(JobVerb.CHANGE)
    if isinstance(options, BlockJobChangeOptionsMirror):
        await job.driver.change(job, options.copy_mode)
    else:
        # QEMU looks at the mirror's member of its union whatever `type` says, and finds 0 there,
        # which is `background` (mirror_change).
        await job.driver.change(job, MirrorCopyMode.BACKGROUND)


@table.command("block-job-set-speed")
async def block_job_set_speed(machine: Machine, *, device: str, speed: int) -> None:
    """Limit a job to `speed` bytes per second; 0 is no limit."""
    job = await find_block_job(machine, device)
    job.set_speed(speed)
    await _answer_after(job)
