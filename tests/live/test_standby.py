# SPDX-License-Identifier: MIT
"""`faultline serve --standby`: a process that is started before anybody knows what it serves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import nbd
import pytest

from live import FAULTLINE, TIMEOUT_S, Qmp, make_image
from tree import TREE

MIB = 1 << 20
NULL = "drive=id=d,driver=null-co,size=1M"
STANDBY = ["env", "--default-signal", *FAULTLINE, "serve", "--standby"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where everything private is made; what else a test needs is beside it."""
    place = tmp_path / "private"
    place.mkdir()
    return place


def environ(place: Path) -> dict[str, str]:
    private = {"TMPDIR": str(place), "XDG_RUNTIME_DIR": str(place), "PYTHONPATH": str(TREE)}
    return {**os.environ, **private}


def start(place: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*STANDBY, *options],
        env=environ(place),
        cwd=place.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def order(process: subprocess.Popen[bytes], **members: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(members).encode() + b"\n")
    process.stdin.flush()


@contextlib.contextmanager
def serving(place: Path, *options: str, **members: Any) -> Iterator[dict[str, Any]]:
    """The ready line of a standby that got that line; it ends as any machine does."""
    with start(place, *options) as process:
        order(process, **members)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield json.loads(line)
        process.terminate()
        rest, _ = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, rest) == (0, b"")
    assert left(place) == []


def left(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def wait_until_it_waits(stdin: IO[bytes]) -> None:
    """Send half a line, and return when it has been read: the machine waits for the rest."""
    stdin.write(b'{"keys": ')
    stdin.flush()
    deadline = time.monotonic() + TIMEOUT_S
    while fcntl.ioctl(stdin, termios.FIONREAD, bytes(4)) != struct.pack("i", 0):
        assert time.monotonic() < deadline


def test_it_serves_what_the_line_says(place: Path) -> None:
    """Names are relative to the directory that the line names."""
    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir()
    make_image(elsewhere / "d.img", MIB, pattern=7)
    keys = ["drive=id=vda,file=d.img,format=raw", "name=late", "seed=7"]
    with serving(place, keys=keys, directory=str(elsewhere)) as ready:
        assert ready["seed"] == 7
        guest = nbd.NBD()
        guest.connect_uri(ready["drives"]["vda"])
        assert guest.pread(512, 0) == bytes([7]) * 512
        guest.shutdown()
        with Qmp.connect(ready["control"]) as qmp:
            assert qmp("query-name") == {"name": "late"}
            qmp("blockdev-add", driver="file", node_name="n", filename="d.img", read_only=True)
        assert Path(ready["control"]).is_relative_to(place)


def test_without_a_drive_there_is_one(place: Path) -> None:
    """In the private directory, of which nobody knew whether it would be needed."""
    with serving(place) as ready:
        guest = nbd.NBD()
        guest.connect_uri(ready["drives"]["vda"])
        assert guest.get_size() == 1 << 30
        guest.shutdown()
        with Qmp.connect(ready["control"]) as qmp:
            (drive,) = qmp("query-block")
            assert "io-status" in drive
            assert Path(drive["inserted"]["file"]).is_relative_to(place)


def test_sockets_that_options_name(place: Path) -> None:
    there = place.parent
    with serving(place, "--nbd", "n", "--control", "q", keys=[NULL]) as ready:
        assert ready["control"] == str(there / "q")
        assert ready["drives"] == {"d": f"nbd+unix:///d?socket={there / 'n'}"}
        Qmp.connect(ready["control"]).close()
    assert sorted(left(there)) == ["private"]


def test_a_control_socket_that_the_line_names(place: Path) -> None:
    with serving(place, keys=[NULL, "control=q"], directory=str(place.parent)) as ready:
        assert ready["control"] == str(place.parent / "q")
        Qmp.connect(ready["control"]).close()
    assert left(place.parent) == ["private"]


REFUSED = {
    "no JSON": (b"drive=id=a\n", "standard input: the line is no JSON: "),
    "half a line": (b'{"keys": []', "standard input: it ended within the line"),
    "key": (b'{"keys": ["drv=a"]}\n', "drv=a: Invalid parameter 'drv'"),
    "drive": (b'{"keys": ["drive=file=no.img"]}\n', "drive=file=no.img: Could not open 'no.img'"),
    "directory": (b'{"directory": "/no"}\n', "standard input: directory /no: No such file"),
    "socket": (b'{"keys": ["control=no/q"]}\n', "control="),
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_line_that_is_refused(how: str, place: Path) -> None:
    """One line, status 1, and nothing is left."""
    line, text = REFUSED[how]
    with start(place) as process:
        out, log = process.communicate(line, TIMEOUT_S)
    assert (process.returncode, out) == (1, b"")
    (told,) = log.decode().splitlines()
    assert told.startswith(f"faultline: {text}")
    assert left(place) == []


def test_no_line(place: Path) -> None:
    with start(place) as process:
        assert process.communicate(b"", TIMEOUT_S) == (b"", b"")
    assert process.returncode == 0
    assert left(place) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_a_signal_while_it_waits(how: int, place: Path) -> None:
    """It ends as a start that a signal has met."""
    with start(place) as process:
        assert process.stdin is not None
        wait_until_it_waits(process.stdin)
        assert len(left(place)) == 1
        process.send_signal(how)
        process.wait(TIMEOUT_S)
        process.stdin.close()
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read() + process.stderr.read() == b""
    assert process.returncode == -how
    assert left(place) == []


@pytest.mark.parametrize("ordered", [False, True], ids=["waits", "serves"])
def test_its_parent_ends(ordered: bool, place: Path) -> None:
    """Whoever else has the other end of its stdin."""
    with subprocess.Popen(
        ["bash", "-c", 'exec 3<&0; "$@" <&3 & read -r _ <"$GATE"', "bash", *STANDBY]
        + ["--exit-with-parent"],
        env={**environ(place), "GATE": str(make_fifo(place.parent / "gate"))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as shell:
        assert shell.stdin is not None and shell.stdout is not None
        if ordered:
            order(shell, keys=[NULL])
            assert shell.stdout.readline()
        else:
            wait_until_it_waits(shell.stdin)
        (place.parent / "gate").write_text("end\n")
        assert shell.stdout.read() == b"", "until the machine has closed it"
        assert shell.stderr is not None
        log = shell.stderr.read().decode()
        assert ("the parent process has ended" in log) is ordered
        with contextlib.suppress(BrokenPipeError):
            shell.stdin.close()
    assert left(place) == []


def make_fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def test_keys_are_for_the_line(place: Path) -> None:
    with start(place, NULL) as process:
        _, log = process.communicate(b"{}\n", TIMEOUT_S)
    assert process.returncode == 2
    assert b"--standby takes keys from standard input only" in log
