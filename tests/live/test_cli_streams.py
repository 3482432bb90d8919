# SPDX-License-Identifier: MIT
"""What the command does when a standard stream is closed, full, or nobody reads it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import nbd
import pytest

from forks import Forks, Redirections
from live import FAULTLINE, TIMEOUT_S, Live, Qmp
from qcow2_images import create
from tree import TREE

ENVIRON = {**os.environ, "PYTHONPATH": str(TREE)}
MIB = 1 << 20

PRINTING = [
    "--help",
    "--version",
    "serve --help",
    "job wait --help",
    "qmp query-status",
    "jobs",
    "jobs --json",
    "job wait --stopped j",
    "job set-speed j 2",
    "status",
    "status --json",
    "ls",
    "fault list",
    "bitmap list --json",
    "completion bash",
    "wait STOP --or-state running",
]
"""Commands that have something to say on stdout: one of each kind, and all that a job has."""


def run_with(
    words: Sequence[str], redirection: str, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """The command as a shell runs it, with what is redirected there."""
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {redirection}', "bash", *FAULTLINE, *words],
        cwd=cwd,
        env=ENVIRON,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Job j is there, and never ends by itself."""
    directory = tmp_path_factory.mktemp("machine")
    (directory / "base").write_bytes(b"b" * MIB)
    create(directory / "top", MIB, "-u", "-b", "base", "-F", "raw")
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(Live(directory, "drive=id=vda,file=top,format=qcow2"))
        with live.qmp() as qmp:
            qmp("block-stream", device="vda", job_id="j", speed=1)
        ENVIRON["FAULTLINE_CONTROL"] = live.control
        yield live
        del ENVIRON["FAULTLINE_CONTROL"]


@pytest.fixture(scope="module")
def forks(machine: Live) -> Iterator[Forks]:
    """Commands that need no interpreter of their own, beside the machine."""
    with Forks(ENVIRON) as forks:
        yield forks


LOST = {
    ">/dev/full": ("/dev/full", "standard output: No space left on device"),
    ">&-": (None, "standard output is closed"),
}


@pytest.mark.parametrize("words", PRINTING)
@pytest.mark.parametrize("redirection", LOST)
def test_output_that_is_lost_is_a_failure(
    words: str, redirection: str, forks: Forks, tmp_path: Path
) -> None:
    file, reason = LOST[redirection]
    done = forks.run(words.split(), {1: file}, tmp_path)
    assert (done.returncode, done.stderr) == (1, f"faultline: {reason}\n")


@pytest.mark.parametrize("words", ["--help", "status --json"])
@pytest.mark.parametrize("redirection", LOST)
def test_output_of_an_interpreter_that_is_lost(
    words: str, redirection: str, machine: Live, tmp_path: Path
) -> None:
    """What a command of its own does before and after its own code is the same for all."""
    done = run_with(words.split(), redirection, tmp_path)
    assert (done.returncode, done.stderr) == (1, f"faultline: {LOST[redirection][1]}\n")


FAILING: dict[str, Redirections] = {
    "2>/dev/full": {2: "/dev/full"},
    "2>&-": {2: None},
    "<&- 2>&-": {0: None, 2: None},
}


@pytest.mark.parametrize("redirection", FAILING)
def test_stderr_that_fails_changes_nothing(
    redirection: str, machine: Live, forks: Forks, tmp_path: Path
) -> None:
    assert run_with(["qmp", "nonsense"], redirection, tmp_path).returncode == 1
    streams = FAILING[redirection]
    assert forks.run(["qmp", "query-status"], streams, tmp_path).returncode == 0
    assert forks.run(["qmp", "nonsense"], streams, tmp_path).returncode == 1
    assert forks.run(["--nonsense"], streams, tmp_path).returncode == 2
    assert forks.run(["events", "NONSENSE"], streams, tmp_path).returncode == 2
    with machine.qmp() as qmp, subprocess.Popen(
        ["bash", "-c", f'exec "$@" {redirection}', "bash", *FAULTLINE, "events", "--count", "1"],
        env=ENVIRON,
        stdout=subprocess.PIPE,
    ) as follower:
        # It cannot say that it is connected: send events until it has ended.
        qmp.wait_for(lambda: (qmp("stop"), qmp("cont"), ended(follower))[-1])
        assert follower.returncode == 0


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it ends soon; what asks again and again leaves it the processor meanwhile."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.02)
    return process.returncode is not None


def test_events_into_a_full_file(machine: Live) -> None:
    with machine.qmp() as qmp, open("/dev/full", "w") as full, subprocess.Popen(
        [*FAULTLINE, "events", "--count", "1", "STOP"],
        env=ENVIRON,
        stdout=full,
        stderr=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stderr is not None
        assert follower.stderr.readline().startswith("faultline: following ")
        qmp("stop")
        qmp("cont")
        reason = "standard output: No space left on device"
        assert follower.stderr.read() == f"faultline: {reason}\n"
    assert follower.returncode == 1


CLOSED = [streams for streams in product((True, False), repeat=3) if any(streams)]


@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_serve_with_closed_streams(closed: tuple[bool, bool, bool], tmp_path: Path) -> None:
    """Without stdout nobody would know when it is ready; the others are only missed."""
    redirection = " ".join(
        text for text, is_closed in zip(("<&-", ">&-", "2>&-"), closed, strict=True) if is_closed
    )
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" {redirection}', "bash", *FAULTLINE, "serve"],
        cwd=tmp_path,
        env={**ENVIRON, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if not closed[1]:
        ready = json.loads(process.stdout.readline())
        guest = nbd.NBD()
        guest.connect_uri(ready["drives"]["vda"])
        guest.pwrite(b"x", 0)
        guest.shutdown()
        with Qmp.connect(ready["control"]) as qmp:
            qmp("quit")
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == (1 if closed[1] else 0), err
    if closed[1] and not closed[2]:
        assert err == "faultline: standard output is closed: the ready line goes there\n"
    assert not list(tmp_path.iterdir())
