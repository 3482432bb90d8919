# SPDX-License-Identifier: MIT
"""What a client concludes about a job from what a machine says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from faultline.job_info import JobInfo
from faultline.job_watch import Ending, Need
from job_steps import HALF, Step, changed, ended, error, info, rate_of, watched

ENDINGS = {
    "runs": ([info()], None),
    "not there": ([None], None),
    "completed, but not let go yet": ([info(), ended()], None),
    "completed and dismissed": ([info(), ended(), None], Ending("completed")),
    "by its last event": ([info(), ended(), changed("null")], Ending("completed")),
    "completed and kept": ([info("concluded")], Ending("completed")),
    "failed": ([info(), ended(error="No space"), None], Ending("failed", "No space")),
    "failed and kept": ([info("concluded", error="No space")], Ending("failed", "No space")),
    "cancelled": ([info(), ended("BLOCK_JOB_CANCELLED"), None], Ending("cancelled")),
    "cancelled and kept": (
        [info("concluded", error="Operation canceled")],
        Ending("cancelled"),
    ),
    "without an event of its own": ([info(), changed("concluded"), None], Ending("completed")),
    "never started": ([info("created"), changed("aborting"), None], Ending("failed")),
    "before the first look": ([ended(error="E"), changed("null"), None], Ending("failed", "E")),
    "another's end": ([info(), changed("null", "other"), info()], None),
    "its name taken by another": (
        [info(), ended(), changed("null"), changed("running"), info()],
        Ending("completed"),
    ),
}


@pytest.mark.parametrize(("steps", "ending"), ENDINGS.values(), ids=ENDINGS)
def test_how_a_job_ended(steps: Sequence[Step], ending: Ending | None) -> None:
    assert watched(*steps).ending == ending


def test_how_a_job_ended_with_its_machine() -> None:
    for steps, ending in (
        ([info()], None),
        ([info(), ended("BLOCK_JOB_CANCELLED")], Ending("cancelled")),
    ):
        watch = watched(*steps)
        watch.lost()
        assert watch.ending == ending


NEEDS = {
    "runs": (info(), None),
    "paused by somebody": (info("paused", io_status="ok"), None),
    "stopped": (info("paused", io_status="nospace"), Need.STOPPED),
    "stopped after it was ready": (info("standby", io_status="failed"), Need.STOPPED),
    "will be paused": (info("running", io_status="failed"), None),
    "ready": (info("ready", io_status="ok"), Need.READY),
    "ready and paused by somebody": (info("standby", io_status="ok"), Need.READY),
    "pending": (info("pending", auto_finalize=False), Need.PENDING),
    "passes through": (info("pending", auto_finalize=True), None),
    "no block job": (info("pending"), None),
    "over": (info("concluded", io_status="failed", error="E"), None),
}


@pytest.mark.parametrize(("job", "need"), NEEDS.values(), ids=NEEDS)
def test_what_a_job_waits_for(job: dict[str, Any], need: Need | None) -> None:
    assert watched(job).need == need


def test_which_events_are_worth_a_look() -> None:
    watch = watched(info())
    assert watch.take_event(changed("paused"))
    assert not watch.take_event(changed("paused", "other"))
    assert not watch.take_event(error("ignore"))
    # The status that follows is.
    assert not watch.take_event(ended())


@pytest.mark.parametrize(
    ("samples", "bytes_per_s"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([(5, 100)], None, id="one"),
        pytest.param([(5, 100), (5.75, 200)], None, id="too-short"),
        pytest.param([(5, 100), (7, 200)], 50, id="two"),
        pytest.param([(5, 100), (5.5, 100), (9, 180)], 20, id="over-all"),
        pytest.param([(0, 0), (10, 1000), (20, 1010)], 1, id="of-late"),
        pytest.param([(5, 100), (9, 100)], 0, id="stuck"),
        pytest.param([(5, 0), (7, 100, "paused"), (9, 100, "paused")], None, id="paused"),
        pytest.param(
            [(5, 0), (7, 100, "paused"), (60, 100, "paused"), (62, 300)], 100, id="resumed"
        ),
        pytest.param([(5, 500), (7, 900), (8, 0), (10, 20)], 10, id="from-the-beginning"),
    ],
)
def test_rate(samples: list[Any], bytes_per_s: float | None) -> None:
    assert rate_of(*samples).bytes_per_s == bytes_per_s


def test_time_left() -> None:
    rate = rate_of((0, 0), (2, HALF))
    assert rate.left_s(JobInfo.of(info("running", HALF))) == 2
    assert rate.left_s(JobInfo.of(info("ready", HALF))) is None
    assert rate_of((0, 0), (2, 0)).left_s(JobInfo.of(info())) is None
    assert rate_of((0, 0)).left_s(JobInfo.of(info())) is None
