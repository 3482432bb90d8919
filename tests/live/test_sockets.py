# SPDX-License-Identifier: MIT
"""The sockets that `serve` makes: for whom, where, and what is there already."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from blockcore.cli import main
from blockcore.cli.listen import BoundPort, UnixSocket
from blockcore.cli.runtime_dir import candidates, first_fitting
from blockcore.process.control import bind_control_socket
from blockcore.process.nbd_address import NbdAddress
from blockcore.qapi.names import QmpError
from live import FAULTLINE, TIMEOUT_S
from tree import TREE

ENVIRON = {**os.environ, "PYTHONPATH": str(TREE)}
NULL = "drive=id=d,driver=null-co,size=1M"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


@contextlib.contextmanager
def serving(directory: Path, *words: str, umask: int = 0o022) -> Iterator[dict[str, Any]]:
    """The ready line of a machine."""
    process = subprocess.Popen(
        [*FAULTLINE, "serve", *words, NULL],
        cwd=directory,
        env=ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        umask=umask,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            assert process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize(
    ("umask", "options", "mode"),
    [
        (0o022, [], 0o755),
        (0o002, [], 0o775),
        (0o077, [], 0o700),
        (0o077, ["--socket-mode", "666"], 0o666),
        (0o022, ["--socket-mode", "0600"], 0o600),
        (0o022, ["--socket-group", str(os.getegid())], 0o660),
        (0o022, ["--socket-group", str(os.getegid()), "--socket-mode", "770"], 0o770),
    ],
    ids=str,
)
def test_who_may_connect(umask: int, options: list[str], mode: int, tmp_path: Path) -> None:
    """nbdkit sets a umask of its own; what the machine makes besides keeps to it."""
    with serving(tmp_path, "--nbd", "n", "--control", "q", *options, umask=umask) as ready:
        assert stat.S_IMODE((tmp_path / "n").stat().st_mode) == mode
        assert stat.S_IMODE((tmp_path / "q").stat().st_mode) == 0o600
        guest = nbd.NBD()
        guest.connect_uri(ready["drives"]["d"])
        guest.shutdown()


@root_only
def test_another_user_connects(common_path: Path) -> None:
    """One of the group does, another does not."""
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    with serving(common_path, "--nbd", "n", "--socket-group", "65534"):
        for group, message in ((65534, ""), (65533, "PermissionError")):
            # The one of an environment may be where nobody else can read.
            python = os.path.realpath(sys.executable)
            done = subprocess.run(
                [python, "-I", "-c", code, str(common_path / "n")],
                user=65534,
                group=group,
                extra_groups=[],
                capture_output=True,
                text=True,
            )
            assert (done.returncode == 0) is (not message), done.stderr
            assert message in done.stderr


def test_nobody_connects_before(tmp_path: Path) -> None:
    """Between its bind by nbdkit and the mode that was asked for."""
    path = tmp_path / "n"
    address = NbdAddress(UnixSocket(path, 0o620).environment())
    before = os.umask(0o022)
    try:
        address.withhold()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0
        address.open()
        assert stat.S_IMODE(path.stat().st_mode) == 0o620
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


REFUSED = {
    "--nbd n --socket-mode 888": "--socket-mode: '888' is no octal mode",
    "--nbd n --socket-mode 066": "--socket-mode: '066' is no octal mode",
    "--nbd n --socket-mode rw": "--socket-mode: 'rw' is no octal mode",
    "--nbd n --socket-group no-such": "--socket-group: there is no group 'no-such'",
    "--nbd n --socket-group -1": "--socket-group: there is no group '-1'",
    "--socket-mode 660": "--socket-mode and --socket-group need --nbd",
    "--port 1 --socket-group 0": "--socket-mode and --socket-group need --nbd",
}


@pytest.mark.parametrize("words", REFUSED)
def test_permissions_that_make_no_sense(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words.split()]) == 2
    assert REFUSED[words] in capsys.readouterr().err


def test_a_group_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [5])
    UnixSocket(tmp_path / "n", 0o660, 5).claim()
    with pytest.raises(Exception, match="only root and its members can give"):
        UnixSocket(tmp_path / "n", 0o660, 6).claim()


def claim(path: Path) -> None:
    UnixSocket(path).claim()


WAYS: dict[str, Callable[[Path], None]] = {
    "nbd": claim,
    "control": lambda path: bind_control_socket(str(path)).close(),
}
"""Both ways to a socket at a path, up to where nothing is in the way any more."""


@pytest.mark.parametrize("way", WAYS)
def test_what_is_in_the_way(way: str, tmp_path: Path) -> None:
    """Both sockets replace the same, and nothing else: what a killed server has left."""
    path, dead, live = tmp_path / "path", tmp_path / "dead", tmp_path / "live"
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind(str(dead))
        other.bind(str(live))
        other.listen(0)
        with socket.socket(socket.AF_UNIX) as queued:
            queued.connect(str(live))
            for target in (live, tmp_path, tmp_path / "missing"):
                path.symlink_to(target)
                with pytest.raises(Exception, match="listening there|not a socket|Failed to bind"):
                    WAYS[way](path)
                assert path.is_symlink()
                path.unlink()
        path.symlink_to(dead)
        WAYS[way](path)
        assert not path.is_symlink() and dead.is_socket()
        path.unlink(missing_ok=True)
        WAYS[way](dead)


def test_control_at_a_path_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    reasons = {"no/q": "No such file", "file/q": "Not a directory", "file": "File exists"}
    for name, reason in reasons.items():
        with pytest.raises(QmpError, match=f"Failed to bind socket to .*: {reason}"):
            bind_control_socket(str(tmp_path / name))


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        ("127.0.0.1", "nbd://127.0.0.1:9/d"),
        ("0.0.0.0", "nbd://127.0.0.1:9/d"),
        ("::", "nbd://[::1]:9/d"),
        ("0::0", "nbd://[::1]:9/d"),
        ("::1", "nbd://[::1]:9/d"),
        ("fe80::1%eth0", "nbd://[fe80::1%25eth0]:9/d"),
        ("localhost", "nbd://localhost:9/d"),
    ],
)
def test_uri_of_a_port(address: str, uri: str) -> None:
    """All addresses of a host are none that can be connected to."""
    assert NbdAddress(BoundPort(address, 9).environment()).uri("d") == uri


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "localhost"])
def test_any_free_port_of_all_addresses(address: str, tmp_path: Path) -> None:
    """The ready line has it.  With `::` IPv4, too, where there is IPv6 at all."""
    with socket.socket(socket.AF_INET6 if address == "::" else socket.AF_INET) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            pytest.skip("no IPv6 here")
    with serving(tmp_path, "--address", address, "--port", "0") as ready:
        uri = ready["drives"]["d"]
        port = int(re.fullmatch(r"nbd://.*:(\d+)/d", uri)[1])  # type: ignore[index]
        for each in {uri, f"nbd://127.0.0.1:{port}/d"}:
            guest = nbd.NBD()
            guest.connect_uri(each)
            assert guest.get_size() == 1 << 20
            guest.shutdown()


def test_what_the_machine_inherits_is_kept(tmp_path: Path) -> None:
    """A lock is held by whoever has its descriptor; the machine's socket needs its number."""
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        script = f'exec 3>&{lock.fileno()} {lock.fileno()}>&-; exec "$@"'
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *FAULTLINE, "serve", "--port", "0", NULL],
            env=ENVIRON,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[lock.fileno()],
        )
        assert process.stdout is not None and process.stdout.readline()
    with process.stdout, (tmp_path / "lock").open("w") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("embedded", "environ", "directories"),
    [
        (False, {}, ["/tmp"]),
        (False, {"XDG_RUNTIME_DIR": "/r", "TMPDIR": "/t"}, ["/r", "/t", "/tmp"]),
        (True, {"XDG_RUNTIME_DIR": "/r", "TMPDIR": "/t"}, ["/t", "/var/tmp", "/tmp"]),
        (True, {"TMPDIR": ""}, ["/var/tmp", "/tmp"]),
    ],
)
def test_places_for_what_is_not_named(
    embedded: bool, environ: dict[str, str], directories: list[str]
) -> None:
    assert candidates(embedded, environ) == directories


def test_the_first_place_that_fits() -> None:
    longest = "/" + "x" * 79
    assert first_fitting([longest, "/tmp"], lambda directory: True) == longest
    assert first_fitting([longest + "x", "/a", "/b"], lambda directory: directory != "/a") == "/b"
    assert first_fitting(["/" + "ü" * 40, "/a"], lambda directory: True) == "/a"
    assert first_fitting([], lambda directory: True) == "/tmp"


def test_long_directories_that_nobody_named(tmp_path: Path) -> None:
    """The system's own will do."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    named = {"TMPDIR": str(long), "XDG_RUNTIME_DIR": str(long)}
    for key in ([], [NULL]):
        process = subprocess.Popen(
            [*FAULTLINE, "serve", *key],
            env={**ENVIRON, **named},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        with process.stdout:
            ready = json.loads(process.stdout.readline())
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
        assert not Path(ready["control"]).parent.exists()
    assert not list(long.iterdir())
