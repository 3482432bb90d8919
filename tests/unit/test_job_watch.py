# SPDX-License-Identifier: MIT
"""What `faultline jobs` and `faultline job` conclude from what a machine says, and how it looks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from blockcore.cli.job_list import Job, duration, merge, progress, shortened, size, table
from blockcore.cli.job_screen import BarScreen, LineScreen, describe
from blockcore.cli.job_watch import Ending, JobWatch, Need, Rate
from blockcore.cli.jobs import outcome

MIB = 1 << 20
HALF = MIB // 2


def info(status: str = "running", current: int = 0, **more: Any) -> dict[str, Any]:
    """A job as `query_jobs` has it."""
    return {
        **{"id": "j", "type": "stream", "status": status},
        **{"current-progress": current, "total-progress": MIB},
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


def changed(status: str, job_id: str = "j") -> dict[str, Any]:
    return {"event": "JOB_STATUS_CHANGE", "data": {"id": job_id, "status": status}}


def ended(name: str = "BLOCK_JOB_COMPLETED", **more: str) -> dict[str, Any]:
    data = {"type": "stream", "device": "j", "len": MIB, "offset": HALF, "speed": 0, **more}
    return {"event": name, "data": data}


def error(action: str, operation: str = "write") -> dict[str, Any]:
    data = {"device": "j", "operation": operation, "action": action}
    return {"event": "BLOCK_JOB_ERROR", "data": data}


def watched(*steps: dict[str, Any] | None) -> JobWatch:
    """A watch after events and looks; None for a look that finds no job."""
    watch = JobWatch("j")
    for step in steps:
        if step is not None and "event" in step:
            watch.take_event(step)
        else:
            watch.look([info("running", id="other")] + ([] if step is None else [step]))
    return watch


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
def test_how_a_job_ended(steps: Sequence[dict[str, Any] | None], ending: Ending | None) -> None:
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


def test_news_are_told_once() -> None:
    stopped = info("paused", io_status="nospace")
    watch = watched(info(), error("stop"), changed("paused"), stopped)
    text = "j: stopped by a write error, io-status nospace;"
    assert (watch.news() or "").startswith(text)
    watch.take_event(error("stop"))
    watch.look([stopped])
    assert watch.news() is None
    # Resumed, and stopped again, before anybody looked.
    for event in changed("running"), error("stop", "read"), changed("paused"):
        watch.take_event(event)
    watch.look([stopped])
    assert (watch.news() or "").startswith("j: stopped by a read error,")
    watch.look([info()])
    assert watch.news() is None
    watch.look([info("ready")])
    assert watch.news() == "j: ready; 'faultline job complete j' ends it"


def test_the_cause_of_an_older_stop_is_not_known() -> None:
    advice = watched(info("paused", io_status="failed")).advice() or ""
    assert advice.startswith("j: stopped by an error, io-status failed;")


OUTCOMES: dict[str, tuple[list[dict[str, Any] | None], str]] = {
    "pause": ([info("paused")], "j: paused"),
    "pause later": ([info("running")], "j: running, will pause"),
    "resume": ([info("running")], "j: running"),
    "resume later": ([info("paused")], "j: paused, will go on"),
    "resume in vain": (
        [error("stop", "read"), changed("paused"), info("paused", io_status="failed")],
        "j: stopped by a read error, io-status failed;"
        " 'faultline job resume j' lets it try again",
    ),
    "cancel": ([info(), ended("BLOCK_JOB_CANCELLED"), None], "j: cancelled"),
    "cancel later": ([info("ready")], "j: ready, will be cancelled"),
    "complete later": ([info("ready")], "j: ready, will be completed"),
    "finalize": ([info("concluded")], "j: completed"),
    "finalize in vain": ([info("concluded", error="E")], "j: failed: E"),
}


@pytest.mark.parametrize("case", OUTCOMES)
def test_what_has_become_of_a_job(case: str) -> None:
    steps, line = OUTCOMES[case]
    assert outcome(watched(*steps), case.split()[0]) == line


def rate_of(*samples: Any) -> Rate:
    """After samples: seconds, bytes, and a status other than running."""
    rate = Rate()
    for now_s, current, *status in samples:
        rate.take(now_s, Job.of(info("".join(status) or "running", current)))
    return rate


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
    assert rate.left_s(Job.of(info("running", HALF))) == 2
    assert rate.left_s(Job.of(info("ready", HALF))) is None
    assert rate_of((0, 0), (2, 0)).left_s(Job.of(info())) is None
    assert rate_of((0, 0)).left_s(Job.of(info())) is None


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        *((0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (MIB, "1.0 MiB")),
        *((MIB - 1, "1.0 MiB"), (1 << 30, "1.0 GiB"), (1 << 63, "8.0 EiB"), (0.4, "0 B")),
    ],
)
def test_size(nbytes: float, text: str) -> None:
    assert size(nbytes) == text


def test_duration() -> None:
    assert [duration(s) for s in (0.4, 64, 3599.6, 7264)] == ["0:00", "1:04", "1:00:00", "2:01:04"]


def test_progress_is_not_100_before_the_end() -> None:
    assert progress(Job.of(info("running", MIB - 1))) == "99.9% of 1.0 MiB"
    assert progress(Job.of(info("running", MIB))) == "100.0% of 1.0 MiB"
    assert progress(Job.of(info() | {"total-progress": 0})) == ""


BLOCK_JOB = {
    **{"type": "stream", "device": "j", "len": MIB, "offset": HALF, "busy": False},
    **{"paused": True, "speed": 3 * MIB, "io-status": "nospace", "ready": False},
    **{"status": "paused", "auto-finalize": True, "auto-dismiss": True},
}


def test_table() -> None:
    create_job = info(id="create", type="create", status="concluded", error="No such file")
    create_job["total-progress"] = 0
    merged = merge([info(), create_job], [BLOCK_JOB, BLOCK_JOB | {"device": "newer"}])
    assert merged[0] == info("paused", HALF) | {
        **{"speed": 3 * MIB, "io-status": "nospace", "busy": False, "paused": True},
        **{"ready": False, "auto-finalize": True, "auto-dismiss": True},
    }
    assert table([Job.of(job) for job in merged]) == [
        "ID      TYPE    STATUS     PROGRESS          SPEED      IO-STATUS  ERROR",
        "j       stream  paused     50.0% of 1.0 MiB  3.0 MiB/s  nospace    -",
        "create  create  concluded  -                 -          -          No such file",
    ]


def test_table_for_a_narrow_screen() -> None:
    """A line that wraps is under no heading."""
    named = {"id": "a-job-with-a-name-of-forty-characters-xx", "error": "Input/output error"}
    jobs = [Job.of(info("running", HALF)), Job.of(info("running", HALF) | named)]
    whole = table(jobs)
    width = max(map(len, whole))
    assert table(jobs, width) == whole
    assert table(jobs, width - 1) == [
        "TYPE    STATUS   PROGRESS          SPEED  IO-STATUS",
        "j",
        "stream  running  50.0% of 1.0 MiB  -      -",
        "a-job-with-a-name-of-forty-characters-xx",
        "stream  running  50.0% of 1.0 MiB  -      -",
        "  Input/output error",
    ]


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [("abcdef", 6, "abcdef"), ("abcdef", 5, "ab…ef"), ("abcdefg", 4, "ab…g"), ("", 3, "")],
)
def test_shortened(text: str, width: int, short: str) -> None:
    assert shortened(text, width) == short


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    tenth, screen = MIB // 10 + 1, LineScreen()
    for status, current in (
        *(("running", 0), ("running", tenth - 5), ("running", tenth), ("running", tenth + 5)),
        *(("paused", 3 * tenth), ("paused", 3 * tenth), ("running", 3 * tenth)),
    ):
        screen.show(Job.of(info(status, current)), Rate())
    screen.end(Job.of(info("running", MIB)), Ending("completed"))
    # Who waits says why.
    screen.end(Job.of(info("running", MIB)), Ending("failed", "E"))
    assert capsys.readouterr().out.splitlines() == [
        "j: running, 0.0% of 1.0 MiB",
        "j: running, 10.0% of 1.0 MiB",
        "j: paused, 30.0% of 1.0 MiB",
        "j: running, 30.0% of 1.0 MiB",
        "j: completed, 100.0% of 1.0 MiB",
    ]


def test_a_line_with_all_that_is_known() -> None:
    job = Job.of(info("running", HALF))
    line = describe(job, rate_of((0, 0), (8, HALF)))
    assert line == "j: running, 50.0% of 1.0 MiB, 64.0 KiB/s, 0:08 left"


def drawn(job: dict[str, Any], ending: Ending | None = None) -> str:
    """The last state of the bar in 80 columns."""
    text = io.StringIO()
    console = Console(
        file=text, force_terminal=True, width=80, color_system=None, _environ={"TERM": "xterm"}
    )
    with BarScreen(console) as screen:
        if ending is None:
            screen.show(Job.of(job), rate_of((0, 0), (8, HALF)))
        else:
            screen.end(Job.of(job), ending)
    return text.getvalue().rstrip("\x1b[?25h\n").rpartition("\x1b[2K")[2].rstrip()


def test_bar() -> None:
    half = drawn(info("running", HALF))
    assert half.startswith("j running    ━")
    assert half.endswith(" 50.0% of 1.0 MiB   64.0 KiB/s    0:08 left")
    # Room for the ^C of an interrupt is left.
    assert len(half) == 77
    paused = drawn(info("paused", HALF))
    assert (paused.startswith("j paused     ━"), len(paused)) == (True, 77 - 26)
    # A job of nothing is whole in the end.
    nothing = drawn(info() | {"total-progress": 0}, Ending("completed"))
    assert nothing.count("━") == drawn(info(current=MIB), Ending("completed")).count("━") > 15
