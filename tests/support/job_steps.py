# SPDX-License-Identifier: MIT
"""What a machine says about its job j, for tests of those who watch a job."""

from __future__ import annotations

from typing import Any

from faultline.events import Event
from faultline.job_info import JobInfo
from faultline.job_watch import JobWatch, Rate

Step = Event | dict[str, Any] | None
"""What a watch is told: an event, or a look that finds this job; None for one that finds none."""

MIB = 1 << 20
HALF = MIB // 2


def info(status: str = "running", current: int = 0, **more: Any) -> dict[str, Any]:
    """A job as `query_jobs` has it."""
    return {
        **{"id": "j", "type": "stream", "status": status},
        **{"current-progress": current, "total-progress": MIB},
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


def changed(status: str, job_id: str = "j") -> Event:
    return Event("JOB_STATUS_CHANGE", {"id": job_id, "status": status})


def ended(name: str = "BLOCK_JOB_COMPLETED", **more: str) -> Event:
    data = {"type": "stream", "device": "j", "len": MIB, "offset": HALF, "speed": 0, **more}
    return Event(name, data)


def error(action: str, operation: str = "write") -> Event:
    return Event("BLOCK_JOB_ERROR", {"device": "j", "operation": operation, "action": action})


def watched(*steps: Step) -> JobWatch:
    """A watch after events and looks; None for a look that finds no job."""
    watch = JobWatch("j")
    for step in steps:
        if isinstance(step, Event):
            watch.take_event(step)
        else:
            watch.look([info("running", id="other")] + ([] if step is None else [step]))
    return watch


def rate_of(*samples: Any) -> Rate:
    """After samples: seconds, bytes, and a status other than running."""
    rate = Rate()
    for now_s, current, *status in samples:
        rate.take(now_s, JobInfo.of(info("".join(status) or "running", current)))
    return rate
