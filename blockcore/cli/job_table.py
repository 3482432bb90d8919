# SPDX-License-Identifier: MIT
"""The jobs of a machine as lines of text."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from blockcore.cli.amounts import limit, size
from blockcore.cli.tables import aligned, fitted
from faultline.job_info import JobInfo
from faultline.job_watch import JobWatch, Need

COLUMNS = ("ID", "TYPE", "STATUS", "PROGRESS", "SPEED", "IO-STATUS", "ERROR")


def table(jobs: Sequence[JobInfo], width: int | None = None) -> list[str]:
    """Return the lines of a table: a heading, and one line for each job.

    If that is wider than `width`, ids and errors get lines of their own, and the
    columns between them stay aligned; if that is too wide as well, the cells of each
    job are in a few lines.
    """
    # First the table with all columns.  Only if it is too wide: without the first and the last
    # column, whose cells have any length, between lines for these.
    cells = [
        (
            job.id,
            job.type,
            shown_status(job),
            progress(job),
            "" if job.speed is None else limit(job.speed),
            job.io_status or "",
            job.error or "",
        )
        for job in jobs
    ]
    rows = [COLUMNS, *(tuple(cell or "-" for cell in row) for row in cells)]
    lines = aligned(rows)
    if width is None or max(map(len, lines)) <= width:
        return lines
    heading, *between = aligned([row[1:-1] for row in rows])
    if max(map(len, (heading, *between))) > width:
        return fitted(COLUMNS, cells, width)
    lines = [heading]
    for job, line in zip(jobs, between, strict=True):
        lines += [job.id, line, *([] if job.error is None else [f"  {job.error}"])]
    return lines


def shown_status(job: JobInfo) -> str:
    """Return the status as shown: QEMU's word, or "cancelling" for a job that was cancelled."""
    return "cancelling" if job.cancelled else job.status


def progress(job: JobInfo) -> str:
    """Return ``37.5% of 1.0 GiB``; empty if the total is unknown.

    Rounded down, so that 100.0% means all of it.
    """
    if not job.total:
        return ""
    tenths = job.current * 1000 // job.total
    return f"{tenths // 10}.{tenths % 10}% of {size(job.total)}"


def advice(watch: JobWatch) -> str | None:
    """Return a line that says what a job waits for, and which command helps; or None."""
    if watch.need is None or watch.job is None:
        return None
    name = shlex.quote(watch.id)
    if watch.need is Need.STOPPED:
        cause = "an error" if watch.operation is None else f"a {watch.operation} error"
        return (
            f"{watch.id}: stopped by {cause}, io-status {watch.job.io_status};"
            f" 'faultline job resume {name}' lets it try again"
        )
    if watch.need is Need.READY:
        return f"{watch.id}: ready; 'faultline job complete {name}' ends it"
    return f"{watch.id}: pending; 'faultline job finalize {name}' ends it"


class News:
    """What a job waits for, told once each time that changes."""

    def __init__(self, watch: JobWatch) -> None:
        self._watch = watch
        self._told: tuple[Need | None, int] = (None, 0)

    def line(self) -> str | None:
        """Return `advice` if it is news; None otherwise."""
        need = self._watch.need
        # A job that was resumed and has stopped again is news, even without a look in between.
        now = need, self._watch.resumed if need is Need.STOPPED else 0
        if now == self._told:
            return None
        self._told = now
        return advice(self._watch)
