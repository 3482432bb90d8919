# SPDX-License-Identifier: MIT
"""`serve --daemonize`, pidfiles, and logs in files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from blockcore.process import pidfile
from blockcore.qapi.names import QmpError
from live import FAULTLINE, TIMEOUT_S, Qmp
from tree import TREE

DRIVE = "drive=id=vda,driver=null-co,size=1M"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where everything private is made; daemons that a test has left in it are ended."""
    place = tmp_path / "private"
    place.mkdir()
    yield place
    for file in tmp_path.glob("*.pid"):
        os.kill(int(file.read_text()), signal.SIGKILL)


def serve(place: Path, *words: str, stdout: int = subprocess.PIPE) -> tuple[int, str, str]:
    private = {"TMPDIR": str(place), "XDG_RUNTIME_DIR": str(place), "PYTHONPATH": str(TREE)}
    done = subprocess.run(
        [*FAULTLINE, "serve", *words],
        env={**os.environ, **private},
        cwd=place.parent,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
    )
    return done.returncode, done.stdout, done.stderr


def quit_and_wait(control: str) -> None:
    with Qmp.connect(control) as qmp:
        qmp("quit")
        list(qmp.until_the_end())


def gone(path: Path) -> bool:
    """Whether a file goes away: a control client is told of the end before files are removed."""
    while path.exists():
        time.sleep(0.001)
    return True


def test_a_daemon(place: Path) -> None:
    """It serves when the command returns, with no terminal, and nothing left of who started it."""
    options = ["--daemonize", "--pidfile", "m.pid", "--log-file", "m.log"]
    status, out, err = serve(place, *options, "control=q", DRIVE)
    assert (status, err) == (0, "")
    ready = json.loads(out)
    pid = int((place.parent / "m.pid").read_text())
    with Qmp.connect(ready["control"]) as qmp:
        assert qmp("query-status")["running"]
    guest = nbd.NBD()
    guest.connect_uri(ready["drives"]["vda"])
    guest.shutdown()
    streams = [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1)]
    assert streams == ["/dev/null", "/dev/null"]
    opened = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    assert str(place.parent / "m.log") in opened
    assert os.getsid(pid) == pid and os.readlink(f"/proc/{pid}/cwd") == str(place.parent)
    os.kill(pid, signal.SIGTERM)
    assert gone(place.parent / "m.pid") and gone(Path(f"/proc/{pid}"))
    log = (place.parent / "m.log").read_text().splitlines()
    events = {json.loads(line)["event"] for line in log}
    assert events == {"serving", "shutting down", "SHUTDOWN"} and len(log) == 3
    assert list(place.iterdir()) == []


def test_a_daemon_without_a_log(place: Path) -> None:
    """Whoever reads the command's stderr to its end has it when the command has ended."""
    status, out, err = serve(place, "--daemonize", DRIVE)
    assert (status, err) == (0, "")
    quit_and_wait(json.loads(out)["control"])


FAILURES = {
    "an image": (["drive=id=a,file=nope"], "drive=id=a,file=nope: Could not open 'nope'"),
    "a log": (["--log-file", "no/log"], "no/log: No such file or directory"),
    "a place": (["--pidfile", "no/pid"], "/no/pid: No such file or directory"),
    "no pidfile": (["--pidfile", "tree"], "tree exists and is no pidfile"),
    "taken": (["--pidfile", "taken"], "taken: process 1 has it, and lives"),
}


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("mode", [["--daemonize"], []], ids=["daemon", "foreground"])
def test_a_start_that_fails(how: str, mode: list[str], place: Path) -> None:
    """One line, and nothing is left."""
    words, text = FAILURES[how]
    (place.parent / "taken").write_text("1\n")
    (place.parent / "tree").write_text("not a number\n")
    named = [] if "--pidfile" in words else ["--pidfile", "m.pid"]
    status, out, err = serve(place, *mode, *named, *words)
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert text in err
    assert sorted(path.name for path in place.parent.iterdir()) == ["private", "taken", "tree"]
    assert list(place.iterdir()) == []


def test_a_ready_line_that_cannot_be_printed(place: Path) -> None:
    """Nobody would know of the daemon."""
    with open("/dev/full", "w") as full:
        status, _, err = serve(place, "--daemonize", "--pidfile", "m.pid", stdout=full.fileno())
    assert (status, err) == (1, "faultline: standard output: No space left on device\n")
    assert [path.name for path in place.parent.iterdir()] == ["private"]
    assert list(place.iterdir()) == []


def test_a_pidfile_in_the_foreground(place: Path) -> None:
    """It is there before the ready line; what a killed machine has left is replaced."""
    (place.parent / "m.pid").write_text("4194304999\n")
    for how in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(
            [*FAULTLINE, "serve", "--pidfile", "m.pid", DRIVE],
            env={**os.environ, "PYTHONPATH": str(TREE), "XDG_RUNTIME_DIR": str(place)},
            cwd=place.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None and process.stdout.readline()
            assert (place.parent / "m.pid").read_text() == f"{process.pid}\n"
            status, _, err = serve(place, "--pidfile", "m.pid", DRIVE)
            assert status == 1 and f"m.pid: process {process.pid} has it, and lives" in err
            process.send_signal(how)
    assert not (place.parent / "m.pid").exists()


def test_the_pidfile_of_a_command(place: Path) -> None:
    """Who ends that process ends both."""
    options = ["--pidfile", "m.pid", "--quiet", "--run", "kill $(cat m.pid); sleep 1000"]
    assert serve(place, *options, DRIVE) == (143, "", "")
    assert not (place.parent / "m.pid").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", None),
        ("\n", None),
        ("own\n", None),
        ("4194304999", None),
        ("1", "process 1 has it, and lives"),
        ("1 2", "exists and is no pidfile"),
        ("1" * 40, "exists and is no pidfile"),
    ],
)
def test_what_is_in_the_way(content: str, message: str | None, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    content = content.replace("own", str(os.getpid()))
    file.write_text(content)
    if message is None:
        pidfile.require_room(str(file))
        pidfile.write(str(file), 5)
        assert file.read_text() == "5\n"
    else:
        for check in (pidfile.require_room, lambda path: pidfile.write(path, 5)):
            with pytest.raises(QmpError, match=message):
                check(str(file))
        assert file.read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["pid"]


@pytest.mark.parametrize("what", ["directory", "dangling"])
def test_what_is_no_file(what: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.mkdir() if what == "directory" else path.symlink_to("nowhere")
    with pytest.raises(QmpError, match="exists"):
        pidfile.write(str(path), 5)


def test_a_number_that_was_given_again(tmp_path: Path) -> None:
    """The process with it has begun after the file was written."""
    with subprocess.Popen(["sleep", "1000"]) as later:
        assert pidfile.was_there(later.pid, time.time() + 10)
        assert not pidfile.was_there(later.pid, time.time() - 100)
        file = tmp_path / "pid"
        file.write_text(f"{later.pid}\n")
        os.utime(file, (1, 1))
        pidfile.require_room(str(file))
        later.kill()
        os.waitid(os.P_PID, later.pid, os.WEXITED | os.WNOWAIT)
        assert not pidfile.was_there(later.pid, time.time() + 10), "it is only not waited for"


def test_levels_and_files(place: Path) -> None:
    """A file is appended to; what is below the level is nowhere."""
    (place.parent / "m.log").write_text("before\n")
    for option in (["--quiet"], ["--log-level", "warning"], ["--log-level", "info"]):
        words = ["--log-file", "m.log", *option, "--run", "true", "blockdev=null-co,node-name=n"]
        assert serve(place, *words, "control=q") == (0, "", "")
    first, *lines = (place.parent / "m.log").read_text().splitlines()
    events = [json.loads(line)["event"].partition(":")[0] for line in lines]
    no_drive = "there is no drive to serve"
    assert first == "before"
    assert events[:3] == [no_drive, no_drive, "serving"]
    assert sorted(events[3:]) == ["SHUTDOWN", "shutting down"]


def test_a_log_in_a_file_has_no_colours(place: Path) -> None:
    options = ["--log-file", "m.log", "--log-format", "console", "--run", "true"]
    assert serve(place, *options, DRIVE)[0] == 0
    assert "serving" in (log := (place.parent / "m.log").read_text()) and "\x1b" not in log
