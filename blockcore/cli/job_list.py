# SPDX-License-Identifier: MIT
"""Jobs as a machine tells of them, and how a line of text does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from qemu.qmp import QMPClient

from blockcore.cli.session import reply

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

PAUSED = frozenset({"paused", "standby"})

COLUMNS = ("ID", "TYPE", "STATUS", "PROGRESS", "SPEED", "IO-STATUS", "ERROR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job; progress in bytes.

    What only block jobs have, and QEMU has others, is None without a value:
    `speed`, the limit in bytes per second, 0 for none; `io_status`;
    `auto_finalize`.
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
        """What it is for somebody who looks: QEMU's word, unless it only waits to be over."""
        return "cancelling" if self.cancelled else self.status

    @property
    def stopped(self) -> bool:
        """Whether an error keeps it paused."""
        return self.status in PAUSED and self.io_status not in (None, "ok")

    @classmethod
    def of(cls, members: Mapping[str, Any]) -> Self:
        """From what `query_jobs` gives for a job."""
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
    """All jobs, JobInfo's members with those that BlockJobInfo adds."""
    jobs: Any = await reply(client, path, "query-jobs")
    block_jobs: Any = await reply(client, path, "query-block-jobs")
    return merge(jobs, block_jobs)


def merge(
    jobs: Sequence[Mapping[str, Any]], block_jobs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What was asked last holds; a job may have come or gone since what was asked first."""
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
    """Lines: a heading, and one for each job.

    Where that is wider than `width`, ids and errors have lines of their own, so
    that the columns between them stay under each other.
    """
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
    """Text without its middle, if it is longer than that; both ends tell names apart."""
    if len(text) <= width:
        return text
    head = width // 2
    return f"{text[:head]}…{text[len(text) - (width - head - 1):]}"


def progress(job: Job) -> str:
    """``37.5% of 1.0 GiB``, never 100 before it is; empty while the job does not know."""
    if not job.total:
        return ""
    tenths = job.current * 1000 // job.total
    return f"{tenths // 10}.{tenths % 10}% of {size(job.total)}"


def size(nbytes: float) -> str:
    """With the largest unit that leaves a whole number before the point."""
    power = 0
    # 1023.95 would become "1024.0".
    while power + 1 < len(UNITS) and nbytes >= 1023.95:
        nbytes, power = nbytes / 1024, power + 1
    return f"{nbytes:.{1 if power else 0}f} {UNITS[power]}"


def limit(speed: int) -> str:
    """A speed limit in words."""
    return f"{size(speed)}/s" if speed else "unlimited"


def duration(seconds: float) -> str:
    """``1:04``, or with hours ``2:01:04``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
