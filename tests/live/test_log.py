# SPDX-License-Identifier: MIT
"""What the log looks like, and how much its lines matter."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from blockcore.process.log import TRACE_FRAMES, has_colours, level_of, trace_of
from blockcore.process.server import Server
from live import FAULTLINE, TIMEOUT_S, Live
from told import capture_logs
from tree import TREE

IO_ERROR = {"operation": "write", "reason": "x"}


@pytest.mark.parametrize(
    ("event", "data", "level"),
    [
        ("BLOCK_IO_ERROR", IO_ERROR | {"action": "report"}, "error"),
        ("BLOCK_IO_ERROR", IO_ERROR | {"action": "stop"}, "error"),
        ("BLOCK_IO_ERROR", IO_ERROR | {"action": "ignore"}, "warning"),
        ("BLOCK_IO_ERROR", IO_ERROR | {"action": "retry"}, "warning"),
        ("BLOCK_JOB_ERROR", {"action": "stop"}, "error"),
        ("BLOCK_JOB_ERROR", {"action": "ignore"}, "warning"),
        ("BLOCK_JOB_COMPLETED", {"len": 0}, "info"),
        ("BLOCK_JOB_COMPLETED", {"len": 0, "error": "x"}, "error"),
        ("BLOCK_IMAGE_CORRUPTED", {}, "error"),
        ("STOP", {}, "info"),
    ],
)
def test_levels(event: str, data: dict[str, Any], level: str) -> None:
    assert level_of(event, data) == level


def test_an_error_is_one_in_the_log(tmp_path: Path) -> None:
    with Live(tmp_path, "drive=id=vda,driver=null-co") as live, live.qmp() as qmp:
        qmp("x-fault-add", node_name="vda", iotype="read")
        with live.guest() as guest, pytest.raises(Exception, match="Input/output error"):
            guest.pread(512, 0)
        qmp.wait_event("BLOCK_IO_ERROR")
    (line,) = (line for line in live.log.read_text().splitlines() if "BLOCK_IO_ERROR" in line)
    assert '"level": "error"' in line


def test_a_trace_has_the_innermost_frames() -> None:
    def deeper(left: int) -> int:
        return deeper(left - 1) if left else 1 // left

    with pytest.raises(ZeroDivisionError) as caught:
        deeper(2 * TRACE_FRAMES)
    trace = trace_of(caught.value)
    assert trace.startswith("Traceback") and trace.rstrip().endswith("modulo by zero")
    assert "test_a_trace" not in trace
    assert trace_of(None) == ""


def test_a_bug_in_a_driver_is_logged_with_its_trace(tmp_path: Path) -> None:
    server = Server({}, str(tmp_path))
    with capture_logs() as logs, server.lock.region():
        try:
            raise KeyError("key")
        except KeyError as exc:
            server._bug("node 'n'", exc)
    (told,) = logs
    assert (told["level"], told["where"]) == ("error", "node 'n'")
    assert "Traceback" in told["trace"] and "KeyError: 'key'" in told["trace"]


@pytest.mark.parametrize(
    ("environ", "is_terminal", "colours"),
    [
        ({}, True, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm"}, False, False),
    ],
)
def test_colours_for_who_sees_them(
    environ: dict[str, str], is_terminal: bool, colours: bool
) -> None:
    assert has_colours(environ, is_terminal) is colours


def test_no_colours_in_a_file(tmp_path: Path) -> None:
    """Though the format is the one for people."""
    log = tmp_path / "log"
    with log.open("w") as stderr, subprocess.Popen(
        [*FAULTLINE, "serve", "--log-format", "console"],
        env={**os.environ, "PYTHONPATH": str(TREE), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=stderr,
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
    text = log.read_text()
    assert "serving" in text and "\33" not in text and not text.startswith("{")
