# SPDX-License-Identifier: MIT
"""What `faultline jobs` and `faultline job` say, and how it looks."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from blockcore.cli.amounts import duration, shortened, size
from blockcore.cli.job_screen import BarScreen, LineScreen, describe
from blockcore.cli.job_table import News, advice, progress, table
from blockcore.cli.jobs import in_vain, outcome
from faultline.job_info import JobInfo, merge
from faultline.job_watch import Ending, Need, Rate
from job_steps import HALF, MIB, Step, changed, ended, error, info, rate_of, watched


def test_news_are_told_once() -> None:
    stopped = info("paused", io_status="nospace")
    watch = watched(info(), error("stop"), changed("paused"), stopped)
    news = News(watch)
    text = "j: stopped by a write error, io-status nospace;"
    assert (news.line() or "").startswith(text)
    watch.take_event(error("stop"))
    watch.look([stopped])
    assert news.line() is None
    # Resumed, and stopped again, before anybody looked.
    for event in changed("running"), error("stop", "read"), changed("paused"):
        watch.take_event(event)
    watch.look([stopped])
    assert (news.line() or "").startswith("j: stopped by a read error,")
    watch.look([info()])
    assert news.line() is None
    watch.look([info("ready")])
    assert news.line() == "j: ready; 'faultline job complete j' ends it"


def test_the_cause_of_an_older_stop_is_not_known() -> None:
    text = advice(watched(info("paused", io_status="failed"))) or ""
    assert text.startswith("j: stopped by an error, io-status failed;")


OUTCOMES: dict[str, tuple[list[Step], str]] = {
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
    assert progress(JobInfo.of(info("running", MIB - 1))) == "99.9% of 1.0 MiB"
    assert progress(JobInfo.of(info("running", MIB))) == "100.0% of 1.0 MiB"
    assert progress(JobInfo.of(info() | {"total-progress": 0})) == ""


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
    assert table([JobInfo.of(job) for job in merged]) == [
        "ID      TYPE    STATUS     PROGRESS          SPEED      IO-STATUS  ERROR",
        "j       stream  paused     50.0% of 1.0 MiB  3.0 MiB/s  nospace    -",
        "create  create  concluded  -                 -          -          No such file",
    ]


def test_table_for_a_narrow_screen() -> None:
    """A line that wraps is under no heading."""
    named = {"id": "a-job-with-a-name-of-forty-characters-xx", "error": "Input/output error"}
    jobs = [JobInfo.of(info("running", HALF)), JobInfo.of(info("running", HALF) | named)]
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
        screen.show(JobInfo.of(info(status, current)), Rate())
    screen.end(JobInfo.of(info("running", MIB)), Ending("completed"))
    # Who waits says why.
    screen.end(JobInfo.of(info("running", MIB)), Ending("failed", "E"))
    assert capsys.readouterr().out.splitlines() == [
        "j: running, 0.0% of 1.0 MiB",
        "j: running, 10.0% of 1.0 MiB",
        "j: paused, 30.0% of 1.0 MiB",
        "j: running, 30.0% of 1.0 MiB",
        "j: completed, 100.0% of 1.0 MiB",
    ]


def test_a_line_with_all_that_is_known() -> None:
    job = JobInfo.of(info("running", HALF))
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
            screen.show(JobInfo.of(job), rate_of((0, 0), (8, HALF)))
        else:
            screen.end(JobInfo.of(job), ending)
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


def test_a_job_that_is_not_where_it_was_awaited() -> None:
    assert in_vain(watched(info()), frozenset()) == "j: running, not over"
    until = frozenset({Need.READY, Need.STOPPED})
    assert in_vain(watched(info("paused")), until) == "j: paused, not over, ready or stopped"
    assert in_vain(watched(), until) == "j: no answer"
