# SPDX-License-Identifier: MIT
"""A job as the queries of the control socket show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

PAUSED = frozenset({"paused", "standby"})
"""The statuses of a job that is paused (JobStatus)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """A job at one moment; `current` and `total` in bytes.

    `speed` (the limit in bytes per second, 0 for none), `io_status` and
    `auto_finalize` are None for jobs that are no block jobs; QEMU has such.
    `cancelled` is whether the job was cancelled and has not ended yet.

    >>> info = JobInfo(id="m0", type="mirror", status="paused", current=0, total=8,
    ...                io_status="nospace")
    >>> info.stopped
    True
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
    def stopped(self) -> bool:
        """Whether an error keeps the job paused."""
        return self.status in PAUSED and self.io_status not in (None, "ok")

    @classmethod
    def of(cls, members: Mapping[str, Any]) -> Self:
        """Make a job from a member of the list that `merge` returns."""
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


def merge(
    jobs: Sequence[Mapping[str, Any]], block_jobs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Merge the replies to query-jobs and to query-block-jobs, which was asked later.

    Members of the later reply win.  The list has the jobs of the earlier one: a
    job that has ended since has no members of a block job.

    >>> job = {"id": "b", "type": "backup", "status": "running",
    ...        "current-progress": 0, "total-progress": 8}
    >>> merge([job], [{"device": "b", "offset": 4, "len": 8}])[0]["current-progress"]
    4
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
