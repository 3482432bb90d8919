# SPDX-License-Identifier: MIT
"""`serve --run`: a command beside a machine, and how both end."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockcore.cli import main
from blockcore.cli.run_command import variables
from blockcore.cli.supervise import descendants, shell_status
from faultline import MachineEnded
from live import FAULTLINE, TIMEOUT_S, Qmp
from tree import TREE


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where everything private is made."""
    place = tmp_path / "private"
    place.mkdir()
    return place


@contextlib.contextmanager
def running(place: Path, *words: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    private = {"TMPDIR": str(place), "XDG_RUNTIME_DIR": str(place), "PYTHONPATH": str(TREE)}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        ["env", "--default-signal", *FAULTLINE, "serve", *words],
        **{**streams, "env": {**os.environ, **private}, "cwd": place.parent, "text": True, **more},
    ) as process:
        yield process


def run(place: Path, *words: str) -> tuple[int, str, str]:
    with running(place, *words) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert list(place.iterdir()) == []
    return process.returncode, out, err


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("drives", "expected"),
    [
        ({}, {}),
        (
            {"vda": "nbd+unix:///vda?socket=/a%20b%FF", "a-b.c": "nbd+unix:///a-b.c?socket=/x"},
            {
                "uri": "nbd+unix:///vda?socket=/a%20b%FF",
                "nbd": "nbd:unix:/a b\udcff:exportname=vda",
                "unixsocket": "/a b\udcff",
                "FAULTLINE_URI_vda": "nbd+unix:///vda?socket=/a%20b%FF",
                "FAULTLINE_URI_a_b_c": "nbd+unix:///a-b.c?socket=/x",
            },
        ),
        (
            {"vda": "nbd://[fe80::1%25eth0]:9/vda"},
            {
                "uri": "nbd://[fe80::1%25eth0]:9/vda",
                "nbd": "nbd:[fe80::1%eth0]:9:exportname=vda",
                "port": "9",
                "FAULTLINE_URI_vda": "nbd://[fe80::1%25eth0]:9/vda",
            },
        ),
    ],
)
def test_variables(drives: dict[str, str], expected: dict[str, str]) -> None:
    control = {"FAULTLINE_CONTROL": "/q"}
    assert variables({"drives": drives, "control": "/q", "seed": 1}) == {**expected, **control}


@pytest.mark.parametrize(("code", "status"), [(0, 0), (7, 7), (-15, 143)])
def test_status_of_a_shell(code: int, status: int) -> None:
    assert shell_status(code) == status


def test_descendants() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 100 & echo $!; wait"], stdout=-1) as shell:
        assert shell.stdout is not None
        sleep = int(shell.stdout.readline())
        assert sleep in descendants(os.getpid()) and descendants(shell.pid) == [sleep]
        assert descendants(sleep) == []
        os.kill(sleep, signal.SIGKILL)


REFUSED = {
    "--timeout 1": "--timeout needs --run",
    "--run x --timeout 0": "Invalid value for '--timeout'",
    "--run x --daemonize": "--run and --daemonize exclude each other",
    "--run x --standby": "--run and --standby exclude each other",
    "--run x --exit-with-parent": "--run and --exit-with-parent exclude each other",
    "--daemonize --exit-with-parent": "--daemonize and --exit-with-parent exclude each other",
    "--quiet --log-level info": "--quiet and --log-level exclude each other",
    "--log-level all": "'all' is not one of",
    "--pidfile=": "--pidfile: the path is empty",
}


@pytest.mark.parametrize("words", REFUSED)
def test_options_that_make_no_sense(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words.split()]) == 2
    assert REFUSED[words] in capsys.readouterr().err


def test_the_command_finds_the_machine(place: Path) -> None:
    """Its streams are those of `serve`, and its status is what counts."""
    script = 'cat; nbdinfo --size "$uri"; faultline=1; echo "$FAULTLINE_CONTROL" >&2; exit 7'
    with running(place, "--quiet", "--run", script) as process:
        out, err = process.communicate("typed\n", TIMEOUT_S)
    assert (process.returncode, out) == (7, "typed\n1073741824\n")
    assert err.startswith(str(place)) and err.count("\n") == 1
    assert list(place.iterdir()) == []


def test_the_machine_ends_with_the_command(place: Path) -> None:
    """With what the command has left running, the machine is not to be had any more."""
    with running(place, "--run", 'echo "$FAULTLINE_CONTROL"; read -r _') as process:
        assert process.stdin is not None and process.stdout is not None
        control = process.stdout.readline().rstrip()
        with Qmp.connect(control) as qmp:
            process.stdin.write("\n")
            process.stdin.flush()
            qmp.wait_event("SHUTDOWN")
        assert process.wait(TIMEOUT_S) == 0
    assert list(place.iterdir()) == []


def test_the_command_outlives_its_machine(place: Path) -> None:
    """One that quits has been told to; one that is killed makes a success a failure."""
    quits = """
import contextlib, os
from faultline import Machine, MachineEnded
with Machine.connect(os.environ["FAULTLINE_CONTROL"]) as m, contextlib.suppress(MachineEnded):
    m.quit()
    m.wait_event("RESUME")
"""
    (place.parent / "quits.py").write_text(quits)
    command = f"{sys.executable} quits.py; echo after"
    assert run(place, "--quiet", "--run", command)[:2] == (0, "after\n")
    killed = (
        'python3 -c \'import os, socket, struct; s = socket.socket(socket.AF_UNIX); '
        's.connect(os.environ["FAULTLINE_CONTROL"]); '
        'pid = struct.unpack("3i", s.getsockopt(1, 17, 12))[0]; os.kill(pid, 9); s.recv(99999); '
        "s.recv(1)'; true"
    )
    status, _, err = run(place, "--quiet", "--run", killed)
    assert status == 1 and err.endswith("faultline: the machine has ended with status 137\n")


def test_a_machine_that_does_not_start(place: Path) -> None:
    status, out, err = run(place, "drive=id=a,file=nope", "--run", "echo never")
    assert (status, out) == (1, "") and err.count("\n") == 1 and "'nope'" in err


SLEEPS = "sleep 1000 & echo $$ $!; wait"
"""A command that has started another, both of which it names."""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_a_signal_ends_both(how: int, place: Path) -> None:
    with running(place, "--run", SLEEPS) as process:
        assert process.stdout is not None
        started = [int(pid) for pid in process.stdout.readline().split()]
        process.send_signal(how)
        assert process.wait(TIMEOUT_S) == 128 + how
        assert [pid for pid in started if is_alive(pid)] == []
    assert list(place.iterdir()) == []


def test_the_command_decides_what_a_signal_means(place: Path) -> None:
    with running(place, "--run", "trap 'exit 5' TERM; echo; sleep 1000 & wait") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(TIMEOUT_S) == 5


def test_a_signal_while_the_machine_starts(place: Path) -> None:
    """It waits for a server that does not answer."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(place.parent / "silent"))
        silent.listen()
        silent.settimeout(TIMEOUT_S)
        far = "drive=id=far,driver=nbd,server.type=unix,server.path=silent"
        with running(place, far, "--run", "echo never") as process:
            with silent.accept()[0]:
                process.terminate()
                assert process.communicate(timeout=TIMEOUT_S) == ("", "")
            assert process.returncode == 143
    assert list(place.iterdir()) == []


def test_a_command_that_takes_too_long(place: Path) -> None:
    """What it has started ends as well."""
    with running(place, "--timeout", "0.1", "--run", SLEEPS) as process:
        out, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 124
    assert [pid for pid in out.split() if is_alive(int(pid))] == []
    assert list(place.iterdir()) == []


def test_a_machine_whose_serve_is_killed(place: Path) -> None:
    """Nobody else could end it."""
    with running(place, "--run", "echo $$ $FAULTLINE_CONTROL; read -r _") as process:
        assert process.stdout is not None
        pid, control = process.stdout.readline().split()
        with Qmp.connect(control) as qmp:
            process.kill()
            qmp.wait_event("SHUTDOWN")
            with pytest.raises(MachineEnded):
                qmp.next_event()
        os.kill(int(pid), signal.SIGKILL)


def test_at_a_terminal(place: Path) -> None:
    """The command can read it.  Ctrl-C is the command's; so is what ends with it."""
    ours, theirs = pty.openpty()
    # A signal may end `read`, with nothing read.
    reads = "while [ -z $word ]; do read -r word; done"
    script = f"trap 'echo asked' INT; echo $$; {reads}; echo got $word; sleep 1000 & wait"

    def take_terminal() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(0), os.O_RDWR))

    streams = {"stdin": theirs, "stdout": theirs, "stderr": subprocess.DEVNULL}
    with running(
        place, "--run", script, **streams, preexec_fn=take_terminal, text=False
    ) as process:
        os.close(theirs)
        with open(ours, "r+b", buffering=0) as terminal:
            pid = int(terminal.readline())
            terminal.write(b"\x03")
            while b"asked" not in terminal.readline():
                """The echo of what is typed comes before."""
            terminal.write(b"typed\n")
            while b"got typed" not in terminal.readline():
                """So does this."""
            assert os.getpgid(pid) == os.getpgid(process.pid)
            process.terminate()
            assert process.wait(TIMEOUT_S) == 143
    assert not is_alive(pid)
    assert list(place.iterdir()) == []
