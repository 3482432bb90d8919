# SPDX-License-Identifier: MIT
"""`faultline jobs` and `faultline job` with real jobs, of machines and of QEMU."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockcore.cli import main
from live import FAULTLINE, TIMEOUT_S, Live, Qmp
from qcow2_images import create
from tree import TREE

MIB = 1 << 20
HALF = MIB // 2
"""What a stream copies at a time."""

AT_HALF = "50.0% of 1.0 MiB"

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """Its drive vda has a backing file of 1 MiB."""
    (tmp_path / "base").write_bytes(b"b" * MIB)
    create(tmp_path / "top", MIB, "-u", "-b", "base", "-F", "raw")
    with Live(
        tmp_path, "drive=id=vda,file=top,node-name=top", "job-error-check=modern"
    ) as live:
        monkeypatch.setenv("FAULTLINE_CONTROL", live.control)
        yield live


@pytest.fixture
def qmp(machine: Live) -> Iterator[Qmp]:
    with machine.qmp() as client:
        yield client


def stream(qmp: Qmp, **more: Any) -> None:
    """Start job j, and let it copy half of the disk; its speed limit lets it get no further."""
    qmp("block-stream", device="vda", **{"job_id": "j", "speed": 1, **more})
    qmp.wait_for(lambda: qmp("query-jobs")[0]["current-progress"] == HALF)


def fail(qmp: Qmp, **more: object) -> None:
    """From now on the second half of the disk cannot be written."""
    qmp("x-fault-add", node_name="top", iotype="write", offset=HALF, id="f", **more)


class Waiting:
    """`faultline job wait` as somebody else's process."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [*FAULTLINE, "job", "wait", *words],
            cwd=TREE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def end(self) -> tuple[int, list[str], str]:
        """Exit status, the lines that were not read yet, stderr."""
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out.splitlines(), err


def test_jobs(qmp: Qmp, capsys: Captured) -> None:
    assert main(["jobs"]) == 0
    assert capsys.readouterr() == ("There are no jobs.\n", "")
    assert main(["jobs", "--json"]) == 0
    assert capsys.readouterr() == ("[]\n", "")
    stream(qmp, speed=1 << 10)
    assert main(["jobs"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ID  TYPE    STATUS   PROGRESS          SPEED      IO-STATUS  ERROR",
        "j   stream  running  50.0% of 1.0 MiB  1.0 KiB/s  ok         -",
    ]
    assert main(["jobs", "--json"]) == 0
    (job,) = json.loads(capsys.readouterr().out)
    assert job == qmp("query-jobs")[0] | {
        name: value
        for name, value in qmp("query-block-jobs")[0].items()
        if name not in ("device", "len", "offset")
    }


def test_wait_until_completed(qmp: Qmp, capsys: Captured) -> None:
    stream(qmp)
    with Waiting("j") as waiting:
        assert waiting.line() == f"j: running, {AT_HALF}"
        assert main(["job", "set-speed", "j", "1.5G"]) == 0
        assert capsys.readouterr() == ("j: speed 1.5 GiB/s\n", "")
        status, lines, err = waiting.end()
    assert (status, lines[-1], err) == (0, "j: completed, 100.0% of 1.0 MiB", "")


def test_wait_for_a_failure(qmp: Qmp) -> None:
    stream(qmp)
    fail(qmp)
    with Waiting("j") as waiting:
        assert waiting.line() == f"j: running, {AT_HALF}"
        qmp("block-job-set-speed", device="j", speed=0)
        assert waiting.end()[::2] == (1, "faultline: j: Input/output error\n")


def test_wait_while_errors_stop_it(qmp: Qmp, capsys: Captured) -> None:
    stream(qmp, on_error="stop")
    fail(qmp, errno="ENOSPC")
    with Waiting("j") as waiting:
        assert waiting.line() == f"j: running, {AT_HALF}"
        qmp("block-job-set-speed", device="j", speed=0)
        stopped = "io-status nospace; 'faultline job resume j' lets it try again"
        lines = iter(waiting.line, "")
        told = f"j: stopped by a read error, {stopped}"
        assert told in lines
        assert main(["job", "wait", "--stopped", "j"]) == 3
        # It has not seen the error happen.
        said = f"j: paused, {AT_HALF}\n", f"faultline: j: stopped by an error, {stopped}\n"
        assert capsys.readouterr() == said
        assert main(["job", "resume", "j"]) == 0
        assert capsys.readouterr().out in ("j: running\n", f"{told}\n")
        assert told in lines
        qmp("x-fault-remove", id="f")
        assert main(["job", "resume", "j"]) == 0
        assert capsys.readouterr().out in ("j: running\n", "j: completed\n")
        status, rest, err = waiting.end()
    assert (status, rest[-1], err) == (0, "j: completed, 100.0% of 1.0 MiB", "")


def test_pause_and_cancel(qmp: Qmp, capsys: Captured) -> None:
    stream(qmp)
    with Waiting("j") as waiting:
        assert waiting.line() == f"j: running, {AT_HALF}"
        assert main(["job", "pause", "j"]) == 0
        qmp.wait_for(lambda: qmp("query-jobs")[0]["status"] == "paused")
        assert capsys.readouterr().out in ("j: paused\n", "j: running, will pause\n")
        assert waiting.line() == f"j: paused, {AT_HALF}"
        assert main(["job", "pause", "j"]) == 1
        assert capsys.readouterr() == ("", "faultline: Job is already paused\n")
        assert main(["job", "cancel", "j"]) == 1
        what = "The block job for device 'j' is currently paused"
        assert capsys.readouterr() == ("", f"faultline: {what}\n")
        assert main(["job", "complete", "j"]) == 1
        what = "Job 'j' in state 'paused' cannot accept command verb 'complete'"
        assert capsys.readouterr() == ("", f"faultline: {what}\n")
        assert main(["job", "cancel", "--force", "j"]) == 0
        qmp.wait_event("BLOCK_JOB_CANCELLED")
        assert capsys.readouterr().out in ("j: cancelled\n", "j: running, will be cancelled\n")
        assert waiting.end()[::2] == (1, "faultline: j: cancelled\n")


def test_finalize_and_dismiss(qmp: Qmp, capsys: Captured) -> None:
    stream(qmp, auto_finalize=False, auto_dismiss=False)
    with Waiting("j") as waiting:
        qmp("block-job-set-speed", device="j", speed=0)
        assert main(["job", "wait", "--pending", "j"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "j: pending, 100.0% of 1.0 MiB"
        assert "j: pending; 'faultline job finalize j' ends it" in iter(waiting.line, "")
        assert main(["job", "finalize", "j"]) == 0
        assert capsys.readouterr().out == "j: completed\n"
        assert waiting.end() == (0, ["j: completed, 100.0% of 1.0 MiB"], "")
    # It is there until it is dismissed.
    assert main(["job", "wait", "j"]) == 0
    assert capsys.readouterr() == ("j: completed, 100.0% of 1.0 MiB\n", "")
    assert main(["job", "dismiss", "j"]) == 0
    assert capsys.readouterr() == ("j: dismissed\n", "")
    assert qmp("query-jobs") == []


def test_wait_for_what_is_over(qmp: Qmp, capsys: Captured) -> None:
    fail(qmp, errno="EPERM")
    qmp("block-stream", device="vda", job_id="j", auto_dismiss=False)
    qmp.wait_event("BLOCK_JOB_COMPLETED")
    assert main(["job", "wait", "j"]) == 1
    assert capsys.readouterr() == ("", "faultline: j: Operation not permitted\n")
    qmp("job-dismiss", id="j")
    assert main(["job", "wait", "j"]) == 1
    assert capsys.readouterr().err.startswith("faultline: there is no job 'j'; ")


def test_unknown_jobs(qmp: Qmp, capsys: Captured) -> None:
    of_jobs = ("pause", "resume", "complete", "finalize", "dismiss")
    for words, error in (
        *(([verb, "j"], "Job not found") for verb in of_jobs),
        (["cancel", "j"], "Block job 'j' not found"),
        (["set-speed", "j", "0"], "Block job 'j' not found"),
    ):
        assert main(["job", *words]) == 1
        assert capsys.readouterr() == ("", f"faultline: {error}: there are no jobs\n")


def test_a_misspelt_job(qmp: Qmp, capsys: Captured) -> None:
    stream(qmp)
    assert main(["job", "pause", "jj"]) == 1
    assert capsys.readouterr() == ("", "faultline: Job not found: there is j\n")
    assert main(["job", "set-speed", "J", "0"]) == 1
    assert capsys.readouterr().err.endswith("Block job 'J' not found, did you mean 'j'?\n")


@pytest.mark.parametrize("speed", ["10x", "1.5", ""])
def test_a_speed_that_is_none(speed: str, capsys: Captured) -> None:
    assert main(["job", "set-speed", "-s", "nope", "j", speed]) == 2
    line = f"SPEED is a number of bytes per second, such as 10M, not '{speed}' (see"
    assert capsys.readouterr().err.startswith(f"faultline job set-speed: {line}")


def test_wait_while_the_machine_is_killed(machine: Live, qmp: Qmp) -> None:
    stream(qmp)
    with Waiting("j") as waiting:
        assert waiting.line() == f"j: running, {AT_HALF}"
        machine.stop(signal.SIGKILL)
        ended = f"faultline: {machine.control}: the machine has ended, and j with it\n"
        assert waiting.end() == (1, [], ended)


def test_wait_while_the_machine_quits(machine: Live, qmp: Qmp) -> None:
    stream(qmp)
    with Waiting("j") as waiting:
        assert waiting.line() == f"j: running, {AT_HALF}"
        qmp("quit")
        assert waiting.end() == (1, [], "faultline: j: cancelled\n")


def test_an_interrupt_ends_the_waiting_only(qmp: Qmp) -> None:
    stream(qmp)
    with Waiting("j") as waiting:
        assert waiting.line() == f"j: running, {AT_HALF}"
        waiting.process.send_signal(signal.SIGINT)
        assert waiting.end() == (130, [], "\n")
    assert qmp("query-jobs")[0]["status"] == "running"


def on_terminal(term: str, qmp: Qmp) -> tuple[int, str]:
    """Exit status, and what a terminal of that kind has got, of a wait to the end."""
    stream(qmp)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [*FAULTLINE, "job", "wait", "j"],
            cwd=TREE,
            env=os.environ | {"TERM": term, "COLUMNS": "80"},
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        seen = b""
        while AT_HALF.encode() not in seen:
            seen += terminal.read(4096)
        qmp("block-job-set-speed", device="j", speed=0)
        try:
            while more := terminal.read(4096):
                seen += more
        except OSError:
            # What Linux says of a terminal on whose other side nobody is left.
            pass
        return process.wait(TIMEOUT_S), seen.decode()


def test_a_bar_on_a_terminal(qmp: Qmp) -> None:
    status, seen = on_terminal("xterm", qmp)
    frames = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).strip() for frame in seen.split("\r")]
    frames = [frame for frame in frames if frame]
    assert status == 0
    assert re.fullmatch(rf"j running    ━+[╸╺ ━]+{AT_HALF}", frames[0])
    assert re.fullmatch(r"j completed  ━+ *100.0% of 1.0 MiB", frames[-1])


def test_a_long_id_beside_the_bar(qmp: Qmp) -> None:
    """Nothing else becomes shorter, and an interrupt does not leave the bar twice."""
    name = "a" * 20 + "b" * 20
    stream(qmp, job_id=name)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [*FAULTLINE, "job", "wait", name],
            cwd=TREE,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        seen = b""
        while AT_HALF.encode() not in seen:
            seen += terminal.read(4096)
        # Where ^C would begin a line of its own, the bar would be drawn below itself.
        frame = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen).decode().split("\r")[-1]
        assert re.match(rf"a{{6}}…b{{6}} running    [━╸╺ ]+{AT_HALF}", frame)
        assert len(frame.rstrip("\n")) <= 80 - len("^C")
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130


def test_a_cancelled_job_that_cannot_end(
    tmp_path: Path, qmp: Qmp, capsys: Captured
) -> None:
    """It is not just running; what it waits for may never come."""
    (tmp_path / "server").mkdir()
    with Live(tmp_path / "server", "drive=id=s,driver=null-co,size=1M") as server:
        with server.qmp() as theirs:
            where = {"type": "unix", "path": server.nbd_socket}
            target = {"driver": "nbd", "export": "s", "node-name": "t", "server": where}
            qmp.execute("blockdev-add", target)
            theirs("stop")
            qmp("blockdev-backup", device="vda", job_id="j", target="t", sync="full")
            theirs.wait_for(lambda: theirs("x-query-requests"))
            assert "x-cancelled" not in qmp("query-jobs")[0]
            assert main(["job", "cancel", "j"]) == 0
            capsys.readouterr()
            assert qmp("query-jobs")[0]["x-cancelled"] is True
            assert main(["jobs"]) == 0
            assert capsys.readouterr().out.splitlines()[1].split()[2] == "cancelling"
            theirs("cont")
            assert main(["job", "wait", "j"]) == 1


def test_lines_on_a_terminal_that_cannot_draw(qmp: Qmp) -> None:
    status, seen = on_terminal("dumb", qmp)
    lines = seen.splitlines()
    assert (status, lines[0]) == (0, f"j: running, {AT_HALF}")
    assert lines[-1] == "j: completed, 100.0% of 1.0 MiB"
    assert "\x1b" not in seen


def test_wait_for_a_copy(tmp_path: Path, qmp: Qmp, capsys: Captured) -> None:
    create(tmp_path / "copy", MIB)
    new = {"target": "copy", "format": "qcow2", "mode": "existing"}
    qmp("drive-mirror", device="vda", job_id="j", sync="full", speed=1, **new)
    with Waiting("j") as waiting:
        assert main(["job", "set-speed", "j", "0"]) == 0
        assert main(["job", "wait", "--ready", "j"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "j: ready, 100.0% of 1.0 MiB"
        assert "j: ready; 'faultline job complete j' ends it" in iter(waiting.line, "")
        assert main(["job", "complete", "j"]) == 0
        assert capsys.readouterr().out in ("j: completed\n", "j: ready, will be completed\n")
        status, lines, err = waiting.end()
    assert (status, lines[-1:], err) == (0, ["j: completed, 100.0% of 1.0 MiB"], "")


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Qmp]:
    """A qemu-storage-daemon with nodes a and b, to which two clients can talk."""
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    monkeypatch.setenv("FAULTLINE_CONTROL", theirs)
    argv = ["qemu-storage-daemon", "--pidfile", str(tmp_path / "pid"), "--daemonize"]
    for name, path in (("ours", ours), ("theirs", theirs)):
        argv += ["--chardev", f"socket,id={name},path={path},server=on,wait=off"]
        argv += ["--monitor", f"chardev={name}"]
    for name in ("a", "b"):
        argv += ["--blockdev", f"null-co,node-name={name},size={MIB},read-zeroes=on"]
    subprocess.run(argv, check=True)
    try:
        with Qmp.connect(ours) as client:
            yield client
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)


def test_a_copy_of_qemus(qemu: Qmp, capsys: Captured) -> None:
    qemu("blockdev-mirror", job_id="j", device="a", target="b", sync="full")
    assert main(["job", "wait", "--ready", "j"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "j: ready, 100.0% of 1.0 MiB"
    assert main(["job", "complete", "j"]) == 0
    assert capsys.readouterr().out in ("j: completed\n", "j: ready, will be completed\n")
    qemu.wait_event("BLOCK_JOB_COMPLETED")
    qemu("blockdev-mirror", job_id="k", device="a", target="b", sync="full")
    qemu.wait_event("BLOCK_JOB_READY", device="k")
    assert main(["job", "cancel", "k"]) == 0
    assert capsys.readouterr().out in ("k: completed\n", "k: ready, will be cancelled\n")
    assert qemu.wait_event("BLOCK_JOB_COMPLETED")["device"] == "k"


def test_a_job_of_qemus_without_block_nodes(qemu: Qmp, tmp_path: Path, capsys: Captured) -> None:
    for job, directory in (("good", tmp_path), ("bad", tmp_path / "nope")):
        options = {"driver": "file", "filename": str(directory / "new"), "size": MIB}
        qemu("blockdev-create", job_id=job, options=options)
    assert main(["job", "wait", "good"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("good: completed")
    assert main(["job", "wait", "bad"]) == 1
    assert re.match("faultline: bad: .*No such file or directory\n", capsys.readouterr().err)
    assert main(["jobs"]) == 0
    rows = [line.split()[:6] for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[:3] for row in rows] == [[job, "create", "concluded"] for job in ("bad", "good")]
    for job in ("good", "bad"):
        assert main(["job", "dismiss", job]) == 0
    assert qemu("query-jobs") == []
