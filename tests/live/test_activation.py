# SPDX-License-Identifier: MIT
"""Machines on sockets that another program has opened, as systemd does."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbd
import pytest

from live import FAULTLINE, TIMEOUT_S, Qmp
from tree import TREE

DRIVE = "drive=id=vda,driver=null-co,size=1M"


def listener(address: str | tuple[str, int]) -> socket.socket:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    made = socket.socket(family)
    made.bind(address)
    made.listen()
    return made


@contextlib.contextmanager
def activated(
    directory: Path, sockets: Sequence[socket.socket], names: str, *words: str
) -> Iterator[subprocess.Popen[str]]:
    """`serve` with these sockets from descriptor 3 on."""
    # Above all numbers that they are to get.
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, 100) for each in sockets]
    opened = " ".join(f"{at}<&{number} {number}<&-" for at, number in enumerate(high, 3))
    script = f'exec {opened}; export LISTEN_PID=$$; exec "$@"'
    private = {"TMPDIR": str(directory), "XDG_RUNTIME_DIR": str(directory)}
    named = {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names, "PYTHONPATH": str(TREE)}
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *FAULTLINE, "serve", *words],
        cwd=directory,
        env={**os.environ, **private, **named},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=high,
    )
    for number in high:
        os.close(number)
    with process:
        yield process
        if process.poll() is None:
            process.terminate()
            process.wait(TIMEOUT_S)


RUN = ["--quiet", "--run", "echo $uri $FAULTLINE_CONTROL; sleep 1000"]


@pytest.mark.parametrize("mode", [[], RUN], ids=["itself", "child"])
def test_both_sockets(mode: list[str], tmp_path: Path) -> None:
    """They were there before, and are there afterwards; nothing else is made."""
    nbd_path, control = str(tmp_path / "n"), str(tmp_path / "q")
    with (
        listener(control) as one,
        listener(nbd_path) as two,
        activated(tmp_path, [one, two], "control:faultline.socket", *mode, DRIVE) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        uri = f"nbd+unix:///vda?socket={nbd_path}"
        if mode:
            assert line.split() == [uri, control]
        else:
            ready = json.loads(line)
            assert (ready["drives"], ready["control"]) == ({"vda": uri}, control)
        guest = nbd.NBD()
        guest.connect_uri(uri)
        assert guest.get_size() == 1 << 20
        guest.shutdown()
        with Qmp.connect(control) as qmp:
            assert qmp("query-status")["running"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n", "q"]


def test_two_for_nbd(tmp_path: Path) -> None:
    """The first is in the URIs; the control socket is made as ever."""
    with listener(("127.0.0.1", 0)) as one, listener(str(tmp_path / "n")) as two:
        port = one.getsockname()[1]
        with activated(tmp_path, [one, two], "", "control=q", DRIVE) as process:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["drives"] == {"vda": f"nbd://127.0.0.1:{port}/vda"}
            for uri in (ready["drives"]["vda"], f"nbd+unix:///vda?socket={tmp_path}/n"):
                guest = nbd.NBD()
                guest.connect_uri(uri)
                guest.shutdown()
            with Qmp.connect(ready["control"]) as qmp:
                qmp("quit")
            assert process.wait(TIMEOUT_S) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["n"]


FAILURES = {
    "nbd twice": ("", ["--nbd", "m"], "--nbd: LISTEN_FDS has that socket already"),
    "port": ("", ["--port", "0"], "--port: LISTEN_FDS has that socket already"),
    "control": ("control", ["control=q"], "control: LISTEN_FDS has that socket already"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_what_contradicts(how: str, tmp_path: Path) -> None:
    names, words, text = FAILURES[how]
    with listener(str(tmp_path / "n")) as one:
        with activated(tmp_path, [one], names, *words, DRIVE) as process:
            out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1), err
    assert text in err
    assert [path.name for path in tmp_path.iterdir()] == ["n"]


def test_what_is_no_socket_for_that(tmp_path: Path) -> None:
    with listener(("127.0.0.1", 0)) as port, socket.socket(socket.AF_UNIX) as idle:
        for made, names, text in (
            (port, "control", "the socket 'control' of LISTEN_FDS is no Unix socket"),
            (idle, "", "descriptor 3 of LISTEN_FDS is no listening Unix or TCP socket"),
        ):
            with activated(tmp_path, [made], names, DRIVE) as process:
                out, err = process.communicate(timeout=TIMEOUT_S)
            assert (process.returncode, out, err) == (1, "", f"faultline: {text}\n")
    with listener("\0abstract" + str(os.getpid())) as nameless:
        with activated(tmp_path, [nameless], "", DRIVE) as process:
            assert "without a path" in process.communicate(timeout=TIMEOUT_S)[1]


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("tcp:127.0.0.1:4444", "socat TCP-LISTEN:4444,bind=127.0.0.1,fork,reuseaddr UNIX-CON"),
        ("tcp::4444,server=on", "socat TCP-LISTEN:4444,fork,reuseaddr UNIX-CONNECT:SOCKET"),
    ],
)
def test_control_over_tcp_is_a_relay(address: str, text: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*FAULTLINE, "serve", f"control={address}"],
        env={**os.environ, "PYTHONPATH": str(TREE)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 2 and text in done.stderr
