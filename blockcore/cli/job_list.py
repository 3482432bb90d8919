# SPDX-License-Identifier: MIT
"""The jobs of a machine, as queries return them and as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from qemu.qmp import QMPClient

from blockcore.cli.session import reply

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

PAUSED = frozenset({"paused", "standby"})

"""The statuses of a job that is paused (JobStatus)."""

COLUMNS = ("ID", "TYPE", "STATUS", "PROGRESS", "SPEED", "IO-STATUS", "ERROR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job; `current` and `total` in bytes.

    `speed` (the limit in bytes per second, 0 for none), `io_status` and
    `auto_finalize` are None for jobs that are no block jobs; QEMU has such.
    """

    id: str
    type: str
    status: str
    current: int
    total: int
    speed: int | None = None
    io_status: str | None = None
    auto_finalize: bool | None = None
    error: str | None = None
    cancelled: bool = False

    @property
    def shown_status(self) -> str:
        """The status as shown: QEMU's word, or "cancelling" for a job that was cancelled."""
        return "cancelling" if self.cancelled else self.status

    @property
    def stopped(self) -> bool:
        """Whether an error keeps the job paused."""
        return self.status in PAUSED and self.io_status not in (None, "ok")

    @classmethod
    def of(cls, members: Mapping[str, Any]) -> Self:
        """Make a job from a member of the list that `query_jobs` returns."""
        return cls(
            id=members["id"],
            type=members["type"],
            status=members["status"],
            current=members["current-progress"],
            total=members["total-progress"],
            speed=members.get("speed"),
            io_status=members.get("io-status"),
            auto_finalize=members.get("auto-finalize"),
            error=members.get("error"),
            cancelled=members.get("x-cancelled", False),
        )


async def query_jobs(client: QMPClient, path: str) -> list[dict[str, Any]]:
    """Return all jobs: the members of JobInfo, and those that BlockJobInfo adds.

    Two commands are needed, so a job may come or go between them.  Raises
    ClickException, or ConnectionLost if there is no reply.
    """
    jobs: Any = await reply(client, path, "query-jobs")
    block_jobs: Any = await reply(client, path, "query-block-jobs")
    return merge(jobs, block_jobs)


def merge(
    jobs: Sequence[Mapping[str, Any]], block_jobs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Merge the replies to query-jobs and to query-block-jobs, which was asked later.

    Members of the later reply win.  The list has the jobs of the earlier one: a
    job that has ended since has no members of a block job.
    """
    later = {job["device"]: job for job in block_jobs}
    merged = []
    for job in jobs:
        block = dict(later.get(job["id"], {}))
        block.pop("device", None)
        if block:
            block["current-progress"] = block.pop("offset")
            block["total-progress"] = block.pop("len")
        merged.append({**job, **block})
    return merged


def table(jobs: Sequence[Job], width: int | None = None) -> list[str]:
    """Return the lines of a table: a heading, and one line for each job.

    If that is wider than `width`, ids and errors get lines of their own, and the
    columns between them stay aligned.
    """
    # First the table with all columns.  Only if it is too wide: without the first and the last
    # column, whose cells have any length, between lines for these.
    rows = [COLUMNS] + [
        (
            job.id,
            job.type,
            job.shown_status,
            progress(job) or "-",
            "-" if job.speed is None else limit(job.speed),
            job.io_status or "-",
            job.error or "-",
        )
        for job in jobs
    ]
    lines = _aligned(rows)
    if width is None or max(map(len, lines)) <= width:
        return lines
    heading, *between = _aligned([row[1:-1] for row in rows])
    lines = [heading]
    for job, line in zip(jobs, between, strict=True):
        lines += [job.id, line, *([] if job.error is None else [f"  {job.error}"])]
    return lines


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def shortened(text: str, width: int) -> str:
    """Return a text in at most `width` columns, without its middle if it is longer.

    Names tend to differ at one of their ends, so both are kept.
    """
    if len(text) <= width:
        return text
    head = width // 2
    return f"{text[:head]}…{text[len(text) - (width - head - 1):]}"


def progress(job: Job) -> str:
    """Return ``37.5% of 1.0 GiB``; empty if the total is unknown.

    Rounded down, so that 100.0% means all of it.
    """
    if not job.total:
        return ""
    tenths = job.current * 1000 // job.total
    return f"{tenths // 10}.{tenths % 10}% of {size(job.total)}"


def size(nbytes: float) -> str:
    """Return a size in the largest binary unit of which there is at least one."""
    power = 0
    # 1023.95 would become "1024.0".
    while power + 1 < len(UNITS) and nbytes >= 1023.95:
        nbytes, power = nbytes / 1024, power + 1
    return f"{nbytes:.{1 if power else 0}f} {UNITS[power]}"


def limit(speed: int) -> str:
    """Return a speed limit (bytes per second, 0 for none) in words."""
    return f"{size(speed)}/s" if speed else "unlimited"


def duration(seconds: float) -> str:
    """Return ``1:04``, or with hours ``2:01:04``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
